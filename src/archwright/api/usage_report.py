"""`usage`: requests to the gateway and their cost."""

from archwright.api.context import open_home
from archwright.monitor.usage import UsageRow, read_usage


def usage(*, tenant: str | None = None, by: str = "tenant,model") -> tuple[UsageRow, ...]:
    """Return requests, tokens and cost grouped by any of tenant, key, user, model and day, joined by commas.

    Raises UsageError AW-USE-66 for another group.
    """
    with open_home() as (_settings, home, store):
        return read_usage(store, home, tenant, by)
