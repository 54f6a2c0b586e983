"""Machines of the platform itself: gateway, database, monitoring, the lake's catalogue.

Cores at the peak of a month = sum over workloads of peak rate x (CPU of a request + tokens of its answer x CPU of a
token) / the busy share a core is planned for + CPU of a database record for each request + what each part takes without
any load. What an organisation runs already is kept and takes nothing here; a workload of many sites has its gateway on
the machines there. Only the needs and the place decide, never the machines that answer: so more load never costs less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Offer
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs
from archwright.plan.accounting.fleet import Location, MachineFleet, locate_offer
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import count_spares
from archwright.plan.capacity.candidates import BURSTABLE
from archwright.plan.demand.data_residency import (
    ProximityRank,
    collect_all_bounds,
    collect_bounds,
    is_region_inside,
    rank_proximity,
)
from archwright.plan.demand.forecast import Demand, list_steady_demands, split_into_years

# Beside a retrieval, whose index it searches; else what a database and its neighbours start on. Assumed.
HOST_CORES, HOST_RAM_BYTES = 4, 16 * 2**30
MIN_CORES, MIN_RAM_BYTES = 2, 8 * 2**30
# A platform of one core at most needs no machine of its own beside one that has so many, where none is kept spare.
MAX_SHARED_CORES, MIN_SHARING_CORES = 1.0, 8
SERVER_PART = "platform.server"
SERVER_CORES_PART = "platform.server-cores"
# The part of the platform that each kind of existing system is.
PART_BY_EXISTING_KIND = {"gateway": "gateway", "monitoring": "monitoring", "lake": "catalogue"}
GATEWAY_FACTS = ("gateway.request", "gateway.token", "gateway.busy", "database.request")
PLATFORM_PARTS = ("gateway", "database", "monitoring", "catalogue")


class ControlPlaneHosting(NamedTuple):
    """Where the platform runs: `counts` equal machines month by month, spares included; `machines` is their mean with
    the band of what they are sized from. `offer`: rented; without it servers of one's own, or, with no machine of its
    own (`counts` 0), those that answer.
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

    def choose_hosting(
        self, place: Location, fleets: tuple[MachineFleet, ...], *, host: Offer | None
    ) -> ControlPlaneHosting | None:
        """Machines at `place` or near it; None where none are needed or known. `host`: it stands in for machines."""
        if not self._demands or not self._parts or place.placement == "this-machine":
            return None
        cores = self._peak_cores("typical")
        if max(cores) <= MAX_SHARED_CORES and not self._spare_count(1) and _has_spare_cores(fleets, place):
            return ControlPlaneHosting(place, self._parts, (0,) * len(cores), "", max(cores))
        if place.placement == "on-premises":
            each = round(self._catalog.parameter(SERVER_CORES_PART).value)
            return self._build_hosting(place, each, f"{SERVER_PART}.{place.region}")
        found = next(filter(None, self._offers_by_distance(place, beside_retrieval=host is not None)), ())
        seats = []
        for offer in found:
            seat = self._build_hosting(locate_offer(self._catalog, offer), offer.vcpu, offer.id)._replace(offer=offer)
            seats.append((sum(seat.counts) * (offer.on_demand_usd_per_hour or 0.0), offer.id, seat))
        return min(seats, key=lambda one: one[:2])[2] if seats else None

    def _build_hosting(self, where: Location, each: int, name: str) -> ControlPlaneHosting:
        counts = self._machine_counts(each, "typical")
        ends = [sum(self._machine_counts(each, end)) / len(counts) for end in ("low", "high")]
        value = sum(counts) / len(counts)
        cores = self._peak_cores("typical")
        facts = [f"platform.{part}" for part in self._parts if part != "gateway"]
        rows = [self._catalog.parts[name] for name in (*(GATEWAY_FACTS if "gateway" in self._parts else ()), *facts)]
        basis = self._ledger.create_basis(
            f"platform.machines.{name}".lower(),
            "formula",
            f"machines of {', '.join(self._parts)}, mean over the horizon, spares included",
            formula=(
                f"cores at the peak ({cores[0]:.3g} in the first month, {max(cores):.3g} at most) / {each} a machine, "
                "rounded up, and the spares that availability asks for"
            ),
            facts=tuple(
                f"{row.id}: {row.low:g} .. {row.typical:g} .. {row.high:g} {row.unit}, {row.source}" for row in rows
            ),
        )
        made = Estimate(value=value, low=min(ends[0], value), high=max(ends[1], value), unit="machines", basis=basis)
        return ControlPlaneHosting(where, self._parts, counts, self._ledger.register_driver(made), max(cores))

    def _machine_counts(self, each: int, end: str) -> tuple[int, ...]:
        needed = (max(1, math.ceil(cores / each)) for cores in self._peak_cores(end))
        return tuple(count + self._spare_count(count) for count in needed)

    def _spare_count(self, count: int) -> int:
        """Who asks waits for the gateway alone: what else is down for a while stops nobody."""
        asked = [target for one in self._demands if (target := one.workload.slo.availability) is not None]
        return count_spares(count, max(asked)) if asked and "gateway" in self._parts else 0

    def _peak_cores(self, end: str) -> tuple[float, ...]:
        """Month by month, at one end of every fact."""
        idle = sum(self._fact_value(f"platform.{part}", end) for part in self._parts if part != "gateway")
        return tuple(self._add_gateway_cores(idle, end))

    @property
    def gateway_cores(self) -> float:
        """Cores of the gateway alone at the peak of the first year; 0 where the gateway is not ours."""
        first = split_into_years(self._needs.budget.horizon_months)[0]
        return max(self._add_gateway_cores(0.0, "typical")[month] for month in first)

    def _add_gateway_cores(self, idle: float, end: str) -> list[float]:
        months = [idle] * self._needs.budget.horizon_months
        if "gateway" in self._parts:
            for demand in self._demands:
                each = self._core_seconds_per_request(demand, end)
                months = [now + each * demand.peak * growth for now, growth in zip(months, demand.growth, strict=True)]
        return months

    def _core_seconds_per_request(self, demand: Demand, end: str) -> float:
        """Core-seconds a request, at the busy share that a core is planned for."""
        answered = demand.output_tokens.mean * self._fact_value("gateway.token", end)
        busy = self._fact_value("gateway.busy", {"low": "high", "high": "low"}.get(end, end))
        return (self._fact_value("gateway.request", end) + answered) / busy + self._fact_value("database.request", end)

    def _fact_value(self, name: str, end: str) -> float:
        value: float = getattr(self._catalog.parts[name], end)
        return value

    def _offers_by_distance(self, place: Location, *, beside_retrieval: bool) -> Iterable[tuple[Offer, ...]]:
        """Small machines there, then elsewhere at the provider, then the nearest of all, inside all data's bounds."""
        least = (HOST_CORES, HOST_RAM_BYTES) if beside_retrieval else (MIN_CORES, MIN_RAM_BYTES)
        small = [
            offer
            for offer in self._catalog.offers
            if offer.provider == place.provider and _is_plain_offer(offer) and offer.vcpu >= least[0]
            if offer.ram_bytes >= least[1]
        ]
        yield tuple(offer for offer in small if offer.region == place.region)
        bounds = collect_all_bounds(self._needs)
        yield tuple(offer for offer in small if is_region_inside(self._catalog, bounds, offer.provider, offer.region))
        nearest = find_host_offer(self._needs, self._catalog)
        yield (nearest,) if nearest is not None else ()


