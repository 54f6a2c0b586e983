"""90 % interval of a predicted time: the band of the efficiency row combined with the band of the machine's rate.

Both are independent factors on every step time, so their logarithms add in quadrature. The slow and the fast side are
computed separately: noisy neighbours on a shared machine only slow it down.
"""

import math

from archwright.catalog.tables.records import Efficiency
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import BasisKind
from archwright.contract.record import replace

LEVEL = 0.9


def slowdown_factors(efficiency: Efficiency, rate: Estimate, points: int) -> tuple[float, ...]:
    """Return `points` factors on time from the fast to the slow end of the interval, equidistant in probability."""
    faster = math.hypot(math.log(efficiency.low_factor), math.log(rate.high / rate.value))
    slower = math.hypot(math.log(efficiency.high_factor), math.log(rate.value / rate.low))
    return spread_factors(math.exp(faster), math.exp(slower), points)


def spread_factors(low_factor: float, high_factor: float, points: int) -> tuple[float, ...]:
    """Return `points` factors on time from 1 / `low_factor` to `high_factor`, equidistant in probability."""
    band = Estimate(value=1.0, low=1 / low_factor, high=high_factor, unit="", level=LEVEL)
    return tuple(band.quantile((1 - LEVEL) / 2 + LEVEL * step / (points - 1)) for step in range(points))


def widen_band(middle: float, ends: tuple[float, float], noise: float, unit: str, basis: str) -> Estimate:
    """Return `middle` with the band `ends` widened by the factor `noise`, from 0 if a value is not positive."""
    if min(*ends, middle) <= 0:
        return Estimate(value=middle, low=0.0, high=max(ends) * noise, unit=unit, level=LEVEL, basis=basis)
    own = math.log(noise)
    low = middle * math.exp(-math.hypot(math.log(middle / min(ends)), own))
    high = middle * math.exp(math.hypot(math.log(max(ends) / middle), own))
    return Estimate(value=middle, low=low, high=high, unit=unit, level=LEVEL, basis=basis)


def cap_band(estimate: Estimate, factor: float) -> Estimate:
    """Return `estimate` with its interval cut to value / factor and value x factor."""
    if estimate.value <= 0:
        return estimate
    low, high = max(estimate.low, estimate.value / factor), min(estimate.high, estimate.value * factor)
    return replace(estimate, low=low, high=high)


def is_measured(efficiency: Efficiency) -> bool:
    """True if the row was measured with this very engine, format, code path, processor and threads."""
    return efficiency.confidence in ("high", "medium") and not is_fitted(efficiency)


def is_fitted(efficiency: Efficiency) -> bool:
    """True if the row was fitted over several processors: it was measured on none of them in particular."""
    return efficiency.build == "" and efficiency.confidence == "medium"


def basis_kind(efficiency: Efficiency) -> BasisKind:
    if is_measured(efficiency):
        return "measured"
    return "calibrated" if is_fitted(efficiency) else "assumed"


def name_stratum(efficiency: Efficiency) -> str:
    """Return the stratum of a prediction: bands are scored per stratum."""
    kind = "derived"
    if is_measured(efficiency):
        kind = "measured"
    elif is_fitted(efficiency):
        kind = "fitted"
    elif efficiency.confidence == "recalled":
        kind = "recalled"
    return f"{kind} row: {efficiency.engine} {efficiency.quantisation} {efficiency.isa}"
