"""Where an option's load and data lie: shares of each workload by place, a home for each data set, its copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from archwright.catalog.facts import Catalog
from archwright.catalog.rows import ModelSpec
from archwright.contract.needs import TEXT_KINDS, DataProfile, Needs, Workload
from archwright.errors import CatalogError
from archwright.plan.fleet import Fleet, Where
from archwright.plan.ledger import Ledger
from archwright.plan.quotes import Quotes
from archwright.plan.residency import ANYWHERE, country_inside, region_inside

# Places of one's own: hardware stands there, and electricity is paid for.
OWN = frozenset({"on-premises", "this-machine"})
REFRESH = "-refresh"


class Case(NamedTuple):
    """An option as far as it is chosen: its machines and its places, the first of which is its main one. `models`
    are the open models of the workloads that run one.
    """

    needs: Needs
    catalog: Catalog
    ledger: Ledger
    quotes: Quotes
    fleets: tuple[Fleet, ...]
    where: tuple[Where, ...]
    models: Mapping[str, ModelSpec]

    @property
    def months(self) -> int:
        return self.needs.budget.horizon_months

    @property
    def main(self) -> Where | None:
        """Where logs, metrics and the platform's own state lie: a place of one's own first."""
        return min(self.where, key=lambda place: place.placement not in OWN, default=None)

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
        used = {
            place
            for workload in self.needs.workloads
            if data.name in workload.data
            for place in self.places_of(workload)
        }

        def strangeness(place: Where) -> tuple[bool, bool, bool]:
            return (not self.inside(data, place), place.placement not in OWN, place not in used)

        return min(self.where, key=strangeness, default=None)

    def copies(self, data: DataProfile) -> tuple[Where, ...]:
        """Places beside its home that answer from it and where it may go."""
        home = self.home(data)
        readers = [one for one in self.needs.workloads if one.kind in TEXT_KINDS and data.name in one.data]
        places = {place: None for workload in readers for place in self.places_of(workload)}
        return tuple(place for place in places if place != home and self.inside(data, place))

    def inside(self, data: DataProfile, place: Where) -> bool:
        bounds = () if ANYWHERE in data.residency else (data.residency,)
        if place.placement in OWN:
            return country_inside(self.catalog, bounds, place.country)
        return region_inside(self.catalog, bounds, place.provider, place.region)


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
