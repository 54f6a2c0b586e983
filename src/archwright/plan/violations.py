"""Limits of the needs: constraint violations of an option, and the probability that it holds a limit."""

from collections.abc import Iterable

from archwright.contract.estimate import Estimate
from archwright.contract.plan import FROM_INTERVAL, ConstraintViolation, LimitProbability, StatedLimit, assess_limit
from archwright.contract.record import replace

Misses = tuple[ConstraintViolation, ...]
Limits = tuple[LimitProbability, ...]


def build_violation(
    constraint: str, value: float | str | None, limit: float | str | None, *, at_best: bool = False
) -> ConstraintViolation:
    return ConstraintViolation(constraint=constraint, value=value, limit=limit, at_best=at_best)


def assess_availability(limit: StatedLimit, share: Estimate, *, basis: str = FROM_INTERVAL) -> LimitProbability:
    """Return an availability limit, assessed by the downtime, whose errors are factors.

    An interval that ends at 1 has the same factor on both sides of the downtime.
    """
    down, most = 1 - share.value, 1 - share.low
    least = 1 - share.high if share.high < 1 or not most else down * down / most
    unavailable = Estimate(value=down, low=min(least, down), high=most, unit="share")
    found = assess_limit(limit, share, at_least=True, basis=f"downtime {basis}")
    return replace(found, probability=unavailable.chance_below(1 - limit[1]))


def list_misses(limits: Iterable[LimitProbability]) -> Misses:
    """Return the limits that the expected values break."""
    return tuple(
        build_violation(one.limit, one.predicted.value, one.stated)
        for one in limits
        if (one.predicted.value < one.stated if one.at_least else one.predicted.value > one.stated)
    )


# The limit of the constraint `stale_facts`.
VALID_PRICE = "a dated price that has not expired"
