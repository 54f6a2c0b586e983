"""Controls: demands of the regulations, the feature that meets each of them today, and evidence of residency.

A regulation's row names the features that meet a demand. Features that exist today are rows of guidance. A demand is
met by the program only if all its features exist and have a check, which `reconcile` runs on the platform: its
predicted share is 1. All other demands are tasks with an owner: a command to run, a document to write, or a missing
part.

Data sets, their copies and backups must lie in their own residency; an index, a checkpoint and a tuned model in that of
their source data; machines and the gateway in that of their workloads' data. Files of open models, metrics and logs
(without prompts and responses) hold no data: their places are listed, without a bound.
"""

import functools
import re
from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.guidance_rows import Feature, read_features
from archwright.catalog.tables.records import ControlRule
from archwright.catalog.tables.yaml_documents import read_document
from archwright.contract.estimate import exact_estimate
from archwright.contract.evidence import Control, Prediction, Query
from archwright.contract.needs import TRAINING_KINDS, Needs, Placement
from archwright.contract.plan import Option
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption, Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.data_placement import OptionContext, build_chosen_context, list_online_workloads
from archwright.plan.cost.storage_and_egress import StoredItem, list_stored_items
from archwright.plan.demand.data_residency import (
    UNRESTRICTED,
    ResidencyBounds,
    collect_bounds,
    collect_data_bounds,
    format_bounds,
    is_place_inside,
)
from archwright.plan.demand.model_selection import UNKNOWN

ControlStatus = Literal["built-in", "configured", "command", "organisational", "later"]

# The statuses of a control that checks of this program can show to hold.
CHECKED_STATUSES: tuple[ControlStatus, ...] = ("built-in", "configured")
# Demands that apply to some uses or roles only, which the needs do not state.
CONDITIONAL_TIERS = {
    "high_risk": "if the use is of high risk",
    "gpai_provider": "to a provider of a general-purpose model",
}
PLATFORM = "platform"
CHECKED_PLACEMENT: Placement = "this-machine"
CHECK_WINDOW_S = 60.0
ORGANISATIONAL_PATTERN = re.compile(r"register|template|checklist|policy|assessment|contract", re.IGNORECASE)
SLUG_PATTERN = re.compile(r"[^a-z0-9]+")
RESIDENCY_CONTROL = "needs.residency"
# The guidance row that the evidence of other controls quotes.
RESIDENCY_FEATURE = "residency"
INDEX_PREFIX = "vector index of "


def list_controls(needs: Needs, catalog: Catalog, ledger: PlanProvenance) -> tuple[Control, ...]:
    """Controls of the platform first, then those of each regulation in the order of its text."""
    found = list(_list_default_controls(needs))
    for name in needs.regulations:
        for rule in catalog.regulations[name].controls:
            found.append(_assess_rule(name, rule))
    tasks = sum(control.is_task for control in found)
    if tasks:
        ledger.add_not_sized(f"controls: {tasks} of {len(found)} demanded controls are tasks of the organisation")
    return tuple(found)


def _assess_rule(regulation: str, rule: ControlRule) -> Control:
    features: list[Feature] = []
    missing_parts: list[str] = []
    for part in rule.feature.split(","):
        feature = _find_feature(part.strip())
        if feature is None:
            missing_parts.append(part.strip())
        else:
            features.append(feature)

    missing = ", ".join(missing_parts)
    status = _choose_status(features, missing)
    checks = dict.fromkeys(feature.check for feature in features) if status in CHECKED_STATUSES else ()
    proof = "; ".join(dict.fromkeys(feature.proof for feature in features))
    slug = SLUG_PATTERN.sub("-", rule.clause.lower()).strip("-")
    return Control(
        id=f"{regulation}.{slug}",
        demanded_by=f"{regulation} {rule.clause}",
        demand=rule.demand,
        feature=rule.feature,
        evidence=rule.evidence if missing else proof,
        status=status,
        checks=tuple(checks),
        owner=rule.owner,
        missing=missing,
        provided=proof if missing else "",
        condition=CONDITIONAL_TIERS.get(rule.tier, ""),
    )


def _find_feature(part: str) -> Feature | None:
    return next((feature for feature in read_features() if re.fullmatch(feature.words, part.lower())), None)


def _choose_status(features: Collection[Feature], missing: str) -> ControlStatus:
    """Return the weakest status: a demand is met only as well as the worst of its parts."""
    if missing:
        return "organisational" if ORGANISATIONAL_PATTERN.search(missing) else "later"
    statuses = {feature.status for feature in features}
    if "command" in statuses:
        return "command"
    return "configured" if "configured" in statuses else "built-in"


def list_checks(controls: Iterable[Control]) -> tuple[str, ...]:
    """The checks that the controls name, each once."""
    return tuple(dict.fromkeys(check for control in controls for check in control.checks))


def predict_controls(
    controls: Iterable[Control], option: Option | None, ledger: PlanProvenance
) -> tuple[Prediction, ...]:
    """One prediction for each check of the controls; none if this release does not start the platform."""
    if option is None or option.placement != CHECKED_PLACEMENT:
        return ()
    found, metric = list[Prediction](), "control_held"
    measures = {feature.check: feature.measures for feature in read_features()}
    for name in list_checks(controls):
        share = exact_estimate(1.0, "share", ledger.create_basis(f"control.{name}", "formula", measures[name]))
        query = Query(metric=metric, labels={"control": name}, statistic="mean", window_s=CHECK_WINDOW_S)
        found.append(Prediction(id=f"{name}.held", metric=metric, workload=PLATFORM, estimate=share, query=query))
    return tuple(found)


