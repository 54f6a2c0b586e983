"""The smaller parts of planning: what they refuse, and their corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, NeedsSource, Traffic
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import (
    CandidateMachine,
    MachineCapability,
    MachineFinder,
    SizingCache,
    WorkloadTask,
    list_tasks,
    select_pareto_front,
)
from archwright.plan.capacity.machine_count import count_job_machines
from archwright.plan.capacity.purchase_options import PurchaseTranche
from archwright.plan.decision.selection import Concessions
from archwright.plan.options.cloud_instances import InstanceChoice, InstanceSelector
from archwright.plan.options.option_builder import PoolWriter
from archwright.plan.options.owned_hardware import (
    TaskAssignment,
    build_steady_choice,
    compute_machine_share,
    require_node,
)
from archwright.plan.planner import Planner, make_plan
from archwright.plan.solver.problem import AssignmentChoice
from archwright.sizing.hardware.machine import SteadyCapacity

from .conftest import NOW, Change, edit, missed, option_of, scale_traffic

Make = Callable[..., Plan]
Read = Callable[..., tuple[Needs, NeedsSource]]


def host_of(needs: Needs, catalog: Catalog, accelerator: str = "L4") -> CandidateMachine:
    hosts = MachineFinder(needs, catalog).list_rented("gcp")
    return next(h for h in hosts if h.machine.accelerator is not None and h.machine.accelerator.id == accelerator)


def sized(needs: Needs, catalog: Catalog) -> tuple[WorkloadTask, CandidateMachine, SteadyCapacity]:
    """The first task of the needs with a machine, and the load that it carries."""
    task, host = list_tasks(needs, catalog)[0], host_of(needs, catalog)
    assert task.demand is not None
    steady = SizingCache(catalog).steady(task.demand, catalog.models["Phi-4-mini-instruct"], host)
    assert steady is not None
    return task, host, steady


# --- candidates


def test_a_machine_is_dropped_only_when_another_beats_it_in_everything(needs_of: Read, catalog: Catalog) -> None:
    _, host, steady = sized(needs_of("startup")[0], catalog)

    def carrying(prices: tuple[float, ...], factor: float) -> MachineCapability:
        return MachineCapability(
            host, None, prices, steady._replace(requests_per_s=steady.requests_per_s.scaled(factor))
        )

    cases = (((1.0, 0.9), 1.0), ((2.0, 1.5), 3.0), ((1.1, 0.8), 0.9), ((1.0, 0.9), 0.5))
    strong, dear, promised, weak = (carrying(*case) for case in cases)
    kept = select_pareto_front([dear, weak, promised, strong])
    assert [one.prices for one in kept] == [(1.0, 0.9), (1.1, 0.8), (2.0, 1.5)] and weak not in kept


def test_sizing_is_asked_once_for_machines_that_are_alike(needs_of: Read, catalog: Catalog) -> None:
    needs, _ = needs_of("startup")
    sizer, (chat, tune, _) = SizingCache(catalog), list_tasks(needs, catalog)
    host, model = host_of(needs, catalog), catalog.models["Phi-4-mini-instruct"]
    assert chat.demand is not None and tune.job is not None
    first = sizer.steady(chat.demand, model, host)
    assert sizer.steady(chat.demand, model, host._replace(machine=host.machine._replace(id="other", cores=2))) is first
    assert sizer.steady(chat.demand, None, host) is None
    assert sizer.batch(tune.job, None, host.machine) is None
    assert sizer.batch(tune.job, model, host.machine) is sizer.batch(tune.job, model, host.machine)


def test_an_embedding_model_may_be_fixed(needs_of: Read, catalog: Catalog) -> None:
    needs, _ = needs_of("startup")
    index = needs.workloads[2]
    wanted = list_tasks(needs, catalog)[2].models[0]
    assert wanted is not None
    for name, found in ((wanted.id.upper(), (wanted,)), ("nobody's", ())):
        fixed = replace(needs, workloads=(*needs.workloads[:2], replace(index, model=name)))
        task = list_tasks(fixed, catalog)[2]
        assert task.models == found and bool(task.misses) == (not found)


# --- rented


def test_the_fewest_machines_that_keep_a_deadline(needs_of: Read, catalog: Catalog) -> None:
    needs, _ = needs_of("manufacturer")
    task = list_tasks(needs, catalog)[-1]
    assert task.job is not None
    host = next(h for h in MachineFinder(needs, catalog).list_rented("aws") if h.machine.cores >= 16)
    batch = SizingCache(catalog).batch(task.job, None, host.machine)
    assert batch is not None
    for certainty in (0.5, 0.7, 0.9):
        slo = replace(task.job.workload.slo, certainty=certainty)
        job = task.job._replace(workload=replace(task.job.workload, slo=slo))
        slower = batch.machine_hours.quantile(certainty) / batch.machine_hours.value
        for deadline in (0.4, 1.0, 3.0, 24.0):
            machines, misses = count_job_machines(batch, job._replace(deadline_h=deadline))
            if not misses:
                assert batch.hours(machines) + 0.25 <= deadline
                assert machines == batch.least or batch.hours(machines - 1) * slower + 0.25 > deadline
    machines, misses = count_job_machines(batch, task.job._replace(deadline_h=0.1))
    assert machines == batch.most and misses[0].constraint == "telemetry.deadline_h"


def test_work_without_a_model_finds_no_offer_outside(needs_of: Read, catalog: Catalog) -> None:
    needs, _ = needs_of("clinic")
    bound = replace(needs, data=tuple(replace(data, residency=("AQ",)) for data in needs.data))
    xray = list_tasks(bound, catalog)[1]
    found = InstanceSelector(bound, catalog, SizingCache(catalog)).select_instances("aws", (xray,))
    assert found.picks == () and found.misses[0].constraint == "residency"


# --- parts


def test_a_writer_refuses_what_is_no_rented_machine_or_no_load(needs_of: Read, catalog: Catalog) -> None:
    needs, _ = needs_of("startup")
    (chat, host, steady), tune = sized(needs, catalog), list_tasks(needs, catalog)[1]
    writer = PoolWriter(catalog, PlanProvenance())
    bare = InstanceChoice(chat, host._replace(offer=None), None, steady, None, (), 1, 0, ())
    with pytest.raises(ValueError, match="has an offer"):
        writer.write_rented(bare)
    with pytest.raises(ValueError, match="neither a steady load nor a job"):
        writer.register_machine_count(InstanceChoice(chat, host, None, None, None, (), 1, 0, ()))
    with pytest.raises(ValueError, match="a job has no pool"):
        writer.build_pool(tune, host, steady, 1)


def test_an_offers_own_prediction_is_a_fact_of_its_own(needs_of: Read, catalog: Catalog) -> None:
    needs, _ = needs_of("startup")
    offer = next(offer for offer in catalog.offers if offer.commit_1y_usd_per_hour)
    ledger = PlanProvenance()
    renter = InstanceSelector(needs, catalog, SizingCache(catalog))
    chat = list_tasks(needs, catalog)[0]
    machines = renter.allowed_machines(offer.provider, chat)
    host = next(h for h in machines if h.offer is not None and h.offer.id == offer.id)
    ways = renter.list_prices(host)
    tranche = PurchaseTranche("commit-1y", (1.0,), (1.0,), 1)
    pick = InstanceChoice(chat, host, None, None, None, (tranche,), 1, 0, (), ways)
    (basis,) = PoolWriter(catalog, ledger).record_price_drivers(offer, tranche, pick)
    assert ledger.driver_estimate(basis).value == offer.commit_1y_usd_per_hour


# --- the house


def test_only_machines_on_premises_have_a_node(needs_of: Read, catalog: Catalog) -> None:
    needs, _ = needs_of("startup")
    with pytest.raises(ValueError, match="not an on-premises machine"):
        require_node(host_of(needs, catalog))
    with pytest.raises(ValueError, match="no part of it runs on on-premises machines"):
        _ = TaskAssignment(AssignmentChoice("a", "", None), list_tasks(needs, catalog)[0]).sizing_result


def test_parts_of_machines_are_whole_engines(needs_of: Read, catalog: Catalog) -> None:
    chat, _, steady = sized(needs_of("startup")[0], catalog)
    assert chat.demand is not None
    eight = steady._replace(engines=8)
    carried = eight.requests_per_s.value
    assert compute_machine_share(0.0, eight) == 0.0
    assert compute_machine_share(carried / 100, eight) == 1 / 8
    assert compute_machine_share(carried * 1.3, eight) == 11 / 8
    assert compute_machine_share(carried / 100, eight._replace(devices=0)) == 1 / 16
    mean = tuple(chat.demand.mean * growth for growth in chat.demand.growth)
    whole, kept = (build_steady_choice("a", chat.demand, None, eight, "m", limit) for limit in ((), mean))
    assert kept.peak == kept.mean <= whole.peak


def growing(load: float) -> Change:
    owned = {
        "placement.owned": [{"machine": "8x H100 SXM", "count": 4, "age_months": 2}],
        "workloads.1.model": "Phi-4",
        "workloads.1.quality": {},
    }
    return scale_traffic(
        1, load, first=edit({**owned, "budget.horizon_months": 24, "placement.allow": ["on-premises"]})
    )


def test_a_load_is_shared_between_what_is_owned_and_what_is_bought(plan_of: Make) -> None:
    """Small: owned alone. Larger: some of the same type beside them, or another type with a pool of its own."""
    alone = option_of(plan_of("manufacturer", growing(0.4)), "on-premises")
    assert {b.kind for b in alone.purchases if b.pool == "assistant"} == {"owned"}
    large = option_of(plan_of("manufacturer", growing(2.0)), "on-premises")
    pools = {pool.name: pool.model for pool in large.pools if pool.workloads == ("assistant",)}
    bought = [one for one in large.purchases if one.pool.startswith("assistant")]
    assert {one.kind for one in bought} == {"owned", "bought"}
    assert pools.keys() == {one.pool for one in bought} and len(set(pools.values())) == 1


# --- the whole


def test_a_workload_that_says_too_little_is_named(needs_of: Read, catalog: Catalog) -> None:
    """The reader refuses such a file; needs made in Python are answered all the same."""
    needs, source = needs_of("startup")
    chat, _, index = needs.workloads
    mute = replace(index, traffic=Traffic())
    plan = make_plan(replace(needs, workloads=(chat, mute)), source, catalog, None, NOW)
    assert any(text.startswith("workload index (embedding)") for text in plan.not_sized)
    assert any("not included: index" in note for note in option_of(plan, "cloud").notes)
    nothing = make_plan(replace(needs, workloads=(mute,)), source, catalog, None, NOW)
    assert nothing.chosen is None and all(option.total_cost is None for option in nothing.options)


@pytest.mark.nightly
def test_old_prices_are_no_reason_to_buy_unless_they_are_accepted(
    needs_of: Read, catalog: Catalog, monkeypatch: Any
) -> None:
    monkeypatch.setattr(type(catalog), "has_valid_price", lambda self, _: self.accepts_stale)
    needs, source = needs_of("clinic")
    refused, accepted = (
        option_of(
            make_plan(needs, source, catalog, None, NOW, concessions=Concessions(accept_stale=accept)), "on-premises"
        )
        for accept in (False, True)
    )
    assert "stale_facts" in missed(refused) and accepted.feasible


def test_a_planner_looks_only_at_what_is_allowed(needs_of: Read, catalog: Catalog) -> None:
    needs, _ = needs_of("manufacturer")
    hybrid = replace(needs, placement=replace(needs.placement, allow=("hybrid",), clouds=("aws",)))
    found = Planner(hybrid, catalog, PlanProvenance(), NOW).evaluate_options(None)
    assert [one.draft.name for one in found] == ["hybrid-aws"]
