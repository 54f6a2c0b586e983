"""Serverless workers: cold starts, warm workers, cost, place, limits without a guarantee."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.serverless_prices import ServerlessPrice, read_serverless_prices
from archwright.contract.plan import Option, Plan
from archwright.plan.accounting.fleet import Location
from archwright.plan.capacity.candidates import CandidateMachine, SizingCache
from archwright.plan.demand.forecast import HOURS_PER_MONTH, Demand, list_steady_demands, split_load_levels
from archwright.plan.options.serverless import (
    MAX_COLD_SHARE,
    WorkerUsage,
    compute_cold_start_share,
    compute_warm_idle_s,
    estimate_worker_usage,
)
from archwright.sizing.hardware.machine import Machine, SteadyCapacity

from ..conftest import GONE, Change, Read, edit

Make = Callable[..., Plan]
Case = tuple[Demand, SteadyCapacity, ServerlessPrice]
CLOSE = 1 + 1e-9
WHERE = Location("serverless", "p", "US", "US")


@pytest.fixture(scope="module")
def case(catalog: Catalog, needs_of: Read) -> Case:
    needs, row = needs_of("startup")[0], read_serverless_prices()[0]
    demand = list_steady_demands(needs)[0]
    host = CandidateMachine(WHERE, Machine("worker", catalog.accelerators[row.accelerator], 1, 8, 64e9))
    steady = SizingCache(catalog).steady(demand, catalog.models["Phi-4-mini-instruct"], host)
    assert steady is not None
    return demand, steady, row


def loaded(demand: Demand, mean: float, peak: float, hours: float) -> Demand:
    return demand._replace(mean=mean, peak=peak, levels=split_load_levels(mean, peak, hours))


def workers(usage: WorkerUsage) -> float:
    return sum(usage.workers) / len(usage.workers)


def kept(demand: Demand, steady: SteadyCapacity, row: ServerlessPrice) -> float:
    """Return the workers if a cold start breaks a limit."""
    usage = estimate_worker_usage(demand, steady, row)
    return workers(usage if usage.coldest <= MAX_COLD_SHARE else estimate_worker_usage(demand, steady, row, warm=True))


RATES = st.floats(1e-6, 1e3)


@settings(max_examples=60, deadline=None)
@given(mean=RATES, over=st.floats(1, 50), hours=st.floats(0.1, 24), more=st.floats(1, 30), longer=st.floats(1, 10))
def test_no_load_is_cheaper_than_a_smaller_one(
    case: Case, mean: float, over: float, hours: float, more: float, longer: float
) -> None:
    """More at the mean, at the peak, at both, or for more hours of the day."""
    demand, steady, row = case
    peak, before = mean * over, kept(loaded(demand, mean, mean * over, hours), steady, row)
    for heavier in (
        (mean * more, peak * more, hours),
        (mean, peak * more, hours),
        (min(mean * more, peak), peak, hours),
        (mean, peak, min(24.0, hours * longer)),
    ):
        assert kept(loaded(demand, *heavier), steady, row) * CLOSE >= before


@settings(max_examples=60, deadline=None)
@given(mean=RATES, over=st.floats(1, 50), hours=st.floats(0.1, 24))
def test_a_warm_worker_costs_more_and_few_wait(case: Case, mean: float, over: float, hours: float) -> None:
    demand, steady, row = case
    load = loaded(demand, mean, mean * over, hours)
    free, warm = estimate_worker_usage(load, steady, row), estimate_worker_usage(load, steady, row, warm=True)
    assert workers(warm) * CLOSE >= workers(free) and workers(warm) * CLOSE >= 1 - MAX_COLD_SHARE
    assert max(warm.cold, warm.coldest) <= MAX_COLD_SHARE * CLOSE and warm.coldest <= free.coldest * CLOSE
    assert warm.idle_s >= free.idle_s == row.idle_s


def test_warm_idle_time_and_paid_workers_of_a_month(case: Case) -> None:
    """A load far above the capacity of a worker needs its share of workers at every hour."""
    stay = compute_warm_idle_s(0.01, 30.0)
    assert compute_cold_start_share(0.01, 30.0, stay) * (1 + 0.01 * 30.0) == pytest.approx(MAX_COLD_SHARE)
    assert stay == pytest.approx(324.8, rel=1e-3)
    demand, steady, row = case
    rate = 100 * steady.requests_per_s.value
    usage = estimate_worker_usage(loaded(demand, rate, rate, 24)._replace(growth=(1.0,)), steady, row)
    assert usage.workers == pytest.approx((100.0,)) and usage.peak == 100
    assert sum(level.hours for level in split_load_levels(1, 2, 24)) == pytest.approx(HOURS_PER_MONTH)


def serverless(plan: Plan) -> Option:
    return next(option for option in plan.options if option.placement == "serverless")


def tabular(
    mean: float, latency_s: float | None, *, slo: Any = None, regions: Any = None, placement: Any = None
) -> Change:
    traffic = {"requests_per_second": {"mean": mean, "peak": 2 * mean}, "features": 100}
    limits = slo or ({"latency_p95_s": latency_s} if latency_s is not None else {})
    work = {"name": "risk", "kind": "tabular-prediction", "traffic": traffic, "slo": limits}
    if regions is not None:
        traffic["regions"] = regions
    place = {"allow": ["serverless"], **(placement or {})}
    return edit({"workloads": [work], "data": GONE, "organisation.country": "DE", "placement": place})


def test_rare_requests_keep_a_worker_warm_where_a_cold_start_breaks_a_limit(plan_of: Make) -> None:
    tight, loose, none = (serverless(plan_of("startup", tabular(0.01, limit))) for limit in (0.05, 1000, None))
    assert tight.feasible and loose.feasible and none.feasible
    assert [any("kept warm" in note for note in one.notes) for one in (tight, loose, none)] == [True, False, False]
    assert tight.total_cost is not None and loose.total_cost is not None and none.total_cost is not None
    assert tight.total_cost.value > loose.total_cost.value == none.total_cost.value
    assert 1 - MAX_COLD_SHARE <= tight.purchases[0].machines <= 1


LATENCY = "risk.latency_p95_s"


def test_a_limit_that_a_start_may_break_holds_with_less_certainty(plan_of: Make) -> None:
    """No provider guarantees when workers start, or how fast they respond, even if few requests wait."""
    row = read_serverless_prices()[0]
    tight, loose, slack = (
        next(one for one in serverless(plan_of("startup", tabular(0.01, limit))).limits if one.limit == LATENCY)
        for limit in (0.05, (row.start_s + row.start_s_high) / 2, row.start_s_high + 1)
    )
    assert tight.basis.startswith(f"{row.provider} guarantees no latency") and tight.stated == 0.05
    assert tight.probability < loose.probability < 0.95 < slack.probability
    assert tight.predicted.high == pytest.approx(row.start_s_high, abs=1)


def test_an_option_with_a_predicted_latency_ranks_first(plan_of: Make) -> None:
    made = plan_of("startup", tabular(100, 0.05, placement={"allow": ["serverless", "cloud"]}))
    chosen = next(option for option in made.options if option.name == made.chosen)
    assert serverless(made).feasible and chosen.placement == "cloud"
    assert any(promise.metric == "latency_s" for promise in made.predictions)


def test_a_limit_below_a_warm_response_is_missed(plan_of: Make) -> None:
    hurried = edit({"placement": {"allow": ["serverless"]}, "workloads.0.slo": {"ttft_p95_s": 1e-9}})
    assert "support-chat.ttft_p95_s" in {miss.constraint for miss in serverless(plan_of("startup", hurried)).misses}


@pytest.mark.parametrize(
    ("pinned", "traffic", "region"),
    [
        (None, None, "NL"),
        (["US", "APAC"], None, "JP"),
        (["any"], None, "NL"),
        (["US"], None, "US"),
        (None, {"US": 0.6, "EEA": 0.4}, "US"),
        (None, {"US": 0.5, "EEA": 0.5}, "NL"),
    ],
)
def test_workers_run_near_the_traffic_else_the_organisation(
    plan_of: Make, pinned: Any, traffic: Any, region: str
) -> None:
    change = tabular(1, None, regions=traffic, placement={} if pinned is None else {"regions": pinned})
    assert serverless(plan_of("startup", change)).regions == (region,)


def test_no_provider_guarantees_the_availability(plan_of: Make) -> None:
    some, most = (
        serverless(plan_of("startup", tabular(1, None, slo={"availability": share}))) for share in (0.999, 0.9999)
    )
    (missed,) = some.doubts
    assert (missed.limit, missed.stated) == ("risk.availability", 0.999) and 0.99 < missed.predicted.value < 0.999
    assert some.feasible and not most.feasible
    (miss,) = most.misses
    assert (miss.constraint, miss.value, miss.limit) == ("risk.availability", 0.9995, 0.9999)


def test_the_provider_stores_the_weights_of_workers(plan_of: Make) -> None:
    placement = {"allow": ["serverless", "cloud"], "regions": ["US"]}
    plain = edit({"placement": placement, "workloads.2": GONE, "workloads.1": GONE})
    for option in plan_of("startup", plain).options:
        stored = any("model files" in line.name for line in option.cost_lines)
        assert stored is (option.placement == "cloud"), option.name
