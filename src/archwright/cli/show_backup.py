"""The terminal output of backups, restorations and drills."""

from archwright.cli.show import as_json, make_console, print_rows, print_text
from archwright.cli.table_layout import TableColumn, format_time, print_fields
from archwright.contract.backup import BackupList, CreatedBackup, DrillRecord, RestoredHome
from archwright.contract.number_format import format_duration, format_quantity

__all__ = ["as_json", "print_backup", "print_restored"]

BACKUP_COLUMNS = (
    TableColumn("id", "id", whole=True),
    TableColumn("at", lambda row: format_time(row.at), whole=True),
    TableColumn("files", lambda row: f"{row.files:,}", number=True),
    TableColumn("size", lambda row: format_quantity(row.size_bytes, "bytes"), number=True),
    TableColumn("home", "home"),
)


def print_backup(result: CreatedBackup | BackupList | DrillRecord) -> int:
    if isinstance(result, BackupList):
        return print_rows(BACKUP_COLUMNS, result.backups, "no backups")
    if isinstance(result, DrillRecord):
        return _print_drill(result)
    fields = {
        "backup": result.id,
        "place": result.place,
        "size": f"{result.files:,} files, {format_quantity(result.size_bytes, 'bytes')}",
        "added": f"{format_quantity(result.added_bytes, 'bytes')} in {format_duration(result.seconds)}",
        "removed": f"{len(result.removed)} older backups",
    }
    print_fields(make_console(), fields)
    return 0


def _print_drill(result: DrillRecord) -> int:
    size = format_quantity(result.size_bytes, "bytes")
    counts = f"{result.audit_records:,} audit records; {result.sampled} files read again"
    fields = {
        "drill": f"passed at {format_time(result.at)}: an old key was answered, a revoked one refused",
        "backup": f"{result.backup}, manifest {result.manifest_sha256}",
        "RPO": f"{format_duration(result.rpo_s)}: the age of the backup",
        "RTO": f"{format_duration(result.rto_s)}: from the start to the first answer",
        "verified": f"{result.files:,} files, {size}; {counts}",
    }
    print_fields(make_console(), fields)
    return 0


def print_restored(result: RestoredHome) -> int:
    size = format_quantity(result.size_bytes, "bytes")
    fields = {
        "backup": f"{result.id}, of {format_time(result.backup_at)}",
        "home": result.home,
        "size": f"{result.files:,} files, {size} in {format_duration(result.seconds)}; every digest is right",
    }
    print_fields(make_console(), fields)
    return print_text(f"To use it: export ARCHWRIGHT_HOME={result.home}")
