"""Machines of the control plane: gateway, database, monitoring, catalogue of the data lake.

Cores at the peak of a month = sum over workloads of peak rate x ((CPU per request + output tokens x CPU per token) /
planned utilisation of a core + CPU per database record) + idle CPU of each part. Existing components of the
organisation need no machine here. A workload of many sites has its gateway on the machines of these sites.
Design: only the needs and the location decide, not the machines that serve requests, so more load never costs less.
"""

import math
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Offer
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs
from archwright.contract.number_format import format_ends, format_number
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import Location, MachineFleet, locate_offer
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import count_spares
from archwright.plan.capacity.candidates import BURSTABLE
from archwright.plan.demand.data_residency import ProximityRank, collect_all_bounds, is_region_inside, rank_proximity
from archwright.plan.demand.forecast import list_steady_demands, split_into_years

# Minimum machine if it also searches a vector index; minimum for the other parts alone. Assumed.
HOST_CORES, HOST_RAM_BYTES = 4, 16 * 2**30
MIN_CORES, MIN_RAM_BYTES = 2, 8 * 2**30
# A control plane of at most one core, without spares, shares a machine that has at least this many cores.
MAX_SHARED_CORES, MIN_SHARING_CORES = 1.0, 8
# Own servers with a spare keep the state of the cluster too: of three, a majority survives the loss of one.
REDUNDANT_OWN_SERVERS = 3
MAX_WORKERS = 64
SERVER_PART = "platform.server"
SERVER_CORES_PART = "platform.server-cores"
# The control-plane part that each kind of existing component replaces.
PART_BY_EXISTING_KIND = {"gateway": "gateway", "monitoring": "monitoring", "lake": "catalogue"}
GATEWAY_FACTS = ("gateway.request", "gateway.token", "gateway.busy", "database.request")
PLATFORM_PARTS = ("gateway", "database", "monitoring", "catalogue")


class ControlPlaneHosting(NamedTuple):
    """Machines of the control plane.

    `counts`: equal machines per month, spares included; `machines`: basis of their mean. `offer`: set if rented, else
    own servers. If all `counts` are 0, it shares the machines that serve requests.
    """

    where: Location
    parts: tuple[str, ...]
    counts: tuple[int, ...]
    machines: str
    cores: float
    offer: Offer | None = None

    @property
    def is_shared(self) -> bool:
        return not any(self.counts)


