"""Arrivals of a LoadSpec. The simulation predicts with the same arrivals that `bench` replays.

- Lengths are log-normal with the stated 95th percentile, capped at LONGEST_OVER_P95 times it; the spread makes the
  capped mean the stated mean: E[min(X, c)] = exp(mu + s^2/2) F((ln c - mu - s^2) / s) + c (1 - F((ln c - mu) / s)) with
  mu = ln p95 - z95 s, F the normal distribution function. Input and output are independent.
- Stratified sampling: one length from each equal slice of probability, then shuffled, so that few requests represent
  the load. The closed loop may end early, so every four requests in a row have one length from each quarter.
- The peak has round(rate x seconds) arrivals, at least one, spread uniformly: a Poisson process given its count.
"""

import math
import random
from collections.abc import Iterator
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

from archwright.contract.needs import TokenLength
from archwright.contract.plan import LoadSpec

# The longest request as a multiple of the 95th percentile. `sizing` provides a context that holds it.
LONGEST_OVER_P95 = 1.5
LEAST_INPUT = 1
# One token has no time between tokens. With two tokens every request can be measured.
LEAST_OUTPUT = 2
QUARTERS = 4
BLOCK_SIZE = QUARTERS * QUARTERS

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.95)
_WIDEST = 8.0


class Arrival(NamedTuple):
    """One request: seconds since the start of the phase, prompt tokens, output tokens."""

    at_s: float
    input_tokens: int
    output_tokens: int


def peak_arrivals(load: LoadSpec) -> tuple[Arrival, ...]:
    """Sample the open-loop peak phase, in order of time."""
    rng = random.Random(load.seed)
    count = max(1, round(load.requests_per_second * load.peak_s))
    times = sorted(rng.uniform(0.0, load.peak_s) for _ in range(count))
    inputs = sample_stratified_lengths(load.input_tokens, count, rng, least=LEAST_INPUT)
    outputs = sample_stratified_lengths(load.output_tokens, count, rng, least=LEAST_OUTPUT)
    rng.shuffle(inputs)
    rng.shuffle(outputs)
    return tuple(Arrival(*fields) for fields in zip(times, inputs, outputs, strict=True))


def closed_loop_arrivals(load: LoadSpec) -> Iterator[Arrival]:
    """Yield requests for the closed loop without end, in blocks that each represent the load. `at_s` is 0."""
    rng = random.Random(load.seed + 1)
    while True:
        blocks = [
            interleave_quarters(sample_stratified_lengths(length, BLOCK_SIZE, rng, least=least), rng)
            for length, least in ((load.input_tokens, LEAST_INPUT), (load.output_tokens, LEAST_OUTPUT))
        ]
        for pair in zip(*blocks, strict=True):
            yield Arrival(0.0, *pair)


def interleave_quarters(ordered: list[int], rng: random.Random) -> list[int]:
    """Reorder a block into groups of four with one length from each quarter, in random order."""
    quarters = [ordered[start : start + QUARTERS] for start in range(0, BLOCK_SIZE, QUARTERS)]
    for quarter in quarters:
        rng.shuffle(quarter)
    groups = [list(group) for group in zip(*quarters, strict=True)]
    for group in groups:
        rng.shuffle(group)
    return [size for group in groups for size in group]


def sample_stratified_lengths(length: TokenLength, count: int, rng: random.Random, *, least: int) -> list[int]:
    """Sample `count` lengths in rising order, one from each of `count` equal slices of probability."""
    spread = solve_lognormal_sigma(length)
    cap = LONGEST_OVER_P95 * length.p95
    drawn = []
    for slice_ in range(count):
        share = max((slice_ + rng.random()) / count, 1e-12)
        size = length.p95 * math.exp(spread * (_NORMAL.inv_cdf(share) - _Z95))
        drawn.append(max(least, round(min(size, cap))))
    return drawn


# Draws of a load differ in their seeds only.
@lru_cache(maxsize=256)
def solve_lognormal_sigma(length: TokenLength) -> float:
    """Find the log-normal's sigma by bisection: at constant p95, a larger sigma has a smaller mean.

    Returns the largest sigma for a mean that is too small for the p95 (below about p95 / 13)."""
    low, high = 0.0, _WIDEST
    target = length.mean / length.p95
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _capped_mean(middle) > target else (low, middle)
    return high


def _capped_mean(spread: float) -> float:
    """Compute E[min(X, LONGEST_OVER_P95 p95)] / p95."""
    mu, cap = -_Z95 * spread, math.log(LONGEST_OVER_P95)
    below = math.exp(mu + spread**2 / 2) * _NORMAL.cdf((cap - mu - spread**2) / spread)
    return below + LONGEST_OVER_P95 * (1 - _NORMAL.cdf((cap - mu) / spread))
