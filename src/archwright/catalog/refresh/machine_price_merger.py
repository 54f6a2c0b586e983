"""Machine prices of public sources, joined to builds, accelerators and regions of this catalog, and gated."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.refreshed_layer import (
    MachineType,
    PriceOrigin,
    ProviderPrices,
    RegionLocation,
    expand_offers,
)
from archwright.catalog.refresh.plausibility_checks import (
    EXCEPTIONS,
    GIB,
    USABLE_MEMORY_RANGE,
    CheckedFacts,
    run_checks,
)
from archwright.catalog.refresh.refresh_input import RefreshInput, RefreshReportBuilder
from archwright.catalog.sources.source_records import ComponentRate, InstancePrice, InstanceSpec
from archwright.catalog.tables.name_resolution import normalise_name
from archwright.catalog.tables.records import Alias, Offer
from archwright.contract.record import replace
from archwright.errors import CatalogError

# The first word of a rate that names a family: a letter or two, a number, a letter.
FAMILY = re.compile(r"^([a-z]{1,2}\d[a-z]?)\b", re.IGNORECASE)
# Machines that pay for a part of a core.
FRACTIONAL_CORE = re.compile(r"(micro|small|medium)$")
ComponentRates = Mapping[tuple[str, str], float]


class _PriceRow(NamedTuple):
    machine: MachineType
    place: RegionLocation
    origin: PriceOrigin
    on_demand: float
    spot: float | None
    commit_1y: float | None = None
    commit_3y: float | None = None

    @property
    def id(self) -> str:
        return f"{self.machine.provider}:{self.place.region}:{self.machine.instance_type}"


class MachinePriceMerger:
    """Sources come in the order of their priority."""

    def __init__(self, catalog: Catalog, aside: RefreshReportBuilder) -> None:
        self._catalog, self._aside = catalog, aside
        self._memory: dict[tuple[str, str], float] = {}

    def merge_prices(self, brought: Iterable[RefreshInput]) -> dict[str, ProviderPrices]:
        """New prices of every provider that a source names; the first source of a price wins."""
        files = list(brought)
        taken: dict[str, dict[str, _PriceRow]] = defaultdict(dict)
        whence: dict[str, str] = {}
        for provider in dict.fromkeys(file.source.provider for file in files):
            mine = [file for file in files if file.source.provider == provider]
            machines = self._machine_types(provider, mine)
            for file in mine:
                counts = {build.instance_type: build.accelerator_count for build in file.found.builds}
                summed = ComponentPricing(file.found.rates, self._catalog.aliases).machine_prices(machines.values())
                for price in (*file.found.prices, *summed):
                    row = self._price_row(file, price, machines, counts)
                    if row is not None and taken[provider].setdefault(row.id, row) is row:
                        whence[row.id] = file.source.id
            for file in mine:
                for row in self._with_spot_prices(file, taken[provider]):
                    taken[provider][row.id] = row
                    whence.setdefault(row.id, file.source.id)
        # A row that a refused one made look right is refused in the next round.
        while self._drop_implausible(taken, whence):
            pass
        return {provider: _to_columns(rows.values()) for provider, rows in taken.items() if rows}

    def _machine_types(self, provider: str, files: list[RefreshInput]) -> dict[str, MachineType]:
        """Builds by machine type: of this catalog's own offers, else of the first source that knows the type."""
        known = {offer.instance_type: _machine_from_offer(offer) for offer in self._catalog.offers_of(provider)}
        for file in files:
            for build in file.found.builds:
                if build.instance_type not in known:
                    made = self._machine_type(file, build)
                    if made is not None:
                        known[build.instance_type] = made
        return known

    def _machine_type(self, file: RefreshInput, build: InstanceSpec) -> MachineType | None:
        accelerator = None
        if build.accelerator_count:
            accelerator = self._resolve_accelerator(build)
            if accelerator is None:
                reason = f"accelerator {build.accelerator or 'without a name'} is unknown"
                self._aside.skip_row(file.source.id, reason, build.instance_type)
                return None
            if build.memory_gib:
                memory = build.memory_gib / (build.accelerator_share or 1.0)
                self._memory[file.source.provider, build.instance_type] = memory
        if not build.vcpu or not build.ram_bytes:
            self._aside.skip_row(file.source.id, "no processors or no memory stated", build.instance_type)
            return None
        stated = build._asdict() | {"accelerator": accelerator}
        del stated["memory_gib"]
        return MachineType(**stated, provider=file.source.provider, source=file.source_label, as_of=file.as_of)

    def _resolve_accelerator(self, build: InstanceSpec) -> str | None:
        """Of the rows a name covers, the one whose memory is as stated; else the one the plain name means."""
        try:
            plain = self._catalog.accelerator(build.accelerator)
        except CatalogError:
            return None
        if not build.memory_gib:
            return plain.id
        memory = build.memory_gib / (build.accelerator_share or 1.0)
        covered = (plain, *self._catalog.accelerator_family(build.accelerator))
        least = USABLE_MEMORY_RANGE[0]
        return next((row.id for row in covered if least <= row.memory_bytes / GIB / memory <= 1 / least), plain.id)

    def _price_row(
        self, file: RefreshInput, price: InstancePrice, machines: dict[str, MachineType], counts: dict[str, int]
    ) -> _PriceRow | None:
        """`counts`: how many accelerators the price's own source gives the type, where it says so."""
        name, machine = f"{price.region}:{price.instance_type}", machines.get(price.instance_type)
        geo = self._catalog.geo(file.source.provider, price.region)
        if machine is None:
            self._aside.skip_row(file.source.id, "its machine type has no known build", name)
        elif counts.get(price.instance_type, machine.accelerator_count) != machine.accelerator_count:
            reason = "its source counts other accelerators: the price may be the host's"
            self._aside.skip_row(file.source.id, reason, name)
        elif geo is None:
            self._aside.skip_row(file.source.id, "its region is unknown, so is its residency", name)
        elif not math.isfinite(price.on_demand):
            self._aside.skip_row(file.source.id, "its price is no number", name)
        else:
            spot = None if price.spot == price.on_demand else price.spot
            origin = PriceOrigin(source=file.source_label, as_of=file.as_of)
            place = RegionLocation(region=price.region, geo=geo)
            return _PriceRow(machine, place, origin, price.on_demand, spot, price.commit_1y, price.commit_3y)
        return None

    def _with_spot_prices(self, file: RefreshInput, taken: dict[str, _PriceRow]) -> Iterator[_PriceRow]:
        """Rows with a spot price laid into them: both sources, and the older day (the list price's)."""
        known = {offer.id: offer for offer in self._catalog.offers_of(file.source.provider)} if file.found.spots else {}
        for spot in file.found.spots:
            name = f"{file.source.provider}:{spot.region}:{spot.instance_type}"
            row = taken.get(name) or (_row_from_offer(known[name]) if name in known else None)
            if row is None:
                self._aside.skip_row(file.source.id, "no list price stands beside its spot price", name)
            elif spot.usd_per_hour != row.on_demand:
                origin = replace(row.origin, source=f"{row.origin.source} ; spot: {file.source_label}")
                yield row._replace(spot=spot.usd_per_hour, origin=origin)

    def _drop_implausible(self, taken: dict[str, dict[str, _PriceRow]], whence: dict[str, str]) -> bool:
        """Takes out what a gate refuses, and says whether anything was. The other offers of this catalog stand beside
        for medians and families."""
        new = {name for rows in taken.values() for name in rows}
        candidates = [offer for rows in taken.values() for offer in expand_offers(_to_columns(rows.values()))]
        beside = [offer for offer in self._catalog.offers if offer.id not in new]
        stated = {offer.id: self._memory.get((offer.provider, offer.instance_type)) for offer in candidates}
        memory = {name: gib for name, gib in stated.items() if gib is not None}
        facts = CheckedFacts({**self._catalog.accelerators}, (*candidates, *beside), (), memory)
        refused, flags = False, list[str]()
        for finding in run_checks(facts, self._catalog.gate_exceptions):
            provider = finding.subject.partition(":")[0]
            if finding.subject not in new or finding.gate == EXCEPTIONS:
                continue
            if not finding.refuses:
                flags.append(f"{finding.gate}: {finding.subject}: {finding.says}")
            elif taken[provider].pop(finding.subject, None) is not None:
                refused = True
                said = f"{finding.subject}: {finding.says}"
                self._aside.skip_row(whence[finding.subject], f"gate {finding.gate}", said)
        if not refused:
            self._aside.flags += flags
        return refused


