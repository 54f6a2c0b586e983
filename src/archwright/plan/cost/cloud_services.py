"""Costs of the cluster that a bundle makes at a cloud site, beside the machines that serve requests.

The rows of cloud_services.csv serve both: a bundle renders their `count` and `setting`, and here they are priced. The
system nodes carry the gateway, monitoring and operators. They replace the host of a control plane without a cluster.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import CloudService
from archwright.catalog.tables.records import Offer
from archwright.contract.number_format import format_exact
from archwright.contract.plan import OWN_PLACEMENTS
from archwright.contract.record import replace
from archwright.plan.accounting.cash_flow import CashFlow, make_varying_flow
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.cost.control_plane import ControlPlaneSizer, derive_host_offers
from archwright.plan.cost.data_placement import OptionContext, list_online_workloads
from archwright.plan.cost.prices import UnitPrice
from archwright.plan.demand.forecast import HOURS_PER_MONTH
from archwright.sizing.infrastructure.storage import WEIGHT_BYTES, count_trained_parameters

# One system node for each zone of a region.
LEAST_SYSTEM_NODES = 3
GIGABYTE = 1e9
STARTS_PART = "weights.starts"
REGION_PART = "region.spread"
# The database of a cluster is a service of the cloud, and has a line of its own.
SERVICE_PARTS = ("database",)
LASTING_PURCHASES = ("commit-1y", "commit-3y", "bought", "owned")


class SystemPool(NamedTuple):
    """The system nodes of a site: `counts` machines per month of `offer`, with the drivers of their number."""

    offer: Offer
    counts: tuple[int, ...]
    parts: tuple[str, ...]
    drivers: tuple[str, ...]

    @property
    def line(self) -> str:
        """The name of the cost line; bundles read the nodes and their type from it."""
        title = f"host of {', '.join(self.parts)}" if self.parts else "system nodes"
        low, high = min(self.counts), max(self.counts)
        number = f"{low}" if low == high else f"{low} to {high}"
        return f"{title}: {number} x {self.offer.instance_type} in {self.offer.region}"


def is_cluster_place(case: OptionContext, where: Location) -> bool:
    """True if a bundle makes a cluster there: the region serves requests, or is the rented part of a hybrid."""
    if where.placement != "cloud" or not case.catalog.services_of(where.provider):
        return False
    served = list_online_workloads(case.needs)
    here = [fleet for fleet in case.fleets if fleet.where == where]
    is_hybrid = any(fleet.where.placement in OWN_PLACEMENTS for fleet in case.fleets)
    return any(is_hybrid or served.intersection(fleet.workloads) for fleet in here)


def list_cluster_places(case: OptionContext) -> tuple[Location, ...]:
    places = dict.fromkeys(fleet.where for fleet in case.fleets)
    return tuple(place for place in places if is_cluster_place(case, place))


def price_cloud_services(case: OptionContext) -> Iterable[CashFlow]:
    """Yield a line for each service and for the system nodes of each cloud site."""
    for where in list_cluster_places(case):
        pool = size_system_pool(case, where)
        if pool is not None:
            price = case.quotes.offer(pool.offer)
            flow = [count * price.usd * HOURS_PER_MONTH for count in pool.counts]
            yield make_varying_flow(pool.line, "platform", flow, (*price.drivers, *pool.drivers))
        nodes = pool.counts if pool is not None else (LEAST_SYSTEM_NODES,) * case.months
        for row in case.catalog.services_of(where.provider):
            yield from _price_service(case, where, row, nodes)


def _price_service(
    case: OptionContext, where: Location, row: CloudService, nodes: tuple[int, ...]
) -> Iterable[CashFlow]:
    """Yield the line of a service, if the site has a unit of it in any month."""
    units = _count_units(case, where, row, nodes)
    if not any(units):
        return
    price = _find_price(case, where, row)
    flow = [number * row.count * price.usd for number in units]
    more = case.quotes.drivers((STARTS_PART,)) if row.per == "weight-read" else ()
    yield make_varying_flow(f"{row.item}: {where.region}", row.category, flow, (*price.drivers, *more))


def _find_price(case: OptionContext, where: Location, row: CloudService) -> UnitPrice:
    """Return USD per unit and month, or per GB that is read."""
    price = case.quotes.part(row.id)
    usd = price.usd * get_month_factor(row)
    if not row.region or row.region == where.region:
        return UnitPrice(usd, price.drivers)
    spread = case.quotes.part(REGION_PART)
    return UnitPrice(usd * spread.usd, (*price.drivers, *spread.drivers))


def get_month_factor(row: CloudService) -> float:
    """Return how often a unit is paid in a month."""
    return HOURS_PER_MONTH if row.unit == "USD/hour" else 1.0


def _count_units(case: OptionContext, where: Location, row: CloudService, nodes: tuple[int, ...]) -> tuple[float, ...]:
    if row.per == "system-node":
        return nodes
    if row.per == "weight-read":
        return _count_read_gigabytes(case, where)
    if row.per == "weight-volume":
        return (float(len(_list_model_workloads(case, where))),) * case.months
    is_present = row.per == "site" or where == case.main_location
    if row.per == "entrance":
        # The gateway reaches engines at another site through a load balancer of that site.
        is_present = is_present or bool(_list_model_workloads(case, where))
    return (float(is_present),) * case.months


def _list_model_workloads(case: OptionContext, where: Location) -> set[str]:
    """Return the workloads whose engines read weights at a place."""
    served = list_online_workloads(case.needs)
    here = {name for fleet in case.fleets if fleet.where == where for name in fleet.workloads}
    return here & served & set(case.models)


def _count_read_gigabytes(case: OptionContext, where: Location) -> tuple[float, ...]:
    """Return the GB of weights per month that starting machines read: machines x starts x weights in 16 bits."""
    read = [0.0] * case.months
    workloads = {one.name: one for one in case.needs.workloads}
    for name in sorted(_list_model_workloads(case, where)):
        parameters = count_trained_parameters(workloads[name], case.models) or 0.0
        gigabytes = parameters * WEIGHT_BYTES / GIGABYTE
        for fleet in case.fleets:
            if fleet.where == where and name in fleet.workloads:
                starts = _count_starts(case, fleet)
                read = [before + gigabytes * count for before, count in zip(read, starts, strict=True)]
    return tuple(read)


def _count_starts(case: OptionContext, fleet: MachineFleet) -> tuple[float, ...]:
    """Return starts per month; machines that always run start once a month, for a new version."""
    if fleet.purchase in LASTING_PURCHASES:
        return fleet.machines
    daily = case.quotes.parameter(STARTS_PART).value
    return tuple(daily * peak for peak in fleet.monthly_peaks)


def size_system_pool(case: OptionContext, where: Location) -> SystemPool | None:
    """Return the system nodes of a site; None if the catalog has no price of a general machine there.

    All workers of the gateway run on one node, beside the services of the node. At the main place, the nodes have the
    cores that the control plane needs.
    """
    is_main = where == case.main_location
    seat = case.seat if is_main else None
    workers = ControlPlaneSizer(case.needs, case.catalog, case.ledger).gateway_workers if is_main else 0
    planned = seat.offer.vcpu if seat is not None and seat.offer is not None else 0
    offer = find_system_machine(case.catalog, where, cores=max(planned, 1 + workers))
    if offer is None:
        return None
    if seat is None:
        return SystemPool(offer, (LEAST_SYSTEM_NODES,) * case.months, (), ())
    counts = tuple(max(LEAST_SYSTEM_NODES, math.ceil(count * planned / offer.vcpu)) for count in seat.counts)
    parts = tuple(part for part in seat.parts if part not in SERVICE_PARTS)
    drivers = (seat.machines,) if max(counts) > LEAST_SYSTEM_NODES else ()
    return SystemPool(offer, counts, parts, drivers)


def find_system_machine(catalog: Catalog, where: Location, *, cores: int) -> Offer | None:
    """Return the smallest general machine with so many cores, else the largest; its price follows its family's."""
    rows = sorted((row for row in catalog.system_machines if row.provider == where.provider), key=lambda row: row.cores)
    if not rows:
        return None
    wanted = next((row for row in rows if row.cores >= cores), rows[-1])
    names = {row.machine for row in rows}
    sold = [one for one in catalog.sold_offers(where.provider) if one.instance_type in names]
    here = [one for one in sold if one.region == where.region]
    priced = here or [one for one in derive_host_offers(catalog, where) if one.instance_type in names]
    # List prices of a family grow with its cores, so a size without a price gets that of the nearest one.
    nearest = min(priced, key=lambda one: (abs(one.vcpu - wanted.cores), one.id), default=None)
    if nearest is None or nearest.instance_type == wanted.machine:
        return nearest
    ratio = wanted.cores / nearest.vcpu
    return replace(
        nearest,
        id=f"{nearest.provider}:{nearest.region}:{wanted.machine}",
        instance_type=wanted.machine,
        vcpu=wanted.cores,
        ram_bytes=nearest.ram_bytes * ratio,
        on_demand_usd_per_hour=(nearest.on_demand_usd_per_hour or 0.0) * ratio,
        price_kind="derived",
        confidence="low",
        source=f"{nearest.instance_type} list price x {format_exact(ratio)}, by cores; {nearest.source}",
    )


def compute_site_usd(catalog: Catalog, provider: str) -> float:
    """Return the fixed cost in USD per month of a further region of a provider, without what depends on models."""
    counts = {"site": 1, "system-node": LEAST_SYSTEM_NODES}
    rows = catalog.services_of(provider)
    services = sum(counts.get(row.per, 0) * row.count * row.typical * get_month_factor(row) for row in rows)
    machines = {row.machine for row in catalog.system_machines if row.provider == provider}
    sold = [one for one in catalog.sold_offers(provider) if one.instance_type in machines]
    cheapest = min((one.on_demand_usd_per_hour or 0.0 for one in sold), default=0.0)
    return services + LEAST_SYSTEM_NODES * cheapest * HOURS_PER_MONTH
