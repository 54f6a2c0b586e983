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


class DrillRecord(Record):
    """The proof that a backup can be restored, kept in the home.

    `rpo_s`: age of the backup at the start of the drill; `rto_s`: from then to the first answer of the gateway.
    `manifest_sha256`: digest of the manifest, which has the digest of every file. `audit_records`: records of the
    restored audit log, whose chain, checkpoints and signed keys are intact. `sampled`: files whose digests were checked
    again in the end. `engine`: the stored model that answered, or null. `error`: why the drill failed, else empty."""

    backup: str
    at: float
    passed: bool
    rpo_s: float
    rto_s: float = 0.0
    files: int = 0
    size_bytes: int = 0
    manifest_sha256: str = ""
    audit_records: int = 0
    sampled: int = 0
    engine: str = "null"
    error: str = ""
