"""Joins machine prices of public sources to builds, accelerators and regions, and checks them."""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.refreshed_layer import (
    DISCOUNTED,
    MachineType,
    PriceOrigin,
    ProviderPrices,
    RegionLocation,
    expand_offers,
)
from archwright.catalog.refresh.plausibility_checks import EXCEPTIONS, USABLE_MEMORY_RANGE, CheckedFacts, run_checks
from archwright.catalog.refresh.refresh_input import RefreshInput, RefreshReportBuilder
from archwright.catalog.sources.source_records import ComponentRate, InstancePrice, InstanceSpec
from archwright.catalog.tables.name_resolution import normalise_name
from archwright.catalog.tables.parsers import GIB
from archwright.catalog.tables.records import Alias, Offer
from archwright.contract.record import replace
from archwright.errors import CatalogError

# The machine family as the first word of a rate: one or two letters, a digit, at most one letter.
FAMILY = re.compile(r"^([a-z]{1,2}\d[a-z]?)\b", re.IGNORECASE)
# Machines that are charged for a part of a core.
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

    def __init__(self, catalog: Catalog, report: RefreshReportBuilder) -> None:
        self._catalog, self._report = catalog, report
        # GiB of one whole accelerator by provider and machine type, as a source states it.
        self._memory_gib: dict[tuple[str, str], float] = {}

    def merge_prices(self, files: list[RefreshInput]) -> dict[str, ProviderPrices]:
        """Merge the prices of every provider in the sources; the first source of a price wins."""
        merged: dict[str, dict[str, _PriceRow]] = defaultdict(dict)
        source_of: dict[str, str] = {}
        for provider in dict.fromkeys(file.source.provider for file in files):
            provider_files = [file for file in files if file.source.provider == provider]
            machines = self._machine_types(provider, provider_files)
            for file in provider_files:
                counts = {build.instance_type: build.accelerator_count for build in file.found.builds}
                summed = ComponentPricing(file.found.rates, self._catalog.aliases).machine_prices(machines.values())
                for price in (*file.found.prices, *summed):
                    row = self._price_row(file, price, machines, counts)
                    if row is not None and merged[provider].setdefault(row.id, row) is row:
                        source_of[row.id] = file.source.id
            for file in provider_files:
                for row in self._with_spot_prices(file, merged[provider]):
                    merged[provider][row.id] = row
                    source_of.setdefault(row.id, file.source.id)
        # Repeat: a row that looked plausible only because of a refused row is refused in the next round.
        while self._drop_implausible(merged, source_of):
            pass
        return {provider: _to_columns(rows.values()) for provider, rows in merged.items() if rows}

    def _machine_types(self, provider: str, files: list[RefreshInput]) -> dict[str, MachineType]:
        """Return builds by machine type: of this catalog's offers, or else of the first source with the type."""
        known = {offer.instance_type: _machine_from_offer(offer) for offer in self._catalog.offers_of(provider)}
        for file in files:
            for build in file.found.builds:
                if build.instance_type not in known and (machine := self._machine_type(file, build)) is not None:
                    known[build.instance_type] = machine
        return known

    def _machine_type(self, file: RefreshInput, build: InstanceSpec) -> MachineType | None:
        accelerator = None
        if build.accelerator_count:
            memory_gib = build.memory_gib / (build.accelerator_share or 1.0) if build.memory_gib else None
            accelerator = self._resolve_accelerator(build.accelerator, memory_gib)
            if accelerator is None:
                reason = f"accelerator {build.accelerator or 'without a name'} is unknown"
                self._report.skip_row(file.source.id, reason, build.instance_type)
                return None
            if memory_gib:
                self._memory_gib[file.source.provider, build.instance_type] = memory_gib
        if not build.vcpu or not build.ram_bytes:
            self._report.skip_row(file.source.id, "no processors or no memory stated", build.instance_type)
            return None
        stated = build._asdict() | {"accelerator": accelerator}
        del stated["memory_gib"]
        return MachineType(**stated, provider=file.source.provider, source=file.source_label, as_of=file.as_of)

    def _resolve_accelerator(self, name: str, memory_gib: float | None) -> str | None:
        """Return the row of the name with the stated memory, or else the row that the plain name means."""
        try:
            plain = self._catalog.accelerator(name)
        except CatalogError:
            return None
        if not memory_gib:
            return plain.id
        rows = (plain, *self._catalog.accelerator_family(name))
        least = USABLE_MEMORY_RANGE[0]
        return next((row.id for row in rows if least <= row.memory_bytes / GIB / memory_gib <= 1 / least), plain.id)

    def _price_row(
        self, file: RefreshInput, price: InstancePrice, machines: dict[str, MachineType], counts: dict[str, int]
    ) -> _PriceRow | None:
        """`counts`: the number of accelerators per machine type in the price's own source, if stated there."""
        name, machine = f"{price.region}:{price.instance_type}", machines.get(price.instance_type)
        geo = self._catalog.geo(file.source.provider, price.region)
        if machine is None:
            reason = "the build of the machine type is unknown"
        elif counts.get(price.instance_type, machine.accelerator_count) != machine.accelerator_count:
            reason = "its source counts other accelerators, so the price may be that of the host alone"
        elif geo is None:
            reason = "its region, and so its residency, is unknown"
        elif not math.isfinite(price.on_demand):
            reason = "its price is not a number"
        else:
            spot = None if price.spot == price.on_demand else price.spot
            origin = PriceOrigin(source=file.source_label, as_of=file.as_of)
            place = RegionLocation(region=price.region, geo=geo)
            return _PriceRow(machine, place, origin, price.on_demand, spot, price.commit_1y, price.commit_3y)
        self._report.skip_row(file.source.id, reason, name)
        return None

    def _with_spot_prices(self, file: RefreshInput, merged: dict[str, _PriceRow]) -> Iterator[_PriceRow]:
        """Yield rows with a spot price added: with both sources, and the older day (the list price's)."""
        known = {offer.id: offer for offer in self._catalog.offers_of(file.source.provider)} if file.found.spots else {}
        for spot in file.found.spots:
            name = f"{file.source.provider}:{spot.region}:{spot.instance_type}"
            row = merged.get(name) or (_row_from_offer(known[name]) if name in known else None)
            if row is None:
                self._report.skip_row(file.source.id, "a spot price without a list price", name)
            elif spot.usd_per_hour != row.on_demand:
                origin = replace(row.origin, source=f"{row.origin.source} ; spot: {file.source_label}")
                yield row._replace(spot=spot.usd_per_hour, origin=origin)

    def _drop_implausible(self, merged: dict[str, dict[str, _PriceRow]], source_of: dict[str, str]) -> bool:
        """Remove the rows that a gate refuses; return True if there were any.

        The other offers of this catalog are used for medians and families.
        """
        new = {name for rows in merged.values() for name in rows}
        candidates = [offer for rows in merged.values() for offer in expand_offers(_to_columns(rows.values()))]
        others = [offer for offer in self._catalog.offers if offer.id not in new]
        stated = {offer.id: self._memory_gib.get((offer.provider, offer.instance_type)) for offer in candidates}
        memory_gib = {name: gib for name, gib in stated.items() if gib is not None}
        facts = CheckedFacts({**self._catalog.accelerators}, (*candidates, *others), (), memory_gib)
        refused, flags = False, list[str]()
        for finding in run_checks(facts, self._catalog.gate_exceptions):
            subject = finding.subject
            if subject not in new or finding.gate == EXCEPTIONS:
                continue
            if not finding.refuses:
                flags.append(f"{finding.gate}: {subject}: {finding.says}")
            elif merged[subject.partition(":")[0]].pop(subject, None) is not None:
                refused = True
                self._report.skip_row(source_of[subject], f"gate {finding.gate}", f"{subject}: {finding.says}")
        if not refused:
            self._report.flags += flags
        return refused


