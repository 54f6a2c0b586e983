"""Format SI values for people."""

from archwright.contract.estimate import Estimate

_BYTES = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_RATES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def format_quantity(value: float, unit: str) -> str:
    """Format `0.0115 s` as `11.5 ms`, `226492416 bytes` as `216 MiB`, `1234.5 EUR` as `1,234 EUR`."""
    if unit == "s":
        if abs(value) < 1.0:
            return f"{format_significant(value * 1000)} ms"
        return f"{format_significant(value)} s" if value < 600 else f"{value / 60:,.0f} min"
    if unit == "bytes":
        return _format_scaled(value, _BYTES, "B")
    if unit in ("FLOP/s", "bytes/s", "B/s"):
        return _format_scaled(value, _RATES, "FLOP/s" if unit == "FLOP/s" else "B/s", joined=True)
    if unit == "share":
        return f"{value * 100:.5g} %"
    if len(unit) == 3 and unit.isupper():
        return f"{format_money(value)} {unit}"
    return f"{format_significant(value)} {unit}".strip()


def format_band(estimate: Estimate) -> str:
    """Format the band: `9.1 to 14.6 ms`; the value alone if it is exact."""
    if estimate.low == estimate.high:
        return format_quantity(estimate.value, estimate.unit)
    low, high = format_quantity(estimate.low, estimate.unit), format_quantity(estimate.high, estimate.unit)
    if low.split(" ")[1:] == high.split(" ")[1:]:
        low = low.split(" ")[0]
    return f"{low} to {high}"


def format_precise(value: float, unit: str) -> str:
    """Format with four digits, because a switch point may lie close to the expected value: `3.122 TiB`, `2.345`.

    Bytes alone get a unit that suits their size.
    """
    scale, name = 1.0, ""
    if unit == "bytes":
        name, scale = next((step for step in _BYTES if abs(value) >= step[1]), ("B", 1))
    text = f"{value:,.0f}" if abs(value / scale) >= 1000 and scale == 1.0 else f"{value / scale:.4g}"
    return f"{text} {name}".strip()


def format_money(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def format_significant(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"


def _format_scaled(value: float, steps: tuple[tuple[str, float], ...], unit: str, *, joined: bool = False) -> str:
    for name, size in steps:
        if abs(value) >= size:
            return f"{format_significant(value / size)} {name}{unit if joined else ''}"
    return f"{format_significant(value)} {unit}"
