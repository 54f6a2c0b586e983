"""`usage`: requests to the gateway and their cost."""

from pathlib import Path

from archwright.api.context import audit_read, open_home
from archwright.home import write_atomic
from archwright.monitor.focus_export import FOCUS_GROUPS, format_focus
from archwright.monitor.usage import UsageRow, read_usage


@audit_read("usage")
def usage(*, tenant: str | None = None, by: str = "tenant,model", focus: str | None = None) -> tuple[UsageRow, ...]:
    """Return requests, tokens and cost grouped by any of tenant, key, user, model and day, joined by commas.

    `focus`: a CSV file to write the usage to in FOCUS 1.2, grouped by all of them. Raises UsageError AW-USE-66 for
    another group.
    """
    with open_home() as (_settings, home, store):
        if focus is not None:
            rows = read_usage(store, home, tenant=tenant, by=FOCUS_GROUPS)
            write_atomic(Path(focus), format_focus(rows).encode(), mode=0o644)
        return read_usage(store, home, tenant=tenant, by=by)
