"""Pilot runs: the measurement that narrows a prediction far from every measured row, with its cost.

A prediction is far if the fit has no row of its model, device or engine, or none of the two together. The run replays
the plan's traffic on the cheapest rented machine with the device. The prompts are random, so any region will do. After
it, the band is about that of a measured configuration.
"""

import math

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.decision import PilotRun
from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates
from archwright.contract.needs import TEXT_KINDS
from archwright.contract.number_format import format_estimate
from archwright.contract.plan import Option
from archwright.contract.record import replace
from archwright.plan.accounting.budget import USD, BudgetConverter
from archwright.plan.options.option_builder import BuiltOption, ProvisionedLoad
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.deployment_layout import estimate_speed
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.step_time import extrapolation, fitted_tables

# Assumed: order, start and load the model; warm up; replay the load three times.
PILOT_HOURS = Estimate(value=1.0, low=0.5, high=3.0, unit="h")
COMMAND = "archwright bench http://HOST:8000/v1 --against plan.json --model {model}"
MAX_PILOTS = 3


def find_pilot(
    model: ModelSpec, device: Accelerator, engine: str, catalog: Catalog, *, devices: int = 1, workload: str = ""
) -> PilotRun | None:
    """Return the run that narrows the prediction, with its cost in USD; None if the configuration was measured.

    `engine`: an engine family; `devices`: accelerators of one engine.
    """
    subject = _name_unmeasured(model, device, engine, catalog)
    fit = fitted_tables.load_table("serving")
    speed = estimate_speed(model, device, engine, catalog)
    doubt = serving_prediction.widen_for_distance(0, device, catalog)
    measured = ("tpot_s", serving_prediction.SEEN, serving_prediction.SERVER)
    after = serving_prediction.find_error_band(fit, measured, doubt)
    if not subject or after.factor >= speed.steps.factor:
        return None
    whole = (one for one in catalog.offers if one.accelerator == device.id and one.accelerator_share >= 1)
    able = (one for one in whole if one.accelerator_count >= devices and catalog.has_valid_price(one))
    priced = ((one.on_demand_usd_per_hour, one.id, one) for one in able if one.on_demand_usd_per_hour)
    usd, _, offer = min(priced, key=lambda each: each[:2], default=(0.0, "", None))
    price = catalog.estimate(offer, usd, "") if offer is not None else exact_estimate(0.0, "")
    return PilotRun(
        workload=workload,
        subject=subject,
        machine=offer.instance_type if offer is not None else f"{devices} x {device.id}",
        provider=offer.provider if offer is not None else "",
        hours=PILOT_HOURS,
        cost=multiply_estimates([price, PILOT_HOURS], USD),
        command=COMMAND.format(model=model.id),
        band=speed.steps,
        band_after=after,
    )


def find_query_pilot(query: ServingQuery, subjects: BenchmarkNameResolver) -> PilotRun | None:
    """Return the run that narrows the prediction of `query`; none for processors, which have rows of their own."""
    accelerator = subjects.accelerator(query.accelerator)
    if accelerator.kind == extrapolation.HOST_KIND:
        return None
    catalog = subjects.catalog
    engine = subjects.engine_family(query.engine or catalog.default_engine.id).id
    model = subjects.model(query.model)
    return find_pilot(model, accelerator, engine, catalog, devices=query.devices)


def _name_unmeasured(model: ModelSpec, device: Accelerator, engine: str, catalog: Catalog) -> str:
    """Return what the fit has no row of, "" if the configuration was measured."""
    fit, seen = fitted_tables.load_table("serving"), fitted_tables.load_table("serving").seen
    known = {
        f"model {model.id}": serving_prediction.model_identity(model) in seen["model"],
        f"device {device.id}": device.id in seen["accelerator"],
        "this engine" if engine == "other" else f"engine {engine}": engine in seen["engine"],
    }
    if unseen := [name for name, measured in known.items() if not measured]:
        return " and ".join(unseen)
    stratum = serving_prediction.classify_stratum(model, device, engine, seen)
    far = stratum != serving_prediction.SEEN or extrapolation.list_extrapolations(device, engine, fit)
    return f"{model.id} on {device.id}" if far else ""


def list_pilots(best: BuiltOption, option: Option, converter: BudgetConverter) -> tuple[PilotRun, ...]:
    """Return the pilots that are worth more than they cost, by worth over cost, in the budget's currency.

    Worth: the machines that the plan holds for the certainty and would not need with the narrower band, and the cost
    of the pool times the chance that the least certain latency limit of its workload breaks.
    """
    found = dict[str, PilotRun]()
    for load in best.serving:
        if isinstance(load, ProvisionedLoad) and load.demand.workload.kind in TEXT_KINDS:
            pilot = _price_pilot(load, best, option, converter)
            if pilot is not None and pilot.worth > pilot.cost.value:
                found[pilot.subject] = max(pilot, found.get(pilot.subject, pilot), key=lambda one: one.worth)
    ranked = sorted(found.values(), key=lambda one: -one.worth / one.cost.value if one.cost.value else -math.inf)
    return tuple(ranked[:MAX_PILOTS])


def _price_pilot(
    load: ProvisionedLoad, best: BuiltOption, option: Option, converter: BudgetConverter
) -> PilotRun | None:
    """Return the pilot of a load in the budget's currency, with its worth and a basis of the plan."""
    workload, steady, device = load.demand.workload, load.steady, load.machine.accelerator
    model = converter.catalog.models.get(steady.model)
    if device is None or model is None or not steady.devices:
        return None
    size, rate = {"devices": steady.devices}, converter.exchange_rate
    pilot = find_pilot(model, device, steady.engine, converter.catalog, workload=workload.name, **size)
    if pilot is None:
        return None
    now, after = (band.quantile(workload.slo.certainty) for band in (pilot.band, pilot.band_after))
    chances = [one.probability for one in option.limits if one.limit.startswith(f"{workload.name}.")]
    terms = (term for term in best.draft.terms or () if workload.name in term.machines_of)
    risk = max(0.0, 1 - after / now) + 1 - min(chances, default=1.0)
    basis = converter.ledger.create_basis(
        f"pilot.{workload.name}",
        "assumed",
        f"a pilot on {pilot.machine}: order, start, load the model, replay the load; factors on the step time",
        formula=f"list price x {format_estimate(PILOT_HOURS)}",
    )
    cost = pilot.cost.scaled(rate, unit=converter.budget.currency)
    numbers = {"cost": cost, "hours": pilot.hours, "band": pilot.band, "band_after": pilot.band_after}
    worth = risk * rate * sum(term.sum / len(term.machines_of) for term in terms)
    return replace(pilot, worth=worth, **{name: replace(one, basis=basis) for name, one in numbers.items()})
