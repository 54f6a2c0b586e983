"""How facts age: states by time to live, and the band that grows with age.

Within its time to live a figure keeps the band of its confidence. From there to twice that age the class's measured
drift is added, linear in the log and independent of the first band: squared log half-widths add. "2026" means the
middle of that year, "2025-2026" the middle of both years. A figure without a year counts as stale.
"""

import calendar
import functools
import math
import re
from datetime import date, timedelta

from archwright.catalog.tables.metadata_records import FreshnessState, TimeToLive
from archwright.contract.estimate import Estimate
from archwright.contract.record import replace

DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])(?!\d)")
YEARS = re.compile(r"\b(\d{4})(?:-(\d{4}))?\b")


@functools.lru_cache(maxsize=4096)
def parse_as_of(as_of: str) -> date | None:
    """Return the middle day of the period in `as_of`, None if it states none."""
    try:
        if found := DAY.search(as_of):
            year, month, day = map(int, found.groups())
            return date(year, month, day)
        if found := MONTH.search(as_of):
            year, month = map(int, found.groups())
            return date(year, month, calendar.monthrange(year, month)[1] // 2)
        if found := YEARS.search(as_of):
            first, last = int(found.group(1)), int(found.group(2) or found.group(1))
            return date(first, 1, 1) + (date(last, 12, 31) - date(first, 1, 1)) // 2
    except ValueError:
        return None
    return None


def is_dated(as_of: str) -> bool:
    """True if the source states the time at which a figure was true; the age of an undated copy is not known."""
    return "undated" not in as_of and parse_as_of(as_of) is not None


def age_days(as_of: str, today: date) -> int | None:
    """Return an age of at least 0, since the middle of the current month may lie ahead."""
    day = parse_as_of(as_of)
    return None if day is None else max(0, (today - day) // timedelta(days=1))


def freshness_state(rule: TimeToLive | None, age: int | None) -> FreshnessState:
    """Return the state; a class without a rule does not age."""
    if rule is None:
        return "fresh"
    if age is None:
        return "stale"
    if rule.expires_days is not None and age > rule.expires_days:
        return "expired"
    if age <= rule.ttl_days:
        return "fresh"
    return "ageing" if age <= 2 * rule.ttl_days else "stale"


def drift_factors(rule: TimeToLive | None, age: int | None) -> tuple[float, float]:
    """Return the factors by which a figure may have changed downwards and upwards since it was read."""
    if rule is None:
        return 1.0, 1.0
    share = 1.0 if age is None else min(1.0, max(0.0, (age - rule.ttl_days) / max(1, rule.ttl_days)))
    return rule.drift_down**share, rule.drift_up**share


def widen_by_drift(estimate: Estimate, drift: tuple[float, float]) -> Estimate:
    """Widen `estimate` by a drift independent of its band; an end at or below zero stays."""
    down, up = drift
    if estimate.value <= 0 or down == up == 1.0:
        return estimate
    low, high = estimate.low, estimate.high
    if low > 0:
        low = estimate.value * math.exp(-math.hypot(math.log(estimate.value / low), math.log(down)))
    high = estimate.value * math.exp(math.hypot(math.log(high / estimate.value), math.log(up)))
    return replace(estimate, low=min(low, estimate.value), high=max(high, estimate.value))
