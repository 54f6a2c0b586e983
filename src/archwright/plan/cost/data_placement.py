"""Placement of load and data of an option: shares of each workload by place, main places of data sets, copies."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec, Offer
from archwright.contract.needs import TEXT_KINDS, DataProfile, Needs, Placement, Workload
from archwright.contract.plan import OWN_PLACEMENTS
from archwright.errors import CatalogError
from archwright.plan.accounting.fleet import ChosenOption, Location, MachineFleet, locate_offer
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.control_plane import ControlPlaneHosting, ControlPlaneSizer, find_host_offer
from archwright.plan.cost.prices import PriceBook
from archwright.plan.demand.data_residency import (
    ResidencyBounds,
    collect_data_bounds,
    is_country_inside,
    is_region_inside,
)
from archwright.plan.demand.forecast import forecast_demand

NO_MODELS: Mapping[str, str] = MappingProxyType({})
RENTED_PLACEMENTS: frozenset[Placement] = frozenset({"cloud", "hybrid", "serverless"})
REFRESH_SUFFIX = "-refresh"


class OptionContext(NamedTuple):
    """The chosen machines and places of an option; `models`: open models by workload.

    `seat`: the machines of the control plane; `host`: rented for it because no machine of the option serves requests.
    """

    needs: Needs
    catalog: Catalog
    ledger: PlanProvenance
    quotes: PriceBook
    fleets: tuple[MachineFleet, ...]
    where: tuple[Location, ...]
    models: Mapping[str, ModelSpec]
    host: Offer | None = None
    seat: ControlPlaneHosting | None = None

    @property
    def storage_locations(self) -> tuple[Location, ...]:
        """Places that may store data: the option's own places or the host, else the provider of a hosted model."""
        mine = tuple(place for place in self.where if place.placement != "hosted-api")
        return (mine or self.where) if self.host is None else (locate_offer(self.catalog, self.host), *mine)

    @property
    def months(self) -> int:
        return self.needs.budget.horizon_months

    @property
    def main_location(self) -> Location | None:
        """Place of logs, metrics and control-plane state: an on-premises place first, never a remote site."""

        def rank(place: Location) -> tuple[bool, bool]:
            return self.is_remote_site(place), place.placement not in OWN_PLACEMENTS

        return min(self.storage_locations, key=rank, default=None)

    def is_remote_site(self, place: Location) -> bool:
        """True if only workloads of many sites (plants, branches) run there."""
        sited = {workload.name for workload in self.needs.workloads if workload.sites}
        here = [fleet for fleet in self.fleets if fleet.where == place]
        return bool(here) and all(sited.issuperset(fleet.workloads) for fleet in here)

    def load_shares(self, workload: Workload) -> dict[Location, float]:
        """Return the share of a workload per place, by accelerators (else machines); else the main place."""
        weights: dict[Location, float] = {}
        for fleet in self.fleets:
            if workload.name in {name.removesuffix(REFRESH_SUFFIX) for name in fleet.workloads}:
                work = sum(fleet.machines) * max(1, fleet.machine.accelerator_count)
                weights[fleet.where] = weights.get(fleet.where, 0.0) + work
        whole = sum(weights.values())
        if whole > 0:
            return {place: weight / whole for place, weight in weights.items()}
        return {self.main_location: 1.0} if self.main_location is not None else {}

    def home_location(self, data: DataProfile) -> Location | None:
        """Return the main place of a data set: inside its residency, then on-premises, then where it is used."""
        users = [workload for workload in self.needs.workloads if data.name in workload.data]
        used = {place for workload in users for place in self.load_shares(workload)}

        def rank(place: Location) -> tuple[bool, bool, bool, bool]:
            remote, foreign = self.is_remote_site(place), place.placement not in OWN_PLACEMENTS
            return not self.may_store_data(data, place), remote, foreign, place not in used

        return min(self.storage_locations, key=rank, default=None)

    def backup_location(self, data: DataProfile) -> Location | None:
        """Return the place of the backup: another allowed place of the option, else the main place."""
        home = self.home_location(data)
        others = (place for place in self.storage_locations if place != home and not self.is_remote_site(place))
        return next((place for place in others if self.may_store_data(data, place)), home)

    def copy_locations(self, data: DataProfile) -> tuple[Location, ...]:
        """Return other allowed places that serve requests with the data."""
        home = self.home_location(data)
        readers = [one for one in self.needs.workloads if one.kind in TEXT_KINDS and data.name in one.data]
        places = {place: None for workload in readers for place in self.load_shares(workload)}
        return tuple(place for place in places if place != home and self.may_store_data(data, place))

    def may_store_data(self, data: DataProfile, place: Location) -> bool:
        return self.is_within_bounds(collect_data_bounds(data), place)

    def is_within_bounds(self, bounds: ResidencyBounds, place: Location) -> bool:
        if place.placement in OWN_PLACEMENTS:
            return is_country_inside(self.catalog, bounds, place.country)
        return is_region_inside(self.catalog, bounds, place.provider, place.region)