class ControlPlaneSizer:
    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger
        self._demands = tuple(demand for demand in list_steady_demands(needs) if not demand.workload.sites)
        self._parts = list_platform_parts(needs)
        self._other_facts = [f"platform.{part}" for part in self._parts if part != "gateway"]
        targets: list[float] = []
        for demand in self._demands:
            if demand.workload.slo.availability is not None:
                targets.append(demand.workload.slo.availability)
        self._gateway_availability = max(targets, default=None) if "gateway" in self._parts else None

    def choose_hosting(
        self, place: Location, fleets: tuple[MachineFleet, ...], *, host: Offer | None
    ) -> ControlPlaneHosting | None:
        """Choose machines at or near `place`; None if none is needed or known. `host`: rented stand-in for machines."""
        if not self._demands or not self._parts or place.placement == "this-machine":
            return None
        cores = self._peak_cores("typical")
        roomy = [one.machines for one in fleets if one.where == place and one.machine.cores >= MIN_SHARING_CORES]
        # In every month: owned machines leave at the end of their life.
        has_room = bool(roomy) and all(map(any, zip(*roomy, strict=True)))
        if max(cores) <= MAX_SHARED_CORES and not self._spare_count(1) and has_room:
            return ControlPlaneHosting(place, self._parts, (0,) * len(cores), "", max(cores))
        if place.placement == "on-premises":
            each = round(self._catalog.parameter(SERVER_CORES_PART).value)
            return self._build_hosting(place, each, f"{SERVER_PART}.{place.region}")
        found = next(filter(None, self._offers_by_distance(place, with_index=host is not None)), ())
        seats = []
        for offer in found:
            seat = self._build_hosting(locate_offer(self._catalog, offer), offer.vcpu, offer.id)._replace(offer=offer)
            seats.append((sum(seat.counts) * (offer.on_demand_usd_per_hour or 0.0), offer.id, seat))
        return min(seats, key=lambda one: one[:2])[2] if seats else None

    def _build_hosting(self, where: Location, each: int, name: str) -> ControlPlaneHosting:
        own = where.placement == "on-premises"
        counts = self._machine_counts(each, "typical", own=own)
        ends = [sum(self._machine_counts(each, end, own=own)) / len(counts) for end in ("low", "high")]
        value = sum(counts) / len(counts)
        cores = self._peak_cores("typical")
        names = (*(GATEWAY_FACTS if "gateway" in self._parts else ()), *self._other_facts)
        rows = [self._catalog.parts[name] for name in names]
        made = self._ledger.create_driver(
            Estimate(value=value, low=min(ends[0], value), high=max(ends[1], value), unit="machines"),
            f"platform.machines.{name}".lower(),
            "formula",
            f"machines of {', '.join(self._parts)}, mean over the horizon, spares included",
            formula=(
                f"cores at the peak ({format_number(cores[0])} in the first month, {format_number(max(cores))} at "
                f"most) / {each} per machine, rounded up, and the spares for the availability target"
            ),
            facts=tuple(
                f"{row.id}: {format_ends(row.low, row.typical, row.high)} {row.unit}, {row.source}" for row in rows
            ),
        )
        return ControlPlaneHosting(where, self._parts, counts, made.basis, max(cores))

    def _machine_counts(self, each: int, end: str, *, own: bool) -> tuple[int, ...]:
        needed = (max(1, math.ceil(cores / each)) for cores in self._peak_cores(end))
        counts = tuple(count + self._spare_count(count) for count in needed)
        if own and self._spare_count(1):
            return tuple(max(REDUNDANT_OWN_SERVERS, count) for count in counts)
        return counts

    def _spare_count(self, count: int) -> int:
        """Return the spares of `count` machines; only the gateway needs spares, because only it blocks requests."""
        if self._gateway_availability is None:
            return 0
        return count_spares(count, self._gateway_availability)

    def _peak_cores(self, end: str) -> tuple[float, ...]:
        """Return cores per month, at one end of every fact."""
        return tuple(self._add_gateway_cores(sum(self._fact_value(part, end) for part in self._other_facts), end))

    @property
    def gateway_cores(self) -> float:
        """Cores of the gateway alone at the peak of the first year; 0 if the organisation has its own gateway."""
        first = split_into_years(self._needs.budget.horizon_months)[0]
        return max(self._add_gateway_cores(0.0, "typical")[month] for month in first)

    @property
    def gateway_workers(self) -> int:
        """Processes of the gateway: one for each core at the peak of the first year."""
        return min(MAX_WORKERS, max(1, math.ceil(self.gateway_cores)))

    def _add_gateway_cores(self, idle: float, end: str) -> list[float]:
        months = [idle] * self._needs.budget.horizon_months
        if "gateway" in self._parts:
            for demand in self._demands:
                written = demand.output_tokens.mean * self._fact_value("gateway.token", end)
                busy = self._fact_value("gateway.busy", {"low": "high", "high": "low"}.get(end, end))
                each = (self._fact_value("gateway.request", end) + written) / busy
                each += self._fact_value("database.request", end)
                months = [now + each * demand.peak * growth for now, growth in zip(months, demand.growth, strict=True)]
        return months

    def _fact_value(self, name: str, end: str) -> float:
        value: float = getattr(self._catalog.parts[name], end)
        return value

    def _offers_by_distance(self, place: Location, *, with_index: bool) -> Iterable[tuple[Offer, ...]]:
        """Yield small machines in the region, then at the provider, then the nearest, inside all data's bounds."""
        least = (HOST_CORES, HOST_RAM_BYTES) if with_index else (MIN_CORES, MIN_RAM_BYTES)
        small = [
            offer
            for offer in self._catalog.sold_offers(place.provider)
            if _is_plain_offer(offer) and offer.vcpu >= least[0]
            if offer.ram_bytes >= least[1]
        ]
        yield tuple(offer for offer in small if offer.region == place.region)
        derived = derive_host_offers(self._catalog, place)
        yield tuple(offer for offer in derived if offer.vcpu >= least[0] and offer.ram_bytes >= least[1])
        bounds = collect_all_bounds(self._needs)
        yield tuple(offer for offer in small if is_region_inside(self._catalog, bounds, offer.provider, offer.region))
        nearest = find_host_offer(self._needs, self._catalog)
        yield (nearest,) if nearest is not None else ()


