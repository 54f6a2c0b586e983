"""How many examples of a property are drawn: few and the same ones at each commit, many and random ones nightly."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def draw_few() -> bool:
    """The profile in force says which run this is (conftest.py)."""
    return bool(settings().derandomize)


def draw(few: int, many: int) -> settings:
    """For properties whose examples take long."""
    return settings(
        max_examples=few if draw_few() else many,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
