"""From what adapters found to rows of the refreshed layer: names joined to this catalog's, gates passed, two sources
held against each other. What does not pass is set aside with the reason.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from typing import Generic, NamedTuple, TypeVar

from archwright.catalog import gates, names, refreshed
from archwright.catalog.cost_rows import StoragePrice
from archwright.catalog.fact_rows import RefreshSource
from archwright.catalog.facts import Catalog
from archwright.catalog.refreshed import GridCarbon, MachineType, Origin, Place, Prices
from archwright.catalog.rows import Accelerator, Confidence, HostedModel, Offer
from archwright.catalog.sources.found import Build, BytePrice, Found, Price, TokenPrice
from archwright.contract.record import Record
from archwright.errors import CatalogError

T = TypeVar("T")

# Two sources agree on a price within this share.
AGREEMENT = 0.01
# USD per token; the dearest model ever listed is far below.
DEAREST_TOKEN = 1e-3
GRAMS = (0.0, 2000.0)
EXAMPLES = 5


class Brought(NamedTuple):
    """One file: its source, the day it states, what is in it."""

    source: RefreshSource
    as_of: str
    found: Found

    @property
    def words(self) -> str:
        """As a row's `source` names it."""
        return self.source.origin.partition(", saved as")[0]


class SetAside(Record):
    """Rows that were not taken, and why; the first few by name."""

    source: str
    reason: str
    rows: int
    examples: tuple[str, ...]


class Disagreement(Record):
    """Two sources state different prices of one model; the first is taken, the band covers both."""

    subject: str
    taken: str
    other: str


class _Row(NamedTuple):
    machine: MachineType
    place: Place
    origin: Origin
    on_demand: float
    spot: float | None

    @property
    def id(self) -> str:
        return f"{self.machine.provider}:{self.place.region}:{self.machine.instance_type}"


