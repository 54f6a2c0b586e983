"""SI inside, pretty outside: numbers as people read them."""

from __future__ import annotations

from archwright.contract.estimate import Estimate

_BYTES = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_RATES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def pretty(value: float, unit: str) -> str:
    """`0.0115 s` as `11.5 ms`, `226492416 bytes` as `216 MiB`, `1234.5 EUR` as `1,234 EUR`."""
    if unit == "s":
        return _seconds(value)
    if unit == "bytes":
        return _scaled(value, _BYTES, "B")
    if unit in ("FLOP/s", "bytes/s", "B/s"):
        return _scaled(value, _RATES, "FLOP/s" if unit == "FLOP/s" else "B/s", joined=True)
    if unit == "share":
        return f"{value * 100:.5g} %"
    if len(unit) == 3 and unit.isupper():
        return f"{money(value)} {unit}"
    return f"{significant(value)} {unit}".strip()


def band(estimate: Estimate) -> str:
    """`11.5 ms  (9.1 ms to 14.6 ms)`."""
    if estimate.low == estimate.high:
        return pretty(estimate.value, estimate.unit)
    low, high = pretty(estimate.low, estimate.unit), pretty(estimate.high, estimate.unit)
    if low.split(" ")[1:] == high.split(" ")[1:]:
        low = low.split(" ")[0]
    return f"{low} to {high}"


def money(value: float) -> str:
    """Whole units from 100 up, two digits below."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def significant(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"


def _seconds(value: float) -> str:
    if abs(value) < 1.0:
        return f"{significant(value * 1000)} ms"
    return f"{significant(value)} s" if value < 600 else f"{value / 60:,.0f} min"


def _scaled(value: float, steps: tuple[tuple[str, float], ...], unit: str, *, joined: bool = False) -> str:
    for name, size in steps:
        if abs(value) >= size:
            return f"{significant(value / size)} {name}{unit if joined else ''}"
    return f"{significant(value)} {unit}"
