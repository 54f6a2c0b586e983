"""The format of numbers."""

from __future__ import annotations

import pytest

from archwright.cli.number_format import format_band, format_money, format_precise, format_quantity, format_significant
from archwright.contract.estimate import Estimate, exact_estimate


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0115, "s", "11.5 ms"),
        (1.234, "s", "1.23 s"),
        (45.6, "s", "45.6 s"),
        (7200, "s", "120 min"),
        (226_492_416, "bytes", "216 MiB"),
        (512, "bytes", "512 B"),
        (3 * 2**40, "bytes", "3.00 TiB"),
        (29.7e9, "bytes/s", "29.7 GB/s"),
        (101e9, "FLOP/s", "101 GFLOP/s"),
        (1234.5, "EUR", "1,234 EUR"),
        (12.3, "USD", "12.30 USD"),
        (87.4, "tokens/s", "87.4 tokens/s"),
        (0, "tokens/s", "0 tokens/s"),
        (0.00012, "share", "0.012 %"),
        (0.999512, "share", "99.951 %"),
    ],
)
def test_pretty(value: float, unit: str, shown: str) -> None:
    assert format_quantity(value, unit) == shown


def test_band_says_the_unit_once_when_it_is_the_same() -> None:
    assert format_band(Estimate(value=0.012, low=0.01, high=0.015, unit="s")) == "10.0 to 15.0 ms"
    assert format_band(Estimate(value=0.9, low=0.5, high=1.5, unit="s")) == "500 ms to 1.50 s"
    assert format_band(exact_estimate(3, "EUR")) == "3.00 EUR"


def test_money_and_digits() -> None:
    assert (format_money(99.994), format_money(100)) == ("99.99", "100")
    assert (format_significant(12.34), format_significant(123.4)) == ("12.3", "123")


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (3_432_433_752_715, "bytes", "3.122 TiB"),
        (697_270_105_445, "bytes", "649.4 GiB"),
        (2.34512, "USD/h", "2.345"),
        (48_200, "USD", "48,200"),
    ],
)
def test_a_fact_has_four_digits_and_bytes_a_unit_of_their_size(value: float, unit: str, shown: str) -> None:
    assert format_precise(value, unit) == shown