def _row_from_offer(offer: Offer) -> _PriceRow | None:
    """None for a price that was derived or is none: a refresh does not make it a stated one."""
    if offer.on_demand_usd_per_hour is None or offer.price_kind == "derived":
        return None
    return _PriceRow(
        machine=_machine_from_offer(offer),
        place=RegionLocation(region=offer.region, geo=offer.geo),
        origin=PriceOrigin(source=offer.source, as_of=offer.as_of),
        on_demand=offer.on_demand_usd_per_hour,
        spot=offer.spot_usd_per_hour,
        commit_1y=offer.commit_1y_usd_per_hour,
        commit_3y=offer.commit_3y_usd_per_hour,
    )


def _machine_from_offer(offer: Offer) -> MachineType:
    """An offer's build; its source and day are those of the build, not of the price."""
    build = {name: getattr(offer, name) for name in MachineType.__struct_fields__}
    return MachineType(**{**build, "source": offer.spec_source, "as_of": offer.spec_as_of})


def _to_columns(rows: Iterable[_PriceRow]) -> ProviderPrices:
    """Rows as columns beside tables of what they share."""
    machines, places, origins = dict[MachineType, int](), dict[RegionLocation, int](), dict[PriceOrigin, int]()
    listed = list(rows)
    return ProviderPrices(
        machine=[machines.setdefault(row.machine, len(machines)) for row in listed],
        place=[places.setdefault(row.place, len(places)) for row in listed],
        origin=[origins.setdefault(row.origin, len(origins)) for row in listed],
        on_demand=[row.on_demand for row in listed],
        spot=[row.spot for row in listed],
        commit_1y=[row.commit_1y for row in listed],
        commit_3y=[row.commit_3y for row in listed],
        machines=tuple(machines),
        places=tuple(places),
        origins=tuple(origins),
    )


