"""Load over the horizon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.contract.needs import Needs, NeedsSource, RequestRate, TokenLength, Traffic, Workload
from archwright.plan.demand.forecast import (
    Demand,
    compute_monthly_growth,
    derive_batch_job,
    forecast_demand,
    list_batch_jobs,
    list_steady_demands,
    list_text_demands,
    split_load_levels,
)

Read = Callable[..., tuple[Needs, NeedsSource]]


def workload(**traffic: Any) -> Workload:
    usual: dict[str, Any] = {
        "requests_per_second": RequestRate(mean=2.0, peak=6.0),
        "input_tokens": TokenLength(mean=100, p95=300),
        "output_tokens": TokenLength(mean=50, p95=120),
    }
    return Workload(name="w", kind="chat", traffic=Traffic(**{**usual, **traffic}))


def test_growth_compounds_monthly() -> None:
    demand = forecast_demand(workload(growth_per_year=1.0), 25)
    assert demand is not None and demand.context_tokens == 420
    assert (demand.growth[0], demand.growth[12], demand.peak_at_horizon) == pytest.approx((1, 2, 6 * 4))
    shrinking = forecast_demand(workload(growth_per_year=-0.5), 24)
    assert shrinking is not None and shrinking.peak_at_horizon == 6 and shrinking.mean_growth < 1


def test_outside_the_hours_a_twentieth_of_the_mean_remains() -> None:
    demand = forecast_demand(workload(hours_per_day=12), 1)
    assert demand is not None and demand.requests_per_month == pytest.approx(2 * 3600 * 730 * (12 + 0.05 * 12) / 24)


def test_a_text_workload_without_a_rate_or_lengths_is_not_sized() -> None:
    for missing in ("requests_per_second", "input_tokens", "output_tokens"):
        assert forecast_demand(workload(**{missing: None}), 12) is None, missing


def test_every_kind_is_a_steady_load_or_a_job(needs_of: Read) -> None:
    needs, _ = needs_of("manufacturer")
    assert [demand.workload.name for demand in list_text_demands(needs)] == ["assistant"]
    assert [demand.workload.name for demand in list_steady_demands(needs)] == ["downtime", "assistant"]
    assert [job.workload.name for job in list_batch_jobs(needs)] == ["house-model", "telemetry"]
    assert forecast_demand(Workload(name="w", kind="chat"), 12) is None


def test_runs_deadlines_and_sizes_of_jobs(needs_of: Read) -> None:
    tune, telemetry = list_batch_jobs(needs_of("manufacturer")[0])
    assert (tune.size, tune.deadline_h, tune.runs_per_month) == pytest.approx((2e9, 96, 1 / 3))
    assert (telemetry.size, telemetry.deadline_h, telemetry.runs_per_month) == pytest.approx((2600, 3, 730 / 24))
    index = list_batch_jobs(needs_of("startup")[0])[1]
    assert index.size == 220000 * 700 and index.runs_per_month == pytest.approx(730 / 168)


@pytest.mark.parametrize(
    ("fields", "months", "job"),
    [
        ({"kind": "finetune", "base": "m", "method": "lora", "tokens": 1e6}, 12, (1e6, 1.0, 730 / 4)),
        ({"kind": "pretrain", "parameters": 1e9, "tokens": 1e9}, 24, (1e9, 1 / 24, 2160)),
        ({"kind": "embedding", "traffic": Traffic(documents=10, tokens_per_document=5)}, 10, (50, 0.1, 730 / 4)),
        ({"kind": "data-processing", "traffic": Traffic(gib_per_day=5)}, 10, (5, 730 / 24, 24)),
    ],
)
def test_what_a_job_does_not_state_has_a_default(fields: Any, months: int, job: tuple[float, float, float]) -> None:
    found = derive_batch_job(Workload(name="w", **fields), months)
    assert found is not None and (found.size, found.runs_per_month, found.deadline_h) == pytest.approx(job)


@pytest.mark.parametrize("kind", ["data-processing", "embedding", "finetune", "pretrain", "chat"])
def test_a_job_without_its_size_is_none(kind: Any) -> None:
    assert derive_batch_job(Workload(name="w", kind=kind, traffic=Traffic()), 12) is None
    assert derive_batch_job(Workload(name="w", kind=kind), 12) is None


def test_a_day_has_a_peak_a_mean_and_the_hours_outside() -> None:
    peak, mean, outside = split_load_levels(2.0, 6.0, 12.0)
    assert (peak.rate, mean.rate, outside.rate) == (6.0, 2.0, 0.1)
    assert peak.hours + mean.hours + outside.hours == pytest.approx(730)
    assert peak.hours == pytest.approx(730 / 24 * 1.5)


def test_a_part_of_a_load_is_less_of_everything_but_length() -> None:
    demand = forecast_demand(workload(), 3)
    assert demand is not None
    half = demand.scaled_by(0.5)
    assert (half.peak, half.mean, half.requests_per_month) == (3.0, 1.0, demand.requests_per_month / 2)
    assert [level.rate for level in half.levels] == [level.rate / 2 for level in demand.levels]
    assert (half.input_tokens, half.growth) == (demand.input_tokens, demand.growth)


@given(st.floats(0, 3), st.integers(1, 120))
def test_more_growth_is_never_less_load(growth: float, months: int) -> None:
    still, grown = forecast_demand(workload(), months), forecast_demand(workload(growth_per_year=growth), months)
    assert still is not None and grown is not None
    assert grown.mean_growth >= still.mean_growth == 1
    assert grown.peak_at_horizon >= grown.peak


def test_what_is_left_above_a_base_and_the_base_are_the_whole() -> None:
    none = TokenLength(mean=0.0, p95=0.0)
    growth = compute_monthly_growth(Traffic(growth_per_year=0.5), 24)
    demand = Demand(workload(), 2.0, 6.0, none, none, growth, 1.0, split_load_levels(2.0, 6.0, 12.0))
    above = demand.excess_over((3.0,) * 12 + (0.0,) * 12)
    assert above.rates(0) == (3.0, 0.0, 0.0) and above.rates(12) == pytest.approx(demand.rates(12))
    assert above.peak_at_horizon == pytest.approx(demand.peak_at_horizon)
    assert sum(map(above.requests, range(12, 24))) == pytest.approx(sum(map(demand.requests, range(12, 24))))
    assert above.requests_per_month * above.mean_growth == pytest.approx(sum(map(above.requests, range(24))) / 24)
