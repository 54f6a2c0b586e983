"""Constraint violations of an option."""

from archwright.contract.plan import ConstraintViolation

Misses = tuple[ConstraintViolation, ...]


def build_violation(
    constraint: str, value: float | str | None, limit: float | str | None, *, at_best: bool = False
) -> ConstraintViolation:
    return ConstraintViolation(constraint=constraint, value=value, limit=limit, at_best=at_best)


# The limit of the constraint `stale_facts`.
VALID_PRICE = "a dated price that has not expired"
