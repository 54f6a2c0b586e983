"""A repository of backups: objects by digest, shared by all backups, and one manifest for each.

`repository.json` has the public key. `objects/` has encrypted pieces of files; a piece is stored once, whatever number
of files and backups hold it. `backups/` has an authenticated, encrypted manifest for each backup, written last: a
backup without a manifest is not there, and the next run finds the objects of a killed one.
"""

import calendar
import hmac
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from archwright.backup.backup_key import BackupKey, create_key, open_key
from archwright.backup.manifest import RECORD_SUFFIX, BackupManifest, RepositoryHead, damaged_error, decode_record
from archwright.backup.storage import BackupStorage
from archwright.errors import ErrorLocation, OperateError

HEAD, OBJECTS, BACKUPS = "repository.json", "objects", "backups"
# Less than a part of an upload to S3, so that an object is one request.
PIECE_BYTES = 4 << 20
DIGEST_BYTES = 32
ID_TIME = "%Y%m%dT%H%M%SZ"


class StoredPiece(NamedTuple):
    """`added_bytes` is 0 if the repository had the piece."""

    name: str
    added_bytes: int


class BackupRepository:
    """The backups at one place, opened with their key."""

    def __init__(self, storage: BackupStorage, key: BackupKey) -> None:
        self.storage = storage
        self._key = key
        self._names: set[str] | None = None

    @property
    def object_names(self) -> set[str]:
        """The names of all objects, listed once."""
        if self._names is None:
            paths = self.storage.list_names(OBJECTS)
            self._names = {path.rpartition("/")[2] for path in paths}
        return self._names

    def store_piece(self, data: bytes) -> StoredPiece:
        name = self._key.name_piece(data)
        if name in self.object_names:
            return StoredPiece(name, 0)
        encrypted = self._key.encrypt(data)
        self.storage.write(_object_path(name), encrypted)
        self.object_names.add(name)
        return StoredPiece(name, len(encrypted))

    def read_piece(self, name: str) -> bytes:
        """Return the bytes of an object. Raises OperateError AW-OPS-82 if they are not those of its name."""
        path = _object_path(name)
        encrypted = self.storage.read(path)
        if encrypted is None:
            raise damaged_error(path, "an object is missing")
        data = self._key.decrypt(encrypted, path)
        if not hmac.compare_digest(self._key.name_piece(data), name):
            raise damaged_error(path, "an object has the content of another one")
        return data

    def list_ids(self) -> list[str]:
        """The ids of the backups, oldest first."""
        return list_backup_ids(self.storage)

    def write_manifest(self, manifest: BackupManifest) -> None:
        path = _manifest_path(manifest.id)
        encrypted = self._key.encrypt(msgspec.json.encode(manifest))
        self.storage.write(path, self._key.authenticate(path, encrypted) + encrypted)

    def read_manifest(self, backup: str) -> BackupManifest:
        """Raises OperateError AW-OPS-82 (damaged or forged), AW-OPS-83 (absent), AW-OPS-88 (a newer format)."""
        path = _manifest_path(backup)
        data = self.storage.read(path)
        if data is None:
            hint = "list the backups: archwright backup --list"
            message = f"there is no backup {backup!r}"
            raise OperateError("AW-OPS-83", message, where=ErrorLocation(self.storage.address), hint=hint)
        seal, encrypted = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if not hmac.compare_digest(seal, self._key.authenticate(path, encrypted)):
            raise damaged_error(path, "the manifest is not that which was written")
        return decode_record(self._key.decrypt(encrypted, path), BackupManifest, path)

    def find_newest(self) -> BackupManifest:
        """Raises OperateError AW-OPS-83 if there is no backup."""
        ids = self.list_ids()
        if not ids:
            raise absent_error(self.storage.address)
        return self.read_manifest(ids[-1])

    def remove_backups(self, ids: Iterable[str]) -> None:
        """Remove backups, then the objects that no other backup has. A kill in between leaves only spare objects."""
        for backup in ids:
            self.storage.remove(_manifest_path(backup))
        remaining = (self.read_manifest(backup) for backup in self.list_ids())
        used = {piece for manifest in remaining for file in manifest.files for piece in file.pieces}
        for name in sorted(self.object_names - used):
            self.storage.remove(_object_path(name))
        self._names = None


def list_backup_ids(storage: BackupStorage) -> list[str]:
    """The ids of the backups of a place, oldest first. Needs no key."""
    names = (path.rpartition("/")[2] for path in storage.list_names(BACKUPS))
    return sorted(name.removesuffix(RECORD_SUFFIX) for name in names if name.endswith(RECORD_SUFFIX))


def make_backup_id(at: float) -> str:
    return f"{time.strftime(ID_TIME, time.gmtime(at))}-{int(at % 1 * 1000):03d}{secrets.token_hex(2)}"


def read_backup_time(backup: str) -> float:
    """Return the second of the state of a backup, from its id."""
    return calendar.timegm(time.strptime(backup.partition("-")[0], ID_TIME))


def open_repository(storage: BackupStorage, secret: str) -> BackupRepository:
    """Open the backups of a place. Raises OperateError AW-OPS-81 to AW-OPS-83, AW-OPS-88."""
    data = storage.read(HEAD)
    if data is None:
        raise absent_error(storage.address)
    head = decode_record(data, RepositoryHead, f"{storage.address}/{HEAD}")
    return BackupRepository(storage, open_key(secret, head))


def open_or_create_repository(storage: BackupStorage, secret: str) -> BackupRepository:
    """Open the backups of a place, which may be empty. Raises as `open_repository` does."""
    if storage.read(HEAD) is not None:
        return open_repository(storage, secret)
    head, key = create_key(secret)
    storage.write(HEAD, msgspec.json.format(msgspec.json.encode(head)))
    return BackupRepository(storage, key)


def absent_error(address: str) -> OperateError:
    hint = "make a backup: archwright backup --to PLACE; or check the place"
    return OperateError("AW-OPS-83", "there is no backup at this place", where=ErrorLocation(address), hint=hint)


def _object_path(name: str) -> str:
    return f"{OBJECTS}/{name[:2]}/{name}"


def _manifest_path(backup: str) -> str:
    return f"{BACKUPS}/{backup}{RECORD_SUFFIX}"
