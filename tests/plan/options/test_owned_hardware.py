"""Loads that machine types share: owned machines with bought or rented ones."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

import archwright.needs
from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import Option, Plan, Pool
from archwright.contract.record import replace
from archwright.needs.reader import parse_needs
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import DEFAULT_TIER, MACHINE_DOWNTIME_SHARE
from archwright.plan.capacity.candidates import SizingCache, list_tasks
from archwright.plan.cost.staffing import SERVERS_PER_FTE_PARTS, compute_machine_staff_usd
from archwright.plan.explain.explanation import explain_plan
from archwright.plan.options.owned_hardware import OnPremisesSite
from archwright.plan.planner import Planner

from ..conftest import GONE, NOW, Change, edit

Make = Callable[..., Plan]


# The manufacturer's downtime (first) and assistant.
two_workloads = edit({"workloads.3": GONE, "workloads.2": GONE})


PHI = edit({"workloads.1.model": "Phi-4", "workloads.1.quality": {}})


def shared_out(growth: float, capex: float, age: float = 14) -> Change:
    """The manufacturer's assistant on internal data, so that its work may leave the site."""
    changes = {
        "placement.allow": ["on-premises", "hybrid"],
        "placement.clouds": ["aws"],
        "placement.owned.0.age_months": age,
        "workloads.1.model": "Phi-4",
        "workloads.1.quality": {},  # a load of several machines
        "workloads.1.traffic.growth_per_year": growth,
        "budget.capex": capex,
        "data.*.sensitivity": "internal",
    }
    return edit(changes, two_workloads)


def answering_pools(option: Option) -> list[Pool]:
    return [pool for pool in option.pools if pool.workloads == ("assistant",)]


@pytest.mark.nightly
def test_owned_machines_carry_the_first_years_and_others_follow_them(plan_of: Make) -> None:
    """Owned machines serve alone first, and to the end; bought ones of another type are added as the load grows."""
    (option,) = (one for one in plan_of("manufacturer", PHI).options if one.name == "on-premises")
    pools = {pool.machine: pool for pool in answering_pools(option)}
    old = pools.pop("8x-h100")
    (new,) = pools.values()
    assert [sum(pair) for pair in zip(old.shares, new.shares, strict=True)] == pytest.approx([1.0] * 5)
    assert old.shares[0] == 1 and 0 < old.shares[-1] < 1 and new.shares[0] == 0
    assert {one.machine: one.peak for one in option.purchases if one.kind == "owned"} == {"8x-h100": 4}


def test_owned_machines_serve_a_base_load_and_a_cloud_the_rest(plan_of: Make) -> None:
    """Without purchases, rented machines serve the load above the owned machines."""
    plan = plan_of("manufacturer", shared_out(0.0, 700_000.0))
    (option,) = (one for one in plan.options if one.placement == "hybrid")
    house, cloud = sorted(answering_pools(option), key=lambda pool: pool.placement == "cloud")
    assert option.feasible and (house.placement, cloud.placement) == ("on-premises", "cloud")
    assert {one.kind for one in option.purchases if one.machine == "8x-h100"} == {"owned"}
    assert [sum(pair) for pair in zip(house.shares, cloud.shares, strict=True)] == pytest.approx([1.0] * 5)
    assert all(0 < share < 1 for share in house.shares)


@pytest.mark.nightly
def test_no_age_of_owned_machines_turns_a_plan_over(
    catalog: Catalog, needs_of: Callable[..., tuple[Needs, NeedsSource]]
) -> None:
    """The total changes by less than 3 % in six months of age, and a newer machine is worth no less."""
    totals = []
    for age in range(0, 97, 6):
        changes = {
            "placement.allow": ["on-premises"],
            "placement.owned.0.age_months": age,
            "workloads.1.model": "Phi-4",
            "workloads.1.quality": {},
        }
        needs, _ = needs_of("manufacturer", edit(changes, two_workloads))
        (built,) = Planner(needs, catalog, PlanProvenance(), NOW).evaluate_options(None)
        totals.append(sum(term.sum for term in built.draft.terms or ()))
    assert all(1 <= later / now < 1.03 for now, later in itertools.pairwise(totals)), totals


