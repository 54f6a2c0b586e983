"""Segment files: what the processes of this machine wrote down and the store does not hold yet.

A segment has one writer, who holds its lock while it lives: a segment whose lock is free belongs to nobody, and
whoever gets the lock may fold it. Its bytes are allocated before the first record, so a full disk stops the next
segment and never a record of work that was let in. What is written at once is one frame, with its length and a
checksum: a crash in the middle of a write leaves a tail that is recognised, and that nobody was promised. The first
bytes say how far the segment is in the store: the blocks say so too, but these may be pruned while the segment lives.
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
OWNER_SEPARATOR = "."  # the name of its store, where it has one, and that of its writer
# While a segment is made it has no lock for a moment: it gets its name when it has one.
UNFINISHED_SUFFIX = ".new"
UNFINISHED_AGE_S = 60.0
_HEAD = struct.Struct("<IIB")
HEAD_BYTES = _HEAD.size
# In the place of the number of a stream: of both. Version 0.1 framed each record by itself, and may have left some.
_BOTH_STREAMS = len(STREAMS)
_PARTS = struct.Struct("<III")
FRAME_BYTES = HEAD_BYTES + _PARTS.size
_COMPACTED = struct.Struct("<Q")
DATA_START = _COMPACTED.size


class CommittedBatch(NamedTuple):
    """What was written at once: per stream how many records, and these, one a line; `end` is the offset behind."""

    counts: tuple[int, int]
    lines: tuple[bytes, bytes]
    end: int


class WalSegment:
    """An open segment; `written` bytes of `size` are in the kernel, `folded` of them in the store."""

    def __init__(self, path: Path, handle: int, size: int) -> None:
        self.path = path
        self.name = path.name.removesuffix(SEGMENT_SUFFIX)
        self.size = size
        self.written = DATA_START
        self.folded = DATA_START
        self._handle = handle

    @classmethod
    def create(cls, folder: Path, name: str, size: int) -> WalSegment:
        """A new one, its bytes allocated and its lock held. Raises OSError when the disk does not have them."""
        path, unborn = folder / (name + SEGMENT_SUFFIX), folder / (name + UNFINISHED_SUFFIX)
        handle = os.open(unborn, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            allocate_bytes(handle, size)
            os.rename(unborn, path)
            _sync_folder(folder)
        except OSError:
            unborn.unlink(missing_ok=True)
            os.close(handle)
            raise
        return cls(path, handle, size)

    @classmethod
    def adopt(cls, path: Path) -> WalSegment | None:
        """A segment whose writer is gone, its lock taken; None while somebody has it, or when it is gone."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        found = os.fstat(handle)
        if not found.st_nlink:  # somebody else folded it between our open and our lock
            os.close(handle)
            return None
        segment = cls(path, handle, found.st_size)
        data = os.pread(handle, found.st_size, 0)
        segment.folded, segment.written = read_compacted_offset(data), find_data_end(data)
        return segment

    def write(self, data: bytes) -> None:
        """One write, in the kernel when it returns: kill -9 takes nothing back. Raises OSError."""
        done = os.pwrite(self._handle, data, self.written)
        while done < len(data):  # a signal may cut a write short
            done += os.pwrite(self._handle, data[done:], self.written + done)
        self.written += len(data)

    def sync(self) -> None:
        getattr(os, "fdatasync", os.fsync)(self._handle)

    def mark_compacted(self, folded: int) -> None:
        """Up to there it is in the store."""
        self.folded = folded
        os.pwrite(self._handle, _COMPACTED.pack(folded), 0)

    def read_range(self, start: int, limit: int) -> bytes:
        """Up to `limit` of the written bytes from `start`."""
        return os.pread(self._handle, min(limit, self.written - start), start)

    def remove(self) -> None:
        """The file goes, and then the lock."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def encode_batch(audit: Sequence[bytes], served: Sequence[bytes]) -> bytes:
    """Records as they stand in a segment, one a line."""
    first, second = b"\n".join(audit), b"\n".join(served)
    parts = _PARTS.pack(len(audit), len(served), len(first))
    checksum = zlib.crc32(second, zlib.crc32(first, zlib.crc32(parts)))
    head = _HEAD.pack(len(parts) + len(first) + len(second), checksum, _BOTH_STREAMS)
    return b"".join((head, parts, first, second))


def read_batches(data: bytes, start: int = DATA_START) -> Iterator[CommittedBatch]:
    """The whole frames of a segment's bytes from `start`, up to the first that is torn or was never written."""
    unpack, limit = _HEAD.unpack_from, len(data)
    while start + HEAD_BYTES <= limit:
        length, checksum, code = unpack(data, start)
        end = start + HEAD_BYTES + length
        if not length or end > limit or code > _BOTH_STREAMS:
            return
        payload = data[start + HEAD_BYTES : end]
        if zlib.crc32(payload) != checksum:
            return
        yield _decode_batch(payload, code, end)
        start = end


def _decode_batch(payload: bytes, code: int, end: int) -> CommittedBatch:
    if code == _BOTH_STREAMS:
        audit, served, size = _PARTS.unpack_from(payload)
        behind = _PARTS.size + size
        return CommittedBatch((audit, served), (payload[_PARTS.size : behind], payload[behind:]), end)
    return CommittedBatch((0, 1), (b"", payload), end) if code else CommittedBatch((1, 0), (payload, b""), end)


def read_compacted_offset(data: bytes) -> int:
    """What a segment says of itself."""
    (folded,) = _COMPACTED.unpack_from(data.ljust(DATA_START, b"\0"))
    return max(DATA_START, int(folded))


def find_data_end(data: bytes) -> int:
    end = DATA_START
    for one in read_batches(data):
        end = one.end
    return end


def read_segments(paths: Sequence[Path]) -> dict[str, bytes]:
    """What each of these segments holds, if anything, as it stands, by name and in their order: those in use too. The
    newest is read first: of what its writer writes meanwhile none is here whose predecessors are not."""
    found: dict[str, bytes] = {}
    for path in reversed(paths):
        with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            data = file.read(DATA_START + HEAD_BYTES)
            if data[DATA_START:].strip(b"\0"):
                found[path.name.removesuffix(SEGMENT_SUFFIX)] = data + file.read()
    return dict(reversed(found.items()))


def list_segments(folder: Path) -> list[Path]:
    """Oldest first, of each writer: it may have begun while its store could not be asked for its name."""
    return sorted(folder.glob(f"*{SEGMENT_SUFFIX}"), key=lambda path: path.stem.rpartition(OWNER_SEPARATOR)[2])


def list_unfinished_segments(folder: Path) -> list[Path]:
    """What a crash left of segments that were never used: not those being made just now."""
    found = []
    for path in folder.glob(f"*{UNFINISHED_SUFFIX}"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > UNFINISHED_AGE_S:
                found.append(path)
    return found


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def allocate_bytes(handle: int, size: int) -> None:
    """The bytes of a new file, taken from the disk. Raises OSError when it does not have them."""
    fallocate = getattr(os, "posix_fallocate", None)
    if fallocate is not None:
        fallocate(handle, 0, size)
    else:  # macOS: zeros take the room as well
        os.pwrite(handle, bytes(size), 0)
