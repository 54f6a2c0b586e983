"""A file of results: written line by line as requests end, read in the order of the input.

The index beside the data has the position and the size of each line, at the place of its number. A line is written
before its entry, so a crash leaves both, or neither. No second copy is made: clients read the data by the index.
Design: space for the index, and for the lines that a batch must still be able to write at its end, is allocated before
the first request runs.
"""

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

from archwright.serving.batches.tenant_space import TenantSpace, create_file, write_at

INDEX_SUFFIX = ".index"
ENTRY_BYTES = 16  # position and size
AHEAD_BYTES = 4 << 20  # allocated at once, so that few lines wait for the lock of the tenant


class ResultFile:
    """A file of results that is being written. `count`: the lines that it has. `end`: the bytes that it has."""

    def __init__(self, path: Path, lines: int, space: TenantSpace) -> None:
        """Raises ApiError 429 and 503 if there is no space for the index."""
        self.count = self.end = 0
        self._path, self._space = path, space
        self._held = 0
        self._data = self._index = -1
        try:
            self._data = create_file(path)
            self._allocated = os.fstat(self._data).st_size
            self._index = create_file(path.with_suffix(INDEX_SUFFIX))
            space.grow_file(self._index, ENTRY_BYTES * lines)
        except BaseException:
            self.close()
            raise
        self._entries = array("Q", os.pread(self._index, ENTRY_BYTES * lines, 0))

    def recover(self, build_start: Callable[[int], bytes]) -> None:
        """Find the lines of an earlier process. `build_start`: returns the first bytes of the line of this number.

        After a power failure an entry may exist without its line. It is removed, so the request runs again."""
        for number in range(len(self._entries) // 2):
            if self.has_line(number):
                if self._is_whole(number, build_start(number)):
                    self.count += 1
                    self.end = max(self.end, self._entries[2 * number] + self._entries[2 * number + 1])
                else:
                    self._set_entry(number, 0, 0)

    def hold(self, size: int) -> None:
        """Allocate `size` bytes for `write_held`. Raises ApiError 429 and 503 without space."""
        self._held = size
        self._grow(0, ahead=0)

    def release_held(self, size: int) -> None:
        """Give back what was held for a line that will not be written."""
        self._held -= size

    def has_line(self, number: int) -> bool:
        return self._entries[2 * number + 1] > 0

    def append(self, number: int, line: bytes) -> None:
        """Write a line, durable against kill -9. Raises ApiError 429 and 503, with nothing written, without space."""
        self._grow(len(line), AHEAD_BYTES)
        self._write(number, line)

    def write_held(self, number: int, line: bytes, held: int) -> None:
        """Write a line for which `held` bytes were held: that needs no more disk."""
        self._held -= held
        self._write(number, line)

    def finish(self) -> bool:
        """Remove what is allocated beyond the last line; delete a file without lines. True if it has lines."""
        if self.count:
            os.ftruncate(self._data, self.end)
            os.fsync(self._data)
            os.fsync(self._index)
        else:
            self._path.unlink(missing_ok=True)
            self._path.with_suffix(INDEX_SUFFIX).unlink(missing_ok=True)
        return self.count > 0

    def close(self) -> None:
        for handle in (self._data, self._index):
            if handle >= 0:
                os.close(handle)
        self._data = self._index = -1

    def _grow(self, size: int, ahead: int) -> None:
        needed = self.end + self._held + size
        if needed > self._allocated:
            self._allocated = self._space.grow_file(self._data, needed, ahead)

    def _write(self, number: int, line: bytes) -> None:
        write_at(self._data, line, self.end)
        self._set_entry(number, self.end, len(line))
        self.end += len(line)
        self.count += 1

    def _set_entry(self, number: int, position: int, size: int) -> None:
        entry = array("Q", (position, size))
        write_at(self._index, entry.tobytes(), ENTRY_BYTES * number)
        self._entries[2 * number : 2 * number + 2] = entry

    def _is_whole(self, number: int, start: bytes) -> bool:
        position, size = self._entries[2 * number : 2 * number + 2]
        first = os.pread(self._data, len(start), position)
        last = os.pread(self._data, 1, position + size - 1)
        return first == start and last == b"\n"


class ReadableFile:
    """An open file as clients read it: an upload as it is, results in the order of the input. `size`: its bytes."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError."""
        self._data = path.open("rb", buffering=0)
        self._positions, self._starts = array("Q", (0,)), array("Q", (0,))
        self.size = os.fstat(self._data.fileno()).st_size
        index = path.with_suffix(INDEX_SUFFIX)
        if index.exists():
            self._read_index(array("Q", index.read_bytes()))

    def close(self) -> None:
        self._data.close()

    def read(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start`; fewer only at the end of the file."""
        pieces: list[bytes] = []
        end = min(start + size, self.size)
        run = bisect_right(self._starts, start) - 1
        while start < end:
            run_end = self._starts[run + 1] if run + 1 < len(self._starts) else self.size
            position = self._positions[run] + start - self._starts[run]
            piece = os.pread(self._data.fileno(), min(end, run_end) - start, position)
            if not piece:
                raise EOFError("a stored file is shorter than its index")
            pieces.append(piece)
            start += len(piece)
            run += start == run_end
        return b"".join(pieces)

    def _read_index(self, entries: "array[int]") -> None:
        """Set the runs of lines that follow each other in the data and in the input."""
        self._positions, self._starts, self.size, next_position = array("Q"), array("Q"), 0, -1
        for position, size in zip(entries[::2], entries[1::2], strict=True):
            if size and position != next_position:
                self._positions.append(position)
                self._starts.append(self.size)
            if size:
                next_position = position + size
                self.size += size
