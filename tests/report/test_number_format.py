"""Numbers and names as readers meet them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.plan import ConstraintViolation
from archwright.contract.record import replace
from archwright.report import number_format

from .full_plan import BOARD

NB = number_format.SPACE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (4_213_456, "4,210,000"),
        (12.345, "12.3"),
        (100.0, "100"),
        (0.0421, "0.0421"),
        (-420_000, "-420,000"),
        (999_600, "1,000,000"),
        (2.34e9, f"2.34{NB}bn"),
        (1e12, f"1.00{NB}tn"),
    ],
)
def test_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert number_format.format_number(value) == text


@given(st.floats(min_value=1e-9, max_value=1e15))
@settings(max_examples=200)
def test_a_number_is_within_half_a_percent_of_what_it_says(value: float) -> None:
    shown, _, suffix = number_format.format_number(value).partition(NB)
    size = {name: scale for scale, name in number_format.COMPACT}.get(suffix, 1.0)
    assert "e" not in shown
    assert math.isclose(float(shown.replace(",", "")) * size, value, rel_tol=0.005 + 1e-9)


@pytest.mark.parametrize(
    ("show", "texts"),
    [
        ("format_compact", {4.2e6: "4.20_M", 999_999: "1.00_M", 61_000: "61.0_k", 412: "412", -5e9: "-5.00_bn"}),
        ("format_money", {0.0: "0", 0.0038: "< 0.01", 0.526: "0.53", 12.345: "12.3", 4_213_456.0: "4,210,000"}),
        ("format_percent", {0.0: "0_%", 0.002: "< 1_%", 0.41: "41_%"}),
        ("format_tick", {0: "0", 20e6: "20_M", 2.5e6: "2.5_M", 100.0: "100"}),
    ],
)
def test_an_amount_a_share_or_a_tick_is_short_and_not_called_none(show: str, texts: dict[float, str]) -> None:
    made = {value: getattr(number_format, show)(value) for value in texts}
    assert made == {value: text.replace("_", NB) for value, text in texts.items()}


def test_a_band_names_its_unit_once() -> None:
    estimate = Estimate(value=4e6, low=3.6e6, high=5.12e6, unit="EUR")
    assert number_format.format_compact_band(estimate) == f"3.60 to 5.12{NB}M"
    assert number_format.format_compact_band(replace(estimate, low=9e5)) == f"900{NB}k to 5.12{NB}M"
    assert number_format.format_compact_band(exact_estimate(1.0, "EUR")) == ""


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0115, "s", f"11.5{NB}ms"),
        (2.5, "s", f"2.5{NB}s"),
        (3 * 3600.0, "s", f"3{NB}h"),
        (86400.0 * 3, "s", f"3{NB}days"),
        (0.0, "s", f"0{NB}ms"),
        (2**34, "bytes", f"16{NB}GiB"),
        (0.0, "bytes", f"0{NB}B"),
        (46e9, "bytes/s", f"46{NB}GB/s"),
        (3.1e14, "FLOP/s", f"310{NB}TFLOP/s"),
        (0.42, "share", f"42{NB}%"),
        (1.0, "share", f"100{NB}%"),
        (0.999975, "share", f"99.9975{NB}%"),
        (171.0, "kW", f"171{NB}kW"),
        (9.0, "", "9"),
    ],
)
def test_a_measure_stands_in_the_unit_people_use(value: float, unit: str, text: str) -> None:
    assert number_format.format_measure(value, unit) == text


@pytest.mark.parametrize(
    ("ends", "unit", "text"),
    [
        ((0.7, 0.9, 1.2), "s", f"900{NB}ms (700 to 1,200{NB}ms)"),
        ((0.9996, 0.999975, 1.0), "share", f"99.9975{NB}% (99.96 to 100{NB}%)"),
        ((2.0, 2.0, 2.0), "s", f"2{NB}s"),
    ],
)
def test_a_band_stands_in_the_unit_of_its_value(ends: tuple[float, float, float], unit: str, text: str) -> None:
    low, value, high = ends
    estimate = Estimate(value=value, low=low, high=high, unit=unit)
    assert number_format.format_with_band(estimate) == text
    assert (number_format.format_band(estimate) == "exact") == (low == high)


@pytest.mark.parametrize(
    ("constraint", "value", "limit", "text"),
    [
        ("chat.quality.mmlu_pro", "unknown", 0.45, "chat: no mmlu_pro score is known; the needs require at least 0.45"),
        ("chat.quality.mmlu_pro", 0.4, 0.45, "chat.quality.mmlu pro 0.4, limit 0.45"),
        ("per_month", 900_400.0, 900_000.0, "per month 900,400, limit 900,000"),
        ("residency", None, None, "residency"),
        ("residency", "US", "EEA", "residency US, limit EEA"),
    ],
)
def test_a_miss_by_a_hair_does_not_look_equal_and_an_unreported_quality_is_said(
    constraint: str, value: Any, limit: Any, text: str
) -> None:
    miss = ConstraintViolation(constraint=constraint, value=value, limit=limit)
    assert number_format.describe_miss(miss) == text


def test_lists_and_counts() -> None:
    names = {"": "", "a": "a", "abc": "a, b and c", "abcdef": "a, b, c, d and 2 more"}
    assert {letters: number_format.format_list(letters) for letters in names} == names
    assert number_format.format_count(1, "option") == "1 option"
    assert number_format.format_count(16384, "token") == "16,384 tokens"
    assert number_format.format_count(2, "basis", "bases") == "2 bases"
    assert number_format.format_exact(2.5) == "2.5"


def test_places_name_the_provider_unless_it_is_the_placement() -> None:
    hybrid, *_ = BOARD.options
    assert number_format.describe_placement(hybrid).startswith("own and rented machines at aws, in FR, eu-west-3")
    assert number_format.describe_placement(BOARD.options[3]) == "own machines, in FR"
    assert number_format.describe_placement(BOARD.options[-1]) == "hosted models at openai"


def test_what_no_page_can_show_is_replaced_everywhere_alike() -> None:
    plan = number_format.clean_plan(replace(BOARD, organisation="a\x00b\u202ec", workloads=()))
    assert plan.organisation == "a\ufffdb\ufffdc"
    assert plan.options == BOARD.options
