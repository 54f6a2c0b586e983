"""Restores a backup to an empty home, which may have another path than the home that was backed up."""

import shutil
import time
from contextlib import closing
from pathlib import Path

from archwright.backup.file_copy import digest_file, restore_file
from archwright.backup.home_database import PostgresDatabase, open_database
from archwright.backup.manifest import DATABASE_FILE, POSTGRES_DUMP, BackupFile, BackupManifest, damaged_error
from archwright.backup.repository import BackupRepository
from archwright.contract.backup import RestoredHome
from archwright.errors import ErrorLocation, OperateError, UsageError
from archwright.home import SCHEMA_VERSION, Home, write_atomic
from archwright.journal import report_step
from archwright.lake.tables.table_relocation import relocate_tables
from archwright.store import Store

FREE_SHARE = 1.1


def restore_backup(
    repository: BackupRepository, manifest: BackupManifest, root: Path, database_url: str = ""
) -> RestoredHome:
    """Restore a backup to `root`, and check the digest of every file. A killed run is continued.

    `database_url`: an empty database for the copy of one of PostgreSQL. Raises UsageError AW-USE-86 without it,
    OperateError AW-OPS-01 (no space), AW-OPS-82 (damaged), AW-OPS-84 (the folder is not empty), AW-OPS-88."""
    started = time.monotonic()
    home = Home(root)
    _check_schema(manifest)
    _check_database(manifest, database_url)
    _check_empty(home, manifest)
    _check_space(home, manifest)
    write_atomic(home.unfinished_restoration, manifest.id.encode())
    home.root.chmod(0o700)
    report_step("restoring the files")
    for file in manifest.files:
        _restore_missing(repository, file, home)
    _load_dump(home, database_url)
    if manifest.root != str(home.root):
        report_step("writing the tables' metadata for the new path")
        with closing(Store(locate_store(manifest, home, database_url))) as store:
            relocate_tables(home, store)
    home.unfinished_restoration.unlink()
    return RestoredHome(
        id=manifest.id,
        home=str(home.root),
        backup_at=manifest.at,
        files=len(manifest.files),
        size_bytes=manifest.size_bytes,
        seconds=time.monotonic() - started,
    )


def locate_store(manifest: BackupManifest, home: Home, database_url: str) -> str:
    """The URL of the database of a restored home."""
    return database_url if manifest.has_dump else f"sqlite:///{home.root / DATABASE_FILE}"


def _check_database(manifest: BackupManifest, database_url: str) -> None:
    if manifest.has_dump and not isinstance(open_database(database_url, Home(manifest.root)), PostgresDatabase):
        message = "the database of this backup is of PostgreSQL, and no database for it is stated"
        hint = "create an empty database, and set ARCHWRIGHT_DATABASE_URL to its URL"
        raise UsageError("AW-USE-86", message, where=ErrorLocation(field="database_url"), hint=hint)


def _load_dump(home: Home, database_url: str) -> None:
    """Make a database of the dump, and remove the dump."""
    dump = home.root / POSTGRES_DUMP
    if dump.exists():
        report_step("restoring the database")
        PostgresDatabase(database_url).load_copy(dump)
        dump.unlink()


def _check_schema(manifest: BackupManifest) -> None:
    if manifest.schema > SCHEMA_VERSION:
        message = f"a newer archwright wrote the home of this backup: schema version {manifest.schema}, "
        message += f"this program knows {SCHEMA_VERSION}"
        where = ErrorLocation(manifest.id)
        raise OperateError("AW-OPS-88", message, where=where, hint="upgrade: pip install -U archwright")


def _check_empty(home: Home, manifest: BackupManifest) -> None:
    """Refuse a folder with files, unless a killed restoration of the same backup left them."""
    if not home.root.exists() or not any(home.root.iterdir()):
        return
    marker = home.unfinished_restoration
    if marker.is_file() and marker.read_text(encoding="ascii") == manifest.id:
        return
    hint = "restore to an empty folder with --into DIR, or move this home away first"
    raise OperateError("AW-OPS-84", "the folder is not empty", where=ErrorLocation(str(home.root)), hint=hint)


def _check_space(home: Home, manifest: BackupManifest) -> None:
    parent = next(path for path in (home.root, *home.root.parents) if path.is_dir())
    present = sum(path.stat().st_size for path in home.root.rglob("*") if path.is_file())
    needed = manifest.size_bytes * FREE_SHARE - present
    free = shutil.disk_usage(parent).free
    if needed > free:
        message = f"the backup needs {needed / 1e9:,.1f} GB; the disk has {free / 1e9:,.1f} GB free"
        where = ErrorLocation(str(parent))
        raise OperateError("AW-OPS-01", message, where=where, hint="free disk space, or restore to another disk")


def _restore_missing(repository: BackupRepository, file: BackupFile, home: Home) -> None:
    """Restore a file, unless a killed restoration has completed it."""
    target = home.root / file.path
    if not target.resolve().is_relative_to(home.root.resolve()):
        raise damaged_error(file.path, "a file has a path outside the home")
    if target.is_file() and target.stat().st_size == file.size_bytes and digest_file(target) == file.sha256:
        return
    home.folder(*file.path.split("/")[:-1])
    restore_file(repository, file, target)