def list_platform_parts(needs: Needs) -> tuple[str, ...]:
    """Return the parts to run. The database stores keys and audit of the gateway, and the catalogue's tables."""
    existing = {PART_BY_EXISTING_KIND[line.kind] for line in needs.existing if line.kind in PART_BY_EXISTING_KIND}
    existing |= set() if needs.data else {"catalogue"}
    existing |= {"database"} if {"gateway", "catalogue"} <= existing else set()
    return tuple(part for part in PLATFORM_PARTS if part not in existing)


def _is_plain_offer(offer: Offer) -> bool:
    """True if the offer has no accelerator and runs at full speed all the time."""
    return offer.accelerator is None and not offer.notes.startswith(BURSTABLE)


def derive_host_offers(catalog: Catalog, place: Location) -> tuple[Offer, ...]:
    """Return the provider's small machines at a price derived for a region whose own prices are unknown.

    A region has one price level: the ratio of two regions is the median ratio of the accelerator machines that both
    sell. Prices are read from the region that shares the most types.
    """
    sold, levels = catalog.sold_offers(place.provider), dict[str, dict[str, float]]()
    for offer in sold:
        if offer.accelerator is not None and offer.on_demand_usd_per_hour:
            levels.setdefault(offer.region, {})[offer.instance_type] = offer.on_demand_usd_per_hour
    here, ratios = levels.get(place.region, {}), dict[str, list[float]]()
    for region in {offer.region for offer in sold if _is_plain_offer(offer)}:
        there = levels.get(region, {})
        ratios[region] = [usd / there[name] for name, usd in here.items() if name in there]
    home = max(sorted(ratios), key=lambda region: len(ratios[region]), default="")
    if not ratios.get(home):
        return ()
    ratio, found = median(ratios[home]), list[Offer]()
    for offer in sold:
        if offer.region == home and _is_plain_offer(offer) and offer.on_demand_usd_per_hour:
            derived = replace(
                offer,
                id=f"{offer.provider}:{place.region}:{offer.instance_type}",
                region=place.region,
                on_demand_usd_per_hour=offer.on_demand_usd_per_hour * ratio,
                commit_1y_usd_per_hour=None,
                commit_3y_usd_per_hour=None,
                spot_usd_per_hour=None,
                price_kind="derived",
                confidence="low",
                source=f"{home} list price x {format_number(ratio)}, the ratio of accelerator machines; {offer.source}",
            )
            found.append(derived)
    return tuple(found)


def find_host_offer(needs: Needs, catalog: Catalog, beside: Iterable[Location] = ()) -> Offer | None:
    """Return a small machine where all data may be, None if there is none.

    It is in a region of `beside` that is as near to the users, else the nearest, then cheapest.
    """
    bounds, clouds = collect_all_bounds(needs), needs.placement.clouds
    fitting = [
        offer
        for provider in catalog.cloud_providers
        if clouds is None or provider in clouds
        for offer in catalog.sold_offers(provider)
        if _is_host_offer(offer) and is_region_inside(catalog, bounds, offer.provider, offer.region)
    ]
    countries = {key: row.country for key, row in catalog.regions.items()}
    distances = {country: rank_proximity(needs, catalog, country) for country in {"", *countries.values()}}

    def rank(offer: Offer) -> tuple[ProximityRank, float, str]:
        country = countries.get((offer.provider, offer.region), "")
        return distances[country], offer.on_demand_usd_per_hour or 0.0, offer.id

    nearest = min(fitting, key=rank, default=None)
    shared = list[Offer]()
    for place in beside:
        if place.placement == "cloud" and is_region_inside(catalog, bounds, place.provider, place.region):
            here = [one for one in fitting if (one.provider, one.region) == (place.provider, place.region)]
            shared += here or filter(_is_host_offer, derive_host_offers(catalog, place))
    best = min(shared, key=rank, default=None)
    # A country is as near as another one of the same group.
    near = best is not None and (nearest is None or _rank_group(rank(best)[0]) <= _rank_group(rank(nearest)[0]))
    return best if near else nearest


def _is_host_offer(offer: Offer) -> bool:
    sized = HOST_CORES <= offer.vcpu <= 2 * HOST_CORES and offer.ram_bytes >= HOST_RAM_BYTES
    return _is_plain_offer(offer) and sized


def _rank_group(rank: ProximityRank) -> tuple[float, bool]:
    return rank[0], rank[2]
