"""Which of many possible peak windows a plan is judged by.

A short window holds a handful of requests: whether two long ones meet can move its percentiles by more than the
machine's speed does. So of up to SEEDS draws of the load, the half whose figures lie nearest to the middle of all is
kept, and of these the draw whose figures follow the machine's speed most evenly.
"""

from __future__ import annotations

import math
from statistics import median

from archwright.contract.plan import LoadSpec
from archwright.contract.record import replace
from archwright.simulate.serving_simulation import ServingSpec, SimulationResult, simulate_replica

SEEDS = 256
# Longer windows differ less from each other and take longer to look at: so many requests are looked at in all.
REQUESTS, LEAST_SEEDS = 4096, 8
# Speeds to look at: the far slow end for all, where windows differ most, then the rest for the best few.
SLOW_END = 1.37
FACTORS = (0.77, 0.88, 1.18, SLOW_END)
FINALISTS = 8
# How many steps of the logarithm count as one: a first token is promised within a wider band than a rate.
METRIC_WEIGHTS = SimulationResult(ttft_p50_s=0.5, ttft_p95_s=0.5, tpot_p50_s=1.0, tpot_p95_s=1.0, tokens_per_s=1.0)


def select_representative_load(spec: ServingSpec) -> LoadSpec:
    """The load of `spec` with a seed chosen among those from its own on. Deterministic; for one replica."""
    seeds = [spec.load.seed + step for step in range(count_seeds(spec.load))]
    at = {seed: replace(spec, load=replace(spec.load, seed=seed)) for seed in seeds}
    figures = {seed: _weighted_logs(simulate_replica(one, 1.0)) for seed, one in at.items()}
    middle = [median(column) for column in zip(*figures.values(), strict=True)]
    typical = sorted(seeds, key=lambda seed: (_largest_difference(figures[seed], middle), seed))[: len(seeds) // 2]
    unevenness = {seed: _measure_unevenness(at[seed], figures[seed], (SLOW_END,)) for seed in typical}
    best = sorted(typical, key=lambda seed: (unevenness[seed], seed))[:FINALISTS]
    chosen = min(best, key=lambda seed: (_measure_unevenness(at[seed], figures[seed], FACTORS), seed))
    return replace(spec.load, seed=chosen)


def count_seeds(load: LoadSpec) -> int:
    """How many draws are looked at."""
    return max(LEAST_SEEDS, min(SEEDS, round(REQUESTS / max(1.0, load.requests_per_second * load.peak_s))))


def _weighted_logs(figures: SimulationResult) -> list[float]:
    return [weight * math.log(max(figure, 1e-9)) for figure, weight in zip(figures, METRIC_WEIGHTS, strict=True)]


def _largest_difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _measure_unevenness(spec: ServingSpec, figures: list[float], factors: tuple[float, ...]) -> float:
    """The largest move of a figure per move of the machine's speed, both as logarithms."""
    return max(
        _largest_difference(_weighted_logs(simulate_replica(spec, factor)), figures) / abs(math.log(factor))
        for factor in factors
    )
