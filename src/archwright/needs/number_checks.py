"""Checks of numbers: the range of every field, and pairs of numbers.

The upper bound of a range keeps arithmetic finite.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from archwright.contract.needs import Needs, RequestRate, TokenLength, Traffic
from archwright.contract.record import Record, as_dict
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, last_field_name
from archwright.needs.traversal import iterate_records
from archwright.specfile import join_path, read_packaged_yaml

SHARES_TOLERANCE = 1e-6


class NumberRange(Record):
    """From `low` to `high`; `above` excludes `low`, `below` excludes `high`."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def contains(self, value: float) -> bool:
        """Return False for NaN, too."""
        if self.above and value == self.low:
            return False
        if self.below and value == self.high:
            return False
        return self.low <= value <= self.high

    def __str__(self) -> str:
        lower = "more than" if self.above else "at least"
        upper = "less than" if self.below else "at most"
        return f"{lower} {self.low:,g} and {upper} {self.high:,g}"


@cache
def number_ranges() -> Mapping[str, Mapping[str, NumberRange]]:
    """Return the ranges by record and field."""
    path = Path(__file__).parent / "number_ranges.yaml"
    ranges: dict[str, dict[str, NumberRange]] = {}
    for record_name, texts in read_packaged_yaml(path, dict[str, dict[str, str]]).items():
        ranges[record_name] = {field: _parse_range(text) for field, text in texts.items()}
    return ranges


def _parse_range(text: str) -> NumberRange:
    low, high = text[1:-1].split(",")
    return NumberRange(
        low=float(low),
        high=float(high),
        above=text.startswith("("),
        below=text.endswith(")"),
    )


def check_ranges(needs: Needs) -> Iterator[NeedsProblem]:
    for path, record in iterate_records(needs):
        ranges = number_ranges().get(type(record).__name__, {})
        for name, value in as_dict(record).items():
            if name in ranges:
                yield from _check_range(value, ranges[name], join_path(path, name))


def _check_range(value: object, allowed: NumberRange, path: str) -> Iterator[NeedsProblem]:
    """Check a number, or each number of a mapping of shares."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _check_range(item, allowed, join_path(path, name))
    elif isinstance(value, int | float) and not allowed.contains(value):
        message = f"{last_field_name(path)} cannot be {value:g}"
        hint = f"write a number of {allowed}"
        yield NeedsProblem(NeedsCode.OUT_OF_RANGE, path, message, hint=hint)


def check_pairs(needs: Needs) -> Iterator[NeedsProblem]:
    """Check that peak >= mean, p95 >= mean, and shares of regions sum to 1."""
    for path, record in iterate_records(needs):
        if isinstance(record, RequestRate):
            yield from _check_peak(record, join_path(path, "peak"))
        if isinstance(record, TokenLength):
            yield from _check_p95(record, join_path(path, "p95"))
        if isinstance(record, Traffic) and record.regions is not None:
            yield from _check_shares(record.regions, join_path(path, "regions"))


def _check_peak(rate: RequestRate, path: str) -> Iterator[NeedsProblem]:
    if rate.peak < rate.mean:
        message = f"the peak of {rate.peak:g} requests/s is below the mean of {rate.mean:g}"
        hint = "raise the peak or lower the mean"
        yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint=hint)


def _check_p95(length: TokenLength, path: str) -> Iterator[NeedsProblem]:
    if length.p95 < length.mean:
        p95 = f"{length.p95:g} tokens"
        message = f"the 95th percentile of {p95} is below the mean of {length.mean:g}"
        hint = "raise p95 or lower the mean"
        yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint=hint)


def _check_shares(shares: Mapping[str, float], path: str) -> Iterator[NeedsProblem]:
    """Check that the shares sum to 1; `check_ranges` reports a negative share."""
    total = sum(shares.values())
    lowest_share = min(shares.values(), default=0)
    if lowest_share >= 0 and abs(total - 1) > SHARES_TOLERANCE:
        message = f"the shares of the regions sum to {total:g}, not to 1"
        hint = "write shares of the traffic that sum to 1"
        yield NeedsProblem(NeedsCode.CONTRADICTION, path, message, hint=hint)
