"""Retention of audit and usage records, and legal holds on them: `audit prune`, `audit hold`, `audit release`."""

import time
from datetime import UTC, datetime

from archwright.access.audit_checkpoints import CheckpointWriter, read_newest_own
from archwright.access.audit_delivery.places import split_addresses
from archwright.access.log_retention import DAY_S, LegalHold, RemovalEnd
from archwright.api.context import open_home, write_audit_record
from archwright.contract.record import Record, replace
from archwright.errors import ErrorLocation, StoreError, UsageError

STREAMS = {"audit": "audit", "usage": "served"}


class RecordRemoval(Record):
    """Records of a `log` that were removed, or would be (`dry_run`): `records`, from `first` to `last`.

    `limit`: why records before `before` stay. Times are UTC, empty for none. Totals of usage stay.
    """

    log: str
    before: str
    records: int
    first: str = ""
    last: str = ""
    limit: str = ""
    dry_run: bool = False


def prune_records(log: str, *, before: str | None, keep_days: int | None, dry_run: bool) -> RecordRemoval:
    """Remove records, or say which would be. Raises UsageError AW-USE-100, StoreError AW-STO-34, AW-STO-35."""
    if log not in STREAMS:
        where = ErrorLocation(field="log")
        raise UsageError("AW-USE-100", f"there is no log {log}", where=where, hint="choose audit or usage")
    stream = STREAMS[log]
    until = _read_limit(before, keep_days)
    with open_home() as (settings, home, store):
        places = split_addresses(settings.audit_checkpoints)
        writer = CheckpointWriter(store, home)
        if writer.is_shared():
            message = "several homes sign checkpoints of this database, so none may remove records"
            hint = "give each home a database of its own, or keep the records"
            raise StoreError("AW-STO-35", message, where=ErrorLocation(str(home.root)), hint=hint)

        newest = read_newest_own(store, home)
        if newest is None:
            return RecordRemoval(log=log, before=_format_time(until), records=0, dry_run=dry_run)
        removal = writer.find_removal(newest, stream, before=until, places=places)
        if dry_run:
            return _describe(log, until, removal, dry_run=True)
        if removal.hold is not None:
            raise _hold_error(removal.hold, removal)
        if removal.records:
            write_audit_record(store, "audit.prune", f"{log} before {_format_time(until)}")
            removal = writer.remove(stream, until, places)
        return _describe(log, until, removal, dry_run=False)


def _read_limit(before: str | None, keep_days: int | None) -> float:
    """Return the time before which records leave. Raises UsageError AW-USE-100."""
    where = ErrorLocation(field="before")
    hint = "pass one of them: --before 2026-01-31, or --keep-days 365"
    if (before is None) == (keep_days is None):
        raise UsageError("AW-USE-100", "a removal needs either a date or a number of days", where=where, hint=hint)
    now = time.time()
    until = now - (keep_days or 0) * DAY_S
    if before is not None:
        until = _read_date(before, where)
    if until > now:
        raise UsageError("AW-USE-100", "the date is in the future", where=where, hint=hint)
    return until


def _read_date(text: str, where: ErrorLocation) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        hint = "write year, month and day, such as 2026-01-31; the day begins at 00:00 UTC"
        raise UsageError("AW-USE-100", f"{text} is no date", where=where, hint=hint) from error


def _describe(log: str, until: float, removal: RemovalEnd, *, dry_run: bool) -> RecordRemoval:
    limit = removal.limit
    if removal.hold is not None:
        limit += f": {removal.hold.id}, {removal.hold.reason}"
    report = RecordRemoval(
        log=log,
        before=_format_time(until),
        records=removal.records,
        limit=limit,
        dry_run=dry_run,
    )
    if not removal.records:
        return report
    return replace(report, first=_format_time(removal.first_at), last=_format_time(removal.last_at))


def _hold_error(hold: LegalHold, removal: RemovalEnd) -> StoreError:
    subject = f"the tenant {hold.tenant}"
    if not hold.tenant:
        subject = "all tenants"
    message = f"the legal hold {hold.id} keeps records of {subject}: {hold.reason}"
    day = _format_time(removal.held_at)[:10]
    hint = f"choose a date up to {day}, or end the hold: archwright audit release {hold.id}"
    return StoreError("AW-STO-34", message, where=ErrorLocation("legal hold"), hint=hint)


def _format_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
