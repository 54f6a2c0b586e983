"""Durations and bytes as people say them."""

from __future__ import annotations

import pytest

from archwright.contract.decision import CostDriver
from archwright.contract.estimate import Estimate
from archwright.plan.explain.formatting import describe_switch_point, format_duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(30.4, "30.4 s"), (90, "90 s"), (600, "10 min"), (8.05e4, "22.4 h"), (4 * 86400, "4 days"), (0, "0 s")],
)
def test_a_duration_has_the_unit_of_its_size(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said


def test_a_switch_point_has_the_unit_of_its_fact() -> None:
    stored = Estimate(value=3 * 2.0**40, low=2.0**40, high=4 * 2.0**40, unit="bytes")
    fact = CostDriver(
        basis="b", name="stored", estimate=stored, share=0.5, flips_to="x", flips_at=3.5 * 2.0**40, inside=True
    )
    assert "is 3 TiB (1 .. 4); at 3.5 TiB, inside its interval" in describe_switch_point(fact)
