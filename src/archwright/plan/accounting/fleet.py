"""Machines of an option and their locations: the input of costs, sections and report."""

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
    """A place where machines run; `region` is a provider's region, or the country of an own site."""

    placement: Placement
    provider: str
    region: str
    country: str


def locate_offer(catalog: Catalog, offer: Offer) -> Location:
    region = catalog.region(offer.provider, offer.region)
    return Location("cloud", offer.provider, offer.region, region.country if region is not None else "")


class MachineFleet(NamedTuple):
    """Equal machines with one purchase kind that run some workloads.

    `machines[m]`: machines that run on average in month m, spares included; `peak`: the most at one time. `busy`: share
    of that time at `busy_w`; the machines idle otherwise. `offer`: set if rented; `node`: set if bought or owned; the
    local machine has neither. `widths`: machines that one run of a job uses at a time if workloads share the fleet; a
    job without an entry may use all. `work`: mean busy machines per workload if several share the machine type.
    `age_months`: age of owned machines in the first month.
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
    age_months: float = 0.0

    @property
    def monthly_peaks(self) -> tuple[float, ...]:
        """The most machines that run at one time in each month; staff is sized by this number."""
        return compute_monthly_peaks(self.machines, self.peak)


def compute_monthly_peaks(machines: tuple[float, ...], peak: int) -> tuple[float, ...]:
    """Scale the peak to each month, in proportion to the machines that run on average."""
    most = max(machines, default=0.0)
    return tuple(peak * count / most for count in machines) if most > 0 else machines


class ChosenOption(NamedTuple):
    """The chosen option (None: no option is feasible), with its needs, facts and machines."""

    needs: Needs
    catalog: Catalog
    ledger: PlanProvenance
    option: Option | None
    fleets: tuple[MachineFleet, ...]