class Intake:
    """Collects what is set aside while rows are taken in; sources come in the order of their priority."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._aside: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._memory: dict[tuple[str, str], float] = {}
        self.disagreements: list[Disagreement] = []
        self.flags: list[str] = []

    @property
    def aside(self) -> tuple[SetAside, ...]:
        return tuple(
            SetAside(source=source, reason=reason, rows=len(found), examples=tuple(found[:EXAMPLES]))
            for (source, reason), found in self._aside.items()
        )

    def _set_aside(self, source: str, reason: str, subject: str) -> None:
        self._aside[source, reason].append(subject)

    # --- machines and their prices

    def prices(self, brought: Iterable[Brought]) -> dict[str, Prices]:
        """New prices of every provider that a source names; the first source of a price wins."""
        files = list(brought)
        taken: dict[str, dict[str, _Row]] = defaultdict(dict)
        whence: dict[str, str] = {}
        for provider in dict.fromkeys(file.source.provider for file in files if file.found.prices):
            machines = self._machines(provider, files)
            for file in (file for file in files if file.source.provider == provider):
                counts = {build.instance_type: build.accelerator_count for build in file.found.builds}
                for price in file.found.prices:
                    row = self._priced(file, price, machines, counts)
                    if row is not None and taken[provider].setdefault(row.id, row) is row:
                        whence[row.id] = file.source.id
        self._gate(taken, whence)
        return {provider: _columns(rows.values()) for provider, rows in taken.items() if rows}

    def _machines(self, provider: str, files: list[Brought]) -> dict[str, MachineType]:
        """Builds by machine type: of this catalog's own offers, else of the first source that knows the type."""
        known = {offer.instance_type: _machine_of(offer) for offer in self._catalog.offers_of(provider)}
        for file in (file for file in files if file.source.provider == provider):
            for build in file.found.builds:
                if build.instance_type not in known:
                    made = self._machine(file, build)
                    if made is not None:
                        known[build.instance_type] = made
        return known

    def _machine(self, file: Brought, build: Build) -> MachineType | None:
        accelerator = None
        if build.accelerator_count:
            accelerator = self._accelerator(build)
            if accelerator is None:
                self._set_aside(file.source.id, f"accelerator {build.accelerator} is unknown", build.instance_type)
                return None
            if build.memory_gib is not None:
                memory = build.memory_gib / (build.accelerator_share or 1.0)
                self._memory[file.source.provider, build.instance_type] = memory
        if not build.vcpu or not build.ram_bytes:
            self._set_aside(file.source.id, "no processors or no memory stated", build.instance_type)
            return None
        return MachineType(
            provider=file.source.provider,
            instance_type=build.instance_type,
            accelerator=accelerator,
            accelerator_count=build.accelerator_count,
            accelerator_share=build.accelerator_share,
            vcpu=build.vcpu,
            ram_bytes=build.ram_bytes,
            arch=build.arch,
            local_nvme_bytes=build.local_nvme_bytes,
            network_bytes_per_s=build.network_bytes_per_s,
            network_note=build.network_note,
            source=file.words,
            as_of=file.as_of,
        )

    def _accelerator(self, build: Build) -> str | None:
        """Of the rows a name covers, the one whose memory is as stated; else the one the plain name means."""
        try:
            plain = self._catalog.accelerator(build.accelerator)
        except CatalogError:
            return None
        if build.memory_gib is None:
            return plain.id
        memory = build.memory_gib / (build.accelerator_share or 1.0)
        covered = (plain, *self._catalog.family(build.accelerator))
        return next((row.id for row in covered if _holds(row, memory)), plain.id)

    def _priced(
        self, file: Brought, price: Price, machines: dict[str, MachineType], counts: dict[str, int]
    ) -> _Row | None:
        """`counts`: how many accelerators the price's own source gives the type, where it says so."""
        name, machine = f"{price.region}:{price.instance_type}", machines.get(price.instance_type)
        geo = self._catalog.geo(file.source.provider, price.region)
        if machine is None:
            self._set_aside(file.source.id, "its machine type has no known build", name)
        elif counts.get(price.instance_type, machine.accelerator_count) != machine.accelerator_count:
            self._set_aside(file.source.id, "its source counts other accelerators: the price may be the host's", name)
        elif geo is None:
            self._set_aside(file.source.id, "its region is unknown, so is its residency", name)
        elif not math.isfinite(price.on_demand):
            self._set_aside(file.source.id, "its price is no number", name)
        else:
            spot = None if price.spot == price.on_demand else price.spot
            origin = Origin(source=file.words, as_of=file.as_of)
            return _Row(machine, Place(region=price.region, geo=geo), origin, price.on_demand, spot)
        return None

    def _gate(self, taken: dict[str, dict[str, _Row]], whence: dict[str, str]) -> None:
        """Takes out what a gate refuses. The other offers of this catalog stand beside for medians and families."""
        new = {name for rows in taken.values() for name in rows}
        candidates = [offer for rows in taken.values() for offer in refreshed.offers(_columns(rows.values()))]
        beside = [offer for offer in self._catalog.offers if offer.id not in new]
        memory = {
            offer.id: self._memory[offer.provider, offer.instance_type]
            for offer in candidates
            if (offer.provider, offer.instance_type) in self._memory
        }
        facts = gates.Facts({**self._catalog.accelerators}, (*candidates, *beside), (), memory)
        for finding in gates.run(facts, self._catalog.gate_exceptions):
            provider = finding.subject.partition(":")[0]
            if finding.subject not in new or finding.gate == gates.EXCEPTIONS:
                continue
            if not finding.refuses:
                self.flags.append(f"{finding.gate}: {finding.subject}: {finding.says}")
            elif taken[provider].pop(finding.subject, None) is not None:
                self._set_aside(whence[finding.subject], f"gate {finding.gate}", f"{finding.subject}: {finding.says}")

    # --- hosted models

    def hosted(self, brought: Iterable[Brought]) -> tuple[HostedModel, ...]:
        """The first source's price, with what a second one says beside it."""
        stated: dict[tuple[str, str], list[tuple[Brought, TokenPrice]]] = defaultdict(list)
        for file in brought:
            for price in file.found.tokens:
                provider = self._provider(price.provider)
                subject = f"{price.provider}:{price.model}"
                if provider is None:
                    self._set_aside(file.source.id, "a provider this catalog does not know", subject)
                elif not (0 <= price.input < DEAREST_TOKEN and 0 < price.output < DEAREST_TOKEN):
                    self._set_aside(file.source.id, "free of charge, or no price a token can have", subject)
                else:
                    stated[provider, price.model].append((file, price))
        return tuple(self._corroborated(provider, found) for (provider, _), found in stated.items())

    def _provider(self, said: str) -> str | None:
        renamed = {alias.name: alias.id for alias in self._catalog.aliases if alias.kind == "provider"}
        name = renamed.get(said, said)
        return name if name in self._catalog.providers else None

    def _corroborated(self, provider: str, found: list[tuple[Brought, TokenPrice]]) -> HostedModel:
        (file, first), other = found[0], next((pair for pair in found[1:] if pair[0] is not found[0][0]), None)
        agrees = None if other is None else _agree(first, other[1])
        if other is not None and not agrees:
            said = [f"{p.input * 1e6:g} in, {p.output * 1e6:g} out ({f.source.id})" for f, p in (found[0], other)]
            subject = f"{provider}:{first.model}"
            self.disagreements.append(Disagreement(subject=subject, taken=said[0], other=said[1]))
        confidence: Confidence = {True: "high", False: "low", None: "medium"}[agrees]  # type: ignore[assignment]
        return HostedModel(
            provider=provider,
            id=first.model,
            input_usd_per_token=first.input,
            output_usd_per_token=first.output,
            cache_read_usd_per_token=first.cache_read,
            cache_write_usd_per_token=first.cache_write,
            batch_input_usd_per_token=first.batch_input,
            batch_output_usd_per_token=first.batch_output,
            context_tokens=first.context_tokens,
            output_tokens=first.output_tokens,
            deprecation_date=_day(first.deprecation_date),
            successor="",
            agrees=agrees,
            second_input_usd_per_token=None if other is None else other[1].input,
            second_output_usd_per_token=None if other is None else other[1].output,
            source=file.words,
            as_of=file.as_of,
            confidence=confidence if file.as_of else "recalled",
        )

    # --- bytes and carbon

    def storage(self, brought: Iterable[Brought]) -> tuple[StoragePrice, ...]:
        """Under the item's name in this catalog where it has one."""
        found = []
        for file in brought:
            for price in file.found.stored:
                if price.provider not in self._catalog.providers:
                    self._set_aside(
                        file.source.id, "a provider this catalog does not know", f"{price.provider}: {price.item}"
                    )
                elif not (math.isfinite(price.usd_per_byte) and price.usd_per_byte >= 0):
                    self._set_aside(file.source.id, "its price is no number", f"{price.provider}: {price.item}")
                else:
                    found.append(self._stored(file, price))
        return tuple(found)

    def _stored(self, file: Brought, price: BytePrice) -> StoragePrice:
        alike = (
            row.item
            for row in self._catalog.shipped_storage_prices
            if (row.provider, row.kind) == (price.provider, price.kind)
            and names.squashed(row.item).startswith(names.squashed(price.item))
        )
        return StoragePrice(
            provider=price.provider,
            region=price.region,
            item=next(alike, price.item),
            kind=price.kind,
            usd_per_byte=price.usd_per_byte,
            from_bytes=price.from_bytes,
            to_bytes=price.to_bytes,
            source=file.words,
            as_of=file.as_of,
            confidence="medium" if file.as_of else "recalled",
        )

    def grid(self, brought: Iterable[Brought]) -> tuple[GridCarbon, ...]:
        """By the country's code where this catalog has it, else by its name."""
        known = self._catalog.countries.values()
        codes = {names.squashed(row.name): row.country for row in known}
        codes |= {row.alpha3: row.country for row in known if row.alpha3}
        found = []
        for file in brought:
            for carbon in file.found.carbon:
                country = codes.get(carbon.country) or codes.get(names.squashed(carbon.name))
                if country is None:
                    self._set_aside(
                        file.source.id, "a country this catalog does not know", carbon.name or carbon.country
                    )
                elif not GRAMS[0] <= carbon.gco2_per_kwh <= GRAMS[1]:
                    self._set_aside(file.source.id, "no carbon a grid can have", carbon.country)
                else:
                    row = GridCarbon(
                        country=country, gco2_per_kwh=carbon.gco2_per_kwh, year=carbon.year, source=file.words
                    )
                    found.append(row)
        return tuple(found)


