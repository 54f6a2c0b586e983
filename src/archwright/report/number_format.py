"""Numbers and names for readers: three significant digits, common units, no exponents."""

import math
import re
from collections.abc import Iterable

import msgspec

from archwright.contract.estimate import Estimate
from archwright.contract.plan import ConstraintViolation, Option, Plan

# Control characters, and marks that reverse the reading direction.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
UNREPORTED = "unknown"
SPACE = "\u00a0"
COMPACT = ((1e12, "tn"), (1e9, "bn"), (1e6, "M"), (1e3, "k"))
BYTES = ((2.0**50, "PiB"), (2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
RATES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
SECONDS = ((86400.0 * 2, 86400.0, "days"), (7200.0, 3600.0, "h"), (1.0, 1.0, "s"), (0.0, 1e-3, "ms"))
# "B" is decimal, as for storage and in the sections; "bytes" is binary, as for memory.
DECIMAL_UNITS = frozenset({"bytes/s", "B/s", "FLOP/s", "B"})

PURCHASE_LABELS = {
    "on-demand": "on demand",
    "spot": "spot",
    "commit-1y": "committed for a year",
    "commit-3y": "committed for three years",
    "bought": "bought",
    "owned": "already owned",
    "per-second": "by the second",
}
PLACEMENTS = {
    "on-premises": "own machines",
    "cloud": "rented machines",
    "hybrid": "own and rented machines",
    "hosted-api": "hosted models",
    "serverless": "machines paid by the second",
    "this-machine": "this machine",
}


def clean_plan(plan: Plan) -> Plan:
    """The plan without characters that a page cannot show; cleaned names still match each other."""
    return msgspec.convert(_clean_value(msgspec.to_builtins(plan)), type=Plan)


def _clean_value(value: object) -> object:
    if isinstance(value, str):
        return UNPRINTABLE.sub("\ufffd", value).encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_clean_value(key): _clean_value(inner) for key, inner in value.items()}
    return [_clean_value(inner) for inner in value] if isinstance(value, list | tuple) else value


def format_number(value: float, digits: int = 3) -> str:
    """`4,210,000`, `12.3`, `0.042`: significant digits with grouped thousands; compact from a billion on."""
    if abs(value) >= 1e9:
        return format_compact(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, places):,.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_compact(value: float) -> str:
    """`4.21 M`."""
    # 999,999 is shown as a million, not as 1,000 k.
    size, suffix = next(((s, name) for s, name in COMPACT if abs(value) >= s * 0.9995), (1.0, ""))
    shown = value / size
    digits = 0 if abs(shown) >= 99.95 else 1 if abs(shown) >= 9.995 else 2
    return f"{shown:,.{digits}f}{SPACE}{suffix}" if suffix else format_money(value)


def format_tick(value: float) -> str:
    """`20 M`: for an axis."""
    shown, _, suffix = format_compact(value).partition(SPACE)
    return f"{shown.rstrip('0').rstrip('.') if '.' in shown else shown}{SPACE}{suffix}".rstrip()


def format_compact_band(estimate: Estimate) -> str:
    """`3.60 to 5.12 M`, with one unit if both ends have the same; "" for an exact number."""
    if estimate.low == estimate.high:
        return ""
    low, high = format_compact(estimate.low), format_compact(estimate.high)
    (a, _, a_unit), (b, _, b_unit) = low.partition(SPACE), high.partition(SPACE)
    return f"{a} to {b}{SPACE}{b_unit}" if a_unit == b_unit and b_unit else f"{low} to {high}"


def format_measure(value: float, unit: str) -> str:
    """`0.0115 s` as `11.5 ms`, `0.42 share` as `42 %`."""
    size, name = _choose_scale(value, unit)
    return f"{_format_scaled(value, size, unit)}{SPACE}{name}".rstrip()


def _format_scaled(value: float, size: float, unit: str) -> str:
    """Three digits; a share close to 1 shows two digits of its difference from 1: 99.96 % is not 100 %."""
    lacks = 1 - value
    if unit != "share" or not 0 < lacks < 0.01:
        return format_number(value / size)
    return f"{value / size:.{1 - math.floor(math.log10(lacks / size))}f}".rstrip("0").rstrip(".")


def format_band(estimate: Estimate) -> str:
    """`9.1 to 14.6 ms`, in the unit of the value; "exact" without a band."""
    if estimate.low == estimate.high:
        return "exact"
    size, name = _choose_scale(estimate.value, estimate.unit)
    low, high = (_format_scaled(end, size, estimate.unit) for end in (estimate.low, estimate.high))
    return f"{low} to {high}{SPACE}{name}".rstrip()


def format_with_band(estimate: Estimate) -> str:
    shown = format_measure(estimate.value, estimate.unit)
    return shown if estimate.low == estimate.high else f"{shown} ({format_band(estimate)})"


def _choose_scale(value: float, unit: str) -> tuple[float, str]:
    if unit == "s":
        return next((size, name) for least, size, name in SECONDS if abs(value) >= least)
    if unit == "bytes":
        return _choose_step(value, BYTES, "")
    if unit in DECIMAL_UNITS:
        return _choose_step(value, RATES, "B/s" if unit == "bytes/s" else unit)
    return (0.01, "%") if unit == "share" else (1.0, unit)


def _choose_step(value: float, steps: tuple[tuple[float, str], ...], unit: str) -> tuple[float, str]:
    size, name = next(((s, n) for s, n in steps if abs(value) >= s), steps[-1])
    return size, name + unit


def format_money(value: float) -> str:
    """An amount in a table: three digits, not below a cent."""
    return "< 0.01" if 0 < abs(value) < 0.01 else format_number(round(value, 2))


def format_percent(share: float) -> str:
    """Whole percent; `< 1 %` for a positive share that would round to 0."""
    return f"< 1{SPACE}%" if 0 < abs(share) < 0.005 else f"{share * 100:.0f}{SPACE}%"


def describe_miss(miss: ConstraintViolation) -> str:
    """`per month 4,752, limit 3,500`."""
    workload, quality, benchmark = miss.constraint.partition(".quality.")
    if quality and miss.value == UNREPORTED:
        return f"{workload}: no {benchmark} score is known; the needs require at least {_format_limit(miss.limit)}"
    # The value of an export violation is a whole sentence.
    name = "" if miss.constraint == "export" else miss.constraint.replace("_", " ")
    value, limit = _format_limit(miss.value), _format_limit(miss.limit)
    return f"{name} {'at best ' if miss.at_best else ''}{value}".strip() + (f", limit {limit}" if limit else "")


def _format_limit(value: float | str | None) -> str:
    """Five digits, so that a value slightly above a limit does not look equal to it."""
    return "" if value is None else value if isinstance(value, str) else format_number(value, 5)


def format_exact(count: float) -> str:
    return f"{count:,.0f}" if count == round(count) else f"{count:,g}"


def format_list(names: Iterable[str], *, most: int = 4) -> str:
    """`a, b and 3 more`."""
    found = list(names)
    if len(found) <= most:
        return " and ".join([", ".join(found[:-1]), found[-1]]) if len(found) > 1 else "".join(found)
    return f"{', '.join(found[:most])} and {len(found) - most} more"


def format_count(count: float, one: str, many: str = "") -> str:
    """`1 option`, `12 options`."""
    return f"{format_exact(count)} {one if count == 1 else many or one + 's'}"


def describe_placement(option: Option) -> str:
    """`own machines, in DE`; with the provider if it is not the placement itself."""
    kind = PLACEMENTS[option.placement]
    by = f" at {option.provider}" if option.provider not in PLACEMENTS else ""
    return f"{kind}{by}" + (f", in {format_list(option.regions)}" if option.regions else "")
