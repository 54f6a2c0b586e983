"""Spares and the promise they keep."""

from __future__ import annotations

import pytest

from archwright.plan.availability import MOST_SPARES, SPARE_ABOVE, holds, spares_for


def test_one_machine_is_its_own_availability() -> None:
    assert holds(1, 0) == pytest.approx(0.995)
    assert holds(2, 0) == pytest.approx(0.995**2)
    assert holds(1, 1) == pytest.approx(1 - 0.005**2)


@pytest.mark.parametrize(
    ("needed", "target", "spares"),
    [(3, None, 0), (2, 0.99, 0), (3, 0.99, 1), (3, 0.991, 1), (1, 0.999, 1), (100, 0.9995, 4), (1, 0.9999999, 3)],
)
def test_spares(needed: int, target: float | None, spares: int) -> None:
    assert spares_for(needed, target) == spares


def test_a_promise_out_of_reach_stops_somewhere() -> None:
    assert spares_for(1, 0.5, machine=0.5) == 0
    assert spares_for(100, 1 - 1e-16, machine=0.2) == MOST_SPARES


@pytest.mark.parametrize("needed", [1, 2, 5, 40])
def test_a_target_is_held_by_the_fewest_spares_whatever_it_is(needed: int) -> None:
    spares = [spares_for(needed, target) for target in (0.5, 0.9, 0.98, 0.99, 0.995, 0.999, 0.9999)]
    assert spares == sorted(spares)
    for target, spare in zip((0.5, 0.9, 0.98, 0.99, 0.995, 0.999, 0.9999), spares, strict=True):
        assert holds(needed, spare) >= target
        assert spare == (1 if target > SPARE_ABOVE else 0) or holds(needed, spare - 1) < target
