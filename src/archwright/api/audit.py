"""The audit trail: `audit list`, `audit verify`."""

from pathlib import Path

from archwright.access import audit_log as trail
from archwright.access.api_keys import read_pepper
from archwright.access.audit_checkpoints import SYSLOG, read_checkpoints, read_signing_key
from archwright.access.audit_log import AuditEvent
from archwright.access.audit_verification import check_home, check_log, check_places
from archwright.access.checkpoint_anchor import read_anchors
from archwright.access.signed_rows import check_rows, read_signer
from archwright.api.context import audit_read, describe_second_place, open_home
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, StoreError
from archwright.monitor.user_names import find_user_ids

SECOND_PLACE_HINT = "set audit_checkpoints to a file outside the home or to syslog, or accept the risk: "
SECOND_PLACE_HINT += 'audit_second_place = "none"'


class AuditVerification(Record):
    """The result of a check of the log: `records` were checked, and compared with signed `checkpoints`.

    `public_keys` signed the checkpoints. `second_place`: what the second place covers, or the setting that renounces
    it. `warning`: what the check could not see."""

    whole: bool
    records: int
    checkpoints: int = 0
    public_keys: tuple[str, ...] = ()
    second_place: str = ""
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
        entries = [
            entry
            for one in dict.fromkeys(find_user_ids(store, user, tenant))
            for entry in trail.read_entries(store, home, {**where, "user": one}, tenant=tenant, limit=limit)
        ]
        newest = sorted(entries, key=lambda entry: entry.at, reverse=True)[:limit]
        return tuple(trail.name_users(newest, store))


def verify(*, checkpoints: str | None = None, public_key: tuple[str, ...] | None = None) -> AuditVerification:
    """Recompute the chain and compare the log with its checkpoints: the home's, the second place's, `checkpoints`.

    Only keys in `public_key` may sign (default: the home's; without one, that of the first checkpoint). The home's
    rows of keys are checked too. Raises StoreError: AW-STO-04 at the first record that was altered, moved or removed;
    AW-STO-14 to AW-STO-22; SecondPlaceError AW-STO-23 if no second place covers a record, unless the setting
    audit_second_place is none."""
    with open_home() as (settings, home, store):
        second = checkpoints or settings.audit_checkpoints
        # A checkpoint is written to the home first, then to the database, then to the second place. Read in the other
        # order, the home has those that are written meanwhile.
        seen = second not in ("", SYSLOG)
        elsewhere = read_checkpoints(Path(second)) if seen and (checkpoints or Path(second).exists()) else ()
        anchors = read_anchors(store)
        kept = read_checkpoints(home.audit_checkpoints) if home.audit_checkpoints.exists() else ()
        found = trail.check_chain(store, home)
        if found.broken is not None:
            message = f"the audit chain is broken at record {found.broken}"
            where = ErrorLocation(str(home.root))
            hint = "restore the home from a backup: archwright restore --into DIR"
            raise StoreError("AW-STO-04", message, where=where, hint=hint)
        own = read_signing_key(home)
        trusted = (own.public_key,) if own else tuple(one.public_key for one in (*kept, *elsewhere)[:1])
        keys = tuple(public_key or trusted)
        covering, others = check_log(store, (*kept, *elsewhere), frozenset(keys))
        check_places(kept, elsewhere, home)
        check_home(kept, anchors, store=store, home=home)
        if home.has_pepper and not home.unsigned_rows.exists():
            check_rows(store, read_signer(store, read_pepper(home)))
        covered = max((one.records for one in elsewhere if one in covering), default=0)
        warnings = [_describe_gap(second, len(covering), covered, found.records)]
        if others:
            warnings.append(f"other keys signed checkpoints that agree with the log: {', '.join(sorted(others))}")
        result = AuditVerification(
            whole=True,
            records=found.records,
            checkpoints=len(covering),
            public_keys=keys,
            second_place=describe_second_place(settings, covered),
            warning="; ".join(filter(None, warnings)),
        )
        if found.records and not covered and settings.audit_second_place != "none":
            message = "the log is whole by the home alone: no second place has a checkpoint of it"
            error = SecondPlaceError("AW-STO-23", message, where=ErrorLocation("audit log"), hint=SECOND_PLACE_HINT)
            error.result = result
            raise error
        return result


def _describe_gap(second: str, checked: int, seen: int, records: int) -> str:
    """Return what the check could not see, "" for nothing."""
    if not second:
        return "without a second place, an attacker may replace log, key and checkpoints together"
    if second == SYSLOG:
        return "export the checkpoints of the system log to a file and pass it: audit verify --checkpoints FILE"
    if not checked:
        return "there is no checkpoint of this log yet: any record may be missing"
    return f"the second place covers {seen:,} of {records:,} records" if seen < records else ""
