"""Disk space of a tenant's files and batches: its quota, and the part of the disk that stays free for everything else.

Design: the quota is checked and the space is allocated in one step for all processes, under the lock of the tenant's
folder. Allocated space counts by the sizes of the files. So no counter can be wrong after a crash, and a write into
allocated space needs no more disk.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

from archwright.home import Home
from archwright.monitor.wal.disk_reserve import RESERVE_BYTES, count_free_bytes
from archwright.monitor.wal.segments import allocate_bytes
from archwright.serving.http.errors import ApiError, limit_reached, service_unavailable

TENANT_BYTES, MAX_FILES = 2 << 30, 1_000
MIN_FREE_BYTES = 8 * RESERVE_BYTES  # of the disk; below, no file is accepted, no line is begun, no result is stored
RETRY_S = 60
DATA_SUFFIX = ".jsonl"
SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
COUNTED_SUFFIXES = (DATA_SUFFIX, ".index", ".log", ".spare", ".cancel")


class TenantSpace:
    """The space of one tenant's folder."""

    def __init__(self, home: Home, tenant: str) -> None:
        self._home, self._folder = home, home.batches / tenant

    def grow_file(self, handle: int, size: int, ahead: int = 0) -> int:
        """Allocate a file up to `size` bytes, and up to `ahead` more if there is room; return its size.

        Raises ApiError 429 if the tenant's quota has no room, 503 if the disk has none."""
        with self._lock():
            return self._grow(handle, size, ahead)

    def add_file(self, handle: int, size: int) -> None:
        """Allocate a new file. Raises as `grow_file` does, and ApiError 429 if the tenant has too many files."""
        with self._lock():
            self.check_count(0)
            self._grow(handle, size, 0)

    def check_count(self, more: int) -> None:
        """Raise ApiError 429 unless the tenant may have `more` files beside those that exist."""
        files = [name for name in os.listdir(self._folder) if name.endswith(DATA_SUFFIX)]
        if len(files) + more > MAX_FILES:
            message = f"This tenant has {MAX_FILES:,} files with those of results. Delete files that are done."
            raise limit_reached(message, "file_quota_exceeded")

    def count_bytes(self) -> int:
        """Return the bytes that count against the quota."""
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(COUNTED_SUFFIXES):
                    with suppress(FileNotFoundError):  # it was deleted meanwhile
                        total += entry.stat().st_size
        return total

    def _grow(self, handle: int, size: int, ahead: int) -> int:
        before = os.fstat(handle).st_size
        needed = size - before
        if needed <= 0:
            return before
        quota_room = TENANT_BYTES - self.count_bytes()
        if needed > quota_room:
            message = f"The files and results of this tenant have {TENANT_BYTES >> 30} GiB. Delete files that are done."
            raise limit_reached(message, "file_quota_exceeded")
        disk_room = count_free_bytes(self._home) - MIN_FREE_BYTES
        if needed > disk_room:
            raise disk_full()
        grown = max(needed, min(needed + ahead, quota_room, disk_room))
        with refuse_full_disk():
            allocate_bytes(handle, grown, start=before)
        return before + grown

    @contextmanager
    def _lock(self) -> Iterator[None]:
        folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


@contextmanager
def refuse_full_disk() -> Iterator[None]:
    """Raise ApiError 503 if a write finds the disk, a quota of the user, or the largest size of a file exhausted."""
    try:
        yield
    except OSError as error:
        if error.errno not in SPACE_ERRORS:
            raise
        raise disk_full() from error


def write_at(handle: int, data: bytes, position: int) -> None:
    """Write the data completely. Raises ApiError 503 without space."""
    with refuse_full_disk():
        if os.pwrite(handle, data, position) < len(data):
            raise disk_full()


def disk_full() -> ApiError:
    return service_unavailable("The disk of the gateway has no space for files and results.", "disk_full", RETRY_S)


def is_without_space(error: ApiError) -> bool:
    """True if the error is one of a tenant or a disk without space."""
    return error.openai_code in ("file_quota_exceeded", "disk_full") and error.status >= HTTPStatus.TOO_MANY_REQUESTS


def create_file(path: Path) -> int:
    """Create or open a file that only this user may read; return its handle for reading and writing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
