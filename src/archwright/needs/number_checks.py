"""Numbers: the range of every numeric field, and pairs of numbers that must agree.

Upper bounds are no opinions: each lies far beyond anything an organisation can mean, and keeps the arithmetic behind
it finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from archwright.contract.needs import (
    SLO,
    Budget,
    DataProfile,
    Goal,
    Length,
    Needs,
    Organisation,
    OwnedMachine,
    Rate,
    Site,
    SiteGroup,
    Traffic,
    Workload,
)
from archwright.contract.record import Record, asdict
from archwright.needs.needs_problem import CONTRADICTION, OUT_OF_RANGE, Problem, join, leaf
from archwright.needs.traversal import records

MAX_GIB = 1e9
MAX_MONEY = 1e15
MAX_HOURS = 1e6
MAX_HORIZON_MONTHS = 240
SHARES_TOLERANCE = 1e-6


class Range(NamedTuple):
    """From `low` to `high`, both allowed unless the flag says that the end itself is not."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """False for NaN, too."""
        high = value < self.high if self.below else value <= self.high
        return high and (value > self.low if self.above else value >= self.low)

    def __str__(self) -> str:
        low = f"{'more than' if self.above else 'at least'} {self.low:,g}"
        return f"{low} and {'less than' if self.below else 'at most'} {self.high:,g}"


def positive(high: float) -> Range:
    return Range(0, high, above=True)


SHARE = Range(0, 1, above=True, below=True)

RANGES: Mapping[type[Record], Mapping[str, Range]] = {
    Organisation: {"employees": Range(0, 1e8), "platform_engineers": Range(0, 1e6)},
    Goal: {"value_per_month": Range(0, MAX_MONEY)},
    Rate: {"mean": positive(1e9), "peak": positive(1e9)},
    Length: {"mean": positive(1e9), "p95": positive(1e9)},
    Traffic: {
        "documents": positive(1e15),
        "tokens_per_document": positive(1e9),
        "image_pixels": positive(1e12),
        "parameters": positive(1e15),
        "features": Range(1, 1e7),
        "gib_per_day": positive(MAX_GIB),
        "deadline_h": positive(MAX_HOURS),
        "growth_per_year": Range(-1, 100, above=True),
        "hours_per_day": positive(24),
        "regions": Range(0, 1, above=True),
    },
    SLO: {
        "ttft_p95_s": positive(1e6),
        "tpot_p95_s": positive(1e6),
        "latency_p95_s": positive(1e6),
        "availability": SHARE,
    },
    Workload: {
        "quality": SHARE,
        "tokens": positive(1e18),
        "deadline_h": positive(MAX_HOURS),
        "parameters": positive(1e15),
    },
    DataProfile: {
        "size_gib": Range(0, MAX_GIB),
        "growth_gib_per_month": Range(0, MAX_GIB),
        "retention_months": Range(0, 1e4),
    },
    SiteGroup: {"count": Range(1, 1e6), "power_kw": Range(0, 1e9)},
    Site: {
        "power_kw": Range(0, 1e9),
        "rack_units": Range(0, 1e6),
        "electricity_usd_per_kwh": Range(0, 100),
        "tier": Range(1, 4),
    },
    OwnedMachine: {"count": Range(1, 1e6), "age_months": Range(0, 1200)},
    Budget: {
        "horizon_months": Range(1, MAX_HORIZON_MONTHS),
        "per_month": Range(0, MAX_MONEY),
        "capex": Range(0, MAX_MONEY),
    },
}


def ranges(needs: Needs) -> Iterator[Problem]:
    """Each number inside its range."""
    for path, record in records(needs):
        known = RANGES.get(type(record), {})
        for name, value in asdict(record).items():
            if name in known:
                yield from _inside(known[name], value, join(path, name))


def _inside(allowed: Range, value: object, path: str) -> Iterator[Problem]:
    """A number, or each number of a mapping of shares."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _inside(allowed, item, join(path, name))
    elif isinstance(value, int | float) and not allowed.holds(value):
        yield Problem(OUT_OF_RANGE, path, f"{leaf(path)} cannot be {value:g}", f"write a number of {allowed}")


def pairs(needs: Needs) -> Iterator[Problem]:
    """peak >= mean, p95 >= mean, and shares of regions that make up the whole."""
    for path, record in records(needs):
        if isinstance(record, Rate) and record.peak < record.mean:
            message = f"the peak of {record.peak:g} requests/s is below the mean of {record.mean:g}"
            yield Problem(CONTRADICTION, join(path, "peak"), message, "raise the peak or lower the mean")
        if isinstance(record, Length) and record.p95 < record.mean:
            message = f"the 95th percentile of {record.p95:g} tokens is below the mean of {record.mean:g}"
            yield Problem(CONTRADICTION, join(path, "p95"), message, "raise p95 or lower the mean")
        if isinstance(record, Traffic) and record.regions is not None:
            shares = record.regions.values()
            total = sum(shares)
            # A negative share is told by `ranges`, at the share itself.
            if min(shares, default=0) >= 0 and abs(total - 1) > SHARES_TOLERANCE:
                message = f"the shares of the regions sum to {total:g}, not to 1"
                yield Problem(
                    CONTRADICTION, join(path, "regions"), message, "write shares of the traffic that sum to 1"
                )
