from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from archwright.lifecycle import export_gate
from archwright.lifecycle.confidence_interval import bootstrap_interval, weighted_mean
from archwright.lifecycle.export_gate import PositionReadings, decide_export_gate, log_probability_distance


def places(effect: float, noise: float, error: float = 0.0, items: int = 12, each: int = 4) -> list[PositionReadings]:
    """A model that moved by `effect`, an engine whose rounding is `noise`, served wrongly by `error`."""
    draw = random.Random(3)
    found = []
    for item in range(items):
        for _ in range(each):
            base = {token: -draw.uniform(0.5, 5.0) for token in range(8)}
            trained = {token: value + draw.gauss(0.0, effect) for token, value in base.items()}
            served = {t: value + draw.gauss(0.0, noise) + draw.gauss(0.0, error) for t, value in trained.items()}
            without = {token: value + draw.gauss(0.0, noise) for token, value in base.items()}
            found.append(PositionReadings(item, trained, base, served, without))
    return found


TRAINED, OTHER = "the served model is the trained model", "the served model differs from the trained model"


@pytest.mark.parametrize(
    ("given", "passed", "said", "figures"),
    [
        (places(1.0, 0.1), True, TRAINED, lambda g: g.value < g.limit < g.control),
        (places(1.0, 0.1), True, TRAINED, lambda g: g.limit == pytest.approx(1.5 * 0.0798, rel=0.1)),
        (places(1.0, 0.1, error=0.3), False, OTHER, lambda g: g.value > g.limit),
        # Means below the limit are not enough: the interval has to be.
        (places(1.0, 0.1, error=0.1), False, OTHER, lambda g: g.value == pytest.approx(g.limit, rel=0.15)),
        (places(0.02, 0.1), False, "too little to tell if it is applied", lambda g: g.control < g.limit),
        # An exact engine is not asked to be exact.
        (places(0.5, 0.001), True, TRAINED, lambda g: g.limit == export_gate.LIMIT_FLOOR),
        (places(0.5, 0.001, error=0.05), False, OTHER, lambda g: g.value > g.limit),
        (places(3.0, 0.8), False, "the reference is another model", lambda g: g.value is not None),
        *(
            (places(1.0, 0.1, 0.0, *size), False, f"only {said} held-out items", lambda g: g.value is None)
            for size, said in (((7, 8), "56 positions of 7"), ((15, 2), "30 positions of 15"))
        ),
    ],
)
def test_the_gate_passes_what_is_surely_served_as_trained(
    given: list[PositionReadings], passed: bool, said: str, figures: Callable[[Any], bool]
) -> None:
    found = decide_export_gate(given)
    assert (found.name, found.passed) == ("export", passed) and figures(found)
    assert said in found.detail and f"{len(given)} positions of {given[-1].item + 1} held-out items" in found.detail


def test_a_token_that_was_not_listed_counts_for_what_is_known_of_it() -> None:
    wanted = {1: -1.0, 2: -3.0, 3: -9.0}
    listed = {1: -1.5, 7: -4.0}
    assert log_probability_distance(wanted, listed) == pytest.approx((0.5 + 1.0 + 0.0) / 3)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Coverage of the bootstrap over 12 items of a skewed figure: near 95 %, and not below 85 %."""
    draw, held = random.Random(5), 0
    for _ in range(60):
        pairs = [(draw.expovariate(1.0) * (count := draw.randint(5, 20)), float(count)) for _ in range(12)]
        found = bootstrap_interval(pairs, weighted_mean)
        assert found.low <= found.value <= found.high
        held += found.low <= 1.0 <= found.high
    assert held >= 51


def test_the_interval_is_the_same_each_time_and_of_no_width_without_variety() -> None:
    values: Sequence[tuple[float, float]] = [(2.0, 1.0)] * 9
    found = bootstrap_interval(values, weighted_mean)
    assert found == bootstrap_interval(values, weighted_mean) and found[1:] == (2.0, 2.0)
    assert str(found) == "2.0000 [2.0000, 2.0000]" and not math.isnan(weighted_mean(values))
