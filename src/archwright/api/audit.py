"""The audit trail: `audit list`, `audit verify`."""

from pathlib import Path

from archwright.access import audit_log as trail
from archwright.access.audit_checkpoints import SYSLOG, check_log, check_places, read_checkpoints, read_signing_key
from archwright.access.audit_log import AuditEvent
from archwright.api.context import audit_read, open_home
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, StoreError
from archwright.monitor.user_names import find_user_ids


class AuditVerification(Record):
    """The result of a check of the log: `records` were checked, and compared with signed `checkpoints`.

    `public_keys` signed the checkpoints. `warning`: what the check could not see."""

    whole: bool
    records: int
    checkpoints: int = 0
    public_keys: tuple[str, ...] = ()
    warning: str = ""


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

    Only keys in `public_key` may sign (default: the home's; without one, that of the first checkpoint).
    Raises StoreError: AW-STO-04 at the first record that was altered, moved or removed; AW-STO-14 to AW-STO-19."""
    with open_home() as (settings, home, store):
        second = checkpoints or settings.audit_checkpoints
        # A checkpoint is written to the home first: read it last, so that it has those that are written meanwhile.
        seen = second not in ("", SYSLOG)
        elsewhere = read_checkpoints(Path(second)) if seen and (checkpoints or Path(second).exists()) else ()
        kept = read_checkpoints(home.audit_checkpoints) if home.audit_checkpoints.exists() else ()
        found = trail.check_chain(store, home)
        if found.broken is not None:
            message = f"the audit chain is broken at record {found.broken}"
            where = ErrorLocation(str(home.root))
            raise StoreError("AW-STO-04", message, where=where, hint="restore the home from a backup")
        own = read_signing_key(home)
        trusted = (own.public_key,) if own else tuple(one.public_key for one in (*kept, *elsewhere)[:1])
        keys = tuple(public_key or trusted)
        covering, others = check_log(store, (*kept, *elsewhere), frozenset(keys))
        check_places(kept, elsewhere, home)
        covered = max((one.records for one in elsewhere if one in covering), default=0)
        warnings = [_describe_gap(second, len(covering), covered, found.records)]
        if others:
            warnings.append(f"other keys signed checkpoints that agree with the log: {', '.join(sorted(others))}")
        warning = "; ".join(filter(None, warnings))
        return AuditVerification(
            whole=True, records=found.records, checkpoints=len(covering), public_keys=keys, warning=warning
        )


def _describe_gap(second: str, checked: int, seen: int, records: int) -> str:
    """Return what the check could not see, "" for nothing."""
    if not second:
        return (
            "set audit_checkpoints: without a second place, an attacker may replace log, key and checkpoints together"
        )
    if second == SYSLOG:
        return "export the checkpoints of the system log to a file and pass it: audit verify --checkpoints FILE"
    if not checked:
        return "there is no checkpoint of this log yet: any record may be missing"
    return f"the second place covers {seen:,} of {records:,} records" if seen < records else ""
