"""Checks of numbers: the range of every field (its upper bound keeps arithmetic finite) and pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from archwright.contract.needs import (
    SLO,
    Budget,
    DataProfile,
    Goal,
    Needs,
    Organisation,
    OwnedMachine,
    RequestRate,
    Site,
    SiteGroup,
    TokenLength,
    Traffic,
    Workload,
)
from archwright.contract.record import Record, as_dict
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, last_field_name
from archwright.needs.traversal import iterate_records
from archwright.specfile import join_path

MAX_GIB = 1e9
MAX_MONEY = 1e15
MAX_HOURS = 1e6
MAX_HORIZON_MONTHS = 240
SHARES_TOLERANCE = 1e-6


class NumberRange(NamedTuple):
    """From `low` to `high`; `above` excludes `low`, `below` excludes `high`."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def contains(self, value: float) -> bool:
        """Return False for NaN, too."""
        is_below = value < self.high if self.below else value <= self.high
        return is_below and (value > self.low if self.above else value >= self.low)

    def __str__(self) -> str:
        low = f"{'more than' if self.above else 'at least'} {self.low:,g}"
        return f"{low} and {'less than' if self.below else 'at most'} {self.high:,g}"


def positive_up_to(high: float) -> NumberRange:
    return NumberRange(0, high, above=True)


SHARE = NumberRange(0, 1, above=True, below=True)

RANGES: Mapping[type[Record], Mapping[str, NumberRange]] = {
    Organisation: {"employees": NumberRange(0, 1e8), "platform_engineers": NumberRange(0, 1e6)},
    Goal: {"value_per_month": NumberRange(0, MAX_MONEY)},
    RequestRate: {"mean": positive_up_to(1e9), "peak": positive_up_to(1e9)},
    TokenLength: {"mean": positive_up_to(1e9), "p95": positive_up_to(1e9)},
    Traffic: {
        "documents": positive_up_to(1e15),
        "tokens_per_document": positive_up_to(1e9),
        "image_pixels": positive_up_to(1e12),
        "parameters": positive_up_to(1e15),
        "features": NumberRange(1, 1e7),
        "gib_per_day": positive_up_to(MAX_GIB),
        "deadline_h": positive_up_to(MAX_HOURS),
        "growth_per_year": NumberRange(-1, 100, above=True),
        "hours_per_day": positive_up_to(24),
        "regions": NumberRange(0, 1, above=True),
    },
    SLO: {
        **dict.fromkeys(("ttft_p95_s", "tpot_p95_s", "latency_p95_s"), positive_up_to(1e6)),
        "availability": SHARE,
    },
    Workload: {
        "quality": SHARE,
        "tokens": positive_up_to(1e18),
        "deadline_h": positive_up_to(MAX_HOURS),
        "parameters": positive_up_to(1e15),
    },
    DataProfile: {
        "size_gib": NumberRange(0, MAX_GIB),
        "growth_gib_per_month": NumberRange(0, MAX_GIB),
        "retention_months": NumberRange(0, 1e4),
    },
    SiteGroup: {"count": NumberRange(1, 1e6), "power_kw": NumberRange(0, 1e9)},
    Site: {
        "power_kw": NumberRange(0, 1e9),
        "rack_units": NumberRange(0, 1e6),
        "electricity_usd_per_kwh": NumberRange(0, 100),
        "tier": NumberRange(1, 4),
    },
    OwnedMachine: {"count": NumberRange(1, 1e6), "age_months": NumberRange(0, 1200)},
    Budget: {
        "horizon_months": NumberRange(1, MAX_HORIZON_MONTHS),
        "per_month": NumberRange(0, MAX_MONEY),
        "capex": NumberRange(0, MAX_MONEY),
    },
}


def check_ranges(needs: Needs) -> Iterator[NeedsProblem]:
    for path, record in iterate_records(needs):
        known = RANGES.get(type(record), {})
        for name, value in as_dict(record).items():
            if name in known:
                yield from _check_range(known[name], value, join_path(path, name))


def _check_range(allowed: NumberRange, value: object, path: str) -> Iterator[NeedsProblem]:
    """Check a number, or each number of a mapping of shares."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _check_range(allowed, item, join_path(path, name))
    elif isinstance(value, int | float) and not allowed.contains(value):
        message, hint = f"{last_field_name(path)} cannot be {value:g}", f"write a number of {allowed}"
        yield NeedsProblem(NeedsCode.OUT_OF_RANGE, path, message, hint)


def check_pairs(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that peak >= mean, p95 >= mean, and shares of regions sum to 1."""
    for path, record in iterate_records(needs):
        if isinstance(record, RequestRate) and record.peak < record.mean:
            message = f"the peak of {record.peak:g} requests/s is below the mean of {record.mean:g}"
            hint = "raise the peak or lower the mean"
            yield NeedsProblem(NeedsCode.CONTRADICTION, join_path(path, "peak"), message, hint)
        if isinstance(record, TokenLength) and record.p95 < record.mean:
            message = f"the 95th percentile of {record.p95:g} tokens is below the mean of {record.mean:g}"
            yield NeedsProblem(NeedsCode.CONTRADICTION, join_path(path, "p95"), message, "raise p95 or lower the mean")
        if isinstance(record, Traffic) and record.regions is not None:
            shares = record.regions.values()
            total, hint = sum(shares), "write shares of the traffic that sum to 1"
            # `check_ranges` reports a negative share.
            if min(shares, default=0) >= 0 and abs(total - 1) > SHARES_TOLERANCE:
                message = f"the shares of the regions sum to {total:g}, not to 1"
                yield NeedsProblem(NeedsCode.CONTRADICTION, join_path(path, "regions"), message, hint)