class ComponentPricing:
    """Prices of machines as the sum of their parts, by the rates of a file.

    A rate belongs to the family or accelerator that aliases.csv (`charge`) names, else to the family in its own name
    (`N2 Instance`: n2). A machine of which one part has no rate has no price.
    """

    def __init__(self, rates: Iterable[ComponentRate], aliases: Iterable[Alias]) -> None:
        named = {normalise_name(alias.name): alias.id for alias in aliases if alias.kind == "charge"}
        self._regions: dict[str, dict[bool, dict[tuple[str, str], float]]] = {}
        for rate in rates:
            family = FAMILY.match(rate.of)
            of = named.get(normalise_name(rate.of)) or (family[1].lower() if family else "")
            if of or not rate.of:
                there = self._regions.setdefault(rate.region, {False: {}, True: {}})
                there[rate.spot].setdefault((rate.part, of), rate.usd_per_hour)

    def machine_prices(self, machines: Iterable[MachineType]) -> Iterator[InstancePrice]:
        listed = [machine for machine in machines if not FRACTIONAL_CORE.search(machine.instance_type)]
        for region, rates in self._regions.items():
            for machine in listed:
                price = _sum_components(machine, rates[False])
                if price is not None:
                    yield InstancePrice(region, machine.instance_type, price, _sum_components(machine, rates[True]))


def _sum_components(machine: MachineType, rates: ComponentRates) -> float | None:
    """None when a part has no rate."""
    parts = machine.instance_type.split("-")
    # The particular first: `x1-large` before `x1`.
    family = next((name for name in ("-".join(parts[:2]), parts[0]) if ("core", name) in rates), parts[0])
    amounts = {
        ("core", family): float(machine.vcpu),
        ("ram", family): machine.ram_bytes / GIB,
        ("gpu", machine.accelerator or ""): machine.accelerator_count * machine.accelerator_share,
        # A disk is sold by the GiB, and stated by the billion of them.
        ("ssd", ""): (machine.local_nvme_bytes or 0) / 1e9,
    }
    priced = [rates[part] * amount for part, amount in amounts.items() if amount and part in rates]
    return sum(priced) if len(priced) == sum(amount > 0 for amount in amounts.values()) else None
