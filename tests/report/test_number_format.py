"""Numbers and names as readers meet them."""

from __future__ import annotations

import math

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
    ("value", "text"),
    [(4.2e6, f"4.20{NB}M"), (999_999, f"1.00{NB}M"), (61_000, f"61.0{NB}k"), (412, "412"), (-5e9, f"-5.00{NB}bn")],
)
def test_a_headline_amount(value: float, text: str) -> None:
    assert number_format.format_compact(value) == text


def test_no_amount_has_less_than_a_cent() -> None:
    assert [number_format.format_money(x) for x in (0.0, 0.0038, 0.526, 12.345, 4_213_456.0)] == [
        *("0", "< 0.01", "0.53", "12.3", "4,210,000"),
    ]


def test_a_small_share_is_not_called_none() -> None:
    assert [number_format.format_percent(x) for x in (0.0, 0.002, 0.41)] == [f"0{NB}%", f"< 1{NB}%", f"41{NB}%"]


def test_a_tick_has_no_empty_digits() -> None:
    assert [number_format.format_tick(x) for x in (0, 20e6, 2.5e6, 100.0)] == ["0", f"20{NB}M", f"2.5{NB}M", "100"]


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


def test_a_band_stands_in_the_unit_of_its_value() -> None:
    estimate = Estimate(value=0.9, low=0.7, high=1.2, unit="s")
    assert number_format.format_with_band(estimate) == f"900{NB}ms (700 to 1,200{NB}ms)"
    nearly = Estimate(value=0.999975, low=0.9996, high=1.0, unit="share")
    assert number_format.format_with_band(nearly) == f"99.9975{NB}% (99.96 to 100{NB}%)"


def test_a_quality_nobody_reports_is_said_in_words() -> None:
    unknown = ConstraintViolation(constraint="chat.quality.mmlu_pro", value="unknown", limit=0.45)
    assert number_format.describe_miss(unknown) == "chat: no mmlu_pro score is known; the needs require at least 0.45"
    assert number_format.describe_miss(replace(unknown, value=0.4)) == "chat.quality.mmlu pro 0.4, limit 0.45"
    assert number_format.format_band(exact_estimate(2.0, "s")) == "exact"
    assert number_format.format_with_band(exact_estimate(2.0, "s")) == f"2{NB}s"


def test_what_misses_by_a_hair_does_not_look_equal() -> None:
    missed = ConstraintViolation(constraint="residency", value=None, limit=None)
    money = replace(missed, constraint="per_month", value=900_400.0, limit=900_000.0)
    assert number_format.describe_miss(money) == "per month 900,400, limit 900,000"
    assert number_format.describe_miss(missed) == "residency"
    assert number_format.describe_miss(replace(missed, value="US", limit="EEA")) == "residency US, limit EEA"


def test_lists_and_counts() -> None:
    assert number_format.format_list([]) == ""
    assert number_format.format_list(["a"]) == "a"
    assert number_format.format_list(["a", "b", "c"]) == "a, b and c"
    assert number_format.format_list("abcdef") == "a, b, c, d and 2 more"
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
