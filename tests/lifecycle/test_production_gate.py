"""The gate "not worse than production" on drawn answers: what is worse is refused, and what is unknown is said."""

from __future__ import annotations

import random
from math import comb
from typing import NamedTuple

import numpy as np
import pytest

from archwright.contract.lineage import Gate, ModelVersion
from archwright.contract.record import replace
from archwright.lifecycle.classifier_metrics import compare_balanced_accuracy
from archwright.lifecycle.production_gate import (
    DEFAULT_MARGINS,
    choose_margin,
    compute_p_value,
    decide_not_worse_gate,
    refuse_comparison,
)
from archwright.training.training_spec import TrainSpec

PRODUCTION = ModelVersion(
    id="digits@v1",
    name="digits",
    version=1,
    at=0.0,
    task="image-classifier",
    format="onnx",
    sha256="a" * 64,
    size_bytes=1,
    run="r-1",
    dataset_version="rows@v1",
    licence="CC0-1.0",
)
MARGIN = 0.02
SEEDS = range(20)


class Answers(NamedTuple):
    truth: list[int]
    old: list[bool]
    new: list[bool]

    def decide(self, margin: float = MARGIN) -> Gate:
        return decide_not_worse_gate(compare_balanced_accuracy(*self), margin, PRODUCTION)[1]


def draw_answers(seed: int, rows: int, old: float, new: float) -> Answers:
    """Two models that are right in these shares of the rows, and make half of their errors on the same rows."""
    chance = random.Random(seed)
    hard = [chance.random() for _ in range(rows)]
    both = min(1.0 - old, 1.0 - new) / 2
    answers = [[place > both and chance.random() < share / (1.0 - both) for place in hard] for share in (old, new)]
    return Answers([chance.randrange(2) for _ in range(rows)], *answers)


def count_verdicts(old: float, new: float, rows: int) -> dict[str, int]:
    found = [draw_answers(seed, rows, old, new).decide().verdict for seed in SEEDS]
    return {verdict: found.count(verdict) for verdict in ("passed", "failed", "not shown")}


def test_a_worse_version_is_refused_and_a_better_one_passes() -> None:
    assert count_verdicts(0.95, 0.85, 600) == {"passed": 0, "failed": 20, "not shown": 0}
    assert count_verdicts(0.85, 0.95, 600)["passed"] == 20
    slightly_worse = count_verdicts(0.95, 0.92, 600)
    assert slightly_worse["passed"] <= 1


def test_seven_points_down_on_sixty_rows_is_not_passed() -> None:
    """The review's case: 0.91 became 0.84 on 57 rows, and the gate said "not worse"."""
    truth = [place % 2 for place in range(57)]
    old = [place not in (0, 1, 2, 3, 4) for place in range(57)]
    new = [right and place not in (10, 11, 12, 13) for place, right in enumerate(old)]
    gate = Answers(truth, old, new).decide()
    assert (gate.passed, gate.verdict) == (False, "not shown")
    assert "not shown to be not worse than digits@v1" in gate.detail
    assert "Train a better version" in gate.detail


def test_an_equal_version_is_not_called_better() -> None:
    gates = [draw_answers(seed, 3_000, 0.95, 0.95).decide() for seed in SEEDS]
    assert sum(gate.detail.startswith("better than") for gate in gates) <= 1
    assert sum(gate.passed for gate in gates) >= 18


def test_too_few_rows_show_nothing_and_the_detail_says_how_many_would() -> None:
    same = Answers([0, 1] * 20, [True] * 40, [True] * 40)
    gate = same.decide()
    assert (gate.passed, gate.shown) == (False, False)
    needed = int(gate.detail.partition("About ")[2].split()[0])
    assert Answers([0, 1] * needed, [True] * 2 * needed, [True] * 2 * needed).decide().passed
    assert same.decide(margin=0.1).passed


def test_a_loss_within_the_margin_passes_although_it_is_significant() -> None:
    truth, rows = [0, 1] * 5_000, 10_000
    new = [place % 100 != 0 for place in range(rows)]
    gate = Answers(truth, [True] * rows, new).decide()
    assert gate.passed and gate.detail.startswith("not worse than")


def test_the_margin_of_the_spec_goes_before_that_of_the_task() -> None:
    spec = TrainSpec(name="digits", task="image-classifier", dataset="rows")
    assert choose_margin(spec, "balanced_accuracy") == DEFAULT_MARGINS["balanced_accuracy"]
    assert choose_margin(replace(spec, margin=0.1), "balanced_accuracy") == 0.1


def test_the_paired_test_is_the_sign_test_where_differences_are_equal() -> None:
    """McNemar's exact test: a binomial tail over the rows that one model alone has right."""
    for gained, lost in ((0, 0), (3, 0), (5, 1), (2, 9)):
        rows = gained + lost
        tail = sum(comb(rows, right) for right in range(gained, rows + 1)) / 2**rows
        assert compute_p_value(np.array([0.5] * gained + [-0.5] * lost + [0.0] * 7)) == pytest.approx(tail)
    drawn = compute_p_value(np.array([1.0] * 60 + [-1.0] * 40))
    exact = sum(comb(100, right) for right in range(60, 101)) / 2**100
    assert drawn == pytest.approx(exact, abs=0.006)
    assert compute_p_value(np.ones(5_000)) == pytest.approx(1e-4)


def test_the_paired_test_keeps_its_level() -> None:
    """Equally good models of differences of any size: 2.5 % of the tests say better."""
    chance = random.Random(5)
    found = [compute_p_value(np.array([chance.gauss(0.0, 1.0) ** 3 for _ in range(11)])) for _ in range(400)]
    assert 2 <= sum(p_value <= 0.025 for p_value in found) <= 19


def test_what_cannot_be_compared_is_not_shown_and_names_the_way_out() -> None:
    gate = refuse_comparison(PRODUCTION, "its file is gone")
    assert gate.verdict == "not shown"
    assert gate.detail.endswith("evaluate again: archwright models rollback digits")
