"""The spend of each key, user and tenant, summed from the usage records."""

from collections import Counter

from archwright.access.tables import format_scope_name
from archwright.home import Home
from archwright.monitor.wal.compaction import read_usage_totals
from archwright.store import Store

_COLUMNS = ("tenant", "key_id", "user", "shadow")


def sum_recorded_spend(store: Store, home: Home, *, day: int, today: int) -> Counter[str]:
    """Return the nano-USD spent by scope from `day` to `today` (days since 1970; day 0: in total).

    Records with a future date, written while the clock was wrong, count for no earlier period.
    Raises StoreError.
    """
    columns = ("day", *_COLUMNS) if day else _COLUMNS
    sums: Counter[str] = Counter()
    for row in read_usage_totals(store, home, columns):
        if row.shadow or (day and not day <= row.day <= today):
            continue
        sums[format_scope_name("key", name=row.key_id)] += row.cost_nano_usd
        sums[format_scope_name("user", row.tenant, row.user)] += row.cost_nano_usd
        sums[format_scope_name("tenant", row.tenant)] += row.cost_nano_usd
    return sums
