"""`usage`: what was asked of the gateway, and what it cost."""

from __future__ import annotations

from archwright.api.context import open_home
from archwright.monitor.usage import UsageRow, read_usage


def usage(*, tenant: str | None = None, by: str = "tenant,model") -> tuple[UsageRow, ...]:
    """Requests, tokens and money by any of tenant, key, user, model and day, joined by commas; by access to the home.

    Raises UsageError AW-USE-66 for other words."""
    with open_home() as (_settings, home, store):
        return read_usage(store, home, tenant, by)
