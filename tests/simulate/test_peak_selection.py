"""The window a plan is judged by: typical of its load, and sensitive to the machine's speed alone."""

from __future__ import annotations

from statistics import median

import pytest

from archwright.contract.record import replace
from archwright.simulate.peak_selection import LEAST_SEEDS, SEEDS, count_seeds, select_representative_load
from archwright.simulate.serving_simulation import ServingSpec, predict_serving, simulate_replica


def test_only_the_seed_is_chosen_and_always_the_same(desk: ServingSpec) -> None:
    chosen = select_representative_load(desk)
    assert chosen == select_representative_load(desk)
    assert replace(chosen, seed=desk.load.seed) == desk.load
    assert desk.load.seed <= chosen.seed < desk.load.seed + SEEDS


@pytest.mark.parametrize("seed", [1, 1_000, 1_000_000])
def test_bands_are_as_narrow_as_the_demo_states(desk: ServingSpec, seed: int) -> None:
    start = replace(desk, load=replace(desk.load, seed=seed))
    found = predict_serving(replace(start, load=select_representative_load(start)))
    for rate in (found.tpot_p50_s, found.tpot_p95_s, found.tokens_per_s):
        assert rate.factor <= 1.6
    for other in (found.ttft_p50_s, found.ttft_p95_s, found.peak_memory_bytes, found.startup_s, found.disk_bytes):
        assert other.factor <= 2.5


def test_the_window_is_typical(desk: ServingSpec) -> None:
    """Neither the luckiest nor the unluckiest of the draws in any figure."""
    all_of_them = [simulate_replica(replace(desk, load=replace(desk.load, seed=seed)), 1.0) for seed in range(1, 61)]
    chosen = simulate_replica(replace(desk, load=select_representative_load(desk)), 1.0)
    for figure, column in zip(chosen, zip(*all_of_them, strict=True), strict=True):
        assert median(column) / 3 < figure < median(column) * 3


def test_longer_windows_are_compared_less_often(desk: ServingSpec) -> None:
    assert count_seeds(desk.load) == SEEDS
    assert count_seeds(replace(desk.load, requests_per_second=3.0)) == 30
    assert count_seeds(replace(desk.load, requests_per_second=300.0)) == LEAST_SEEDS
    assert count_seeds(replace(desk.load, requests_per_second=1e-9)) == SEEDS
