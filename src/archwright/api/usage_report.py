"""`usage`: what was asked of the gateway, and what it cost."""

from __future__ import annotations

from archwright.api.context import opened
from archwright.monitor.usage import Usage, usage_of


def usage(*, tenant: str | None = None, by: str = "tenant,model") -> tuple[Usage, ...]:
    """Requests, tokens and money by any of tenant, key, user, model and day, joined by commas; by access to the home.

    Raises UsageError AW-USE-66 for other words.
    """
    with opened() as (_settings, home, store):
        return usage_of(store, home, tenant, by)
