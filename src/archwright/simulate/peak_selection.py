"""Selects the random draw of the peak window for which a plan makes its predictions.

A short window has few requests: if two long ones coincide, its percentiles can change more than by the machine's speed.
So up to SEEDS draws of the load are simulated. The half with figures nearest to the median stays, and of this half the
draw whose figures follow the machine's speed most evenly is selected.
"""

import math
from functools import lru_cache
from statistics import median

import msgspec

from archwright.contract.plan import LoadSpec
from archwright.contract.record import replace
from archwright.simulate.serving_simulation import ServingSpec, SimulationResult, simulate_replica

SEEDS = 256
# Total requests of all draws: longer windows differ less and take longer to simulate, so fewer of them are drawn.
REQUESTS, LEAST_SEEDS = 4096, 8
# Simulated slowdowns: the slow end for all draws, since windows differ most there, then the others for the best few.
SLOW_END = 1.37
FACTORS = (0.77, 0.88, 1.18, SLOW_END)
FINALISTS = 8
# Weights of the logarithms of the figures: the band of a first token is wider than the band of a rate.
METRIC_WEIGHTS = SimulationResult(ttft_p50_s=0.5, ttft_p95_s=0.5, tpot_p50_s=1.0, tpot_p95_s=1.0, tokens_per_s=1.0)


def select_representative_load(spec: ServingSpec) -> LoadSpec:
    """Return the load of `spec` with a seed from its own one upwards. Deterministic; for one replica."""
    return _select_load(msgspec.msgpack.encode(spec))


# Plans that differ elsewhere, such as those of a what-if, select again. A dict of the spec is no key; its encoding is.
@lru_cache(maxsize=64)
def _select_load(encoded_spec: bytes) -> LoadSpec:
    spec = msgspec.msgpack.decode(encoded_spec, type=ServingSpec)
    draws = [_Draw(spec, spec.load.seed + step) for step in range(count_seeds(spec.load))]
    middle = [median(column) for column in zip(*(draw.figures for draw in draws), strict=True)]

    def measure_distance(draw: _Draw) -> tuple[float, int]:
        return _largest_difference(draw.figures, middle), draw.seed

    typical = sorted(draws, key=measure_distance)[: len(draws) // 2]
    even = sorted(typical, key=lambda draw: (draw.measure_unevenness((SLOW_END,)), draw.seed))
    best = min(even[:FINALISTS], key=lambda draw: (draw.measure_unevenness(FACTORS), draw.seed))
    return replace(spec.load, seed=best.seed)


class _Draw:
    """One random draw of the load, and its figures at the predicted speed as weighted logarithms."""

    def __init__(self, spec: ServingSpec, seed: int) -> None:
        self.seed = seed
        self._spec = replace(spec, load=replace(spec.load, seed=seed))
        self.figures = self._simulate(1.0)

    def measure_unevenness(self, factors: tuple[float, ...]) -> float:
        """Return the largest change of a figure per change of the machine's speed, both as logarithms."""
        changes = [_largest_difference(self._simulate(factor), self.figures) for factor in factors]
        return max(change / abs(math.log(factor)) for change, factor in zip(changes, factors, strict=True))

    def _simulate(self, factor: float) -> list[float]:
        figures = simulate_replica(self._spec, factor)
        return [weight * math.log(max(figure, 1e-9)) for figure, weight in zip(figures, METRIC_WEIGHTS, strict=True)]


def count_seeds(load: LoadSpec) -> int:
    return max(LEAST_SEEDS, min(SEEDS, round(REQUESTS / max(1.0, load.requests_per_second * load.peak_s))))


def _largest_difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