def build_option_context(
    needs: Needs,
    catalog: Catalog,
    ledger: PlanProvenance,
    fleets: tuple[MachineFleet, ...],
    where: tuple[Location, ...],
    models: Mapping[str, str] = NO_MODELS,
) -> OptionContext:
    places = tuple(dict.fromkeys([*where, *(fleet.where for fleet in fleets)]))
    answers = list_online_workloads(needs)
    own = any(place.placement in OWN_PLACEMENTS for place in places)
    # A database cannot run on serverless workers, which stop.
    lasting = [fleet for fleet in fleets if fleet.where.placement != "serverless"]
    machines = own or any(answers.intersection(fleet.workloads) for fleet in lasting)
    rents = not RENTED_PLACEMENTS.isdisjoint(needs.placement.allow)
    case = OptionContext(
        needs=needs,
        catalog=catalog,
        ledger=ledger,
        quotes=PriceBook(needs, catalog, ledger),
        fleets=fleets,
        where=places,
        models=resolve_open_models(needs, catalog, models),
        host=find_host_offer(needs, catalog, places) if places and answers and rents and not machines else None,
    )
    main = case.main_location
    if main is None or (main.placement == "hosted-api" and case.host is None):
        return case
    return case._replace(seat=ControlPlaneSizer(needs, catalog, ledger).choose_hosting(main, fleets, host=case.host))


def list_online_workloads(needs: Needs) -> frozenset[str]:
    """Return the workloads that serve requests; jobs are not included."""
    months = needs.budget.horizon_months
    return frozenset(workload.name for workload in needs.workloads if forecast_demand(workload, months) is not None)


def build_chosen_context(chosen: ChosenOption) -> OptionContext:
    """Build the context of the chosen option; its places are those of its machines, or the provider of the models."""
    option = chosen.option
    where: list[Location] = []
    if option is not None and not chosen.fleets:
        # Only the first region is the provider's; those of other machines are derived again.
        regions = (option.regions[:1] if option.placement == "hosted-api" else option.regions) or ("",)
        for region in regions:
            known = chosen.catalog.region(option.provider, region)
            country = known.country if known is not None else region
            where.append(Location(option.placement, option.provider, region, country))
    models = option.models if option is not None else NO_MODELS
    return build_option_context(chosen.needs, chosen.catalog, chosen.ledger, chosen.fleets, tuple(where), models)


def resolve_open_models(needs: Needs, catalog: Catalog, chosen: Mapping[str, str]) -> dict[str, ModelSpec]:
    """Return the open model of each workload: chosen, fixed by the needs, or of the workload that it follows."""
    named = {workload.name for workload in needs.workloads}
    found: dict[str, ModelSpec] = {}
    for workload in sorted(needs.workloads, key=lambda one: one.base is not None):
        base = workload.base or ""
        name = chosen.get(workload.name) or workload.model or (base if base not in named else "")
        model = found.get(base)
        if name:
            try:
                model = catalog.find_specialist(name) or catalog.model(name)
            except CatalogError:  # a hosted model: the platform does not store its files
                continue
        if model is not None:
            found[workload.name] = model
    return found
