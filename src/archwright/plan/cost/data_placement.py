"""Where an option's load and data lie: shares of each workload by place, a home for each data set, its copies."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec, Offer
from archwright.contract.needs import TEXT_KINDS, DataProfile, Needs, Placement, Workload
from archwright.contract.plan import OWN
from archwright.errors import CatalogError
from archwright.plan.accounting.fleet import Chosen, Fleet, Where, in_cloud
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.cost.control_plane import Platform, Seat, host_of
from archwright.plan.cost.prices import Quotes
from archwright.plan.demand.data_residency import Bounds, bounds_of_data, country_inside, region_inside
from archwright.plan.demand.forecast import demand_of

NO_MODELS: Mapping[str, str] = MappingProxyType({})
RENTED: frozenset[Placement] = frozenset({"cloud", "hybrid", "serverless"})
REFRESH = "-refresh"


class Case(NamedTuple):
    """An option as far as it is chosen: its machines and its places, the first of which is its main one. `models`
    are the open models of the workloads that run one. `host` says where the platform itself runs where the option has
    no machines that answer and the needs allow to rent one; `seat` says on what it runs, wherever that is.
    """

    needs: Needs
    catalog: Catalog
    ledger: Ledger
    quotes: Quotes
    fleets: tuple[Fleet, ...]
    where: tuple[Where, ...]
    models: Mapping[str, ModelSpec]
    host: Offer | None = None
    seat: Seat | None = None

    @property
    def stores(self) -> tuple[Where, ...]:
        """Where bytes may lie: the option's places, or the platform's host beside a model that answers elsewhere. Only
        where nothing else is known, with the provider of that model.
        """
        if self.host is None:
            return tuple(place for place in self.where if place.placement != "hosted-api") or self.where
        return (in_cloud(self.catalog, self.host), *(place for place in self.where if place.placement != "hosted-api"))

    @property
    def months(self) -> int:
        return self.needs.budget.horizon_months

    @property
    def main(self) -> Where | None:
        """Where logs, metrics and the platform's own state lie: a place of one's own first, never a remote site."""
        return min(self.stores, key=lambda place: (self.remote(place), place.placement not in OWN), default=None)

    def remote(self, place: Where) -> bool:
        """Nothing but workloads of many sites (plants, branches) runs there."""
        sited = {workload.name for workload in self.needs.workloads if workload.sites}
        here = [fleet for fleet in self.fleets if fleet.where == place]
        return bool(here) and all(sited.issuperset(fleet.workloads) for fleet in here)

    def places_of(self, workload: Workload) -> dict[Where, float]:
        """Shares of a workload's work, by the accelerators (else machines) that do it; the main place without any."""
        weights: dict[Where, float] = {}
        for fleet in self.fleets:
            if workload.name in {name.removesuffix(REFRESH) for name in fleet.workloads}:
                work = sum(fleet.machines) * max(1, fleet.machine.accelerator_count)
                weights[fleet.where] = weights.get(fleet.where, 0.0) + work
        whole = sum(weights.values())
        if whole > 0:
            return {place: weight / whole for place, weight in weights.items()}
        return {self.main: 1.0} if self.main is not None else {}

    def home(self, data: DataProfile) -> Where | None:
        """Where a data set lies: inside its residency, in the house before anywhere else, then where it is used."""
        users = [workload for workload in self.needs.workloads if data.name in workload.data]
        used = {place for workload in users for place in self.places_of(workload)}

        def strangeness(place: Where) -> tuple[bool, bool, bool, bool]:
            return (
                not self.inside(data, place),
                self.remote(place),
                place.placement not in OWN,
                place not in used,
            )

        return min(self.stores, key=strangeness, default=None)

    def vault(self, data: DataProfile) -> Where | None:
        """Where its backup lies: at another of the option's places, where it may, else beside it on other disks."""
        home = self.home(data)
        others = (place for place in self.stores if place != home and not self.remote(place))
        return next((place for place in others if self.inside(data, place)), home)

    def copies(self, data: DataProfile) -> tuple[Where, ...]:
        """Places beside its home that answer from it and where it may go."""
        home = self.home(data)
        readers = [one for one in self.needs.workloads if one.kind in TEXT_KINDS and data.name in one.data]
        places = {place: None for workload in readers for place in self.places_of(workload)}
        return tuple(place for place in places if place != home and self.inside(data, place))

    def inside(self, data: DataProfile, place: Where) -> bool:
        return self.within(bounds_of_data(data), place)

    def within(self, bounds: Bounds, place: Where) -> bool:
        if place.placement in OWN:
            return country_inside(self.catalog, bounds, place.country)
        return region_inside(self.catalog, bounds, place.provider, place.region)


def case_of(
    needs: Needs,
    catalog: Catalog,
    ledger: Ledger,
    fleets: tuple[Fleet, ...],
    where: tuple[Where, ...],
    models: Mapping[str, str] = NO_MODELS,
) -> Case:
    places = tuple(dict.fromkeys([*where, *(fleet.where for fleet in fleets)]))
    answers = answering(needs)
    own = any(place.placement in OWN for place in places)
    machines = own or any(answers.intersection(fleet.workloads) for fleet in fleets)
    rents = not RENTED.isdisjoint(needs.placement.allow)
    case = Case(
        needs=needs,
        catalog=catalog,
        ledger=ledger,
        quotes=Quotes(needs, catalog, ledger),
        fleets=fleets,
        where=places,
        models=models_of(needs, catalog, models),
        host=host_of(needs, catalog) if places and answers and rents and not machines else None,
    )
    if case.main is None or (case.main.placement == "hosted-api" and case.host is None):
        return case
    return case._replace(seat=Platform(needs, catalog, ledger).seat(case.main, fleets, host=case.host))


def answering(needs: Needs) -> frozenset[str]:
    """Workloads that answer requests as they come; what only runs now and then needs nobody to wait for it."""
    months = needs.budget.horizon_months
    return frozenset(workload.name for workload in needs.workloads if demand_of(workload, months) is not None)


def case_of_chosen(chosen: Chosen) -> Case:
    """Of what a plan chose; its places are its machines' and, bought by the token, the provider."""
    option = chosen.option
    where: list[Where] = []
    if option is not None and not chosen.fleets:
        # Behind the place where answers are bought come those of what stands beside it, which are found again.
        regions = (option.regions[:1] if option.placement == "hosted-api" else option.regions) or ("",)
        for region in regions:
            known = chosen.catalog.region(option.provider, region)
            country = known.country if known is not None else region
            where.append(Where(option.placement, option.provider, region, country))
    models = option.models if option is not None else NO_MODELS
    return case_of(chosen.needs, chosen.catalog, chosen.ledger, chosen.fleets, tuple(where), models)


def models_of(needs: Needs, catalog: Catalog, chosen: Mapping[str, str]) -> dict[str, ModelSpec]:
    """The open model of each workload that has one: as chosen, as the needs fix it, or of the workload it follows."""
    named = {workload.name for workload in needs.workloads}
    found: dict[str, ModelSpec] = {}
    for workload in sorted(needs.workloads, key=lambda one: one.base is not None):
        base = workload.base or ""
        name = chosen.get(workload.name) or workload.model or (base if base not in named else "")
        model = _open(catalog, name) if name else found.get(base)
        if model is not None:
            found[workload.name] = model
    return found


def _open(catalog: Catalog, name: str) -> ModelSpec | None:
    """None for a hosted model: its files are not ours to keep."""
    embedder = catalog.embedders.get(name)
    if embedder is not None:
        return embedder
    try:
        return catalog.model(name)
    except CatalogError:
        return None
