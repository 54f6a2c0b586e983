"""The one format of numbers for people: terminal, explanations, documents and the texts of a plan.

A number has three significant digits. From 100 on it is whole with grouped thousands; from a million on it has a
suffix (M, bn, tn). An interval is in the unit of its value. A workbook and JSON hold all digits.
"""

import math
from collections.abc import Iterable
from typing import Literal

from archwright.contract.estimate import Estimate
from archwright.contract.record import Record

DIGITS = 3
# A smaller number has an exponent, because nobody counts its zeros.
SMALLEST_DECIMAL = 1e-9
# Two numbers that are still equal with that many digits are shown as equal.
MOST_DIGITS = 7
# Units of people: (a value from here on, size of the unit, its name), the largest first.
SUFFIXES = ((999.5e9, 1e12, "tn"), (999.5e6, 1e9, "bn"), (999_999.5, 1e6, "M"))
SECONDS = (
    (172_800.0, 86_400.0, "days"),
    (7200.0, 3600.0, "h"),
    (120.0, 60.0, "min"),
    (1.0, 1.0, "s"),
    (0.0, 1e-3, "ms"),
)
BYTES = (
    (2.0**50, 2.0**50, "PiB"),
    (2.0**40, 2.0**40, "TiB"),
    (2.0**30, 2.0**30, "GiB"),
    (2.0**20, 2.0**20, "MiB"),
    (2.0**10, 2.0**10, "KiB"),
    (0.0, 1.0, "B"),
)
DECIMALS = ((1e15, 1e15, "P"), (1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e3, 1e3, "k"))
# "B" is decimal, as for storage and in the sections; "bytes" is binary, as for memory.
DECIMAL_UNITS = {"bytes/s": "B/s", "B/s": "B/s", "FLOP/s": "FLOP/s", "B": "B", "bit/s": "bit/s", "Hz": "Hz"}
PER_BYTE = "/byte"
# Three capital letters that are no currency.
NO_CURRENCY = "FTE"
CURRENCY_LETTERS = 3
# A share below or above is not called 0 % or 100 %.
LEAST_SHARE = 0.005
# From here on a share has two digits of its difference from 1: 99.96 % is not 100 %.
NEARLY_ALL = 0.99


class Scale(Record):
    """A unit for people: its size in the unit of the value, its name, and the form of its digits."""

    size: float
    name: str
    form: Literal["number", "money", "share"] = "number"


def format_number(value: float, digits: int = DIGITS) -> str:
    """`4,752`, `12.3`, `0.042`, `4.21 M`."""
    return format_quantity(value, "", digits=digits)


def format_quantity(value: float, unit: str, *, digits: int = DIGITS) -> str:
    """`0.0115 s` as `11.5 ms`, `226492416 bytes` as `216 MiB`, `0.42 share` as `42 %`, `1234.5 EUR` as `1,234 EUR`."""
    scale = choose_scale(value, unit)
    text = _format_on_scale(value, scale, digits)
    return f"{text} {scale.name}".rstrip()


def format_apart(value: float, other: float, unit: str = "") -> str:
    """Format `value` with as many digits as it takes to differ from `other`: a limit of 8 and a value of 8.002."""
    for digits in range(DIGITS, MOST_DIGITS):
        text = format_quantity(value, unit, digits=digits)
        if text != format_quantity(other, unit, digits=digits):
            return text
    return format_quantity(value, unit)


def format_compared(value: float | str | None, compared: float | str | None) -> str:
    """Format a value of a limit beside the `compared` one with enough digits to differ; a text stays, None is ""."""
    if value is None or isinstance(value, str):
        return value or ""
    if compared is None or isinstance(compared, str):
        return format_number(value)
    return format_apart(value, compared)


def format_interval(estimate: Estimate) -> str:
    """`9.1 to 14.6 ms`, in the unit of the value; "exact" without an interval."""
    if estimate.low == estimate.high:
        return "exact"
    scale = _choose_estimate_scale(estimate)
    return f"{_format_ends(estimate, scale)} {scale.name}".rstrip()


def format_estimate(estimate: Estimate) -> str:
    """`11.5 ms (9.1 to 14.6)`: the value, then its interval in the same unit."""
    scale = _choose_estimate_scale(estimate)
    text = _format_on_scale(estimate.value, scale, DIGITS)
    named = f"{text} {scale.name}".rstrip()
    if estimate.low == estimate.high:
        return named
    return f"{named} ({_format_ends(estimate, scale)})"


def format_money(amount: float, currency: str = "") -> str:
    """`4,752 EUR`, `12.30`, `4.79 M`; cents below 100."""
    scale = _choose_money_scale(amount, currency)
    text = _format_on_scale(amount, scale, DIGITS)
    return f"{text} {scale.name}".rstrip()


def format_money_interval(estimate: Estimate) -> str:
    """`3.6 to 5.12 M`, without the currency; "" for an exact amount."""
    if estimate.low == estimate.high:
        return ""
    scale = _choose_money_scale(estimate.value, "")
    return f"{_format_ends(estimate, scale)} {scale.name}".rstrip()


