"""Where everything of the chosen option lies: each pool, each store, the gateway; and whether data may be there.

Data sets, their copies and backups are bound by their own residency; the index of a retrieval, a checkpoint and a tuned
model by that of the data they are made of; machines and the gateway by the data of the workloads that they see. Files
of open models, metrics and logs hold no data (logs are kept without prompt and answer): their places are named, and
nothing binds them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.tables.guidance_rows import features
from archwright.contract.evidence import Control
from archwright.contract.needs import TRAINING_KINDS
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import Chosen, Where
from archwright.plan.cost.data_placement import Case, answering, case_of_chosen
from archwright.plan.cost.storage_and_egress import Lying, lying
from archwright.plan.demand.data_residency import Bounds, bounds_of, bounds_of_data, in_words, place_inside
from archwright.plan.demand.model_selection import UNKNOWN

CONTROL = "needs.residency"
# A row of guidance that other controls' evidence names.
FEATURE = "residency"
INDEX = "vector index of "


class Held(NamedTuple):
    """A thing at a place, and the bounds it must lie in; none bind it where there are none."""

    name: str
    place: str
    bounds: Bounds
    inside: bool


def located(controls: tuple[Control, ...], chosen: Chosen) -> tuple[Control, ...]:
    """The controls of residency with the places of this very option as their evidence."""
    if chosen.option is None or all(control.id != CONTROL for control in controls):
        return controls
    general = next(one.proof for one in features() if one.id == FEATURE)
    said = {CONTROL: in_places(tuple(whereabouts(chosen)))}
    return tuple(
        replace(one, evidence=said.get(one.id, one.evidence.replace(general, f"{CONTROL}: every pool and every store")))
        for one in controls
    )


def in_places(found: tuple[Held, ...]) -> str:
    """Whatever is outside first."""
    groups = (
        ("OUTSIDE", [f"{one.name} in {one.place}, bound to {in_words(one.bounds)}" for one in found if not one.inside]),
        ("inside", [f"{one.name} in {one.place}" for one in found if one.inside and one.bounds]),
        ("not bound", [f"{one.name} in {one.place}" for one in found if one.inside and not one.bounds]),
    )
    return "; ".join(f"{title}: {', '.join(dict.fromkeys(names))}" for title, names in groups if names)


def whereabouts(chosen: Chosen) -> Iterable[Held]:
    case = case_of_chosen(chosen)
    yield from _pools(case, chosen)
    if case.seat is not None:
        yield from _gateway(case, case.seat.where)
    for place in case.stores:
        # The disk of this machine is there already, so nothing of it is among what is paid for.
        if place.placement == "this-machine":
            yield from (_held(case, f"data {data.name}", place, bounds_of_data(data)) for data in case.needs.data)
    for one in lying(case):
        yield _held(case, one.kept.name, one.where, _bounds(case, one))


def _pools(case: Case, chosen: Chosen) -> Iterable[Held]:
    """Answers that are bought by the token have no pool: the provider's own places stand for one."""
    option, served = chosen.option, set[str]()
    for pool in option.pools if option is not None else ():
        where = Where(pool.placement, pool.provider, pool.region, pool.region)
        served.update(pool.workloads)
        yield _held(case, f"pool {pool.name}", where, _of_work(case, pool.workloads))
    for fleet in case.fleets:
        rest = tuple(name for name in fleet.workloads if name not in served)
        if rest:
            yield _held(case, f"machines of {', '.join(rest)}", fleet.where, _of_work(case, rest))
    if option is None or option.placement != "hosted-api":
        return
    for workload in case.needs.workloads:
        if workload.name in option.models and workload.name not in served:
            bounds = bounds_of(case.needs, workload)
            for place in sorted(case.catalog.hosted_places(option.provider, option.models[workload.name]) or {UNKNOWN}):
                inside = not bounds if place == UNKNOWN else place_inside(case.catalog, bounds, place)
                yield Held(f"{workload.name} at {option.provider}", place, bounds, inside)


def _of_work(case: Case, names: tuple[str, ...]) -> Bounds:
    bounds = (bounds_of(case.needs, workload) for workload in case.needs.workloads if workload.name in names)
    return tuple(dict.fromkeys(group for groups in bounds for group in groups))


def _gateway(case: Case, where: Where) -> Iterable[Held]:
    for workload in case.needs.workloads:
        if workload.name in answering(case.needs) and not workload.sites:
            yield _held(case, "gateway", where, bounds_of(case.needs, workload))


def _bounds(case: Case, one: Lying) -> Bounds:
    data = next((data for data in case.needs.data if data.name == one.kept.data), None)
    if data is not None:
        return bounds_of_data(data)
    for workload in case.needs.workloads:
        trained = workload.kind in TRAINING_KINDS and one.kept.workload == workload.name
        if trained or one.kept.name == f"{INDEX}{workload.name}":
            return bounds_of(case.needs, workload)
    return ()


def _held(case: Case, name: str, where: Where, bounds: Bounds) -> Held:
    return Held(name, where.region or where.country, bounds, case.within(bounds, where))
