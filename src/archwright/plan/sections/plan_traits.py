"""Traits of a plan, by which guidance rows are selected, and the values that fill their texts."""

from collections.abc import Iterable, Iterator

from archwright.contract.needs import PRIVATE_SENSITIVITIES, SERVING_KINDS, TEXT_KINDS, TRAINING_KINDS, Needs, Workload
from archwright.contract.number_format import format_estimate, format_exact, format_number, format_share
from archwright.contract.plan import Option
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.data_placement import build_chosen_context
from archwright.plan.cost.facility_costs import list_training_fabrics
from archwright.plan.demand.specialist_models import name_reranker
from archwright.plan.evidence.controls import list_controls, list_residency_places

LARGE_ORGANISATION, SMALL_ORGANISATION = 1000, 50
OWN_PURCHASES = frozenset({"bought", "owned"})
# The text of a value that the plan does not have.
EMPTY_VALUE = "none"
ESTIMATE_FIELDS = {"total": "total_cost", "capex": "capex", "power": "power_kw", "cost": "cost_per_month"}
OPTION_VALUES = ("option", "placement", "provider", "regions", "machines", "models", "engines", *ESTIMATE_FIELDS)


def derive_traits(chosen: ChosenOption) -> frozenset[str]:
    return frozenset(trait for trait, holds in evaluate_traits(chosen).items() if holds)


def evaluate_traits(chosen: ChosenOption) -> dict[str, bool]:
    """Every trait that `when` and `unless` of a guidance row may name; those of an option only if there is one."""
    option, found = chosen.option, dict(_derive_needs_traits(chosen.needs))
    found |= {"decided": option is not None, "undecided": option is None}
    found["reranker-known"] = bool(name_reranker(chosen.needs, chosen.catalog))
    return found | dict(_derive_option_traits(chosen, option)) if option is not None else found


def _derive_needs_traits(needs: Needs) -> Iterator[tuple[str, bool]]:
    kinds = {workload.kind for workload in needs.workloads}
    yield "text", bool(kinds & TEXT_KINDS)
    yield "rag", "rag" in kinds
    yield "rerank", "rerank" in kinds
    yield "embedding", "embedding" in kinds
    yield "image", "image-classification" in kinds
    yield "tabular", bool(kinds & {"tabular-prediction", "forecast"})
    yield "classifier", bool(kinds & {"image-classification", "tabular-prediction", "forecast"})
    yield "serving", any(serves_requests(workload) for workload in needs.workloads)
    yield "training", bool(kinds & TRAINING_KINDS)
    yield "finetune", "finetune" in kinds
    yield "lora", any(workload.method == "lora" for workload in needs.workloads)
    yield "pretrain", "pretrain" in kinds
    yield "data", "data-processing" in kinds
    yield "batch", any(not serves_requests(workload) for workload in needs.workloads)
    yield "sites", any(workload.sites for workload in needs.workloads)
    yield "spares", any(workload.slo.availability is not None for workload in needs.workloads)
    yield "grows", any(w.traffic is not None and w.traffic.growth_per_year > 0 for w in needs.workloads)
    yield "bound", bool(list_residency_places(needs))
    classes = {data.sensitivity for data in needs.data}
    yield "sensitive", bool(classes & PRIVATE_SENSITIVITIES)
    yield "health", "health" in classes
    yield "payment", "payment" in classes
    yield "regulated", bool(needs.regulations)
    people = needs.organisation.employees
    yield "large", people is not None and people >= LARGE_ORGANISATION
    yield "small", people is not None and people < SMALL_ORGANISATION
    yield "monitoring-kept", any(kept.kind == "monitoring" for kept in needs.existing)


def serves_requests(workload: Workload) -> bool:
    """True if it answers requests as they arrive. Index refreshes have a serving kind, but no requests."""
    return workload.kind in SERVING_KINDS and workload.rate is not None


def _derive_option_traits(chosen: ChosenOption, option: Option) -> Iterator[tuple[str, bool]]:
    fleets, bought = chosen.fleets, {fleet.purchase for fleet in chosen.fleets}
    here = option.placement == "this-machine"
    yield "this-machine", here
    yield "own-machines", not here and (bool(bought & OWN_PURCHASES) or option.placement == "on-premises")
    yield "buys", "bought" in bought
    yield "rented", bool(bought - OWN_PURCHASES) or option.placement in ("cloud", "serverless")
    yield "hosted", option.placement == "hosted-api"
    yield "hybrid", option.placement == "hybrid"
    devices = {device.kind for fleet in fleets if (device := fleet.machine.accelerator) is not None}
    yield "gpu", bool(devices - {"cpu"}) or any(pool.parallelism.tensor > 1 for pool in option.pools)
    many = sum(fleet.peak for fleet in fleets) > 1 or sum(pool.replicas for pool in option.pools) > 1
    yield "several-machines", many and not here
    spans = list_training_fabrics(build_chosen_context(chosen))
    yield "several-nodes-train", bool(spans)
    yield "fabric", any(fabric.ports for _, fabric in spans)
    yield "several-regions", len(option.regions) > 1
    yield "scales", any(purchase.kind in ("on-demand", "spot", "per-second") for purchase in option.purchases)
    yield "committed", bool(bought & {"commit-1y", "commit-3y"})
    yield "spot", "spot" in bought


