"""Spares and the promise they keep."""

from __future__ import annotations

import pytest

from archwright.plan.availability import MOST_SPARES, holds, spares_for


def test_one_machine_is_its_own_availability() -> None:
    assert holds(1, 0) == pytest.approx(0.995)
    assert holds(2, 0) == pytest.approx(0.995**2)
    assert holds(1, 1) == pytest.approx(1 - 0.005**2)


@pytest.mark.parametrize(
    ("needed", "target", "spares"),
    [(3, None, 0), (3, 0.99, 0), (3, 0.991, 1), (1, 0.999, 1), (100, 0.9995, 4), (1, 0.9999999, 3)],
)
def test_spares(needed: int, target: float | None, spares: int) -> None:
    assert spares_for(needed, target) == spares


def test_a_promise_out_of_reach_stops_somewhere() -> None:
    assert spares_for(1, 0.5, machine=0.5) == 0
    assert spares_for(100, 1 - 1e-16, machine=0.2) == MOST_SPARES
