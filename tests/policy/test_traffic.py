"""The sampled traffic represents its load and is reproducible."""

from __future__ import annotations

import random
from itertools import islice
from statistics import mean, pvariance

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.contract.needs import TokenLength
from archwright.contract.percentile import percentile
from archwright.contract.plan import LoadSpec
from archwright.contract.record import replace
from archwright.policy.traffic import (
    BLOCK_SIZE,
    LONGEST_OVER_P95,
    QUARTERS,
    closed_loop_arrivals,
    interleave_quarters,
    peak_arrivals,
    sample_stratified_lengths,
    solve_lognormal_sigma,
)

DESK = LoadSpec(
    workload="assistant",
    model="m",
    requests_per_second=0.3,
    input_tokens=TokenLength(mean=120, p95=400),
    output_tokens=TokenLength(mean=60, p95=128),
    concurrency=4,
)
lengths = st.builds(
    lambda mean, ratio: TokenLength(mean=mean, p95=mean * ratio), st.floats(1, 20000), st.floats(1.0, 3.5)
)
loads = st.builds(
    lambda rate, reads, writes, seed: replace(
        DESK, requests_per_second=rate, input_tokens=reads, output_tokens=writes, seed=seed
    ),
    st.floats(1e-3, 20),
    lengths,
    lengths,
    st.integers(0, 2**31),
)


def test_a_seed_always_draws_the_same_traffic_so_that_old_plans_replay_alike() -> None:
    assert peak_arrivals(DESK) == peak_arrivals(DESK)
    assert peak_arrivals(DESK) != peak_arrivals(replace(DESK, seed=2))
    assert list(islice(closed_loop_arrivals(DESK), 40)) == list(islice(closed_loop_arrivals(DESK), 40))
    first = peak_arrivals(DESK)[0]
    assert (round(first.at_s, 6), first.input_tokens, first.output_tokens) == (0.094772, 12, 45)


@settings(max_examples=60, deadline=None)
@given(loads)
def test_the_peak_holds_the_rate_in_order_of_time(load: LoadSpec) -> None:
    arrivals = peak_arrivals(load)
    assert len(arrivals) == max(1, round(load.requests_per_second * load.peak_s))
    times = [arrival.at_s for arrival in arrivals]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= load.peak_s
    for arrival in arrivals:
        assert 1 <= arrival.input_tokens <= max(1, LONGEST_OVER_P95 * load.input_tokens.p95 + 0.5)
        assert 2 <= arrival.output_tokens <= max(2, LONGEST_OVER_P95 * load.output_tokens.p95 + 0.5)


@settings(max_examples=40, deadline=None)
@given(lengths)
def test_many_lengths_have_the_mean_and_the_percentile_asked_for(length: TokenLength) -> None:
    drawn = sample_stratified_lengths(length, 4000, random.Random(1), least=1)
    assert mean(drawn) == pytest.approx(length.mean, rel=0.02, abs=0.6)
    assert percentile(drawn, 0.95) == pytest.approx(length.p95, rel=0.02, abs=0.6)


def test_a_fixed_length_has_no_spread_and_a_tail_out_of_reach_the_widest() -> None:
    fixed = TokenLength(mean=50, p95=50)
    assert solve_lognormal_sigma(fixed) == pytest.approx(0.0, abs=1e-9)
    assert set(sample_stratified_lengths(fixed, 20, random.Random(1), least=1)) == {50}
    drawn = sample_stratified_lengths(TokenLength(mean=1, p95=1000), 200, random.Random(1), least=1)
    assert percentile(drawn, 0.95) == pytest.approx(1000, rel=0.5)
    assert max(drawn) == 1500


def test_few_requests_already_stand_for_the_load() -> None:
    """With stratified sampling, even fourteen requests have the mean for any seed."""
    for seed in range(40):
        arrivals = peak_arrivals(replace(DESK, seed=seed))
        assert mean(arrival.input_tokens for arrival in arrivals) == pytest.approx(120, rel=0.2)
        assert mean(arrival.output_tokens for arrival in arrivals) == pytest.approx(60, rel=0.15)


def test_arrivals_are_poisson_given_their_number() -> None:
    """Counts in equal parts have the variance of independent uniform times: n p (1 - p)."""
    load = replace(DESK, requests_per_second=1.0, peak_s=100.0)
    counts = [sum(1 for arrival in peak_arrivals(replace(load, seed=seed)) if arrival.at_s < 20) for seed in range(400)]
    assert mean(counts) == pytest.approx(20, abs=0.8)
    assert pvariance(counts) == pytest.approx(16, rel=0.25)


def test_inputs_and_outputs_are_independent() -> None:
    arrivals = peak_arrivals(replace(DESK, requests_per_second=40))
    inputs, outputs = [a.input_tokens for a in arrivals], [a.output_tokens for a in arrivals]
    mid_in, mid_out = mean(inputs), mean(outputs)
    covariance = mean((i - mid_in) * (o - mid_out) for i, o in zip(inputs, outputs, strict=True))
    assert abs(covariance) < 0.1 * (pvariance(inputs) * pvariance(outputs)) ** 0.5


def test_the_closed_loop_never_ends_and_every_four_stand_for_the_load() -> None:
    arrivals = list(islice(closed_loop_arrivals(DESK), 40 * BLOCK_SIZE))
    assert {arrival.at_s for arrival in arrivals} == {0.0}
    assert mean(arrival.input_tokens for arrival in arrivals) == pytest.approx(120, rel=0.03)
    for start in range(0, len(arrivals), QUARTERS):
        group = sorted(arrival.output_tokens for arrival in arrivals[start : start + QUARTERS])
        assert group[0] < 45 < group[-1]


def test_a_block_is_dealt_one_from_each_quarter() -> None:
    block = interleave_quarters(list(range(BLOCK_SIZE)), random.Random(3))
    assert sorted(block) == list(range(BLOCK_SIZE))
    for start in range(0, BLOCK_SIZE, QUARTERS):
        assert sorted(size // QUARTERS for size in block[start : start + QUARTERS]) == [0, 1, 2, 3]
