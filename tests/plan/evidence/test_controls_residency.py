"""Residency's evidence names every pool, every store and the gateway of the option that was chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import Option, Plan
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.evidence.controls import (
    RESIDENCY_CONTROL,
    ResidencyFinding,
    add_residency_evidence,
    format_locations,
    list_controls,
    list_residency_findings,
)
from archwright.plan.planner import Planner

from ..conftest import MACHINE, NOW

Make = Callable[..., Plan]
Read = Callable[..., tuple[Needs, NeedsSource]]


def chosen_ways(needs: Needs, catalog: Catalog) -> list[ChosenOption]:
    """Each way that breaks no limit, as if it had been chosen."""
    planner = Planner(needs, catalog, PlanProvenance(), NOW)
    drafts = tuple(one.draft for one in planner.evaluate_options(MACHINE))
    made = zip(drafts, planner.converter.price_options(drafts), strict=True)
    return [
        ChosenOption(needs, catalog, PlanProvenance(), option, draft.fleets)
        for draft, option in made
        if option.feasible
    ]


def evidence(plan: Plan, control: str = RESIDENCY_CONTROL) -> str:
    return next(one.evidence for one in plan.controls if one.id == control)


@pytest.mark.parametrize(
    "name", ["desk", "clinic", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("startup", "manufacturer"))]
)
def test_nothing_of_any_option_lies_outside_and_nothing_is_forgotten(
    catalog: Catalog, needs_of: Read, name: str
) -> None:
    needs, _ = needs_of(name)
    ways = chosen_ways(needs, catalog)
    assert ways
    for chosen in ways:
        found, option = list(list_residency_findings(chosen)), chosen.option
        assert option is not None
        assert all(one.inside for one in found), (option.name, format_locations(tuple(found)))
        named = {one.name for one in found}
        assert {f"pool {pool.name}" for pool in option.pools} <= named
        assert {f"data {data.name}" for data in needs.data} <= named
        at_work = {name for fleet in chosen.fleets for name in fleet.workloads}
        assert all(any(work in one for one in named) for work in at_work)
        if option.placement != "this-machine":
            assert "gateway" in named


def test_each_thing_is_named_with_its_place(plan_of: Make) -> None:
    plan = plan_of("manufacturer")
    bound, free = evidence(plan).split("; ")
    shared = [f"pool {one.name} in {one.region}" for one in plan.pools if one.workloads == ("assistant",)]
    assert bound.startswith(f"inside: {', '.join(shared)}, "), "all that share its load"
    assert "data manuals in FR" in bound
    assert "model files of house-model in " in bound, "what is trained on them may repeat them"
    for place in ("FR", "US", "CN"):
        assert f"pool downtime-{place.lower()} in {place}" in free
    assert evidence(plan_of("desk")) == "inside: pool assistant in DE, data notes in DE"


def test_a_regulations_evidence_points_to_it(plan_of: Make) -> None:
    assert RESIDENCY_CONTROL in evidence(plan_of("clinic"), "gdpr.44-49")


def test_answers_by_the_token_are_where_the_contract_says(catalog: Catalog, needs_of: Read) -> None:
    def free(document: dict[str, Any]) -> None:
        document["placement"] = {"allow": ["cloud", "hosted-api"]}
        document["workloads"] = document["workloads"][:1]
        document["workloads"][0].update(quality_unknown="accept", data=["handbook"])

    needs, _ = needs_of("startup", free)
    bought = [one for one in chosen_ways(needs, catalog) if one.option and one.option.placement == "hosted-api"]
    places = {
        one.place
        for chosen in bought
        for one in list_residency_findings(chosen)
        if one.name.startswith("support-chat at ")
    }
    assert bought and {"US", "CN"} <= places
    bound = replace(needs, data=tuple(replace(data, residency=("DE",)) for data in needs.data))
    abroad = next(chosen for chosen in bought if chosen.option and chosen.option.provider == "deepseek")
    said = format_locations(tuple(list_residency_findings(abroad._replace(needs=bound))))
    assert said.startswith("OUTSIDE: support-chat at deepseek in CN, bound to DE")


def test_data_bound_apart_show_that_one_gateway_is_not_enough(catalog: Catalog, needs_of: Read, plan_of: Make) -> None:
    needs, _ = needs_of("clinic")
    apart = replace(needs, data=(needs.data[0], replace(needs.data[1], residency=("US",))))
    option: Option = next(one for one in plan_of("clinic").options if one.name == "on-premises")
    found = list(list_residency_findings(ChosenOption(apart, catalog, PlanProvenance(), option, ())))
    assert {(one.name, one.inside) for one in found if one.name == "gateway"} == {("gateway", True), ("gateway", False)}
    assert any(one.name == "data images" and not one.inside for one in found)


def test_without_an_option_or_a_bound_nothing_changes(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of("startup")
    controls = list_controls(needs, catalog, PlanProvenance())
    assert add_residency_evidence(controls, ChosenOption(needs, catalog, PlanProvenance(), None, ())) == controls
    rest = tuple(one for one in controls if one.id != RESIDENCY_CONTROL)
    assert add_residency_evidence(rest, ChosenOption(needs, catalog, PlanProvenance(), None, ())) == rest


def test_what_is_outside_comes_first() -> None:
    found = (
        ResidencyFinding("a", "DE", (("EEA",),), True),
        ResidencyFinding("b", "US", (("EEA",), ("DE", "FR")), False),
        ResidencyFinding("c", "US", (), True),
        ResidencyFinding("a", "DE", (("EEA",),), True),
    )
    assert (
        format_locations(found) == "OUTSIDE: b in US, bound to EEA, and DE or FR; inside: a in DE; not bound: c in US"
    )
