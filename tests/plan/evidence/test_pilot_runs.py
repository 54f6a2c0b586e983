"""Pilot runs: what is far from every measured row, the run that narrows it, its cost and its command."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.catalog.catalog import Catalog
from archwright.cli import build_parser
from archwright.contract.decision import PilotRun
from archwright.contract.plan import Plan
from archwright.plan.evidence.pilot_runs import MAX_PILOTS, PILOT_HOURS, find_pilot
from archwright.sizing.inference.serving_prediction import model_identity
from archwright.sizing.step_time.fitted_tables import load_table


def pilot_of(catalog: Catalog, model: str, device: str, family: str = "vllm") -> PilotRun | None:
    return find_pilot(catalog.models[model], catalog.accelerators[device], family, catalog)


def test_a_measured_configuration_needs_no_pilot(catalog: Catalog) -> None:
    known = ("Llama-3.1-8B-Instruct", "H100-SXM-80GB")
    assert pilot_of(catalog, *known) is None
    far = pilot_of(catalog, *known, "another-engine")
    assert far is not None and far.subject == "engine another-engine"


def test_a_far_device_names_the_cheapest_machine_the_cost_and_a_command(catalog: Catalog) -> None:
    seen = load_table("serving").seen
    device = next(
        one for one in catalog.accelerators.values() if one.id not in seen["accelerator"] and offers(catalog, one.id)
    )
    model = next(one for one in catalog.models.values() if model_identity(one) not in seen["model"])
    pilot = pilot_of(catalog, model.id, device.id)
    assert pilot is not None and pilot.subject == f"model {model.id} and device {device.id}"
    least = min(offers(catalog, device.id))
    assert pilot.cost.value == pytest.approx(least * PILOT_HOURS.value) and pilot.cost.unit == "USD"
    assert pilot.cost.low < pilot.cost.value < pilot.cost.high
    assert pilot.band_after.factor < pilot.band.factor
    words = build_parser().parse_args(pilot.command.split()[1:])
    assert words.model == model.id and words.against == "plan.json"


def offers(catalog: Catalog, device: str) -> list[float]:
    whole = (one for one in catalog.offers if one.accelerator == device and one.accelerator_share >= 1)
    return [one.on_demand_usd_per_hour for one in whole if one.on_demand_usd_per_hour and catalog.has_valid_price(one)]


def test_a_device_that_nobody_rents_is_measured_when_it_is_delivered(catalog: Catalog) -> None:
    sold = {one.accelerator for one in catalog.offers}
    seen = load_table("serving").seen["accelerator"]
    device = next(
        one for one in catalog.accelerators.values() if one.id not in sold and one.id not in seen and one.flops
    )
    pilot = pilot_of(catalog, "Llama-3.1-8B-Instruct", device.id)
    assert pilot is not None and (pilot.machine, pilot.provider, pilot.cost.value) == (f"1 x {device.id}", "", 0.0)
    assert f"on the delivered 1 x {device.id}" in pilot.summary


def test_a_plan_lists_the_pilots_that_are_worth_their_cost(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("startup")
    assert 1 <= len(plan.decision.pilots) <= MAX_PILOTS
    for pilot in plan.decision.pilots:
        assert pilot.worth > pilot.cost.value > 0 and pilot.cost.unit == plan.currency
        assert plan.basis(pilot.cost.basis).facts == () and pilot.workload == "support-chat"