def _row_from_offer(offer: Offer) -> _PriceRow | None:
    """Return None for a derived or missing price: a refresh does not make it a stated price."""
    if offer.on_demand_usd_per_hour is None or offer.price_kind == "derived":
        return None
    machine, place = _machine_from_offer(offer), RegionLocation(region=offer.region, geo=offer.geo)
    origin, prices = PriceOrigin(source=offer.source, as_of=offer.as_of), (getattr(offer, name) for name in DISCOUNTED)
    return _PriceRow(machine, place, origin, offer.on_demand_usd_per_hour, *prices)


def _machine_from_offer(offer: Offer) -> MachineType:
    """Return an offer's build with the source and day of the build, not of the price."""
    build = {name: getattr(offer, name) for name in MachineType.__struct_fields__}
    return MachineType(**{**build, "source": offer.spec_source, "as_of": offer.spec_as_of})


def _to_columns(rows: Collection[_PriceRow]) -> ProviderPrices:
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in _PriceRow._fields}
    for name in ("machine", "place", "origin"):
        at = {value: index for index, value in enumerate(dict.fromkeys(columns[name]))}
        columns |= {f"{name}s": tuple(at), name: [at[value] for value in columns[name]]}
    return ProviderPrices(**columns)


class ComponentPricing:
    """Prices of machines as the sum of their parts, by the rates of a file.

    A rate belongs to the family or accelerator of its alias (`charge` in aliases.csv), or else to the family in its
    own name (`N2 Instance`: n2). A machine with a part that has no rate has no price.
    """

    def __init__(self, rates: Iterable[ComponentRate], aliases: Iterable[Alias]) -> None:
        named = {normalise_name(alias.name): alias.id for alias in aliases if alias.kind == "charge"}
        self._regions: dict[str, dict[bool, dict[tuple[str, str], float]]] = {}
        for rate in rates:
            family = FAMILY.match(rate.of)
            of = named.get(normalise_name(rate.of)) or (family[1].lower() if family else "")
            if of or not rate.of:
                rates_of = self._regions.setdefault(rate.region, {False: {}, True: {}})
                rates_of[rate.spot].setdefault((rate.part, of), rate.usd_per_hour)

    def machine_prices(self, machines: Iterable[MachineType]) -> Iterator[InstancePrice]:
        listed = [machine for machine in machines if not FRACTIONAL_CORE.search(machine.instance_type)]
        for region, rates in self._regions.items():
            for machine in listed:
                price = _sum_components(machine, rates[False])
                if price is not None:
                    yield InstancePrice(region, machine.instance_type, price, _sum_components(machine, rates[True]))


def _sum_components(machine: MachineType, rates: ComponentRates) -> float | None:
    """Return the price of a machine, None if a part has no rate."""
    parts = machine.instance_type.split("-")
    # The longer name first: `x1-large` before `x1`.
    family = next((name for name in ("-".join(parts[:2]), parts[0]) if ("core", name) in rates), parts[0])
    amounts = {
        ("core", family): float(machine.vcpu),
        ("ram", family): machine.ram_bytes / GIB,
        ("gpu", machine.accelerator or ""): machine.accelerator_count * machine.accelerator_share,
        # The rate of disks is per GiB, while the price list states billions of bytes and charges each as a GiB.
        ("ssd", ""): (machine.local_nvme_bytes or 0) / 1e9,
    }
    priced = [rates[part] * amount for part, amount in amounts.items() if amount and part in rates]
    return sum(priced) if len(priced) == sum(amount > 0 for amount in amounts.values()) else None
