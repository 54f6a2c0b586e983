"""An uncertain number: value, band, level and the basis that justifies it.

Design: bands of positive quantities are multiplicative, so products and quotients combine in log space assuming
independence; sums add half by half (root of squares). Dependent parts must be computed jointly by the caller.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from archwright.contract.record import Record

_NORMAL = NormalDist()
# A level of 1 has no finite quantile.
_MAX_LEVEL = 0.9999


class Estimate(Record):
    """`low <= value <= high` in `unit`; the truth lies inside with probability `level`.

    `basis` is the id of a Basis in the same plan. Raises ValueError when the order or a number is broken.
    """

    value: float
    low: float
    high: float
    unit: str
    level: float = 0.9
    basis: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.level <= 1:
            raise ValueError(f"the level is a probability, not {self.level}")
        if not (math.isfinite(self.value) and math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"estimate is not finite: {self.low}, {self.value}, {self.high}")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"estimate out of order: {self.low} <= {self.value} <= {self.high}")

    @property
    def factor(self) -> float:
        """The larger of value/low and high/value; 1.0 for an exact number, infinite if the band reaches zero."""
        if self.low == self.high:
            return 1.0
        if self.low <= 0:
            return math.inf
        return max(self.value / self.low, self.high / self.value)

    def chance_below(self, limit: float) -> float:
        """Return the probability that the truth is at most `limit`: a log-normal with its own width on each side.

        `value` is the median. Formula: Phi(z x ln(limit / value) / ln(end / value)), z the quantile of the band's end
        on the side of `limit`; normal instead of log-normal if the band or the limit reaches zero.
        """
        end = self.high if limit > self.value else self.low
        if limit == self.value and limit < self.high:
            return 0.5
        if limit == self.value or end == self.value:
            return float(limit >= self.value)
        if min(self.low, limit) > 0:
            middle = math.log(self.value)  # a quotient of extremes would underflow
            width = (math.log(limit) - middle) / abs(math.log(end) - middle)
        else:
            width = (limit - self.value) / abs(end - self.value)
        return _NORMAL.cdf(width * self._end_quantile)

    def quantile(self, share: float) -> float:
        """Return the number that the truth does not exceed with probability `share`, in (0, 1): see `chance_below`."""
        width = _NORMAL.inv_cdf(share) / self._end_quantile
        end = self.high if width > 0 else self.low
        if self.low > 0:
            return self.value * math.pow(end / self.value, abs(width))
        return self.value + (end - self.value) * abs(width)

    @property
    def _end_quantile(self) -> float:
        return _NORMAL.inv_cdf((1 + min(self.level, _MAX_LEVEL)) / 2)

    def contains(self, measured: float) -> bool:
        return self.low <= measured <= self.high

    def scaled(self, by: float, *, unit: str | None = None, basis: str | None = None) -> Estimate:
        """Multiply by an exact, positive number."""
        value, low, high = (number * by for number in (self.value, self.low, self.high))
        named = self.basis if basis is None else basis
        return Estimate(value=value, low=low, high=high, unit=unit or self.unit, level=self.level, basis=named)

    def widen(self, by: float) -> Estimate:
        """Multiply the logarithms of the band by `by`; the value must be above 0."""
        low, high = (self.value * math.pow(end / self.value, by) for end in (self.low, self.high))
        return Estimate(value=self.value, low=low, high=high, unit=self.unit, level=self.level, basis=self.basis)

    def divide_amount(self, amount: float, unit: str, basis: str = "") -> Estimate:
        """Return `amount` divided by this estimate, which must be above 0; low and high change places."""
        value, low, high = (amount / number for number in (self.value, self.high, self.low))
        return Estimate(value=value, low=low, high=high, unit=unit, level=self.level, basis=basis)


def exact_estimate(value: float, unit: str, basis: str = "") -> Estimate:
    """Return a number without a band, such as a count or a price that the user stated."""
    return Estimate(value=value, low=value, high=value, unit=unit, basis=basis)


def within_factor(value: float, factor: float, unit: str, basis: str = "") -> Estimate:
    """Return `value` with a symmetric multiplicative band, `factor` >= 1."""
    return Estimate(value=value, low=value / factor, high=value * factor, unit=unit, basis=basis)


def multiply_estimates(estimates: list[Estimate], unit: str, basis: str = "") -> Estimate:
    """Multiply independent estimates in log space, or by interval arithmetic if a band reaches zero."""
    value = math.prod(e.value for e in estimates)
    if any(e.low <= 0 for e in estimates):
        low = high = 1.0
        for e in estimates:
            corners = (low * e.low, low * e.high, high * e.low, high * e.high)
            low, high = min(corners), max(corners)
    else:
        low = value * math.exp(-math.sqrt(sum(math.log(e.value / e.low) ** 2 for e in estimates)))
        high = value * math.exp(math.sqrt(sum(math.log(e.high / e.value) ** 2 for e in estimates)))
    return Estimate(value=value, low=low, high=high, unit=unit, level=_lowest_level(estimates), basis=basis)


def _lowest_level(estimates: list[Estimate]) -> float:
    """A combination has the level of its least certain part."""
    return min((e.level for e in estimates if e.low != e.high), default=0.9)


def sum_estimates(estimates: list[Estimate], unit: str, basis: str = "") -> Estimate:
    """Add independent estimates: squared half-widths add."""
    value = sum(e.value for e in estimates)
    below = math.sqrt(sum((e.value - e.low) ** 2 for e in estimates))
    above = math.sqrt(sum((e.high - e.value) ** 2 for e in estimates))
    level = _lowest_level(estimates)
    return Estimate(value=value, low=value - below, high=value + above, unit=unit, level=level, basis=basis)
