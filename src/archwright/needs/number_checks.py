"""Checks of numbers: the range of every field (its upper bound keeps arithmetic finite) and pairs."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from archwright.contract.needs import Needs, RequestRate, TokenLength, Traffic
from archwright.contract.record import as_dict
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, last_field_name
from archwright.needs.traversal import iterate_records
from archwright.specfile import join_path, read_packaged_yaml

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


@cache
def number_ranges() -> Mapping[str, Mapping[str, NumberRange]]:
    """Return the ranges by record and field."""
    rows = read_packaged_yaml(Path(__file__).parent / "number_ranges.yaml", dict[str, dict[str, str]])
    return {record: {name: _parse_range(range_) for name, range_ in row.items()} for record, row in rows.items()}


def _parse_range(text: str) -> NumberRange:
    low, high = (float(number) for number in text[1:-1].split(","))
    return NumberRange(low, high, above=text.startswith("("), below=text.endswith(")"))


def check_ranges(needs: Needs) -> Iterator[NeedsProblem]:
    for path, record in iterate_records(needs):
        known = number_ranges().get(type(record).__name__, {})
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
