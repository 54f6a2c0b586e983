"""How sure a predicted speed is: the band of the efficiency row and the band of the machine's rate, as one.

Both are factors on every time of a step, independent of each other, so their logarithms add as squares. The slow
side and the fast side are kept apart: neighbours on a shared machine only ever slow it down.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from archwright.catalog.tables.records import Efficiency
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import BasisKind
from archwright.contract.record import replace

LEVEL = 0.9
_NORMAL, _TAIL = NormalDist(), (1 - LEVEL) / 2
_WIDTH = _NORMAL.inv_cdf(1 - _TAIL)


def slowdown_factors(efficiency: Efficiency, rate: Estimate, points: int) -> tuple[float, ...]:
    """`points` factors on time, from the fast to the slow end of the 90 % band, equal steps of probability apart.

    At share q of the way: exp(z(q) / z(0.95) x half-width), the half-width of the side that q lies on."""
    faster = math.hypot(math.log(efficiency.low_factor), math.log(rate.high / rate.value))
    slower = math.hypot(math.log(efficiency.high_factor), math.log(rate.value / rate.low))
    shares = (_TAIL + LEVEL * step / (points - 1) for step in range(points))
    places = (_NORMAL.inv_cdf(share) / _WIDTH for share in shares)
    return tuple(math.exp(place * (faster if place < 0 else slower)) for place in places)


def widen_band(middle: float, ends: tuple[float, float], noise: float, unit: str, basis: str) -> Estimate:
    """`middle` between `ends`, both moved out by the independent factor `noise`; from 0 if the slow end is no token."""
    if min(*ends, middle) <= 0:
        return Estimate(value=middle, low=0.0, high=max(ends) * noise, unit=unit, level=LEVEL, basis=basis)
    own = math.log(noise)
    low = middle * math.exp(-math.hypot(math.log(middle / min(ends)), own))
    high = middle * math.exp(math.hypot(math.log(max(ends) / middle), own))
    return Estimate(value=middle, low=low, high=high, unit=unit, level=LEVEL, basis=basis)


def cap_band(estimate: Estimate, factor: float) -> Estimate:
    """`estimate` with its band cut to `factor` each way: a wider promise is of no use."""
    if estimate.value <= 0:
        return estimate
    low, high = max(estimate.low, estimate.value / factor), min(estimate.high, estimate.value * factor)
    return replace(estimate, low=low, high=high)


def is_measured(efficiency: Efficiency) -> bool:
    """Whether the row was measured for this very engine, format and instruction set."""
    return efficiency.confidence in ("high", "medium")


def basis_kind(efficiency: Efficiency) -> BasisKind:
    return "measured" if is_measured(efficiency) else "assumed"


def name_stratum(efficiency: Efficiency) -> str:
    """Which sort of prediction this is, for judging its band apart from others."""
    kind = "measured" if is_measured(efficiency) else "derived"
    if efficiency.confidence == "recalled":
        kind = "recalled"
    return f"{kind} row: {efficiency.engine} {efficiency.quantisation} {efficiency.isa}"
