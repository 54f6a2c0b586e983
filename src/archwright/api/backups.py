"""`backup` and `restore`: encrypted copies of the home at another place."""

from contextlib import closing
from pathlib import Path

from archwright import settings
from archwright.access.api_keys import KeyStore
from archwright.api.context import open_audited_keys, open_home, write_owner_record
from archwright.backup.creation import create_backup, lock_backups, remove_old_backups
from archwright.backup.drill import run_drill
from archwright.backup.drill_keys import find_or_create_keys
from archwright.backup.home_database import HomeDatabase, open_database
from archwright.backup.manifest import BackupManifest, DrillKeys
from archwright.backup.repository import BackupRepository, open_or_create_repository, open_repository
from archwright.backup.restoration import locate_store, restore_backup
from archwright.backup.storage import BackupStorage, open_storage
from archwright.contract.backup import BackupList, CreatedBackup, DrillRecord, RestoredHome, StoredBackup
from archwright.contract.record import replace
from archwright.errors import ErrorLocation, UsageError
from archwright.home import Home
from archwright.serving.settings.engine_secrets import read_secret
from archwright.settings import Settings, locate_root
from archwright.store import Store

KEY_HINT = "write a passphrase of 16 characters or more to a file outside the home (mode 0600), and keep a copy of it "
KEY_HINT += "elsewhere; then set backup_key to file:PATH"


def backup(
    *,
    to: str | None = None,
    key: str | None = None,
    keep: int | None = None,
    drill: bool = False,
    model: str | None = None,
    list: bool = False,  # noqa: A002 - the option's name
) -> CreatedBackup | BackupList | DrillRecord:
    """Back up the home in force while it is in use, or list the backups of a place.

    `keep`: remove all backups but the newest so many. `drill`: restore the newest backup to a scratch home and prove
    that it works, with a stored `model` (default: the null engine).

    Raises UsageError AW-USE-85 (no place or key, one in the home; none to keep),
    OperateError AW-OPS-81 to AW-OPS-89."""
    chosen = settings.load()
    storage, secret = _open_place(chosen, to, key)
    if list:
        return _list_backups(open_repository(storage, secret))
    if keep is not None and keep < 1:
        raise _argument_error(f"{keep} backups cannot be kept", "keep", "keep 1 or more")
    kind, _, key_file = (key or chosen.backup_key).partition(":")
    _check_outside(chosen, storage.address, "backup_to")
    if kind == "file":
        _check_outside(chosen, str(Path(key_file).absolute()), "backup_key")
    repository = open_or_create_repository(storage, secret)
    with open_home() as (_chosen, home, _store):
        database = open_database(chosen.database_url, home)
    if drill:
        return _run_drill(home, repository, database, model)
    with lock_backups(home):
        with open_audited_keys() as (keys, record):
            drill_keys = _find_drill_keys(repository, keys)
            record("backup", storage.address, "")
        made = create_backup(home, database, repository, drill_keys)
        removed = () if keep is None else remove_old_backups(repository, keep)
    return replace(made, removed=removed)


def restore(
    backup: str | None = None, *, source: str | None = None, into: str | None = None, key: str | None = None
) -> RestoredHome:
    """Restore a backup (default: the newest) to an empty folder (default: the home in force).

    A database of PostgreSQL is restored to the empty one of the setting database_url.
    Raises UsageError AW-USE-85, AW-USE-86, OperateError AW-OPS-76, AW-OPS-81 to AW-OPS-84, AW-OPS-88, AW-OPS-89."""
    chosen = settings.load()
    storage, secret = _open_place(chosen, source, key)
    repository = open_repository(storage, secret)
    manifest = repository.read_manifest(backup) if backup else repository.find_newest()
    restored = restore_backup(repository, manifest, locate_root(into or chosen.home), chosen.database_url)
    _record_restoration(Home(restored.home), manifest, chosen.database_url)
    return restored


def _run_drill(home: Home, repository: BackupRepository, database: HomeDatabase, model: str | None) -> DrillRecord:
    with lock_backups(home):
        with open_audited_keys() as (_keys, record):
            record("backup.drill", repository.storage.address, "")
        return run_drill(home, repository, database, model)


def _open_place(chosen: Settings, place: str | None, key: str | None) -> tuple[BackupStorage, str]:
    address, reference = place or chosen.backup_to, key or chosen.backup_key
    if not address:
        raise _argument_error("no place for backups is stated", "backup_to", "set backup_to to a folder or s3://...")
    secret = read_secret(reference)
    if not secret:
        raise _argument_error("no key for backups is stated", "backup_key", KEY_HINT)
    return open_storage(address), secret


def _check_outside(chosen: Settings, path: str, name: str) -> None:
    """Raise UsageError AW-USE-85 for a full path in the home: it would be lost with the home."""
    if path.startswith("/") and Path(path).resolve().is_relative_to(Home(chosen.home).root.resolve()):
        raise _argument_error("backups and their key must be outside the home", name, "choose another folder")


def _argument_error(message: str, name: str, hint: str) -> UsageError:
    return UsageError("AW-USE-85", message, where=ErrorLocation(field=name), hint=hint)


def _find_drill_keys(repository: BackupRepository, keys: KeyStore) -> DrillKeys:
    ids = repository.list_ids()
    former = repository.read_manifest(ids[-1]).drill if ids else None
    return find_or_create_keys(keys, former)


def _list_backups(repository: BackupRepository) -> BackupList:
    manifests = (repository.read_manifest(one) for one in reversed(repository.list_ids()))
    return BackupList(place=repository.storage.address, backups=tuple(_describe_backup(one) for one in manifests))


def _describe_backup(manifest: BackupManifest) -> StoredBackup:
    return StoredBackup(
        id=manifest.id,
        at=manifest.at,
        home=manifest.root,
        files=len(manifest.files),
        size_bytes=manifest.size_bytes,
        written_by=manifest.written_by,
    )


def _record_restoration(home: Home, manifest: BackupManifest, database_url: str) -> None:
    """Write the audit record of the restoration to the restored home."""
    home.migrate()
    with closing(Store(locate_store(manifest, home, database_url))) as store:
        write_owner_record(store, home, "restore", manifest.id)
