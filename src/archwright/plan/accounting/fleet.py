"""Machines of an option, wherever they stand: what the bill, the sections and the report are made from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.catalog.tables.records import Offer
from archwright.contract.needs import Needs, Placement
from archwright.contract.plan import Option, PurchaseKind
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.sizing.hardware.machine import Machine


class Location(NamedTuple):
    """A place machines stand: `region` is a provider's region, or the country of a site of one's own."""

    placement: Placement
    provider: str
    region: str
    country: str


def locate_offer(catalog: Catalog, offer: Offer) -> Location:
    region = catalog.region(offer.provider, offer.region)
    return Location("cloud", offer.provider, offer.region, region.country if region is not None else "")


class MachineFleet(NamedTuple):
    """Equal machines, had in one way, that do some workloads' work. `machines[m]` run on average in month m, at most
    `peak` at once, spares included; `busy` is the share of that time at `busy_w`, the rest they idle.
    One of `offer` (rented) and `node` (bought or owned) says what they are; neither for the machine at hand. `widths`:
    machines one run of a job takes at once, where workloads share the fleet; a job that is not named may take all.
    `work`: machines' worth of work that each workload brings to the type, where several share it.
    """

    where: Location
    machine: Machine
    workloads: tuple[str, ...]
    purchase: PurchaseKind
    machines: tuple[float, ...]
    peak: int
    busy: float
    busy_w: float
    offer: Offer | None = None
    node: ServerSpec | None = None
    widths: Mapping[str, int] = MappingProxyType({})
    work: Mapping[str, float] = MappingProxyType({})

    @property
    def monthly_peaks(self) -> tuple[float, ...]:
        """The most that run at once in each month: who looks after them looks after all of these."""
        return compute_monthly_peaks(self.machines, self.peak)


def compute_monthly_peaks(machines: tuple[float, ...], peak: int) -> tuple[float, ...]:
    """The peak of each month, which goes with what runs on average."""
    most = max(machines, default=0.0)
    return tuple(peak * count / most for count in machines) if most > 0 else machines


class ChosenOption(NamedTuple):
    """The option a plan chose (None: nothing was feasible), with what stands behind it."""

    needs: Needs
    catalog: Catalog
    ledger: PlanProvenance
    option: Option | None
    fleets: tuple[MachineFleet, ...]
