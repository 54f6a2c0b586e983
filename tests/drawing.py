"""The number of examples of a property: few and constant at each commit, many and random nightly."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def draw_few() -> bool:
    """True at each commit: the hypothesis profile in force decides (conftest.py)."""
    return bool(settings().derandomize)


def draw(few: int, many: int) -> settings:
    """Return the settings of properties with slow examples."""
    return settings(
        max_examples=few if draw_few() else many,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