def test_pools_that_share_a_workload_have_one_load_and_one_prediction(plan_of: Make) -> None:
    plan = plan_of("manufacturer", shared_out(0.5, 12_000_000.0, age=2))
    chosen = next(option for option in plan.options if option.name == plan.chosen)
    assert len([pool for pool in answering_pools(chosen) if pool.shares[-1] > 0]) >= 2
    (load,) = (one for one in plan.loads if one.workload == "assistant")
    peak = next(one for one in plan_of("manufacturer").loads if one.workload == "assistant")
    assert load.requests_per_second == pytest.approx(peak.requests_per_second)
    ids = [one.id for one in plan.predictions if one.workload == "assistant"]
    assert len(ids) == len(set(ids)) and "assistant.tokens_per_s.rate" in ids
    assert "share of the requests of assistant, by year" in explain_plan(plan, chosen.name)
    assert "of its requests, by year" in explain_plan(plan, "assistant")


@pytest.mark.parametrize("target", [0.999, pytest.param(0.9995, marks=pytest.mark.nightly)])
def test_machines_of_a_shared_load_use_at_most_their_part_of_the_downtime(
    plan_of: Make, catalog: Catalog, target: float
) -> None:
    """The predicted availability is that of the machines times that of the site."""
    changes = {
        "placement.allow": ["on-premises"],
        "workloads.1.slo.availability": target,
        "workloads.1.model": "Phi-4",
        "workloads.1.quality": {},
    }
    plan = plan_of("manufacturer", edit(changes, two_workloads))
    assert len(answering_pools(plan.options[0])) == 2
    share = next(one.estimate for one in plan.predictions if one.id == "assistant.requests.share")
    house = catalog.parts[f"site.tier-{DEFAULT_TIER}"].typical
    assert house > share.value >= target and share.value / house >= 1 - (1 - target) * MACHINE_DOWNTIME_SHARE - 1e-9
    facts = next(one.facts for one in plan.bases if one.id == share.basis)
    assert "of the load each" in facts[0] and any("one data centre of tier" in fact for fact in facts)


def read_laboratory(catalog: Catalog, documents: str) -> Needs:
    """The template with an owned machine of four accelerators: its chat and its index of so many documents."""
    template = Path(archwright.needs.__file__).parent / "templates" / "research-laboratory.yaml"
    needs, _ = parse_needs(template.read_text().replace("320000", documents).encode(), "needs.yaml", catalog)
    placement = replace(needs.placement, allow=("on-premises",), prefer=None)
    return replace(needs, workloads=needs.workloads[:2], placement=placement)


def test_a_job_takes_one_idle_accelerator_and_not_the_whole_machine(catalog: Catalog) -> None:
    """A run fills whole machines only if its deadline needs more than the accelerators of one."""
    for documents, wide in (("320000", False), ("3200000000", True)):
        needs = read_laboratory(catalog, documents)
        site = OnPremisesSite(needs, catalog, SizingCache(catalog, needs))
        task = next(one for one in list_tasks(needs, catalog) if one.name == "paper-index")
        found = site.list_assignments(task, task.models, followed=False)
        each = next(one for one in found if one.choice.machine == "4x-a100-80gb-pcie")
        assert (each.slices, each.choice.width) == ((1, float(each.width)) if wide else (4, 0.25))
        assert max(each.machine_hours) == pytest.approx(max(each.choice.hours))


def test_an_owned_machine_with_idle_accelerators_runs_the_jobs(catalog: Catalog) -> None:
    """No machine is bought for an index beside a machine with idle accelerators."""
    needs = read_laboratory(catalog, "320000")
    (built,) = Planner(needs, catalog, PlanProvenance(), NOW).evaluate_options(None)
    index = [one for one in built.draft.purchases if one.pool == "paper-index"]
    assert [(one.machine, one.kind) for one in index] == [("4x-a100-80gb-pcie", "owned")]


def test_a_machine_of_the_site_costs_the_staff_of_own_machines(catalog: Catalog) -> None:
    """The staff of rented machines is less, so the difference shows which one is paid."""
    needs = read_laboratory(catalog, "320000")
    name = SERVERS_PER_FTE_PARTS[True]
    own_servers = catalog.parts[name]
    dearer = copy.copy(catalog)
    dearer.parts = {**catalog.parts, name: replace(own_servers, typical=own_servers.typical / 2)}
    more_usd = compute_machine_staff_usd(needs, catalog, own=True) * needs.budget.horizon_months

    plain, with_more_staff = (
        [stock.kind for stock in OnPremisesSite(needs, facts, SizingCache(facts, needs)).stocks if not stock.kind.most]
        for facts in (catalog, dearer)
    )

    assert plain
    for before, after in zip(plain, with_more_staff, strict=True):
        assert after.usd[0] - before.usd[0] == pytest.approx(more_usd)
