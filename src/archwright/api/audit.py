"""The audit trail: `audit list`, `audit verify`."""

from archwright.access import audit_log as trail
from archwright.access.audit_log import AuditEvent
from archwright.api.context import open_home
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, StoreError


class AuditVerification(Record):
    """The result of a check of the chain: `records` were checked."""

    whole: bool
    records: int


def list(*, tenant: str | None = None, limit: int = 50) -> tuple[AuditEvent, ...]:  # noqa: A001 - the verb's name
    """Return the newest records first."""
    with open_home() as (_settings, home, store):
        return tuple(trail.read_entries(store, home, tenant=tenant, limit=limit))


def verify() -> AuditVerification:
    """Recompute the chain. Raises StoreError AW-STO-04 at the first record that was altered, moved or removed."""
    with open_home() as (_settings, home, store):
        found = trail.check_chain(store, home)
        if found.broken is not None:
            message = f"the audit chain is broken at record {found.broken}"
            where = ErrorLocation(str(home.root))
            raise StoreError("AW-STO-04", message, where=where, hint="restore the home from a backup")
        return AuditVerification(whole=True, records=found.records)
