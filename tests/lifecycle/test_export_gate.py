from __future__ import annotations

import math
import random
from collections.abc import Sequence

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


def test_a_model_served_as_trained_passes() -> None:
    found = decide_export_gate(places(effect=1.0, noise=0.1))
    assert found.passed and found.name == "export"
    assert found.value is not None and found.limit is not None and found.control is not None
    assert found.value < found.limit < found.control
    assert found.limit == pytest.approx(1.5 * 0.0798, rel=0.1)
    assert (
        "the served model is the trained model" in found.detail and "48 positions of 12 held-out items" in found.detail
    )


def test_a_model_served_wrongly_fails() -> None:
    found = decide_export_gate(places(effect=1.0, noise=0.1, error=0.3))
    assert not found.passed and found.detail.startswith("the served model differs from the trained model")


def test_near_the_limit_only_what_is_surely_below_passes() -> None:
    """Means below the limit are not enough: the interval has to be."""
    found = decide_export_gate(places(effect=1.0, noise=0.1, error=0.1))
    assert found.value is not None and found.limit is not None
    assert not found.passed and found.value == pytest.approx(found.limit, rel=0.15)


def test_an_adapter_that_changes_too_little_cannot_pass_its_control() -> None:
    found = decide_export_gate(places(effect=0.02, noise=0.1))
    assert not found.passed and "too little to tell if it is applied" in found.detail
    assert found.control is not None and found.limit is not None and found.control < found.limit


def test_an_exact_engine_is_not_asked_to_be_exact() -> None:
    found = decide_export_gate(places(effect=0.5, noise=0.001))
    assert found.passed and found.limit == export_gate.LIMIT_FLOOR
    assert not decide_export_gate(places(effect=0.5, noise=0.001, error=0.05)).passed


def test_a_reference_of_another_model_is_seen() -> None:
    found = decide_export_gate(places(effect=3.0, noise=0.8))
    assert not found.passed and "the reference is another model" in found.detail


@pytest.mark.parametrize(("items", "each"), [(7, 8), (15, 2)])
def test_too_few_places_decide_nothing(items: int, each: int) -> None:
    found = decide_export_gate(places(1.0, 0.1, items=items, each=each))
    assert not found.passed and f"only {items * each} positions of {items} held-out items" in found.detail
    assert found.value is None


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
