"""Bytes that the worker processes of one machine share: one table, read and written in transactions.

The content is derived (limits in use, cached answers): it may vanish, and its owner rebuilds it. It is never synced to
the disk, and each boot starts a clean file, whose name carries the boot's id: a file that a power cut may have torn is
never opened. Within a boot it survives kill -9 of any process: a commit is one write of a page nobody points at yet,
and the lock is a robust mutex, which the kernel hands on when its holder dies.

LMDB with MDB_WRITEMAP|MDB_NOSYNC: two reads and two writes in one transaction take 1.9 us, without WRITEMAP 5.4
(bench/accounts). Under WRITEMAP a full disk would be a SIGBUS later, so the file is allocated whole when it is made.
A process opens a table once and not before a fork (LMDB's rules); a home belongs to one machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

import lmdb

from archwright.errors import ErrorLocation, OperateError, StoreError, UsageError, from_os_error

P = ParamSpec("P")
R = TypeVar("R")

Transaction: TypeAlias = "lmdb.Transaction[bytes]"
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
READERS = 512
# How often a process looks whether its file was replaced, and frees what dead readers hold.
MAINTENANCE_INTERVAL_S = 1.0
_MODE = 0o600
_DAMAGE_ERRORS = (
    *(lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PanicError),
    *(lmdb.VersionMismatchError, lmdb.IncompatibleError),
)


def read_boot_id(path: Path = BOOT_ID_FILE) -> str:
    """What names this boot; where the system has no such file one slate serves all boots."""
    try:
        return path.read_text(encoding="ascii").strip()[:8]
    except FileNotFoundError:
        return "any"


def shared_table_path(folder: Path, name: str, size_bytes: int) -> Path:
    return folder / f"{name}-{read_boot_id()}-{size_bytes}.lmdb"


class SharedTable:
    """`size_bytes` is all it ever holds. Slates of other boots and damaged ones are removed."""

    def __init__(self, folder: Path, name: str, size_bytes: int, tables: tuple[str, ...] = ()) -> None:
        """Raises StoreError: AW-STO-11 it cannot be opened; OperateError when the disk is full."""
        self._path = shared_table_path(folder, name, size_bytes)
        self._size_bytes = size_bytes
        self._names = tables
        self.generation = 0
        """Counts how often the file was opened anew: what a process wrote before may be gone."""
        for file in folder.glob(f"{name}-*-*.lmdb*"):
            if not file.name.startswith(f"{name}-{read_boot_id()}-"):
                file.unlink(missing_ok=True)
        self._open()

    def write(self, act: Callable[Concatenate[Transaction, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `act` answers, its writes committed together; an error takes them all back.

        While it runs no other process writes: keep it to microseconds. Raises StoreError: AW-STO-11 damaged (and
        made anew for the next caller), AW-STO-12 full."""
        try:
            if time.monotonic() >= self._tend_at:
                self._maintain()
            with self._env.begin(write=True) as transaction:
                return act(transaction, *args, **kwargs)
        except lmdb.Error as error:
            raise self._handle_error(error) from error

    def get(self, key: bytes) -> bytes | None:
        """The bytes under `key` of the unnamed table."""
        try:
            with self._env.begin() as transaction:
                return transaction.get(key)
        except lmdb.Error as error:
            raise self._handle_error(error) from error

    def read(self, act: Callable[Concatenate[Transaction, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `act` answers from one consistent view; it may not write."""
        try:
            with self._env.begin() as transaction:
                return act(transaction, *args, **kwargs)
        except lmdb.Error as error:
            raise self._handle_error(error) from error

    def close(self) -> None:
        self._env.close()

    def _handle_error(self, error: lmdb.Error) -> StoreError:
        where = ErrorLocation(str(self._path))
        if isinstance(error, lmdb.MapFullError):
            self._env.reader_check()
            hint = f"it holds {self._size_bytes} bytes; stop the gateway, delete it, and start again to empty it"
            return StoreError("AW-STO-12", "the shared table is full", where=where, hint=hint)
        if isinstance(error, _DAMAGE_ERRORS):
            self._env.close()
            self._remove_files()
            self._reopen()
        elif self._inode < 0 and time.monotonic() >= self._tend_at:
            self._maintain()
        return StoreError("AW-STO-11", f"the shared table refuses: {error}", where=where, hint="try again")

    def _maintain(self) -> None:
        self._tend_at = time.monotonic() + MAINTENANCE_INTERVAL_S
        if self._inode >= 0:
            self._env.reader_check()
        try:
            same = self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            self._reopen()

    def _reopen(self) -> None:
        """Raises StoreError AW-STO-11 where that cannot be now (the disk is full): whoever comes later tries again."""
        self._env.close()
        self._inode = -1
        try:
            self._open()
        except (OSError, OperateError, UsageError) as error:
            raise self._unusable_error("made anew", error) from error

    def _unusable_error(self, act: str, error: Exception) -> StoreError:
        hint = "the home must be on a local disk of this machine, with room; a process opens it once"
        where = ErrorLocation(str(self._path))
        return StoreError("AW-STO-11", f"the shared table cannot be {act}: {error}", where=where, hint=hint)

    def _open(self) -> None:
        for attempt in (1, 2):
            try:
                if not self._path.exists():
                    self._create_file()
                if self._path.stat().st_size < self._size_bytes:
                    raise lmdb.InvalidError(f"{self._path} is cut short")
                self._env = self._open_environment(self._path)
                self.tables = {name: self._env.open_db(name.encode()) for name in self._names}
                break
            except lmdb.Error as error:
                # Only what is damaged is thrown away: another process may be at work in a file that we cannot open.
                if attempt == 2 or not isinstance(error, _DAMAGE_ERRORS):
                    raise self._unusable_error("opened", error) from error
                self._remove_files()
        self._inode = self._path.stat().st_ino
        self._tend_at = time.monotonic() + MAINTENANCE_INTERVAL_S
        self.generation += 1

    def _open_environment(self, path: Path) -> lmdb.Environment:
        flags = {"subdir": False, "sync": False, "writemap": True, "readahead": False}
        size, tables = self._size_bytes, len(self._names)
        return lmdb.open(str(path), map_size=size, mode=_MODE, max_readers=READERS, max_dbs=tables, **flags)

    def _create_file(self) -> None:
        """A whole, allocated file is linked into place; when another process was first, its file counts."""
        with tempfile.TemporaryDirectory(dir=self._path.parent, prefix=".slate.") as made:
            path = Path(made) / "new"
            self._open_environment(path).close()
            try:
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self._size_bytes)
            except OSError as error:
                raise from_os_error(OSError(error.errno, error.strerror, str(self._path))) from error
            with suppress(FileExistsError):
                os.link(path, self._path)

    def _remove_files(self) -> None:
        self._path.unlink(missing_ok=True)
        Path(f"{self._path}-lock").unlink(missing_ok=True)
