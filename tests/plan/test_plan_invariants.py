"""What holds for any needs: more is never cheaper, limits of a house hold, the same needs give the same plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.work import counted_calls

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Option, Plan

from ..drawing import draw, draw_few
from .conftest import edit, missed

Make = Callable[..., Plan]
NEEDS = ("startup", "clinic", "manufacturer")
TEXT = {"startup": 0, "clinic": 0, "manufacturer": 1}
few = draw(2, 8)


def costs(plan: Plan) -> dict[str, float]:
    return {option.name: option.total_cost.value for option in plan.options if option.total_cost is not None}


def scaled(name: str, **factors: float) -> Callable[[dict[str, Any]], None]:
    """The text workload with some of its figures multiplied."""

    def change(document: dict[str, Any]) -> None:
        workload = document["workloads"][TEXT[name]]
        traffic, slo = workload["traffic"], workload["slo"]
        for field in ("mean", "peak"):
            traffic["requests_per_second"][field] *= factors.get("load", 1.0)
        traffic["requests_per_second"]["peak"] *= factors.get("peak", 1.0)
        for lengths in ("input_tokens", "output_tokens"):
            for field in ("mean", "p95"):
                traffic[lengths][field] *= factors.get(lengths, 1.0)
        for limit in ("ttft_p95_s", "tpot_p95_s"):
            slo[limit] *= factors.get(limit, 1.0)
        # What may be missing, not what must be there, is what a factor stretches.
        slo["availability"] = 1 - min(0.9, (1 - slo["availability"]) * factors.get("availability", 1.0))

    return change


def no_cheaper(less: Plan, more: Plan) -> None:
    """Every option that both plans price, and the choice where nothing but money decides."""
    before, after = costs(less), costs(more)
    for name in before.keys() & after.keys():
        assert after[name] >= before[name] * (1 - 1e-9), name


@pytest.mark.nightly
@few
@given(st.sampled_from(NEEDS), st.sampled_from(["load", "peak", "input_tokens", "output_tokens"]), st.floats(1.05, 6.0))
def test_more_work_never_costs_less(plan_of: Make, name: str, what: str, factor: float) -> None:
    factor = min(factor, 1.6) if what.endswith("tokens") else factor
    no_cheaper(plan_of(name), plan_of(name, scaled(name, **{what: factor})))


@pytest.mark.nightly
@few
@given(st.sampled_from(NEEDS), st.sampled_from(["ttft_p95_s", "tpot_p95_s", "availability"]), st.floats(1.05, 10.0))
def test_a_looser_limit_never_costs_more(plan_of: Make, name: str, what: str, factor: float) -> None:
    no_cheaper(plan_of(name, scaled(name, **{what: factor})), plan_of(name))


def owning(count: int, load: float, **factors: float) -> Callable[[dict[str, Any]], None]:
    """The manufacturer's house alone, with so many machines of its own. With few examples, of its two loads alone."""

    def change(document: dict[str, Any]) -> None:
        scaled("manufacturer", load=load, **factors)(document)
        if draw_few():
            document["workloads"] = document["workloads"][:2]
        document["placement"]["allow"] = ["on-premises"]
        machine = document["placement"]["owned"][0]
        document["placement"]["owned"] = [{**machine, "count": count}] if count else []

    return change


@pytest.mark.nightly
@few
@given(st.integers(0, 7), st.integers(1, 4), st.floats(0.05, 5.0))
def test_a_machine_that_is_owned_never_makes_on_premises_dearer(
    plan_of: Make, there: int, more: int, load: float
) -> None:
    no_cheaper(plan_of("manufacturer", owning(there + more, load)), plan_of("manufacturer", owning(there, load)))


@pytest.mark.nightly
@few
@given(st.floats(0.05, 4.0), st.floats(1.02, 1.5))
def test_more_work_of_a_load_that_is_shared_never_costs_less(plan_of: Make, load: float, factor: float) -> None:
    no_cheaper(plan_of("manufacturer", owning(4, load)), plan_of("manufacturer", owning(4, load * factor)))


@pytest.mark.nightly
@few
@given(st.floats(0.05, 4.0), st.sampled_from(["ttft_p95_s", "tpot_p95_s", "availability"]), st.floats(1.05, 10.0))
def test_a_looser_limit_of_a_load_that_is_shared_never_costs_more(
    plan_of: Make, load: float, what: str, factor: float
) -> None:
    loose = owning(4, load, **{what: factor})
    no_cheaper(plan_of("manufacturer", loose), plan_of("manufacturer", owning(4, load)))


def keep_within(option: Option, power_kw: float, rack_units: int) -> None:
    if option.feasible:
        assert option.power_kw is not None and option.power_kw.value <= power_kw
        assert option.rack_units is not None and option.rack_units <= rack_units


@few
@given(st.floats(0.2, 3.0), st.floats(30.0, 400.0), st.integers(20, 200))
def test_a_shared_load_keeps_power_racks_and_the_machines_there_are(
    plan_of: Make, load: float, power: float, rack: int
) -> None:
    site = {"placement.site.power_kw": power, "placement.site.rack_units": rack}
    (option,) = plan_of("manufacturer", edit(site, owning(4, load))).options
    assert all(one.peak <= 4 for one in option.purchases if one.kind == "owned")
    keep_within(option, power, rack)


@pytest.mark.nightly
@few
@given(st.floats(3.0, 60.0), st.integers(4, 60), st.floats(0.3, 8.0))
def test_power_and_racks_of_a_site_are_never_exceeded(plan_of: Make, power: float, rack: int, load: float) -> None:
    change = edit({"placement.site.power_kw": power, "placement.site.rack_units": rack}, scaled("clinic", load=load))
    for option in plan_of("clinic", change).options:
        if option.placement in ("on-premises", "hybrid"):
            keep_within(option, power, rack)


@few
@given(st.floats(1.0, 2e6), st.floats(1.0, 6e4))
def test_a_budget_is_assessed_on_the_value(plan_of: Make, capex: float, month: float) -> None:
    for option in plan_of("clinic", edit({"budget.capex": capex, "budget.per_month": month})).options:
        amounts = (("capex", option.capex, capex), ("per_month", option.cost_per_month, month))
        over = {name for name, amount, limit in amounts if amount is not None and amount.value > limit}
        assert over <= missed(option) and not (option.feasible and over)


@pytest.mark.parametrize("name", NEEDS)
def test_no_machine_of_a_plan_stands_outside_the_residency(plan_of: Make, catalog: Catalog, name: str) -> None:
    """Pools too, each by the data of its own workloads."""
    bound = {"startup": "US", "clinic": "EEA", "manufacturer": "EEA"}[name]
    for option in plan_of(name).options:
        for pool in option.pools:
            if pool.workloads == ("downtime",):
                continue
            known = catalog.region(pool.provider, pool.region)
            assert catalog.is_inside(known.country if known is not None else pool.region, bound), (
                option.name,
                pool.name,
            )


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["desk", *NEEDS])
def test_a_plan_takes_a_bounded_number_of_calls(plan_of: Make, name: str) -> None:
    with counted_calls() as work:
        plan_of(name, anew=True)
    assert work.calls < 40_000_000, "2 s on a quiet machine have 16 million"