def format_share(share: float) -> str:
    """`42 %`: whole percent; `under 1 %` and `over 99 %` where rounding would say none or all."""
    if 0 < share < LEAST_SHARE:
        return "under 1 %"
    if 1 - LEAST_SHARE < share < 1:
        return "over 99 %"
    return f"{share * 100:.0f} %"


def format_change(ratio: float) -> str:
    """`+4.2 %` for 1.042."""
    return f"{(ratio - 1) * 100:+.1f} %"


def format_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `22.4 h`."""
    return format_quantity(seconds, "s")


def format_bit_rate(bytes_per_s: float) -> str:
    """`57.8 kbit/s`."""
    return format_quantity(8 * bytes_per_s, "bit/s")


def format_exact(number: float) -> str:
    """All digits: `1,048,576`, `2.5`; for a number that somebody enters again."""
    return f"{number:,.0f}" if number == round(number) else f"{number:,.10g}"


def format_ends(low: float, typical: float, high: float) -> str:
    """`2 .. 3.5 .. 5`: the three numbers of a row of facts, with all digits."""
    return " .. ".join(map(format_exact, (low, typical, high)))


def format_count(count: float, noun: str, plural: str = "") -> str:
    """`1 option`, `12 options`."""
    if count == 1:
        return f"1 {noun}"
    return f"{format_exact(count)} {plural or noun + 's'}"


def format_list(names: Iterable[str], *, most: int = 4) -> str:
    """`a, b and 3 more`."""
    listed = list(names)
    hidden = len(listed) - most
    if hidden > 0:
        return f"{', '.join(listed[:most])} and {hidden} more"
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def choose_scale(value: float, unit: str) -> Scale:
    """Return the unit in which people state a value of this size."""
    if unit == "s":
        return _choose_step(value or 1.0, SECONDS)
    if unit == "bytes":
        return _choose_step(value, BYTES)
    if unit == "share":
        return Scale(size=0.01, name="%", form="share")
    if _is_money(unit):
        return _choose_money_scale(value, unit)
    if PER_BYTE in unit:
        return Scale(size=1e-9, name=unit.replace(PER_BYTE, "/GB"))
    if unit in DECIMAL_UNITS:
        step = _choose_step(value, DECIMALS)
        return Scale(size=step.size, name=step.name + DECIMAL_UNITS[unit])
    step = _choose_step(value, SUFFIXES)
    return Scale(size=step.size, name=f"{step.name} {unit}".strip())


def _choose_estimate_scale(estimate: Estimate) -> Scale:
    return choose_scale(estimate.value or estimate.high, estimate.unit)


def _choose_step(value: float, steps: Iterable[tuple[float, float, str]]) -> Scale:
    for least_value, size, name in steps:
        if abs(value) >= least_value:
            return Scale(size=size, name=name)
    return Scale(size=1.0, name="")


def _choose_money_scale(value: float, unit: str) -> Scale:
    step = _choose_step(value, SUFFIXES)
    return Scale(size=step.size, name=f"{step.name} {unit}".strip(), form="money")


def _is_money(unit: str) -> bool:
    """True for a currency and for a currency per month; a price per hour may be below a cent."""
    currency = unit.removesuffix("/month")
    is_code = len(currency) == CURRENCY_LETTERS and currency.isalpha() and currency.isupper()
    return is_code and currency != NO_CURRENCY


def _format_ends(estimate: Estimate, scale: Scale) -> str:
    low = _format_on_scale(estimate.low, scale, DIGITS)
    high = _format_on_scale(estimate.high, scale, DIGITS)
    return f"{low} to {high}"


def _format_on_scale(value: float, scale: Scale, digits: int) -> str:
    scaled = value / scale.size
    if scale.form == "money" and scale.size == 1:
        return _format_amount(scaled, digits)
    if scale.form == "share" and NEARLY_ALL < value < 1:
        return _format_nearly_all(value)
    return _format_digits(scaled, digits)


def _format_amount(amount: float, digits: int) -> str:
    """Whole from 100 on, with cents below; `< 0.01` for less than a cent."""
    if 0 < abs(amount) < 0.01:
        return "< 0.01"
    cents = round(amount, 2)
    if cents and abs(cents) < 100:
        return f"{cents:.2f}"
    return _format_digits(cents, digits)


def _format_nearly_all(share: float) -> str:
    """Percent with two digits of the difference from 1."""
    lacking_percent = (1 - share) * 100
    places = 1 - math.floor(math.log10(lacking_percent))
    return _strip_zeros(f"{share * 100:.{places}f}")


def _format_digits(number: float, digits: int) -> str:
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    if abs(number) < SMALLEST_DECIMAL:
        return f"{number:.{digits}g}"
    places = digits - 1 - math.floor(math.log10(abs(number)))
    return _strip_zeros(f"{number:,.{max(places, 0)}f}")


def _strip_zeros(text: str) -> str:
    if "." not in text:
        return text
    return text.rstrip("0").rstrip(".")
