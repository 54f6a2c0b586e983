"""The records of a repository of backups. A program reads every format up to FORMAT, and refuses newer ones."""

from typing import TypeVar

import msgspec

from archwright.contract.record import Record
from archwright.errors import ErrorLocation, OperateError

R = TypeVar("R", bound=Record)
FORMAT = 1
DATABASE_FILE = "archwright.db"
POSTGRES_DUMP = "postgresql.dump"
RECORD_SUFFIX = ".backup"


class RepositoryHead(Record):
    """The only plain file of a repository. `recipient`: the public key of its objects.

    `sealed_key`: the key itself, in hex, encrypted with the passphrase; empty if the user holds the key."""

    kind: str = "archwright-backups"
    format: int = FORMAT
    recipient: str
    sealed_key: str = ""


class BackupFile(Record):
    """A file of the home: its path below the home, its digest, and the names of the objects with its bytes."""

    path: str
    size_bytes: int
    sha256: str
    pieces: tuple[str, ...]
    changed_ns: int = 0


class DrillKeys(Record):
    """The secrets of two gateway keys that the home has for drills: one is valid, one was revoked."""

    valid: str
    revoked: str


class BackupManifest(Record):
    """A backup of the home `root`, whose state is that of the time `at`. `schema`: the version of its formats."""

    format: int = FORMAT
    id: str
    at: float
    written_by: str
    schema: int
    root: str
    drill: DrillKeys
    files: tuple[BackupFile, ...]

    @property
    def has_dump(self) -> bool:
        """True if the database is of PostgreSQL."""
        return any(file.path == POSTGRES_DUMP for file in self.files)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


class _Format(msgspec.Struct):
    """The field that every format has, read first: a newer format may have other fields."""

    format: int


def decode_record(data: bytes, kind: type[R], name: str) -> R:
    """Decode a record of the repository. Raises OperateError AW-OPS-82 (damaged), AW-OPS-88 (a newer format)."""
    where = ErrorLocation(name)
    try:
        found = msgspec.json.decode(data, type=_Format).format
        if found > FORMAT:
            message = f"a newer archwright wrote this backup: format {found}, this program knows {FORMAT}"
            raise OperateError("AW-OPS-88", message, where=where, hint="upgrade: pip install -U archwright")
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise damaged_error(name, str(error)) from error


def damaged_error(name: str, reason: str) -> OperateError:
    message = f"the backup is damaged: {reason}"
    hint = (
        "list the backups: archwright backup --list; restore an older one: archwright restore ID; "
        "then look for the cause at the place"
    )
    return OperateError("AW-OPS-82", message, where=ErrorLocation(name), hint=hint)
