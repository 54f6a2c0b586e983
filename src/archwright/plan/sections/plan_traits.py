"""What a plan is like, in words that guidance rows select by; its own numbers, in words that they are filled with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from archwright.contract.needs import PRIVATE, SERVING_KINDS, TEXT_KINDS, TRAINING_KINDS, Needs, Workload
from archwright.contract.plan import Option
from archwright.plan.accounting.fleet import Chosen, Fleet
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.cost.data_placement import case_of_chosen
from archwright.plan.cost.facility_costs import fabrics
from archwright.plan.demand.data_residency import ANYWHERE
from archwright.plan.evidence.controls import controls_of
from archwright.plan.explain.formatting import digits, shown

LARGE, SMALL = 1000, 50
OWN = frozenset({"bought", "owned"})
# What a promise without a value is called.
NOTHING = "none"

# Every trait that `when` and `unless` of a guidance row may name.
TRAITS: dict[str, str] = {
    "text": "generates text",
    "rag": "answers from documents",
    "embedding": "turns documents into vectors",
    "image": "recognises images",
    "tabular": "predicts from columns or series",
    "classifier": "image or tabular",
    "serving": "answers requests",
    "training": "trains or tunes",
    "finetune": "tunes a model",
    "lora": "tunes by adapters",
    "pretrain": "trains from scratch",
    "data": "processes data in bulk",
    "batch": "has work with an end: training, data, refreshes",
    "decided": "an option was chosen",
    "undecided": "none was feasible",
    "own-machines": "machines bought or owned",
    "buys": "machines are bought",
    "rented": "machines rented",
    "hosted": "a provider's model behind its interface",
    "this-machine": "the machine at hand",
    "hybrid": "house and outside together",
    "gpu": "accelerators are used",
    "several-machines": "more than one machine",
    "several-nodes-train": "one training job on more than one machine",
    "fabric": "a training job that needs a network of its own",
    "several-regions": "more than one region",
    "sites": "runs at plants or branches",
    "scales": "the number of rented machines follows the load",
    "committed": "a commitment of one or three years",
    "spot": "interruptible machines",
    "spares": "a promise of availability that takes spares",
    "grows": "load grows",
    "bound": "data is bound to places",
    "sensitive": "personal, health or payment data",
    "health": "health data",
    "payment": "payment data",
    "regulated": "regulations apply",
    "large": f"{LARGE:,} people or more",
    "small": f"fewer than {SMALL} people",
    "monitoring-kept": "the user's own monitoring stays",
}


def traits_of(chosen: Chosen) -> frozenset[str]:
    needs, option = chosen.needs, chosen.option
    found = {trait for trait, holds in _of_needs(needs) if holds}
    if option is None:
        return frozenset({*found, "undecided"})
    return frozenset({*found, "decided", *(trait for trait, holds in _of_option(chosen, option) if holds)})


def _of_needs(needs: Needs) -> Iterator[tuple[str, bool]]:
    kinds = {workload.kind for workload in needs.workloads}
    yield "text", bool(kinds & TEXT_KINDS)
    yield "rag", "rag" in kinds
    yield "embedding", "embedding" in kinds
    yield "image", "image-classification" in kinds
    yield "tabular", bool(kinds & {"tabular-prediction", "forecast"})
    yield "classifier", bool(kinds & {"image-classification", "tabular-prediction", "forecast"})
    yield "serving", any(answers(workload) for workload in needs.workloads)
    yield "training", bool(kinds & TRAINING_KINDS)
    yield "finetune", "finetune" in kinds
    yield "lora", any(workload.method == "lora" for workload in needs.workloads)
    yield "pretrain", "pretrain" in kinds
    yield "data", "data-processing" in kinds
    yield "batch", any(not answers(workload) for workload in needs.workloads)
    yield "sites", any(workload.sites for workload in needs.workloads)
    yield "spares", any(workload.slo.availability is not None for workload in needs.workloads)
    yield "grows", any(w.traffic is not None and w.traffic.growth_per_year > 0 for w in needs.workloads)
    yield "bound", bool(places_of(needs))
    classes = {data.sensitivity for data in needs.data}
    yield "sensitive", bool(classes & PRIVATE)
    yield "health", "health" in classes
    yield "payment", "payment" in classes
    yield "regulated", bool(needs.regulations)
    people = needs.organisation.employees
    yield "large", people is not None and people >= LARGE
    yield "small", people is not None and people < SMALL
    yield "monitoring-kept", any(kept.kind == "monitoring" for kept in needs.existing)


def answers(workload: Workload) -> bool:
    """It answers requests as they come. Refreshes of an index have a kind that serves, but no requests."""
    return workload.kind in SERVING_KINDS and workload.rate is not None


def _of_option(chosen: Chosen, option: Option) -> Iterator[tuple[str, bool]]:
    fleets, bought = chosen.fleets, {fleet.purchase for fleet in chosen.fleets}
    here = option.placement == "this-machine"
    yield "this-machine", here
    yield "own-machines", not here and (bool(bought & OWN) or option.placement == "on-premises")
    yield "buys", "bought" in bought
    yield "rented", bool(bought - OWN) or option.placement in ("cloud", "serverless")
    yield "hosted", option.placement == "hosted-api"
    yield "hybrid", option.placement == "hybrid"
    yield (
        "gpu",
        any(_accelerated(fleet) for fleet in fleets) or any(pool.parallelism.tensor > 1 for pool in option.pools),
    )
    many = sum(fleet.peak for fleet in fleets) > 1 or sum(pool.replicas for pool in option.pools) > 1
    yield "several-machines", many and not here
    spans = fabrics(case_of_chosen(chosen))
    yield "several-nodes-train", bool(spans)
    yield "fabric", any(fabric.ports for _, fabric in spans)
    yield "several-regions", len(option.regions) > 1
    yield "scales", any(purchase.kind in ("on-demand", "spot", "per-second") for purchase in option.purchases)
    yield "committed", bool(bought & {"commit-1y", "commit-3y"})
    yield "spot", "spot" in bought


def _accelerated(fleet: Fleet) -> bool:
    return fleet.machine.accelerator is not None and fleet.machine.accelerator.kind != "cpu"


def places_of(needs: Needs) -> list[str]:
    """The places data is bound to."""
    return sorted({place for data in needs.data for place in data.residency if place != ANYWHERE})


def words_of(chosen: Chosen) -> dict[str, str]:
    """Every `{word}` a guidance row may hold."""
    return {
        **_needs_words(chosen.needs),
        **_option_words(chosen),
        **_counts(chosen),
        "answered": _answered(chosen),
    }


def _answered(chosen: Chosen) -> str:
    """The same count as everywhere: all controls, and those that what runs proves."""
    controls = controls_of(chosen.needs, chosen.catalog, Ledger())
    return f"{sum(control.status == 'built-in' for control in controls)} of {len(controls)} are proved by what runs"


def _counts(chosen: Chosen) -> dict[str, str]:
    """Machines at both ends of the horizon: running on average, spares included."""
    first = sum(fleet.machines[0] for fleet in chosen.fleets)
    last = sum(fleet.machines[-1] for fleet in chosen.fleets)
    if not chosen.fleets and chosen.option is not None:
        first = last = sum(pool.replicas for pool in chosen.option.pools)
    if not last:
        return {"span": "no machines of one's own"}
    if first == last:
        return {"span": f"{digits(first)} {'machine' if first == 1 else 'machines'} throughout"}
    return {"span": f"{digits(first)} machines on average in the first month, {digits(last)} in the last"}


def _needs_words(needs: Needs) -> dict[str, str]:
    places = places_of(needs)
    stored = sum(data.size_gib for data in needs.data)
    trained = [w.name for w in needs.workloads if w.kind in TRAINING_KINDS]
    classes = {data.sensitivity for data in needs.data}
    staff = needs.organisation.platform_engineers
    return {
        "organisation": needs.organisation.name,
        "country": needs.organisation.country,
        "people": _people(needs.organisation.employees),
        "engineers": "an unstated number of" if staff is None else digits(staff),
        "goals": _listed(goal.text for goal in needs.goals),
        "workloads": _listed(f"{w.name} ({w.kind})" for w in needs.workloads),
        "loads": _listed(_load(workload) for workload in needs.workloads if answers(workload)),
        "limits": _listed(limit for workload in needs.workloads for limit in limits_of(workload)),
        "trained": _listed(trained),
        "growth": _listed(_growth(needs.workloads)),
        "stored": f"{digits(stored)} GiB",
        "datasets": _listed(f"{d.name} ({d.sensitivity}, {digits(d.size_gib)} GiB)" for d in needs.data),
        "classes": _listed(sorted(classes)),
        "kept_for": _kept_for(needs),
        "places": _listed(places),
        "bound": f"bound to {', '.join(places)}" if places else "bound to no place",
        "within": f" inside {', '.join(places)}" if places else "",
        "regulations": _listed(needs.regulations),
        "sites": _listed(f"{group.count} {name}" for name, group in needs.sites.items()),
        "horizon": f"{needs.budget.horizon_months} months",
        "existing": _listed(f"{kept.product} ({kept.kind})" for kept in needs.existing),
    }


def _kept_for(needs: Needs) -> str:
    stated = [f"{d.name} {digits(d.retention_months)} months" for d in needs.data if d.retention_months is not None]
    return _listed(stated) if stated else "as long as the needs do not say"


def _people(employees: int | None) -> str:
    if employees is None:
        return ""
    return ", one person" if employees == 1 else f", {employees:,} people"


def _load(workload: Workload) -> str:
    rate = workload.rate
    return f"{workload.name} {digits(rate.mean)} requests/s, {digits(rate.peak)} at peak" if rate is not None else ""


def limits_of(workload: Workload) -> Iterator[str]:
    """The service levels asked for, each in words."""
    slo = workload.slo
    for what, limit in (("TTFT", slo.ttft_p95_s), ("TPOT", slo.tpot_p95_s), ("latency", slo.latency_p95_s)):
        if limit is not None:
            yield f"{workload.name} {what} p95 <= {limit:g} s"
    if slo.availability is not None:
        yield f"{workload.name} up {slo.availability:.6g} of the time"


def _growth(workloads: Iterable[Workload]) -> Iterator[str]:
    for workload in workloads:
        if workload.traffic is not None and workload.traffic.growth_per_year > 0:
            yield f"{workload.name} {workload.traffic.growth_per_year:.0%} a year"


def _option_words(chosen: Chosen) -> dict[str, str]:
    option = chosen.option
    if option is None:
        empty = (
            "option",
            "placement",
            "provider",
            "regions",
            "machines",
            "models",
            "engines",
            "cost",
            "total",
            "capex",
        )
        return {**dict.fromkeys(empty, NOTHING), "power": NOTHING}
    return {
        "option": option.name,
        "placement": option.placement,
        "provider": option.provider,
        "regions": _listed(option.regions),
        "machines": _listed(_machines(chosen)),
        "models": _listed(f"{name}: {model}" for name, model in option.models.items()),
        "engines": _listed(engines_of(chosen)),
        # Rows say "a month" themselves.
        "cost": NOTHING if option.cost_per_month is None else shown(option.cost_per_month).replace("/month", ""),
        "total": NOTHING if option.total_cost is None else shown(option.total_cost),
        "capex": NOTHING if option.capex is None else shown(option.capex),
        "power": NOTHING if option.power_kw is None else shown(option.power_kw),
    }


def _machines(chosen: Chosen) -> Iterator[str]:
    for fleet in chosen.fleets:
        yield f"{fleet.peak} x {fleet.machine.id} ({fleet.purchase}) in {fleet.where.region}"
    if not chosen.fleets and chosen.option is not None:
        for pool in chosen.option.pools:
            yield f"{pool.replicas} x {pool.machine} in {pool.region}"


def engines_of(chosen: Chosen) -> list[str]:
    """Products of the engines the pools start, as the catalog calls them."""
    pools = chosen.option.pools if chosen.option is not None else ()
    known = chosen.catalog.engines
    return sorted({known[pool.launch.engine].product for pool in pools if pool.launch.engine in known})


def _listed(items: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(items)) or NOTHING
