"""Statements of a plan that would cost it the trust of who reads it: engines without machines, spot for a fleet."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.plan.capacity.candidates import BURSTABLE
from archwright.plan.capacity.purchase_options import MAX_SPOT_MACHINES
from archwright.plan.explain.formatting import describe_purchase

from .conftest import GONE, edit, option_of

Make = Callable[..., Plan]


@pytest.mark.parametrize("name", ["clinic", "manufacturer"])
def test_the_engines_of_a_site_fit_on_its_machines(plan_of: Make, catalog: Catalog, name: str) -> None:
    option = option_of(plan_of(name), "on-premises")
    had: dict[str, int] = {}
    for bought in {(b.machine, b.kind): b for b in option.purchases if "downtime" not in b.pool}.values():
        had[bought.machine] = had.get(bought.machine, 0) + bought.peak
    taken: dict[str, int] = {}
    for pool in option.pools:
        taken[pool.machine] = taken.get(pool.machine, 0) + pool.replicas * pool.accelerator_count
    for machine, devices in taken.items():
        node = catalog.nodes[machine]
        assert devices <= had.get(machine, 0) * node.accelerator_count or not node.accelerator_count


def test_no_third_machine_is_bought_that_costs_more_with_its_storage_servers(plan_of: Make) -> None:
    for provider in ("aws", "gcp"):
        option = option_of(plan_of("clinic"), f"hybrid-{provider}")
        assert not [line.name for line in option.cost_lines if line.name.startswith("storage servers")], provider


def test_no_load_is_planned_on_a_machine_that_is_fast_for_a_while(plan_of: Make, catalog: Catalog) -> None:
    burstable = {offer.instance_type for offer in catalog.offers if offer.notes.startswith(BURSTABLE)}
    assert burstable
    for option in plan_of("startup").options:
        assert not burstable & {bought.machine for bought in option.purchases}


def test_a_fleet_that_computes_together_is_not_interruptible(plan_of: Make) -> None:
    own = {"kind": "pretrain", "deadline_h": 2000}
    big, small = {**own, "name": "big", "parameters": 7e10, "tokens": 1e12}, {**own, "name": "small", "parameters": 1e9}
    fields = {"workloads": [big, {**small, "tokens": 1e9}], "data": [], "budget.per_month": GONE}
    plan = plan_of("startup", edit({**fields, "placement": {"allow": ["cloud"], "spot": True}}))
    kinds = {(b.pool, b.kind): b.peak for option in plan.options for b in option.purchases}
    assert all(peak <= MAX_SPOT_MACHINES for (_, kind), peak in kinds.items() if kind == "spot")
    assert any(pool == "small" and kind == "spot" for pool, kind in kinds)
    assert any(pool == "big" and kind != "spot" and peak > MAX_SPOT_MACHINES for (pool, kind), peak in kinds.items())


@pytest.mark.nightly
def test_more_than_an_ordinary_customer_gets_is_reported(plan_of: Make, catalog: Catalog) -> None:
    rate = {"workloads.0.traffic.requests_per_second": {"mean": 1e3, "peak": 1e5}}
    cloud = option_of(plan_of("startup", edit({**rate, "budget.per_month": GONE})), "cloud")
    assert max(bought.peak for bought in cloud.purchases) > catalog.parameter(f"quota.{cloud.provider}").value
    assert any(note.startswith("the option needs ") for note in cloud.notes)


def test_machines_that_pools_share_say_so_in_the_order_of_the_needs(plan_of: Make) -> None:
    """So that a change of the needs renames no line."""
    plan = plan_of("clinic")
    bought = option_of(plan, "on-premises").purchases
    told = {one.pool: one.shared_with for one in bought}
    assert told["letters"] == ("xray",) and told["xray"] == ("letters",)
    assert "(the same machines as xray)" in describe_purchase(next(one for one in bought if one.pool == "letters"))
    order = [workload.name for workload in plan.workloads]
    named = [one.pool for one in bought if one.pool in order]
    assert named == sorted(named, key=order.index) and len(named) > 1


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["startup", "clinic"])
def test_more_certainty_never_costs_less_and_holds_every_latency_limit(plan_of: Make, name: str) -> None:
    placement = {"placement": {"allow": ["cloud"]}}
    plans = [plan_of(name, edit({"workloads.0.slo.certainty": share, **placement})) for share in (0.5, 0.7, 0.85)]
    options = [option_of(plan, str(plan.chosen)) for plan in plans]
    costs = [option.total_cost.value for option in options if option.total_cost is not None]
    assert costs == sorted(costs) and costs[0] < costs[-1]
    for option in options:
        assert not [one.limit for one in option.doubts if "_p95_s" in one.limit]
