from __future__ import annotations

import random

import pytest

from archwright.lifecycle.classifier_metrics import (
    balanced_accuracy,
    compare_balanced_accuracy,
    count_recognised,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("right", "items", "low", "high"),
    [
        # R: prop.test(x, n, correct = FALSE)$conf.int
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (81, 263, 0.2552749, 0.3662133),
        (15, 148, 0.0624314, 0.1605577),
    ],
)
def test_wilsons_interval_is_the_published_one(right: int, items: int, low: float, high: float) -> None:
    found = wilson_interval(right, items)
    assert list(found) == pytest.approx([right / items, low, high], abs=1e-4)


def test_balanced_accuracy_counts_every_class_alike() -> None:
    counts = count_recognised([0] * 93 + [1] * 7, [0] * 100)
    assert counts == {0: (93, 93), 1: (0, 7)}
    found = balanced_accuracy(counts)
    assert found.value == 0.5 and found.low < 0.5 < found.high
    assert balanced_accuracy({0: (93, 93), 1: (7, 7)}).low > 0.75
    assert balanced_accuracy({0: (9, 10)}) == wilson_interval(9, 10)


def test_of_a_hundred_intervals_some_ninety_five_hold_the_truth() -> None:
    chance, covered, shares = random.Random(4), 0, (0.97, 0.6)
    for _ in range(1000):
        counts = {
            place: (sum(chance.random() < share for _ in range(rows)), rows)
            for place, (share, rows) in enumerate(zip(shares, (400, 40), strict=True))
        }
        found = balanced_accuracy(counts)
        covered += found.low <= sum(shares) / 2 <= found.high
    assert 930 <= covered <= 970


def test_a_paired_change_knows_its_direction_and_its_uncertainty() -> None:
    truth = [0] * 100 + [1] * 100
    right, wrong = [True] * 200, [False] * 200
    same = compare_balanced_accuracy(truth, right, right).change
    assert same.value == 0.0 and same.low == -same.high and 0.009 < same.high < 0.01
    ends = (
        compare_balanced_accuracy(truth, right, wrong).change.high,
        compare_balanced_accuracy(truth, wrong, right).change.low,
    )
    assert ends == pytest.approx((-0.973, 0.973), abs=1e-3)
    worse = compare_balanced_accuracy(truth, right, [place % 10 > 0 for place in range(200)]).change
    assert worse.value == pytest.approx(-0.1) and worse.high < 0.0
    one, two = [place != 3 for place in range(200)], [place not in (5, 9) for place in range(200)]
    unsure = compare_balanced_accuracy(truth, one, two).change
    assert unsure.value == pytest.approx(-0.005) and unsure.low < 0.0 < unsure.high
    rare = compare_balanced_accuracy([0] * 990 + [1] * 10, [True] * 1000, [True] * 990 + [False] * 10).change
    assert rare.value == pytest.approx(-0.5)  # a rare class weighs as much as a common one


def test_paired_intervals_cover_too() -> None:
    chance, covered = random.Random(8), 0
    for _ in range(500):
        truth = [int(place >= 300) for place in range(360)]
        old = [chance.random() < 0.9 for _ in truth]
        new = [chance.random() < (0.8 if is_a else 0.92) for is_a in truth]
        found = compare_balanced_accuracy(truth, old, new).change
        covered += found.low <= (0.02 - 0.1) / 2 <= found.high
    assert 460 <= covered <= 492