def list_platform_parts(needs: Needs) -> tuple[str, ...]:
    """What is ours. The database keeps keys and audit of the gateway and the catalogue's tables."""
    theirs = {PART_BY_EXISTING_KIND[line.kind] for line in needs.existing if line.kind in PART_BY_EXISTING_KIND}
    theirs |= set() if needs.data else {"catalogue"}
    theirs |= {"database"} if {"gateway", "catalogue"} <= theirs else set()
    return tuple(part for part in PLATFORM_PARTS if part not in theirs)


def _has_spare_cores(fleets: tuple[MachineFleet, ...], place: Location) -> bool:
    """In every month: owned machines go at their end."""
    roomy = [fleet.machines for fleet in fleets if fleet.where == place and fleet.machine.cores >= MIN_SHARING_CORES]
    return bool(roomy) and all(map(any, zip(*roomy, strict=True)))


def _is_plain_offer(offer: Offer) -> bool:
    """Without accelerators, at full speed all the time, with a price."""
    steady = not offer.notes.startswith(BURSTABLE)
    return offer.accelerator is None and steady and bool(offer.on_demand_usd_per_hour)


def find_host_offer(needs: Needs, catalog: Catalog) -> Offer | None:
    """The nearest small machine where all the data may lie, of those the cheapest; None when there is none."""
    bounds = tuple(bound for workload in needs.workloads for bound in collect_bounds(needs, workload))
    clouds = needs.placement.clouds
    fitting = (
        offer
        for offer in catalog.offers
        if _is_plain_offer(offer)
        and HOST_CORES <= offer.vcpu <= 2 * HOST_CORES
        and offer.ram_bytes >= HOST_RAM_BYTES
        and (clouds is None or offer.provider in clouds)
        and is_region_inside(catalog, bounds, offer.provider, offer.region)
    )
    countries = {key: row.country for key, row in catalog.regions.items()}
    distances = {country: rank_proximity(needs, catalog, country) for country in {"", *countries.values()}}

    def dearness(offer: Offer) -> tuple[ProximityRank, float, str]:
        country = countries.get((offer.provider, offer.region), "")
        return distances[country], offer.on_demand_usd_per_hour or 0.0, offer.id

    return min(fitting, key=dearness, default=None)
