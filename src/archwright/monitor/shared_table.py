"""Key-value table that the worker processes of one machine share (LMDB).

It is read and written in transactions. The content is derived (limits in use, cached responses): it
may be lost, and its owner rebuilds it. It is never synced to disk. Each boot starts a new file,
named after the boot id, so a file torn by a power cut is never opened. Within a boot it survives
kill -9 of any process: a commit is one write of a page without references, and the lock is a robust
mutex that the kernel releases if its holder dies.

Design: MDB_WRITEMAP|MDB_NOSYNC. Two reads and two writes in one transaction take 1.9 us, without
WRITEMAP 5.4 us (bench/accounts). With WRITEMAP a full disk would cause a SIGBUS later, so a new
file is fully allocated. By the rules of LMDB a process opens a table once and not before a fork. A
home belongs to one machine.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
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
# Interval of the check for a replaced file and of the release of dead readers' slots.
MAINTENANCE_INTERVAL_S = 1.0
_MODE = 0o600
_DAMAGE_ERRORS = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
)


def read_boot_id(path: Path = BOOT_ID_FILE) -> str:
    """Return the id of this boot.

    "any" on a system without boot ids, where one table serves all boots.
    """
    try:
        return path.read_text(encoding="ascii").strip()[:8]
    except FileNotFoundError:
        return "any"


def shared_table_path(folder: Path, name: str, size_bytes: int) -> Path:
    return folder / f"{name}-{read_boot_id()}-{size_bytes}.lmdb"


class SharedTable:
    """A shared table of at most `size_bytes`.

    Files of other boots and damaged files are removed.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        size_bytes: int,
        *,
        tables: tuple[str, ...] = (),
    ) -> None:
        """Open or create the table.

        Raises StoreError AW-STO-11 if it cannot be opened, OperateError on a full disk.
        """
        self._path = shared_table_path(folder, name, size_bytes)
        self._size_bytes = size_bytes
        self._names = tables
        self.generation = 0
        """Number of times that the file was opened.

        Data written in an earlier generation may be lost.
        """
        prefix_of_boot = f"{name}-{read_boot_id()}-"
        for file in folder.glob(f"{name}-*-*.lmdb*"):
            if not file.name.startswith(prefix_of_boot):
                file.unlink(missing_ok=True)
        self._open()

    def write(
        self,
        act: Callable[Concatenate[Transaction, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run `act` in a write transaction and return its result; an error rolls back its writes.

        Other processes cannot write meanwhile, so `act` must take microseconds. Raises StoreError:
        AW-STO-11 damaged (and recreated for the next caller), AW-STO-12 full.
        """
        try:
            if time.monotonic() >= self._maintain_at:
                self._maintain()
            with self._env.begin(write=True) as transaction:
                return act(transaction, *args, **kwargs)
        except lmdb.Error as error:
            raise self._handle_error(error) from error

    def get(self, key: bytes) -> bytes | None:
        try:
            with self._env.begin() as transaction:
                return transaction.get(key)
        except lmdb.Error as error:
            raise self._handle_error(error) from error

    def read(
        self,
        act: Callable[Concatenate[Transaction, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run `act` in a read transaction (one snapshot) and return its result."""
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
            message = f"the shared table is full: {self._size_bytes} bytes"
            hint = "stop the gateway, delete the file, and start the gateway again"
            return StoreError("AW-STO-12", message, where=where, hint=hint)
        if isinstance(error, _DAMAGE_ERRORS):
            self._env.close()
            self._remove_files()
            self._reopen()
        elif self._inode < 0 and time.monotonic() >= self._maintain_at:
            self._maintain()
        message = f"the shared table failed: {error}"
        return StoreError("AW-STO-11", message, where=where, hint="retry the request")

    def follow_replacement(self) -> None:
        """Open the file anew if another process replaced or removed it.

        Raises StoreError AW-STO-11.
        """
        self._maintain()

    def _maintain(self) -> None:
        self._maintain_at = time.monotonic() + MAINTENANCE_INTERVAL_S
        if self._inode >= 0:
            self._env.reader_check()
        try:
            is_same_file = self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            is_same_file = False
        if not is_same_file:
            self._reopen()

    def _reopen(self) -> None:
        """Open the file again.

        Raises StoreError AW-STO-11 if it cannot (full disk); a later call tries again.
        """
        self._env.close()
        self._inode = -1
        try:
            self._open()
        except (OSError, OperateError, UsageError) as error:
            raise self._unusable_error("recreated", error) from error

    def _unusable_error(self, act: str, error: Exception) -> StoreError:
        message = f"the shared table cannot be {act}: {error}"
        where = ErrorLocation(str(self._path))
        hint = "put the home on a local disk of this machine with free space; open the table once per process"
        return StoreError("AW-STO-11", message, where=where, hint=hint)

    def _open(self) -> None:
        for attempt in (1, 2):
            try:
                self._open_file()
                break
            except lmdb.Error as error:
                # Only damaged files are removed: another process may be using a file that this one
                # cannot open.
                if attempt == 2 or not isinstance(error, _DAMAGE_ERRORS):
                    raise self._unusable_error("opened", error) from error
                self._remove_files()
        self._inode = self._path.stat().st_ino
        self._maintain_at = time.monotonic() + MAINTENANCE_INTERVAL_S
        self.generation += 1

    def _open_file(self) -> None:
        if not self._path.exists():
            self._create_file()
        if self._path.stat().st_size < self._size_bytes:
            raise lmdb.InvalidError(f"{self._path} is cut short")
        self._env = self._open_environment(self._path)
        self.tables = {name: self._env.open_db(name.encode()) for name in self._names}

    def _open_environment(self, path: Path) -> lmdb.Environment:
        return lmdb.open(
            str(path),
            map_size=self._size_bytes,
            mode=_MODE,
            max_readers=READERS,
            max_dbs=len(self._names),
            subdir=False,
            sync=False,
            writemap=True,
            readahead=False,
        )

    def _create_file(self) -> None:
        """Create a fully allocated file and link it into place.

        If another process was first, its file is used.
        """
        with tempfile.TemporaryDirectory(dir=self._path.parent, prefix=".slate.") as folder:
            path = Path(folder) / "new"
            self._open_environment(path).close()
            try:
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self._size_bytes)
            except OSError as error:
                # The temporary path would say nothing to the user.
                with_path = OSError(error.errno, error.strerror, str(self._path))
                raise from_os_error(with_path) from error
            with suppress(FileExistsError):
                os.link(path, self._path)

    def _remove_files(self) -> None:
        self._path.unlink(missing_ok=True)
        Path(f"{self._path}-lock").unlink(missing_ok=True)


def read_table_entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield every entry of the file of a shared table. Raises ValueError if it cannot be read."""
    try:
        # A process opens a file once, and it may have opened this one.
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copyfile(path, Path(folder) / "copy")
            yield from _read_file_entries(copy)
    except lmdb.Error as error:
        raise ValueError(f"the file cannot be read: {error}") from error


def _read_file_entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    file = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=16)
    with file as environment, environment.begin() as transaction:
        unnamed = environment.open_db(None, transaction, create=False)
        databases = [unnamed]
        for key, _value in transaction.cursor(unnamed):
            with suppress(lmdb.Error):  # an entry, not a table
                database = environment.open_db(bytes(key), transaction, create=False)
                databases.append(database)
        for database in databases:
            for key, value in transaction.cursor(database):
                yield bytes(key), bytes(value)
