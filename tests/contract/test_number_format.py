"""Numbers as people meet them: in the terminal, in documents and in the texts of a plan."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.contract import number_format
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.number_format import (
    format_apart,
    format_change,
    format_count,
    format_estimate,
    format_exact,
    format_interval,
    format_list,
    format_money,
    format_money_interval,
    format_number,
    format_quantity,
    format_share,
)

SUFFIX_SIZES = {"": 1.0, "M": 1e6, "bn": 1e9, "tn": 1e12}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (4752.4, "4,752"),
        (12.345, "12.3"),
        (99.96, "100"),
        (0.0421, "0.0421"),
        (-420_000, "-420,000"),
        (999_499, "999,499"),
        (999_999.6, "1 M"),
        (4_213_456, "4.21 M"),
        (999_600_000, "1 bn"),
        (-5e9, "-5 bn"),
        (1.234e12, "1.23 tn"),
        (2e-12, "2e-12"),
    ],
)
def test_a_number_has_three_digits_or_is_whole(value: float, text: str) -> None:
    assert format_number(value) == text


@given(st.floats(min_value=1e-9, max_value=1e15))
@settings(max_examples=200)
def test_a_number_is_within_half_a_percent_of_its_text(value: float) -> None:
    digits, _, suffix = format_number(value).partition(" ")
    assert "e" not in digits
    assert math.isclose(float(digits.replace(",", "")) * SUFFIX_SIZES[suffix], value, rel_tol=0.005 + 1e-9)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0115, "s", "11.5 ms"),
        (2.5, "s", "2.5 s"),
        (90.0, "s", "90 s"),
        (1750.0, "s", "29.2 min"),
        (3 * 3600.0, "s", "3 h"),
        (86400.0 * 3, "s", "3 days"),
        (0.0, "s", "0 s"),
        (226_492_416, "bytes", "216 MiB"),
        (3 * 2**40, "bytes", "3 TiB"),
        (512, "bytes", "512 B"),
        (212e12, "B", "212 TB"),
        (29.7e9, "bytes/s", "29.7 GB/s"),
        (3.1e14, "FLOP/s", "310 TFLOP/s"),
        (57_800, "bit/s", "57.8 kbit/s"),
        (0.42, "share", "42 %"),
        (0.00012, "share", "0.012 %"),
        (1.0, "share", "100 %"),
        (0.999975, "share", "99.9975 %"),
        (1234.5, "EUR", "1,234 EUR"),
        (12.3, "USD", "12.30 USD"),
        (2806.4, "EUR/month", "2,806 EUR/month"),
        (1.2, "FTE", "1.2 FTE"),
        (0.0004, "USD/h", "0.0004 USD/h"),
        (2.3e-11, "USD/byte-month", "0.023 USD/GB-month"),
        (2.4e6, "kWh/month", "2.4 M kWh/month"),
        (87.4, "tokens/s", "87.4 tokens/s"),
        (9.0, "", "9"),
    ],
)
def test_a_quantity_is_in_the_unit_of_people(value: float, unit: str, text: str) -> None:
    assert format_quantity(value, unit) == text


@pytest.mark.parametrize(
    ("ends", "unit", "text", "interval"),
    [
        ((0.7, 0.9, 1.2), "s", "900 ms (700 to 1,200)", "700 to 1,200 ms"),
        ((0.9996, 0.999975, 1.0), "share", "99.9975 % (99.96 to 100)", "99.96 to 100 %"),
        ((980_000, 1.5e6, 2e6), "EUR", "1.5 M EUR (0.98 to 2)", "0.98 to 2 M EUR"),
        ((32_115, 51_998, 51_998), "USD", "51,998 USD (32,115 to 51,998)", "32,115 to 51,998 USD"),
        ((0.0, 0.0, 2 * 2**30), "bytes", "0 GiB (0 to 2)", "0 to 2 GiB"),
        ((2.0, 2.0, 2.0), "s", "2 s", "exact"),
    ],
)
def test_an_interval_is_in_the_unit_of_its_value(
    ends: tuple[float, float, float], unit: str, text: str, interval: str
) -> None:
    low, value, high = ends
    estimate = Estimate(value=value, low=low, high=high, unit=unit)
    assert format_estimate(estimate) == text
    assert format_interval(estimate) == interval


@pytest.mark.parametrize(
    ("show", "texts"),
    [
        (format_money, {0.0: "0", 0.0038: "< 0.01", 0.526: "0.53", 12.3: "12.30", 99.996: "100", 4752.4: "4,752"}),
        (format_share, {0.0: "0 %", 0.002: "under 1 %", 0.41: "41 %", 0.9999: "over 99 %", 1.0: "100 %"}),
        (format_change, {1.0: "+0.0 %", 1.042: "+4.2 %", 0.9: "-10.0 %"}),
        (format_exact, {2.5: "2.5", 1_048_576: "1,048,576", 3.0: "3"}),
    ],
)
def test_money_shares_and_changes(show: Callable[[float], str], texts: dict[float, str]) -> None:
    assert {value: show(value) for value in texts} == texts


def test_an_amount_has_its_currency_and_an_interval_has_none() -> None:
    assert format_money(4_790_000, "EUR") == "4.79 M EUR"
    assert format_money_interval(Estimate(value=4e6, low=3.6e6, high=5.12e6, unit="EUR")) == "3.6 to 5.12 M"
    assert format_money_interval(exact_estimate(1.0, "EUR")) == ""


@pytest.mark.parametrize(
    ("value", "other", "unit", "text"),
    [
        (8.002, 8.0, "s", "8.002 s"),
        (44.6, 8.0, "s", "44.6 s"),
        (1_000_400, 1e6, "", "1.0004 M"),
        (900_400, 900_000, "", "900,400"),
        (8.0, 8.0, "", "8"),
    ],
)
def test_a_value_close_to_a_limit_does_not_look_equal(value: float, other: float, unit: str, text: str) -> None:
    assert format_apart(value, other, unit) == text


def test_lists_and_counts() -> None:
    names = {"": "", "a": "a", "abc": "a, b and c", "abcdef": "a, b, c, d and 2 more"}
    assert {letters: format_list(letters) for letters in names} == names
    assert format_count(1, "option") == "1 option"
    assert format_count(16384, "token") == "16,384 tokens"
    assert format_count(2, "basis", "bases") == "2 bases"


def test_a_duration_and_a_bit_rate() -> None:
    assert number_format.format_duration(8.05e4) == "22.4 h"
    assert number_format.format_bit_rate(7225.0) == "57.8 kbit/s"
