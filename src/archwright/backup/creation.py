"""A backup of a home that may be in use.

Order: large files first, which rarely change. Then, near together, the segments of the write-ahead log, the database,
and the checkpoints up to the newest one that the copy of the database confirms. A record that is in a segment and in
the database counts once, and no record of before the segments were read is missing.

If a file of the lake or a segment disappears meanwhile, the databases may name a file that the copy lacks. Then this
part is done again.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from archwright import __version__
from archwright.access.audit_checkpoints import encode_checkpoint, read_checkpoints, read_signing_key
from archwright.backup.file_copy import FileCopier
from archwright.backup.home_contents import CATALOG_FILE, CHECKPOINTS_FILE, LAKE, LEDGER, list_files
from archwright.backup.home_database import FileDatabase, HomeDatabase
from archwright.backup.manifest import BackupFile, BackupManifest, DrillKeys
from archwright.backup.repository import BackupRepository, make_backup_id
from archwright.contract.backup import CreatedBackup
from archwright.errors import ErrorLocation, OperateError
from archwright.home import SCHEMA_VERSION, Home, open_private, write_atomic
from archwright.journal import report_step
from archwright.monitor.wal.segments import SEGMENT_SUFFIX, find_data_end

SNAPSHOT_TRIES = 5
COPY_PREFIX = "snapshot-"
LAST_PLACE = "last-place"


@contextmanager
def lock_backups(home: Home) -> Iterator[None]:
    """Hold the lock of the home's backups. Raises OperateError AW-OPS-86 if another process has it."""
    with open_private(home.backups / "lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message, hint = "another backup of this home runs", "wait for its end, then run the command again"
            raise OperateError("AW-OPS-86", message, where=ErrorLocation(str(home.root)), hint=hint) from error
        yield


def create_backup(home: Home, database: HomeDatabase, repository: BackupRepository, drill: DrillKeys) -> CreatedBackup:
    """Back up the home with its database. A killed run leaves objects that the next one uses.

    Raises OperateError AW-OPS-85 (files disappear all the time), StoreError AW-STO-26."""
    started = time.monotonic()
    ids = repository.list_ids()
    known = repository.read_manifest(ids[-1]).files if ids else ()
    copier = FileCopier(repository, known)
    _remove_left_copies(home)
    with TemporaryDirectory(dir=home.backups, prefix=COPY_PREFIX) as folder:
        snapshot = _HomeSnapshot(home, database, copier, Path(folder))
        at, files = snapshot.take()
    manifest = BackupManifest(
        id=make_backup_id(at),
        at=at,
        written_by=__version__,
        schema=SCHEMA_VERSION,
        root=str(home.root),
        drill=drill,
        files=tuple(files[name] for name in sorted(files)),
    )
    repository.write_manifest(manifest)
    write_atomic(home.backups / LAST_PLACE, repository.storage.address.encode())
    return CreatedBackup(
        id=manifest.id,
        place=repository.storage.address,
        files=len(files),
        size_bytes=manifest.size_bytes,
        added_bytes=copier.added_bytes,
        seconds=time.monotonic() - started,
    )


def read_last_place(home: Home) -> str:
    """Return where the newest backup of the home is; empty if it has none."""
    with suppress(FileNotFoundError):
        return (home.backups / LAST_PLACE).read_text("utf-8")
    return ""


def _remove_left_copies(home: Home) -> None:
    """Remove the copies of databases that a killed run left. The caller holds the lock."""
    for folder in home.backups.glob(f"{COPY_PREFIX}*"):
        shutil.rmtree(folder)


class _HomeSnapshot:
    """The files of a home in the state of one moment."""

    def __init__(self, home: Home, database: HomeDatabase, copier: FileCopier, folder: Path) -> None:
        self._home = home
        self._database = database
        self._copier = copier
        self._folder = folder

    def take(self) -> tuple[float, dict[str, BackupFile]]:
        """Return the time of the state, and the files by path."""
        report_step("reading the files of the home")
        self._store_files("")  # most bytes are read here, so the tries below are short
        for _ in range(SNAPSHOT_TRIES):
            before = self._list_linked_files()
            at = time.time()
            files = self._store_segments()
            report_step("copying the databases")
            files |= self._store_databases()
            files |= self._store_files("")
            self._add_checkpoints(files)
            if before <= self._list_linked_files():
                return at, files
        message = "files of the lake or of the log were removed while they were copied, in every try"
        hint = "run the command again when no retention, erasure or rewriting of data runs"
        raise OperateError("AW-OPS-85", message, where=ErrorLocation(str(self._home.root)), hint=hint)

    def _list_linked_files(self) -> set[str]:
        """The files that databases name."""
        return {*list_files(self._home, LAKE), *list_files(self._home, LEDGER)}

    def _store_files(self, folder: str) -> dict[str, BackupFile]:
        """Store all files but segments and checkpoints, which follow the database."""
        stored = {}
        for name, path in list_files(self._home, folder).items():
            if name == CHECKPOINTS_FILE or name.startswith(f"{LEDGER}/"):
                continue
            file = self._copier.store_file(name, path)
            if file is not None:
                stored[name] = file
        return stored

    def _store_segments(self) -> dict[str, BackupFile]:
        """Store the complete writes of each segment of the log."""
        stored = {}
        for name, path in list_files(self._home, LEDGER).items():
            if not name.endswith(SEGMENT_SUFFIX):
                continue
            with suppress(FileNotFoundError):
                data = path.read_bytes()
                stored[name] = self._copier.store_bytes(name, data[: find_data_end(data)])
        return stored

    def _store_databases(self) -> dict[str, BackupFile]:
        catalog = FileDatabase(self._home.root / CATALOG_FILE)
        stored = {}
        for name, database in ((self._database.file_name, self._database), (CATALOG_FILE, catalog)):
            copy = self._locate_copy(name)
            copy.unlink(missing_ok=True)
            file = self._copier.store_file(name, copy) if database.copy_to(copy) else None
            if file is not None:
                stored[name] = file
        return stored

    def _locate_copy(self, name: str) -> Path:
        return self._folder / name.rpartition("/")[2]

    def _add_checkpoints(self, files: dict[str, BackupFile]) -> None:
        """Store the checkpoints that the copy of the database covers, and add them to `files`.

        The home gets a checkpoint before the database names it, so the newest ones may cover later records. If the
        copy names none, the home made its key after the copy, and a key without checkpoints looks like their loss.
        """
        path = self._home.audit_checkpoints
        key = read_signing_key(self._home)
        if key is None or not path.exists():
            return
        copy = self._locate_copy(self._database.file_name)
        newest = self._database.read_anchor(copy, key.public_key)
        lines = []
        for checkpoint in read_checkpoints(path):
            if checkpoint.number is None or checkpoint.number <= newest:
                lines.append(encode_checkpoint(checkpoint) + b"\n")
        if newest or lines:
            files[CHECKPOINTS_FILE] = self._copier.store_bytes(CHECKPOINTS_FILE, b"".join(lines))
        else:
            signing_key = self._home.audit_signing_key.relative_to(self._home.root)
            files.pop(signing_key.as_posix(), None)


def remove_old_backups(repository: BackupRepository, keep: int) -> tuple[str, ...]:
    """Remove all backups but the newest `keep`; return their ids."""
    old = repository.list_ids()[:-keep]
    if old:
        repository.remove_backups(old)
    return tuple(old)
