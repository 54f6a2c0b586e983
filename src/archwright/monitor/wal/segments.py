"""WAL segment files: records of this machine's processes that are not compacted into the store yet.

A segment has one writer, which holds its lock while it is alive. A process that gets the lock of a
segment may compact it. The bytes are allocated before the first record, so a full disk prevents the
next segment, but never the record of an admitted request. Each write is one frame with length and
checksum: an incomplete write after a crash is recognised, and none of its records was acknowledged.
The first bytes of a segment state how far it is compacted. The blocks in the store state that too,
but they may be pruned while the segment exists.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

STREAMS = ("audit", "served")
SEGMENT_SUFFIX = ".segment"
OWNER_SEPARATOR = "."  # between the store's name, if any, and the writer's name
# Suffix of a segment that is being created; it is renamed once its lock is held.
UNFINISHED_SUFFIX = ".new"
UNFINISHED_AGE_S = 60.0
_HEAD = struct.Struct("<IIB")
HEAD_BYTES = _HEAD.size
# Stream number of a frame with both streams. Version 0.1 wrote one frame per record with the number
# of its stream.
_BOTH_STREAMS = len(STREAMS)
_PARTS = struct.Struct("<III")
FRAME_BYTES = HEAD_BYTES + _PARTS.size
_COMPACTED = struct.Struct("<Q")
DATA_START = _COMPACTED.size


class CommittedBatch(NamedTuple):
    """Records of one write, per stream: their number and their lines.

    `end`: offset after the frame.
    """

    counts: tuple[int, int]
    lines: tuple[bytes, bytes]
    end: int


class WalSegment:
    """An open segment.

    `written` bytes of `size` are in the kernel, `folded` bytes are compacted into the store.
    """

    def __init__(self, path: Path, handle: int, size: int) -> None:
        self.path = path
        self.name = path.name.removesuffix(SEGMENT_SUFFIX)
        self.size = size
        self.written = DATA_START
        self.folded = DATA_START
        self._handle = handle

    @classmethod
    def create(cls, folder: Path, name: str, size: int) -> WalSegment:
        """Create a segment with allocated bytes and its lock held.

        Raises OSError on a full disk.
        """
        path = folder / (name + SEGMENT_SUFFIX)
        unfinished = folder / (name + UNFINISHED_SUFFIX)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        handle = os.open(unfinished, flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            allocate_bytes(handle, size)
            os.rename(unfinished, path)
            _sync_folder(folder)
        except OSError:
            unfinished.unlink(missing_ok=True)
            os.close(handle)
            raise
        return cls(path, handle, size)

    @classmethod
    def adopt(cls, path: Path) -> WalSegment | None:
        """Open and lock the segment of an ended writer.

        None if it is locked or no longer exists.
        """
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None

        status = os.fstat(handle)
        if not status.st_nlink:  # another process compacted it between open and lock
            os.close(handle)
            return None

        segment = cls(path, handle, status.st_size)
        data = os.pread(handle, status.st_size, 0)
        segment.folded = read_compacted_offset(data)
        segment.written = find_data_end(data)
        return segment

    @property
    def free(self) -> int:
        """Bytes that no record uses."""
        return self.size - self.written

    @property
    def pending(self) -> int:
        """Bytes that are not compacted yet."""
        return self.written - self.folded

    def write(self, data: bytes) -> None:
        """Write to the kernel, which makes the data durable against kill -9. Raises OSError."""
        done = os.pwrite(self._handle, data, self.written)
        while done < len(data):  # a signal may interrupt a write
            remaining = data[done:]
            done += os.pwrite(self._handle, remaining, self.written + done)
        self.written += len(data)

    def sync(self) -> None:
        getattr(os, "fdatasync", os.fsync)(self._handle)

    def mark_compacted(self, folded: int) -> None:
        """Note that the bytes before offset `folded` are in the store."""
        self.folded = folded
        os.pwrite(self._handle, _COMPACTED.pack(folded), 0)

    def read_range(self, start: int, limit: int) -> bytes:
        length = min(limit, self.written - start)
        return os.pread(self._handle, length, start)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def encode_batch(audit: Sequence[bytes], served: Sequence[bytes]) -> bytes:
    audit_lines = b"\n".join(audit)
    served_lines = b"\n".join(served)
    parts = _PARTS.pack(len(audit), len(served), len(audit_lines))
    length = len(parts) + len(audit_lines) + len(served_lines)

    checksum = zlib.crc32(parts)
    checksum = zlib.crc32(audit_lines, checksum)
    checksum = zlib.crc32(served_lines, checksum)
    head = _HEAD.pack(length, checksum, _BOTH_STREAMS)
    return b"".join((head, parts, audit_lines, served_lines))


def read_batches(data: bytes, start: int = DATA_START) -> Iterator[CommittedBatch]:
    """Yield the valid frames of a segment's bytes from `start`.

    The first incomplete or unwritten frame ends them.
    """
    while start + HEAD_BYTES <= len(data):
        length, checksum, code = _HEAD.unpack_from(data, start)
        payload_start = start + HEAD_BYTES
        end = payload_start + length
        if not length or end > len(data) or code > _BOTH_STREAMS:
            return
        payload = data[payload_start:end]
        if zlib.crc32(payload) != checksum:
            return
        yield _decode_batch(payload, code, end)
        start = end


def _decode_batch(payload: bytes, code: int, end: int) -> CommittedBatch:
    if code == _BOTH_STREAMS:
        audit_count, served_count, audit_bytes = _PARTS.unpack_from(payload)
        middle = _PARTS.size + audit_bytes
        lines = (payload[_PARTS.size : middle], payload[middle:])
        return CommittedBatch((audit_count, served_count), lines, end)
    if code:
        return CommittedBatch((0, 1), (b"", payload), end)
    return CommittedBatch((1, 0), (payload, b""), end)


def read_compacted_offset(data: bytes) -> int:
    (folded,) = _COMPACTED.unpack_from(data.ljust(DATA_START, b"\0"))
    return max(DATA_START, int(folded))


def find_data_end(data: bytes) -> int:
    end = DATA_START
    for batch in read_batches(data):
        end = batch.end
    return end


def read_segments(paths: Sequence[Path]) -> dict[str, bytes]:
    """Return the bytes of each non-empty segment by name, in the order of `paths`.

    Segments in use are included. The newest segment is read first, so that no record is returned
    whose predecessors are missing.
    """
    contents: dict[str, bytes] = {}
    for path in reversed(paths):
        name = path.name.removesuffix(SEGMENT_SUFFIX)
        with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            beginning = file.read(DATA_START + HEAD_BYTES)
            first_head = beginning[DATA_START:]
            if first_head.strip(b"\0"):
                contents[name] = beginning + file.read()
    return dict(reversed(contents.items()))


def list_segments(folder: Path) -> list[Path]:
    """Return the segments, oldest first per writer, with or without a store's name."""
    paths = folder.glob(f"*{SEGMENT_SUFFIX}")
    return sorted(paths, key=_read_writer)


def _read_writer(path: Path) -> str:
    """Return the segment's name without that of its store."""
    return path.stem.rpartition(OWNER_SEPARATOR)[2]


def list_unfinished_segments(folder: Path) -> list[Path]:
    """Return the files of segments whose creation was interrupted.

    That is assumed of a file that is older than UNFINISHED_AGE_S.
    """
    paths: list[Path] = []
    for path in folder.glob(f"*{UNFINISHED_SUFFIX}"):
        with suppress(FileNotFoundError):
            age_s = time.time() - path.stat().st_mtime
            if age_s > UNFINISHED_AGE_S:
                paths.append(path)
    return paths


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def allocate_bytes(handle: int, size: int, start: int = 0) -> None:
    """Allocate `size` bytes from `start`, the end of the file, on the disk.

    Raises OSError on a full disk.
    """
    fallocate = getattr(os, "posix_fallocate", None)
    if fallocate is not None:
        fallocate(handle, start, size)
    else:  # macOS: writing zeros allocates too
        os.pwrite(handle, bytes(size), start)
