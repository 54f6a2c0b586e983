"""Where everything of the chosen option lies: each pool, each store, the gateway; and whether data may be there.

Data sets, their copies and backups are bound by their own residency; the index of a retrieval, a checkpoint and a tuned
model by that of the data they are made of; machines and the gateway by the data of the workloads that they see. Files
of open models, metrics and logs hold no data (logs are kept without prompt and answer): their places are named, and
nothing binds them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.tables.guidance_rows import read_features
from archwright.contract.evidence import Control
from archwright.contract.needs import TRAINING_KINDS
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption, Location
from archwright.plan.cost.data_placement import OptionContext, build_chosen_context, list_online_workloads
from archwright.plan.cost.storage_and_egress import StoredItem, list_stored_items
from archwright.plan.demand.data_residency import (
    ResidencyBounds,
    collect_data_bounds,
    collect_workload_bounds,
    format_bounds,
    is_place_inside,
)
from archwright.plan.demand.model_selection import UNKNOWN

RESIDENCY_CONTROL = "needs.residency"
# A row of guidance that other controls' evidence names.
RESIDENCY_FEATURE = "residency"
INDEX_PREFIX = "vector index of "


class ResidencyFinding(NamedTuple):
    """A thing at a place, and the bounds it must lie in; none bind it where there are none."""

    name: str
    place: str
    bounds: ResidencyBounds
    inside: bool


def add_residency_evidence(controls: tuple[Control, ...], chosen: ChosenOption) -> tuple[Control, ...]:
    """The controls of residency with the places of this very option as their evidence."""
    if chosen.option is None or all(control.id != RESIDENCY_CONTROL for control in controls):
        return controls
    general = next(one.proof for one in read_features() if one.id == RESIDENCY_FEATURE)
    said = {RESIDENCY_CONTROL: format_locations(tuple(list_residency_findings(chosen)))}
    return tuple(
        replace(
            one,
            evidence=said.get(
                one.id, one.evidence.replace(general, f"{RESIDENCY_CONTROL}: every pool and every store")
            ),
        )
        for one in controls
    )


def format_locations(found: tuple[ResidencyFinding, ...]) -> str:
    """Whatever is outside first."""
    groups = (
        (
            "OUTSIDE",
            [f"{one.name} in {one.place}, bound to {format_bounds(one.bounds)}" for one in found if not one.inside],
        ),
        ("inside", [f"{one.name} in {one.place}" for one in found if one.inside and one.bounds]),
        ("not bound", [f"{one.name} in {one.place}" for one in found if one.inside and not one.bounds]),
    )
    return "; ".join(f"{title}: {', '.join(dict.fromkeys(names))}" for title, names in groups if names)


def list_residency_findings(chosen: ChosenOption) -> Iterable[ResidencyFinding]:
    case = build_chosen_context(chosen)
    yield from _list_pool_findings(case, chosen)
    if case.seat is not None:
        yield from _list_gateway_findings(case, case.seat.where)
    for place in case.storage_locations:
        # The disk of this machine is there already, so nothing of it is among what is paid for.
        if place.placement == "this-machine":
            yield from (
                _make_finding(case, f"data {data.name}", place, collect_data_bounds(data)) for data in case.needs.data
            )
    for one in list_stored_items(case):
        yield _make_finding(case, one.kept.name, one.where, _find_item_bounds(case, one))


def _list_pool_findings(case: OptionContext, chosen: ChosenOption) -> Iterable[ResidencyFinding]:
    """Answers that are bought by the token have no pool: the provider's own places stand for one."""
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
            bounds = collect_workload_bounds(case.needs, workload)
            for place in sorted(case.catalog.hosted_places(option.provider, option.models[workload.name]) or {UNKNOWN}):
                inside = not bounds if place == UNKNOWN else is_place_inside(case.catalog, bounds, place)
                yield ResidencyFinding(f"{workload.name} at {option.provider}", place, bounds, inside)


def _collect_bounds(case: OptionContext, names: tuple[str, ...]) -> ResidencyBounds:
    bounds = (
        collect_workload_bounds(case.needs, workload) for workload in case.needs.workloads if workload.name in names
    )
    return tuple(dict.fromkeys(group for groups in bounds for group in groups))


def _list_gateway_findings(case: OptionContext, where: Location) -> Iterable[ResidencyFinding]:
    for workload in case.needs.workloads:
        if workload.name in list_online_workloads(case.needs) and not workload.sites:
            yield _make_finding(case, "gateway", where, collect_workload_bounds(case.needs, workload))


def _find_item_bounds(case: OptionContext, one: StoredItem) -> ResidencyBounds:
    data = next((data for data in case.needs.data if data.name == one.kept.data), None)
    if data is not None:
        return collect_data_bounds(data)
    for workload in case.needs.workloads:
        trained = workload.kind in TRAINING_KINDS and one.kept.workload == workload.name
        if trained or one.kept.name == f"{INDEX_PREFIX}{workload.name}":
            return collect_workload_bounds(case.needs, workload)
    return ()


def _make_finding(case: OptionContext, name: str, where: Location, bounds: ResidencyBounds) -> ResidencyFinding:
    return ResidencyFinding(name, where.region or where.country, bounds, case.is_within_bounds(bounds, where))
