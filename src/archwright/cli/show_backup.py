"""The terminal output of backups, restorations and drills."""

from archwright.cli.show import as_json, make_console, print_rows, print_text
from archwright.cli.table_layout import (
    TableColumn,
    format_time,
    make_size_column,
    make_time_column,
    print_fields,
)
from archwright.contract.backup import BackupList, CreatedBackup, DrillRecord, RestoredHome
from archwright.contract.number_format import format_duration, format_quantity

__all__ = ["as_json", "print_backup", "print_restored"]

BACKUP_COLUMNS = (
    TableColumn("id", "id", whole=True),
    make_time_column("at", "at"),
    TableColumn("files", "files", number=True),
    make_size_column("size", "size_bytes"),
    TableColumn("home", "home"),
)


def print_backup(result: CreatedBackup | BackupList | DrillRecord) -> int:
    if isinstance(result, BackupList):
        return print_rows(BACKUP_COLUMNS, result.backups, "no backups")
    if isinstance(result, DrillRecord):
        return _print_drill(result)

    size = format_quantity(result.size_bytes, "bytes")
    added = format_quantity(result.added_bytes, "bytes")
    content = f"{result.files:,} files, {size}"
    addition = f"{added} in {format_duration(result.seconds)}"
    removal = f"{len(result.removed)} older backups"
    fields = {
        "backup": result.id,
        "place": result.place,
        "size": content,
        "added": addition,
        "removed": removal,
    }
    print_fields(make_console(), fields)
    return 0


def _print_drill(result: DrillRecord) -> int:
    time = format_time(result.at)
    outcome = f"passed at {time}: an old key was answered, a revoked one refused"
    backup = f"{result.backup}, manifest {result.manifest_sha256}"
    rpo = f"{format_duration(result.rpo_s)}: the age of the backup"
    rto = f"{format_duration(result.rto_s)}: from the start to the first answer"

    size = format_quantity(result.size_bytes, "bytes")
    counts = f"{result.audit_records:,} audit records; {result.sampled} files read again"
    verified = f"{result.files:,} files, {size}; {counts}"
    fields = {"drill": outcome, "backup": backup, "RPO": rpo, "RTO": rto, "verified": verified}
    print_fields(make_console(), fields)
    return 0


def print_restored(result: RestoredHome) -> int:
    backup = f"{result.id}, of {format_time(result.backup_at)}"
    size = format_quantity(result.size_bytes, "bytes")
    duration = format_duration(result.seconds)
    content = f"{result.files:,} files, {size} in {duration}; every digest is right"
    print_fields(make_console(), {"backup": backup, "home": result.home, "size": content})
    return print_text(f"To use it: export ARCHWRIGHT_HOME={result.home}")
