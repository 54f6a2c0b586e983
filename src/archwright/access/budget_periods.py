"""Periods of budgets: the current month and day by the wall clock, and changes of that clock.

A period is one integer: 4 x its start in seconds since the epoch + the index of its kind.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from archwright.policy.usage_limits import BudgetPeriod

PERIOD_KINDS: tuple[BudgetPeriod, ...] = ("total", "month", "day")
CLOCK_TOLERANCE_S = 5.0  # most difference between the clocks of two workers


class PeriodClock:
    """The current periods of one process, set anew on each day. `now`: seconds since the epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.current: dict[BudgetPeriod, int] = {}
        """The current period of each kind."""
        self.changes: set[tuple[int, int]] = set()
        """Periods of rows that show a changed clock, each with the number of the day it was seen.

        A spend that was read before such a change is stale.
        """
        self._day_start = math.inf
        self._day_end = -math.inf
        self._day_number = 0

    def roll_if_due(self) -> None:
        """Set the current periods on a new day."""
        now = self.now()
        if self._day_start <= now < self._day_end:
            return
        self._day_number += 1
        self._day_start = _find_midnight(now).timestamp()
        self._day_end = find_next_start("day", now)
        self.current = encode_periods(now)

    def is_just_ahead(self, period: int) -> bool:
        """True if a worker whose clock is slightly ahead may be in this period."""
        return period <= (self.now() + CLOCK_TOLERANCE_S) * 4

    def is_before(self, age_s: float, period: int) -> bool:
        """True if what happened `age_s` ago was before the period began."""
        return self.now() - age_s < period // 4 + CLOCK_TOLERANCE_S

    def note_change(self, period: int) -> None:
        """Note that a row of this period shows a changed clock."""
        self.changes.add((self._day_number, period))


def encode_periods(now: float) -> dict[BudgetPeriod, int]:
    """Return the current period of each kind."""
    day = _find_midnight(now)
    month = day.replace(day=1)
    starts = (0, int(month.timestamp()), int(day.timestamp()))

    periods: dict[BudgetPeriod, int] = {}
    for index, kind in enumerate(PERIOD_KINDS):
        periods[kind] = starts[index] * 4 + index
    return periods


def find_next_start(kind: BudgetPeriod, now: float) -> float:
    """Return the start of the next day, or of the next month for the other kinds."""
    day = _find_midnight(now)
    if kind == "day":
        next_day = day + timedelta(days=1)
        return next_day.timestamp()
    day_of_next_month = day.replace(day=1) + timedelta(days=32)
    return day_of_next_month.replace(day=1).timestamp()


def _find_midnight(now: float) -> datetime:
    """Return the start of the day (UTC)."""
    time = datetime.fromtimestamp(now, UTC)
    return time.replace(hour=0, minute=0, second=0, microsecond=0)
