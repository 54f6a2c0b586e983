"""The audit trail and its retention: the verbs `audit ...`."""

import builtins
from pathlib import Path

from archwright.access import audit_log as trail
from archwright.access.api_keys import read_pepper
from archwright.access.audit_checkpoints import chain_state_of, read_audit_start, read_checkpoints, read_signing_key
from archwright.access.audit_delivery.outbox import PlaceStatus, read_statuses
from archwright.access.audit_delivery.places import UNREADABLE, check_readable, select_addresses, split_addresses
from archwright.access.audit_delivery.second_place import SecondPlaces
from archwright.access.audit_delivery.time_stamps import (
    AuditTimeStamp,
    check_time_stamps,
    stamp_newest_checkpoint,
)
from archwright.access.audit_export.export_file import FORMATS, JSONL, AuditExport, write_export, write_verifier
from archwright.access.audit_log import AuditEvent
from archwright.access.audit_verification import check_home, check_log, check_places, find_audit_start
from archwright.access.checkpoint_anchor import read_anchors
from archwright.access.log_blocks import LogStart
from archwright.access.log_retention import LegalHold, add_hold, read_holds, remove_hold
from archwright.access.signed_rows import check_rows, read_signer
from archwright.access.tables import NAME_PATTERN
from archwright.api.context import (
    audit_read,
    describe_second_place,
    open_audited_home,
    open_home,
    record_read,
    write_audit_record,
)
from archwright.api.record_retention import RecordRemoval, prune_records
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, StoreError, UsageError
from archwright.home import Home
from archwright.monitor.user_names import find_user_ids
from archwright.settings import Settings
from archwright.store import Store

SECOND_PLACE_HINT = "set audit_checkpoints to a place outside this machine; of stdout and syslog, pass an export: "
SECOND_PLACE_HINT += '--against FILE; or accept the risk: audit_second_place = "none"'


class AuditVerification(Record):
    """The result of a check of the log: `records` were checked, and compared with signed `checkpoints`.

    `records` counts from the first one ever; retention has removed `removed` of them. `public_keys` signed the
    checkpoints. `second_place`: what the second place covers, or the setting that renounces it. `time_stamps`: how many
    were verified, and what they cover. `warning`: what the check could not see."""

    whole: bool
    records: int
    removed: int = 0
    checkpoints: int = 0
    public_keys: tuple[str, ...] = ()
    second_place: str = ""
    time_stamps: str = "none"
    warning: str = ""


class SecondPlaceError(StoreError):
    """The log is whole, but nothing outside the home confirms it (AW-STO-23); `result`: the AuditVerification."""

    exit_status = 10


@audit_read("audit.list")
def list(  # noqa: A001 - the verb's name
    *, tenant: str | None = None, source: str | None = None, user: str | None = None, limit: int = 50
) -> tuple[AuditEvent, ...]:
    """Return the newest records first."""
    where = {} if source is None else {"source": source}
    with open_home() as (_settings, home, store):
        if user is None:
            return tuple(trail.name_users(trail.read_entries(store, home, where, tenant=tenant, limit=limit), store))
        entries: builtins.list[trail.AuditEntry] = []
        for user_id in dict.fromkeys(find_user_ids(store, user, tenant)):
            of_user = {**where, "user": user_id}
            entries += trail.read_entries(store, home, of_user, tenant=tenant, limit=limit)
        newest = sorted(entries, key=lambda entry: entry.at, reverse=True)[:limit]
        return tuple(trail.name_users(newest, store))


