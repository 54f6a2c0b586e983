"""Numbers as people read them."""

from __future__ import annotations

from archwright.contract.estimate import Estimate
from archwright.contract.plan import Miss

SCALES = {"bytes": ((2.0**30, "GiB"), (2.0**20, "MiB")), "s": ((1.0, "s"), (1e-3, "ms"))}


def digits(number: float) -> str:
    """Three significant digits, whole numbers from 100 on."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def shown(estimate: Estimate) -> str:
    """ "0.21 s (0.15 .. 0.30)": value and band in the unit people read."""
    scale, unit = next(
        ((s, u) for s, u in SCALES.get(estimate.unit, ()) if abs(estimate.value) >= s), (1.0, estimate.unit)
    )
    low, value, high = (digits(x / scale) for x in (estimate.low, estimate.value, estimate.high))
    return f"{value} {unit}" if low == high else f"{value} {unit} ({low} .. {high})"


def said(miss: Miss) -> str:
    """ "per_month: 4,100, limit 3,500"."""
    limit = f", limit {_plain(miss.limit)}" if miss.limit is not None else ""
    return f"{miss.constraint}: {_plain(miss.value)}{limit}"


def _plain(value: float | str | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else digits(value)
