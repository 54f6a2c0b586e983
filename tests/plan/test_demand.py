"""Load over the horizon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.contract.needs import Length, Needs, NeedsSource, Rate, Traffic, Workload
from archwright.plan.demand import demand_of, text_demands, unsized

Read = Callable[..., tuple[Needs, NeedsSource]]


def workload(**traffic: Any) -> Workload:
    usual: dict[str, Any] = {
        "requests_per_second": Rate(mean=2.0, peak=6.0),
        "input_tokens": Length(mean=100, p95=300),
        "output_tokens": Length(mean=50, p95=120),
    }
    return Workload(name="w", kind="chat", traffic=Traffic(**{**usual, **traffic}))


def test_growth_compounds_monthly() -> None:
    demand = demand_of(workload(growth_per_year=1.0), 25)
    assert demand is not None
    assert demand.growth[0] == 1
    assert demand.growth[12] == pytest.approx(2)
    assert demand.peak_at_horizon == pytest.approx(6 * 4)
    assert demand.context_tokens == 420


def test_shrinking_load_is_planned_for_its_first_month() -> None:
    demand = demand_of(workload(growth_per_year=-0.5), 24)
    assert demand is not None
    assert demand.peak_at_horizon == 6
    assert demand.mean_growth < 1


def test_outside_the_hours_a_twentieth_of_the_mean_remains() -> None:
    demand = demand_of(workload(hours_per_day=12), 1)
    assert demand is not None
    assert demand.requests_per_month == pytest.approx(2 * 3600 * 730 * (12 + 0.05 * 12) / 24)


@pytest.mark.parametrize("missing", ["requests_per_second", "input_tokens", "output_tokens"])
def test_a_text_workload_without_a_rate_or_lengths_is_not_sized(missing: str) -> None:
    assert demand_of(workload(**{missing: None}), 12) is None


def test_kinds_that_are_not_text_are_left_out(needs_of: Read) -> None:
    needs, _ = needs_of("manufacturer")
    assert [demand.workload.name for demand in text_demands(needs)] == ["assistant"]
    assert [left.name for left in unsized(needs)] == ["downtime", "house-model", "telemetry"]
    assert demand_of(Workload(name="w", kind="chat"), 12) is None


@given(st.floats(0, 3), st.integers(1, 120))
def test_more_growth_is_never_less_load(growth: float, months: int) -> None:
    still, grown = demand_of(workload(), months), demand_of(workload(growth_per_year=growth), months)
    assert still is not None and grown is not None
    assert grown.mean_growth >= still.mean_growth == 1
    assert grown.peak_at_horizon >= grown.peak
