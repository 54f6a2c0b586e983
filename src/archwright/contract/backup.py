"""Results of the verbs `backup` and `restore`."""

from archwright.contract.record import Record


class CreatedBackup(Record):
    """`added_bytes` are new at the place; `removed` backups were older than those to keep."""

    id: str
    place: str
    files: int
    size_bytes: int
    added_bytes: int
    seconds: float
    removed: tuple[str, ...] = ()


class RestoredHome(Record):
    """`backup_at`: the time of the state of the home, in seconds since the epoch."""

    id: str
    home: str
    backup_at: float
    files: int
    size_bytes: int
    seconds: float


class StoredBackup(Record):
    """A complete backup of a place."""

    id: str
    at: float
    home: str
    files: int
    size_bytes: int
    written_by: str


class BackupList(Record):
    """The backups of a place, the newest first."""

    place: str
    backups: tuple[StoredBackup, ...]