def verify(
    *, against: str | None = None, public_key: tuple[str, ...] | None = None, authorities: str | None = None
) -> AuditVerification:
    """Recompute the chain, and compare the log with the checkpoints of the home and with each second place.

    `against`: a place, or a file with its lines (default: those of the setting audit_checkpoints that can be read).
    Only keys in `public_key` may sign (default: the home's; without one, that of the first checkpoint). The home's rows
    of keys are checked too. `authorities`: PEM file of the roots of time stamp authorities, whose stamps of checkpoints
    are verified then (AW-STO-32, AW-STO-33). Raises StoreError: AW-STO-04 at the first record that was altered, moved
    or removed; AW-STO-14 to AW-STO-22; AW-STO-29 the records of a place differ, AW-STO-30 a place was altered;
    SecondPlaceError AW-STO-23 if no second place covers a record, unless the setting audit_second_place is none."""
    with open_home() as (_settings, home, store):
        start = read_audit_start(store, home)
    try:
        return _verify(against, public_key, authorities=authorities)
    except StoreError:
        with open_home() as (_settings, home, store):
            is_moved = read_audit_start(store, home) != start
        if not is_moved:
            raise
        return _verify(against, public_key, authorities=authorities)  # records were removed meanwhile


def _verify(against: str | None, public_key: tuple[str, ...] | None, *, authorities: str | None) -> AuditVerification:
    with open_home() as (settings, home, store):
        # A checkpoint is written to the home first, then to the database, then to the second place. Read in the other
        # order, the home has those that are written meanwhile.
        places = SecondPlaces(_list_readable(settings, against))
        anchors = read_anchors(store)
        in_home = read_checkpoints(home.audit_checkpoints) if home.audit_checkpoints.exists() else ()
        own_key = read_signing_key(home)
        first_signers = [checkpoint.public_key for checkpoint in (*in_home, *places.checkpoints)[:1]]
        home_keys = [own_key.public_key] if own_key else first_signers
        public_keys = frozenset(public_key or home_keys)

        start = find_audit_start(store, (*in_home, *places.checkpoints), public_keys)
        chain_start = chain_state_of(start)
        with places.explain_findings(store, chain_start):
            records = _check_chain(store, home, start)
            covering, other_keys = check_log(store, (*in_home, *places.checkpoints), public_keys)
            check_places(in_home, places.checkpoints, home)
            check_home(in_home, anchors, store=store, home=home)
        covered = places.check_records(store, covering, chain_start)
        if home.has_pepper and not home.unsigned_rows.exists():
            check_rows(store, read_signer(store, read_pepper(home)))

        stamps = check_time_stamps(home, store, (*in_home, *places.checkpoints), authorities=authorities)

        gap = _describe_gap(settings, against, covered=covered, records=records)
        warnings = [gap] if gap else []
        if other_keys:
            warnings.append(f"other keys signed checkpoints that agree with the log: {', '.join(sorted(other_keys))}")
        second_place = describe_second_place(settings, covered)
        result = AuditVerification(
            whole=True,
            records=records,
            removed=chain_start.records,
            checkpoints=len(covering),
            public_keys=tuple(sorted(public_keys)),
            second_place=second_place,
            time_stamps=stamps,
            warning="; ".join(warnings),
        )
        if records and not covered and settings.audit_second_place != "none":
            message = "the log is whole by the home alone: no second place has records or a checkpoint of it"
            error = SecondPlaceError("AW-STO-23", message, where=ErrorLocation("audit log"), hint=SECOND_PLACE_HINT)
            error.result = result
            raise error
        return result


def _list_readable(settings: Settings, against: str | None) -> tuple[str, ...]:
    """Return the places that a verification reads. Raises UsageError AW-USE-02 for a place that nobody can read."""
    if against in UNREADABLE:
        message = f"what {against} got cannot be read back"
        hint = "export it to a file, and pass the file: audit verify --against FILE"
        raise UsageError("AW-USE-02", message, where=ErrorLocation(field="against"), hint=hint)
    if against:
        check_readable(against)
        return (against,)
    return select_addresses(settings.audit_checkpoints, excluded=UNREADABLE)


def _check_chain(store: Store, home: Home, start: LogStart | None) -> int:
    """Return the number of records. Raises StoreError AW-STO-04."""
    checked = trail.check_chain(store, home, start=start)
    if checked.broken is not None:
        message = f"the audit chain is broken at record {checked.broken}"
        where = ErrorLocation(str(home.root))
        hint = "restore the home from a backup: archwright restore --into DIR"
        raise StoreError("AW-STO-04", message, where=where, hint=hint)
    return checked.records