def build_template_values(chosen: ChosenOption) -> dict[str, str]:
    values = _build_needs_values(chosen.needs) | _build_option_values(chosen) | _format_machine_span(chosen)
    controls = list_controls(chosen.needs, chosen.catalog, PlanProvenance())
    checked = sum(not control.is_task for control in controls)
    models = chosen.option.models if chosen.option is not None else {}
    ranked = [workload.name for workload in chosen.needs.workloads if workload.kind == "rerank"]
    values["rerankers"] = _join_items(f"{models.get(name) or 'a reranker'}, for {name}" for name in ranked)
    values["reranker"] = name_reranker(chosen.needs, chosen.catalog) or EMPTY_VALUE
    return {**values, "answered": f"{checked} of {len(controls)} have a check"}


def _format_machine_span(chosen: ChosenOption) -> dict[str, str]:
    """Mean number of running machines in the first and in the last month, spares included."""
    first = sum(fleet.machines[0] for fleet in chosen.fleets)
    last = sum(fleet.machines[-1] for fleet in chosen.fleets)
    if not chosen.fleets and chosen.option is not None:
        first = last = sum(pool.replicas for pool in chosen.option.pools)
    if not last:
        return {"span": "no own machines"}
    if first == last:
        return {"span": f"{format_number(first)} {'machine' if first == 1 else 'machines'} throughout"}
    return {"span": f"{format_number(first)} machines on average in the first month, {format_number(last)} in the last"}


def _build_needs_values(needs: Needs) -> dict[str, str]:
    places = list_residency_places(needs)
    employees, staff = needs.organisation.employees, needs.organisation.platform_engineers
    people = "" if employees is None else ", one person" if employees == 1 else f", {format_exact(employees)} people"
    retained = ((data.name, data.retention_months) for data in needs.data)
    limited = [f"{name} {format_number(months)} months" for name, months in retained if months is not None]
    return {
        "organisation": needs.organisation.name,
        "country": needs.organisation.country,
        "people": people,
        "engineers": "an unstated number of" if staff is None else format_number(staff),
        "goals": _join_items(goal.text for goal in needs.goals),
        "workloads": _join_items(f"{w.name} ({w.kind})" for w in needs.workloads),
        "loads": _join_items(
            f"{w.name} {format_number(w.rate.mean)} requests/s, {format_number(w.rate.peak)} at peak"
            for w in needs.workloads
            if w.rate is not None and serves_requests(w)
        ),
        "limits": _join_items(limit for workload in needs.workloads for limit in format_service_levels(workload)),
        "trained": _join_items(w.name for w in needs.workloads if w.kind in TRAINING_KINDS),
        "growth": _join_items(
            f"{w.name} {format_share(w.traffic.growth_per_year)} a year"
            for w in needs.workloads
            if w.traffic is not None and w.traffic.growth_per_year > 0
        ),
        "stored": f"{format_number(sum(data.size_gib for data in needs.data))} GiB",
        "datasets": _join_items(f"{d.name} ({d.sensitivity}, {format_number(d.size_gib)} GiB)" for d in needs.data),
        "classes": _join_items(sorted({data.sensitivity for data in needs.data})),
        "kept_for": _join_items(limited) if limited else "without a limit in the needs",
        "places": _join_items(places),
        "bound": f"bound to {', '.join(places)}" if places else "bound to no place",
        "within": f" inside {', '.join(places)}" if places else "",
        "regulations": _join_items(needs.regulations),
        "sites": _join_items(f"{group.count} {name}" for name, group in needs.sites.items()),
        "horizon": f"{needs.budget.horizon_months} months",
        "existing": _join_items(f"{kept.product} ({kept.kind})" for kept in needs.existing),
    }


def format_service_levels(workload: Workload) -> Iterator[str]:
    slo = workload.slo
    for what, limit in (("TTFT", slo.ttft_p95_s), ("TPOT", slo.tpot_p95_s), ("latency", slo.latency_p95_s)):
        if limit is not None:
            yield f"{workload.name} {what} p95 <= {format_exact(limit)} s"
    if slo.availability is not None:
        yield f"{workload.name} availability {format_exact(slo.availability)}"


def _build_option_values(chosen: ChosenOption) -> dict[str, str]:
    option = chosen.option
    if option is None:
        return dict.fromkeys(OPTION_VALUES, EMPTY_VALUE)
    engines, launched = chosen.catalog.engines, [pool.launch.engine for pool in option.pools]
    estimates = {name: getattr(option, field) for name, field in ESTIMATE_FIELDS.items()}
    amounts = {name: EMPTY_VALUE if one is None else format_estimate(one) for name, one in estimates.items()}
    return {
        "option": option.name,
        "placement": option.placement,
        "provider": option.provider,
        "regions": _join_items(option.regions),
        "machines": _join_items(_list_machines(chosen)),
        "models": _join_items(f"{name}: {model}" for name, model in option.models.items()),
        "engines": _join_items(sorted({engines[name].product for name in launched if name in engines})),
        **amounts,
        # The rows add "a month".
        "cost": amounts["cost"].replace("/month", ""),
    }


def _list_machines(chosen: ChosenOption) -> Iterator[str]:
    for fleet in chosen.fleets:
        yield f"{fleet.peak} x {fleet.machine.id} ({fleet.purchase}) in {fleet.where.region}"
    if not chosen.fleets and chosen.option is not None:
        for pool in chosen.option.pools:
            yield f"{pool.replicas} x {pool.machine} in {pool.region}"


def _join_items(items: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(items)) or EMPTY_VALUE
