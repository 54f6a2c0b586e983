"""Pilot runs: the measurement that narrows a prediction far from every measured row, with its cost.

A prediction is far if the fit has no row of its model, device or engine, or none of the two together. The run replays
the plan's traffic on the cheapest rented machine with the device. The prompts are random, so any region will do. After
it, the band is about that of a measured configuration.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec, Offer
from archwright.contract.decision import PilotRun
from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates
from archwright.contract.needs import TEXT_KINDS
from archwright.contract.plan import Option
from archwright.contract.record import replace
from archwright.plan.accounting.budget import USD, BudgetConverter, OptionDraft
from archwright.plan.options.option_builder import BuiltOption, ProvisionedLoad
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.deployment_layout import estimate_speed
from archwright.sizing.step_time import extrapolation, fitted_tables

# Assumed: order, start and load the model; warm up; replay the load three times.
PILOT_HOURS = Estimate(value=1.0, low=0.5, high=3.0, unit="h")
COMMAND = "archwright bench http://HOST:8000/v1 --against plan.json --model {model}"
MAX_PILOTS = 3


class PilotSubject(NamedTuple):
    """One engine of the family `engine` with `model` on `devices` accelerators; `machine`: where the plan runs it."""

    model: ModelSpec
    accelerator: Accelerator
    devices: int
    engine: str
    machine: str = ""


def find_pilot(tested: PilotSubject, workload: str, catalog: Catalog) -> PilotRun | None:
    """Return the run that narrows the prediction, with its cost in USD; None if the configuration was measured."""
    model, device, engine = tested.model, tested.accelerator, tested.engine
    subject = _name_unmeasured(tested, catalog)
    fit, speed = fitted_tables.load_table("serving"), estimate_speed(model, device, engine, catalog)
    doubt = serving_prediction.widen_for_distance(0, device, catalog)
    after = serving_prediction.apply_band(1.0, fit, ("tpot_s", serving_prediction.SEEN, ""), doubt).to_estimate("")
    if not subject or after.factor >= speed.steps.factor:
        return None
    offer = min(_list_offers(tested, catalog), key=lambda one: (one.on_demand_usd_per_hour, one.id), default=None)
    cost = exact_estimate(0.0, USD)
    if offer is not None:
        price = catalog.estimate(offer, offer.on_demand_usd_per_hour or 0.0, f"{USD}/h")
        cost = multiply_estimates([price, PILOT_HOURS], USD)
    return PilotRun(
        workload=workload,
        subject=subject,
        machine=offer.instance_type if offer is not None else tested.machine or f"{tested.devices} x {device.id}",
        provider=offer.provider if offer is not None else "",
        region=offer.region if offer is not None else "",
        hours=PILOT_HOURS,
        cost=cost,
        command=COMMAND.format(model=model.id),
        band=speed.steps,
        band_after=after,
    )


def _name_unmeasured(tested: PilotSubject, catalog: Catalog) -> str:
    """Return what the fit has no row of, "" if the configuration was measured."""
    fit, model, device, engine = fitted_tables.load_table("serving"), tested.model, tested.accelerator, tested.engine
    seen = {
        f"model {model.id}": serving_prediction.model_identity(model) in fit.seen["model"],
        f"device {device.id}": device.id in fit.seen["accelerator"],
        f"engine {engine}": engine in fit.seen["engine"],
    }
    if unseen := [name for name, known in seen.items() if not known]:
        return " and ".join(unseen)
    stratum = serving_prediction.classify_stratum(model, device, engine, fit.seen)
    far = stratum != serving_prediction.SEEN or extrapolation.list_extrapolations(device, engine, fit, catalog)
    return f"{model.id} on {device.id}" if far else ""


def _list_offers(tested: PilotSubject, catalog: Catalog) -> Iterable[Offer]:
    for one in catalog.offers:
        same = one.accelerator == tested.accelerator.id and one.accelerator_share >= 1
        if same and one.accelerator_count >= tested.devices and one.on_demand_usd_per_hour:
            yield from (one,) * catalog.has_valid_price(one)


def list_pilots(best: BuiltOption, option: Option, converter: BudgetConverter) -> tuple[PilotRun, ...]:
    """Return the pilots that are worth more than they cost, by worth over cost, in the budget's currency.

    Worth: the machines that the plan holds for the certainty and would not need with the narrower band, and the cost
    of the pool times the chance that the least certain latency limit of its workload breaks.
    """
    catalog, rate, found = converter.catalog, converter.exchange_rate, dict[str, PilotRun]()
    for load in best.serving:
        if not isinstance(load, ProvisionedLoad) or load.demand.workload.kind not in TEXT_KINDS:
            continue
        workload, device, model = load.demand.workload, load.machine.accelerator, catalog.models.get(load.steady.model)
        if device is None or model is None or not load.steady.devices:
            continue
        tested = PilotSubject(model, device, load.steady.devices, load.steady.engine, load.machine.id)
        pilot = find_pilot(tested, workload.name, catalog)
        if pilot is None:
            continue
        now, after = (band.quantile(workload.slo.certainty) for band in (pilot.band, pilot.band_after))
        chances = [one.probability for one in option.limits if one.limit.startswith(f"{workload.name}.")]
        risk = max(0.0, 1 - after / now) + 1 - min((one for one in chances), default=1.0)
        worth = risk * _sum_machine_costs(best.draft, workload.name) * rate
        if worth > pilot.cost.value * rate and worth > getattr(found.get(pilot.subject), "worth", 0.0):
            found[pilot.subject] = replace(_register_bases(pilot, converter), worth=worth)
    ranked = sorted(found.values(), key=lambda one: -one.worth / one.cost.value if one.cost.value else -math.inf)
    return tuple(ranked[:MAX_PILOTS])


def _sum_machine_costs(draft: OptionDraft, name: str) -> float:
    terms = (term for term in draft.terms or () if name in term.machines_of)
    return sum(term.sum / len(term.machines_of) for term in terms)


def _register_bases(pilot: PilotRun, converter: BudgetConverter) -> PilotRun:
    """Return the pilot in the budget's currency, with a basis of the plan for its numbers."""
    basis = converter.ledger.create_basis(
        f"pilot.{pilot.workload}",
        "assumed",
        f"a pilot on {pilot.machine}: order, start, load the model, replay the load; factors on the step time",
        formula=f"list price x {pilot.hours.value:g} h ({pilot.hours.low:g} .. {pilot.hours.high:g})",
    )
    cost = pilot.cost.scaled(converter.exchange_rate, unit=converter.budget.currency)
    numbers = {"cost": cost, "hours": pilot.hours, "band": pilot.band, "band_after": pilot.band_after}
    return replace(pilot, **{name: replace(one, basis=basis) for name, one in numbers.items()})
