"""Monte Carlo samples: in each sample, every fact behind a cost is drawn from its interval.

All options use the same samples of a fact, so shared facts (an exchange rate, an engine's speed) change them together.
The difference between two options is therefore as certain as the facts in which they differ.
Derived numbers follow their facts: two numbers derived from the same facts are high, or low, in the same samples.
Design: samples depend only on the names of the facts, so the order and the number of options change no result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from archwright.contract.estimate import Estimate
from archwright.plan.accounting.provenance import PlanProvenance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Worlds = NDArray[np.float64]

SAMPLE_COUNT = 2000
BAND_LEVEL = 0.9
# Samples below the interval; as many are above it.
TAIL_COUNT = round(SAMPLE_COUNT * (1 - BAND_LEVEL) / 2)
# A level of 1 has no finite quantile.
MAX_LEVEL = 0.9999


@cache
def _compute_quantiles() -> Worlds:
    """One normal value per sample, evenly spaced in probability, so that every fact keeps its own interval exactly."""
    import numpy as np  # noqa: PLC0415

    inverse = NormalDist().inv_cdf
    return np.array([inverse((sample + 0.5) / SAMPLE_COUNT) for sample in range(SAMPLE_COUNT)])


def sample_factors(estimate: Estimate, normal: Worlds) -> Worlds:
    """Samples of an estimate as factors of its value.

    Log-normal on each side with the half-width of that side; normal if the interval includes zero or negative values.
    A value of zero has no factor: all its samples are 1.
    """
    import numpy as np  # noqa: PLC0415

    low, value, high = estimate.low, estimate.value, estimate.high
    if low == high or value == 0:
        return np.ones_like(normal)
    sigmas = normal / NormalDist().inv_cdf((1 + min(estimate.level, MAX_LEVEL)) / 2)
    if low > 0:
        return np.where(sigmas < 0, value / low, high / value) ** sigmas
    return 1 + sigmas * np.where(sigmas < 0, value - low, high - value) / value


def estimate_band(value: float, worlds: Worlds, unit: str, basis: str) -> Estimate:
    """`value` with the 5 % and 95 % quantiles of its samples, widened if the value itself is outside."""
    import numpy as np  # noqa: PLC0415

    ordered = np.partition(worlds, (TAIL_COUNT, SAMPLE_COUNT - 1 - TAIL_COUNT))
    # Rounded: the last digits depend on the order of a sum and on the machine, and the plan's digest must not.
    low, high = (float(f"{ordered[at]:.10g}") for at in (TAIL_COUNT, -1 - TAIL_COUNT))
    return Estimate(value=value, low=min(low, value), high=max(high, value), unit=unit, level=BAND_LEVEL, basis=basis)


class MonteCarloSampler:
    def __init__(self, ledger: PlanProvenance) -> None:
        self._ledger = ledger
        self._facts: dict[str, Worlds] = {}
        self._products: dict[tuple[str, ...], Worlds] = {}
        self._spreads: dict[tuple[str, ...], tuple[float, float]] = {}

    def sample_driver(self, driver: str) -> Worlds:
        """Return the factors of one driver. Raises KeyError if the ledger has no estimate of it."""
        import numpy as np  # noqa: PLC0415

        if driver not in self._facts:
            names = "\n".join(self._ledger.root_facts(driver))
            seed = int.from_bytes(hashlib.sha256(names.encode()).digest()[:8])
            normal = np.random.default_rng(seed).permutation(_compute_quantiles())
            self._facts[driver] = sample_factors(self._ledger.driver_estimate(driver), normal)
        return self._facts[driver]

    def sample_product(self, drivers: tuple[str, ...]) -> Worlds:
        import numpy as np  # noqa: PLC0415

        if drivers not in self._products:
            made = np.ones(SAMPLE_COUNT)
            for driver in drivers:
                made = made * self.sample_driver(driver)
            self._products[drivers] = made
        return self._products[drivers]

    def relative_band(self, drivers: tuple[str, ...]) -> tuple[float, float]:
        """Return the interval around 1 of a flow that is proportional to `drivers`."""
        if drivers not in self._spreads:
            around = estimate_band(1.0, self.sample_product(drivers), "", "")
            self._spreads[drivers] = (around.low, around.high)
        return self._spreads[drivers]

    def sample_sum(self, flows: Mapping[tuple[str, ...], float]) -> Worlds:
        """Return the sum of flows in each sample; the keys are the drivers of each flow."""
        import numpy as np  # noqa: PLC0415

        made = np.zeros(SAMPLE_COUNT)
        for drivers, amount in flows.items():
            made = made + amount * self.sample_product(drivers)
        return made
