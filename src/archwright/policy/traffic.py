"""The traffic a LoadSpec stands for: the simulation predicts with these very arrivals and `bench` replays them.

- Lengths are log-normal with the stated 95th percentile, capped at LONGEST_OVER_P95 times it; the spread makes the
  capped mean the stated mean: E[min(X, c)] = exp(mu + s^2/2) F((ln c - mu - s^2) / s) + c (1 - F((ln c - mu) / s)) with
  mu = ln p95 - z95 s, F the normal distribution function. Input and output are independent.
- One length is drawn from each equal slice of probability, then shuffled, so that the few requests of a short window
  stand for the load. The closed loop may end after a few: every four in a row hold one from each quarter.
- The peak holds round(rate x seconds) arrivals, at least one, spread uniformly: a Poisson process given its count.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from statistics import NormalDist
from typing import NamedTuple

from archwright.contract.needs import TokenLength
from archwright.contract.plan import LoadSpec

# The longest request there is, as a multiple of the 95th percentile. `sizing` gives a context that holds it.
LONGEST_OVER_P95 = 1.5
LEAST_INPUT = 1
# A single token has no time between tokens: every request can be measured.
LEAST_OUTPUT = 2
QUARTERS = 4
BLOCK_SIZE = QUARTERS * QUARTERS

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.95)
_WIDEST = 8.0


class Arrival(NamedTuple):
    """One request: seconds from the phase's beginning, prompt tokens, answer tokens."""

    at_s: float
    input_tokens: int
    output_tokens: int


def peak_arrivals(load: LoadSpec) -> tuple[Arrival, ...]:
    """The open-loop peak phase, in order of time."""
    chance = random.Random(load.seed)
    count = max(1, round(load.requests_per_second * load.peak_s))
    times = sorted(chance.uniform(0.0, load.peak_s) for _ in range(count))
    inputs = sample_stratified_lengths(load.input_tokens, count, chance, least=LEAST_INPUT)
    outputs = sample_stratified_lengths(load.output_tokens, count, chance, least=LEAST_OUTPUT)
    chance.shuffle(inputs)
    chance.shuffle(outputs)
    return tuple(Arrival(*fields) for fields in zip(times, inputs, outputs, strict=True))


def closed_loop_arrivals(load: LoadSpec) -> Iterator[Arrival]:
    """Requests for the closed loop without an end, in blocks that each represent the load; `at_s` is 0."""
    chance = random.Random(load.seed + 1)
    while True:
        blocks = [
            interleave_quarters(sample_stratified_lengths(length, BLOCK_SIZE, chance, least=least), chance)
            for length, least in ((load.input_tokens, LEAST_INPUT), (load.output_tokens, LEAST_OUTPUT))
        ]
        for pair in zip(*blocks, strict=True):
            yield Arrival(0.0, *pair)


def interleave_quarters(ordered: list[int], chance: random.Random) -> list[int]:
    """A block in groups of four, each with one from every quarter, in random order."""
    quarters = [ordered[start : start + QUARTERS] for start in range(0, BLOCK_SIZE, QUARTERS)]
    for quarter in quarters:
        chance.shuffle(quarter)
    groups = [list(group) for group in zip(*quarters, strict=True)]
    for group in groups:
        chance.shuffle(group)
    return [size for group in groups for size in group]


def sample_stratified_lengths(length: TokenLength, count: int, chance: random.Random, *, least: int) -> list[int]:
    """`count` lengths in rising order, one from each of `count` equal slices of probability."""
    spread = solve_lognormal_sigma(length)
    cap = LONGEST_OVER_P95 * length.p95
    drawn = []
    for slice_ in range(count):
        share = max((slice_ + chance.random()) / count, 1e-12)
        size = length.p95 * math.exp(spread * (_NORMAL.inv_cdf(share) - _Z95))
        drawn.append(max(least, round(min(size, cap))))
    return drawn


def solve_lognormal_sigma(length: TokenLength) -> float:
    """The log-normal's sigma by bisection: with p95 held, a wider spread has a smaller mean. The widest for a
    mean that is out of reach (below about p95 / 13)."""
    low, high = 0.0, _WIDEST
    wanted = length.mean / length.p95
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _capped_mean(middle) > wanted else (low, middle)
    return high


def _capped_mean(spread: float) -> float:
    """E[min(X, LONGEST p95)] / p95."""
    mu, cap = -_Z95 * spread, math.log(LONGEST_OVER_P95)
    below = math.exp(mu + spread**2 / 2) * _NORMAL.cdf((cap - mu - spread**2) / spread)
    return below + LONGEST_OVER_P95 * (1 - _NORMAL.cdf((cap - mu) / spread))
