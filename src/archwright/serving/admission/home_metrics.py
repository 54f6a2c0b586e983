"""Metrics that every worker would measure alike: budgets, batches and the disk. They are not summed over workers."""

import fcntl
import shutil
from collections import Counter
from contextlib import suppress
from functools import cache

from archwright.access.budget_levels import DAY_S, BudgetLevel, read_budget_levels
from archwright.access.recorded_spend import sum_recorded_spend
from archwright.home import Home
from archwright.monitor.metrics.exposition import Exposition
from archwright.policy.usage_limits import NUSD_PER_USD
from archwright.serving.admission.metering import CostAccounting
from archwright.store import Store

BUDGET_SERIES = 200  # tenants with the least left, as a share
_TENANT = "tenant:"


def measure_home(home: Home, store: Store, accounting: CostAccounting, now: float) -> Exposition:
    """Measure the state of the home. Reads the store, so run it in a thread. Raises StoreError."""
    exposition = Exposition()
    exposition.record("disk_free_bytes", {"disk": "home"}, shutil.disk_usage(home.root).free)
    for state, count in _count_batches(home).items():
        exposition.record("batches", {"state": state}, count)

    today = int(now // DAY_S)

    @cache
    def sum_spend(day: int) -> Counter[str]:
        return sum_recorded_spend(store, home, day=day, today=today)

    all_limits = accounting.keys.read_limits()
    limits = {scope: limit for scope, limit in all_limits.items() if scope.startswith(_TENANT)}
    levels = read_budget_levels(accounting.accounts.table, limits, sum_spend, now=now)
    for scope, level in sorted(levels.items(), key=_sort_by_rest)[:BUDGET_SERIES]:
        labels = {"tenant": scope.removeprefix(_TENANT)}
        exposition.record("budget_usd", labels, level.budget_nusd / NUSD_PER_USD)
        exposition.record("budget_left_usd", labels, level.left_nusd / NUSD_PER_USD)
    return exposition


def _sort_by_rest(entry: tuple[str, BudgetLevel]) -> tuple[float, str]:
    scope, level = entry
    return level.left_nusd / max(level.budget_nusd, 1), scope


def _count_batches(home: Home) -> dict[str, int]:
    """Count the batches that are not done. A process holds the lock of a batch while it runs the batch."""
    counts = {"running": 0, "waiting": 0}
    for path in home.open_batches.glob("batch_*"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                counts["waiting"] += 1
            except BlockingIOError:
                counts["running"] += 1
    return counts
