"""The backups of a rendered platform: its jobs, when each one runs, and how many backups stay.

Design: a new backup adds only changes, so a backup each night costs little, and KEPT_BACKUPS of them is a month.
"""

from archwright.contract.record import Record

KEPT_BACKUPS = 30


class BackupJob(Record):
    """A job that runs `archwright backup` with `options`. `calendar`: when it starts, as systemd writes it.

    `backup_count`: the number of backups that stay; 0: it removes none.
    """

    name: str
    title: str
    options: tuple[str, ...]
    calendar: str
    reason: str
    backup_count: int = 0

    @property
    def file(self) -> str:
        return f"archwright-{self.name}.service"

    @property
    def timer(self) -> str:
        return f"archwright-{self.name}.timer"


BACKUP = BackupJob(
    name="backup",
    title="backup",
    options=("--keep", str(KEPT_BACKUPS)),
    calendar="*-*-* 02:30",
    reason=f"a backup each night, of which the newest {KEPT_BACKUPS} stay",
    backup_count=KEPT_BACKUPS,
)
DRILL = BackupJob(
    name="backup-drill",
    title="drill of the backup",
    options=("--drill",),
    calendar="*-*-01 05:00",
    reason="each month the newest backup is restored to a scratch home, started and checked; the home keeps the record",
)
BACKUP_JOBS = (BACKUP, DRILL)