def _holds(row: Accelerator, memory_gib: float) -> bool:
    has = row.memory_bytes / gates.GIB
    return gates.USABLE[0] <= has / memory_gib <= 1 / gates.USABLE[0]


def _agree(one: TokenPrice, other: TokenPrice) -> bool:
    pairs = ((one.input, other.input), (one.output, other.output))
    return all(math.isclose(a, b, rel_tol=AGREEMENT) for a, b in pairs)


def _day(text: str) -> str:
    """A day a plan can compare with; anything else is left out."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return ""


def _machine_of(offer: Offer) -> MachineType:
    return MachineType(
        provider=offer.provider,
        instance_type=offer.instance_type,
        accelerator=offer.accelerator,
        accelerator_count=offer.accelerator_count,
        accelerator_share=offer.accelerator_share,
        vcpu=offer.vcpu,
        ram_bytes=offer.ram_bytes,
        arch=offer.arch,
        local_nvme_bytes=offer.local_nvme_bytes,
        network_bytes_per_s=offer.network_bytes_per_s,
        network_note=offer.network_note,
        source=offer.spec_source,
        as_of=offer.spec_as_of,
    )


class _Index(Generic[T]):
    """A table of distinct values, filled as they are met."""

    def __init__(self) -> None:
        self._places: dict[T, int] = {}

    def place(self, value: T) -> int:
        return self._places.setdefault(value, len(self._places))

    @property
    def values(self) -> tuple[T, ...]:
        return tuple(self._places)


def _columns(rows: Iterable[_Row]) -> Prices:
    """Rows as columns beside tables of what they share."""
    machines, places, origins = _Index[MachineType](), _Index[Place](), _Index[Origin]()
    listed = list(rows)
    return Prices(
        machine=[machines.place(row.machine) for row in listed],
        place=[places.place(row.place) for row in listed],
        origin=[origins.place(row.origin) for row in listed],
        on_demand=[row.on_demand for row in listed],
        spot=[row.spot for row in listed],
        machines=machines.values,
        places=places.values,
        origins=origins.values,
    )
