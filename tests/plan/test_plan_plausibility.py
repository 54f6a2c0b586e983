"""Statements of a plan that would cost it the trust of who reads it: engines without machines, spot for a fleet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Option, Plan
from archwright.plan.accounting.budget import UNVERIFIED
from archwright.plan.capacity.candidates import BURSTABLE
from archwright.plan.capacity.purchase_options import MAX_SPOT_MACHINES
from archwright.plan.explain.formatting import describe_purchase

Make = Callable[..., Plan]


def house(plan: Plan) -> Option:
    return next(option for option in plan.options if option.placement == "on-premises")


@pytest.mark.parametrize("name", ["clinic", "manufacturer"])
def test_the_engines_of_a_house_fit_on_its_machines(plan_of: Make, catalog: Catalog, name: str) -> None:
    option = house(plan_of(name))
    had: dict[str, int] = {}
    for bought in {(b.machine, b.kind): b for b in option.purchases if "downtime" not in b.pool}.values():
        had[bought.machine] = had.get(bought.machine, 0) + bought.peak
    taken: dict[str, int] = {}
    for pool in option.pools:
        taken[pool.machine] = taken.get(pool.machine, 0) + pool.replicas * pool.accelerator_count
    for machine, devices in taken.items():
        node = catalog.nodes[machine]
        assert devices <= had.get(machine, 0) * node.accelerator_count or not node.accelerator_count


def test_no_load_is_planned_on_a_machine_that_is_fast_for_a_while(plan_of: Make, catalog: Catalog) -> None:
    burstable = {offer.instance_type for offer in catalog.offers if offer.notes.startswith(BURSTABLE)}
    assert burstable
    for option in plan_of("startup").options:
        assert not burstable & {bought.machine for bought in option.purchases}


def test_a_fleet_that_computes_together_is_not_interruptible(plan_of: Make) -> None:
    def large(document: dict[str, Any]) -> None:
        document["placement"] = {"allow": ["cloud"], "spot": True}
        document["workloads"] = [
            {"name": "big", "kind": "pretrain", "parameters": 7e10, "tokens": 1e12, "deadline_h": 2000},
            {"name": "small", "kind": "pretrain", "parameters": 1e9, "tokens": 1e9, "deadline_h": 2000},
        ]
        document["data"] = []
        document["budget"].pop("per_month")

    plan = plan_of("startup", large)
    kinds = {(b.pool, b.kind): b.peak for option in plan.options for b in option.purchases}
    assert all(peak <= MAX_SPOT_MACHINES for (_, kind), peak in kinds.items() if kind == "spot")
    assert any(pool == "small" and kind == "spot" for pool, kind in kinds)
    assert any(pool == "big" and kind != "spot" and peak > MAX_SPOT_MACHINES for (pool, kind), peak in kinds.items())


def test_more_than_an_ordinary_customer_gets_is_said(plan_of: Make, catalog: Catalog) -> None:
    def huge(document: dict[str, Any]) -> None:
        document["workloads"][0]["traffic"]["requests_per_second"] = {"mean": 1e3, "peak": 1e5}
        document["budget"].pop("per_month")

    plan = plan_of("startup", huge)
    cloud = next(option for option in plan.options if option.placement == "cloud")
    assert max(bought.peak for bought in cloud.purchases) > catalog.parameter(f"quota.{cloud.provider}").value
    assert any(note.startswith(f"{UNVERIFIED}the option needs ") for note in cloud.notes)


def test_machines_that_pools_share_say_so(plan_of: Make) -> None:
    option = house(plan_of("clinic"))
    told = {bought.pool: bought.shared_with for bought in option.purchases}
    assert told["letters"] == ("xray",) and told["xray"] == ("letters",)
    assert "(the same machines as xray)" in describe_purchase(next(b for b in option.purchases if b.pool == "letters"))


def test_what_shares_machines_is_named_in_the_needs_order(plan_of: Make) -> None:
    """So that a change of the needs renames no line."""
    plan = plan_of("clinic")
    option, order = house(plan), [workload.name for workload in plan.workloads]
    named = [bought.pool for bought in option.purchases if bought.pool in order]
    assert named == sorted(named, key=order.index) and len(named) > 1
