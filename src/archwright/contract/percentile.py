"""The one definition of a percentile, used for predictions, measurements and simulations alike."""

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], q: float) -> float:
    """Return the `q` quantile (0 <= q <= 1) of unsorted `values`, interpolated between the nearest ranks.

    Formula: rank = q * (n - 1), inclusive of both ends (Hyndman and Fan 1996, definition 7). Raises ValueError without
    values or with a q outside [0, 1].
    """
    if not values:
        raise ValueError("a percentile of no values")
    if not 0 <= q <= 1:
        raise ValueError(f"q must lie in [0, 1], not {q}")
    ordered = sorted(values)
    rank = q * (len(ordered) - 1)
    below = math.floor(rank)
    if below == rank:
        return float(ordered[below])
    low, high = ordered[below], ordered[below + 1]
    return min(max(low + (high - low) * (rank - below), low), high)