@functools.cache
def _read_platform_controls() -> list[Control]:
    return read_document(DATA / "texts" / "platform_controls.yaml", list[Control])


def list_residency_places(needs: Needs) -> list[str]:
    return sorted({place for data in needs.data for place in data.residency if place != UNRESTRICTED})


def _list_default_controls(needs: Needs) -> Iterable[Control]:
    places = list_residency_places(needs)
    for control in _read_platform_controls():
        if control.id != RESIDENCY_CONTROL:
            yield control
        elif places:
            yield replace(control, demand=control.demand.format(places=", ".join(places)))


class ResidencyFinding(NamedTuple):
    """An item at a place, and the bounds in which it must lie; without bounds it may lie anywhere."""

    name: str
    place: str
    bounds: ResidencyBounds
    inside: bool


def add_residency_evidence(controls: tuple[Control, ...], chosen: ChosenOption) -> tuple[Control, ...]:
    """The controls of residency, with the places of the chosen option as their evidence."""
    if chosen.option is None or all(control.id != RESIDENCY_CONTROL for control in controls):
        return controls
    general = next(one.proof for one in read_features() if one.id == RESIDENCY_FEATURE)
    found = {RESIDENCY_CONTROL: format_locations(tuple(list_residency_findings(chosen)))}
    other = f"{RESIDENCY_CONTROL}: every pool and every store"
    return tuple(replace(one, evidence=found.get(one.id, one.evidence.replace(general, other))) for one in controls)


def format_locations(found: tuple[ResidencyFinding, ...]) -> str:
    groups: dict[str, dict[str, None]] = {"OUTSIDE": {}, "inside": {}, "not bound": {}}
    for one in found:
        title = "OUTSIDE" if not one.inside else "inside" if one.bounds else "not bound"
        bound = "" if one.inside else f", bound to {format_bounds(one.bounds)}"
        groups[title][f"{one.name} in {one.place}{bound}"] = None
    return "; ".join(f"{title}: {', '.join(names)}" for title, names in groups.items() if names)


def list_residency_findings(chosen: ChosenOption) -> Iterable[ResidencyFinding]:
    case = build_chosen_context(chosen)
    yield from _list_pool_findings(case, chosen)
    if case.seat is not None:
        online = list_online_workloads(case.needs)
        for workload in case.needs.workloads:
            if workload.name in online and not workload.sites:
                yield _make_finding(case, "gateway", case.seat.where, collect_bounds(case.needs, workload))
    for place in case.storage_locations:
        # The disk of this machine exists already, so the stored items, which are paid for, do not include its data.
        if place.placement == "this-machine":
            for data in case.needs.data:
                yield _make_finding(case, f"data {data.name}", place, collect_data_bounds(data))
    for one in list_stored_items(case):
        yield _make_finding(case, one.kept.name, one.where, _find_item_bounds(case, one))


def _list_pool_findings(case: OptionContext, chosen: ChosenOption) -> Iterable[ResidencyFinding]:
    """Workloads paid by the token have no pool: the places of the provider are listed instead."""
    option, served = chosen.option, set[str]()
    for pool in option.pools if option is not None else ():
        where = Location(pool.placement, pool.provider, pool.region, pool.region)
        served.update(pool.workloads)
        yield _make_finding(case, f"pool {pool.name}", where, _collect_bounds(case, pool.workloads))
    for fleet in case.fleets:
        rest = tuple(name for name in fleet.workloads if name not in served)
        if rest:
            yield _make_finding(case, f"machines of {', '.join(rest)}", fleet.where, _collect_bounds(case, rest))
    if option is None or option.placement != "hosted-api":
        return
    for workload in case.needs.workloads:
        if workload.name in option.models and workload.name not in served:
            bounds = collect_bounds(case.needs, workload)
            for place in sorted(case.catalog.hosted_places(option.provider, option.models[workload.name]) or {UNKNOWN}):
                inside = not bounds if place == UNKNOWN else is_place_inside(case.catalog, bounds, place)
                yield ResidencyFinding(f"{workload.name} at {option.provider}", place, bounds, inside)


def _collect_bounds(case: OptionContext, names: tuple[str, ...]) -> ResidencyBounds:
    workloads = (workload for workload in case.needs.workloads if workload.name in names)
    bounds = (collect_bounds(case.needs, workload) for workload in workloads)
    return tuple(dict.fromkeys(group for groups in bounds for group in groups))


def _find_item_bounds(case: OptionContext, one: StoredItem) -> ResidencyBounds:
    data = next((data for data in case.needs.data if data.name == one.kept.data), None)
    if data is not None:
        return collect_data_bounds(data)
    for workload in case.needs.workloads:
        trained = workload.kind in TRAINING_KINDS and one.kept.workload == workload.name
        if trained or one.kept.name == f"{INDEX_PREFIX}{workload.name}":
            return collect_bounds(case.needs, workload)
    return ()


def _make_finding(case: OptionContext, name: str, where: Location, bounds: ResidencyBounds) -> ResidencyFinding:
    return ResidencyFinding(name, where.region or where.country, bounds, case.is_within_bounds(bounds, where))