def _describe_gap(settings: Settings, against: str | None, *, covered: int, records: int) -> str:
    """Return what the check could not see, "" for nothing."""
    if covered >= records:
        return ""
    if covered or _list_readable(settings, against):
        return f"the second place covers {covered:,} of {records:,} records"
    if settings.audit_checkpoints:
        return f"export what {settings.audit_checkpoints} got to a file and pass it: audit verify --against FILE"
    return "without a second place, an attacker may replace log, key and checkpoints together"


def status() -> tuple[PlaceStatus, ...]:
    """Return how far each second place is: those of the setting, and those of this home's gateway."""
    with open_home() as (settings, home, store):
        return read_statuses(store, home, split_addresses(settings.audit_checkpoints))


def export(*, output: str, format: str = JSONL) -> AuditExport:  # noqa: A002 - the option's name
    """Write the log to a file: `jsonl` and `rfc5424` with its checkpoints, for a verifier; `ocsf` for analysis.

    The export leaves an audit record, which it contains. Raises UsageError AW-USE-80 for another format.
    """
    if format not in FORMATS:
        message = f"{format} is no format of an export"
        hint = f"choose one of {', '.join(FORMATS)}"
        raise UsageError("AW-USE-80", message, where=ErrorLocation(field="format"), hint=hint)
    record_read("audit.export", format)
    with open_home() as (_settings, home, store):
        return write_export(store, home, Path(output), form=format)


def verifier(*, output: str) -> Path:
    """Write a program of one file that verifies an export or a second place with the standard library of Python."""
    path = Path(output)
    write_verifier(path)
    return path


def stamp(authority: str, *, authorities: str) -> AuditTimeStamp:
    """Get a time stamp of the log by an authority of RFC 3161, and keep it in the home.

    The act writes a record and a checkpoint, which is stamped. `authority`: URL; `authorities`: PEM file of the
    trusted roots. Raises StoreError AW-STO-32, MissingError AW-GET-16.
    """
    with open_home() as (_settings, home, store):
        write_audit_record(store, "audit.stamp", authority)
        return stamp_newest_checkpoint(home, store, authority, authorities=authorities)


def prune(
    *, log: str = "audit", before: str | None = None, keep_days: int | None = None, dry_run: bool = False
) -> RecordRemoval:
    """Remove records of the log `audit` or `usage` that are older than a date or a number of days.

    Blocks leave as a whole, the oldest first. A signed checkpoint states where the kept records begin, and totals of
    usage stay. Raises UsageError AW-USE-100, StoreError AW-STO-34 if a legal hold keeps such records, AW-STO-35.
    """
    return prune_records(log, before=before, keep_days=keep_days, dry_run=dry_run)


def hold(*, reason: str, tenant: str | None = None) -> LegalHold:
    """Keep the audit and usage records of a tenant, from its first one on, until the hold is released.

    Without a tenant, all records are kept. Raises UsageError AW-USE-100 for a name that no tenant can have.
    """
    if tenant is not None and not NAME_PATTERN.fullmatch(tenant):
        where = ErrorLocation(field="tenant")
        raise UsageError(
            "AW-USE-100", f"no tenant can have the name {tenant}", where=where, hint="archwright tenant list"
        )
    with open_audited_home() as (home, record_act):
        added = add_hold(home, tenant or "", reason)
        record_act("audit.hold", f"{added.id}: {reason}", tenant or "")
        return added


def release(hold: str) -> LegalHold:
    """End a legal hold. Raises MissingError AW-GET-17 for an unknown one."""
    with open_audited_home() as (home, record_act):
        removed = remove_hold(home, hold)
        record_act("audit.release", f"{removed.id}: {removed.reason}", removed.tenant)
        return removed


@audit_read("audit.holds")
def holds() -> tuple[LegalHold, ...]:
    """Return the legal holds in force, oldest first."""
    with open_home() as (_settings, home, _store):
        return tuple(read_holds(home))
