"""The catalog a planner asks: every table as records, and the few questions that need more than a look-up.

Layers, highest first: the user's own facts, what was measured on this machine, the shipped rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from archwright.catalog import cost_rows, cost_tables, documents, names, rows, tables
from archwright.catalog.efficiency import choose, choose_training
from archwright.contract.estimate import Estimate, exact, product, within_factor
from archwright.contract.lineage import Task
from archwright.contract.plan import Artefact, MachineFacts
from archwright.contract.record import Record, replace

R = TypeVar("R", bound=Record)

BASE_CURRENCY = "EUR"
# Places that are no country: `any` allows all, the groups are columns of the country table.
ANY = "any"
OWN_PROVIDERS = frozenset({"on-premises", "this-machine"})
# A neighbour's or a union's average price stands in for a country without a row of its own.
STAND_IN_FACTOR = 1.6
OVERLAID = ("accelerators", "offers", "models", "engines")


class Catalog:
    """Tables are read on first use and kept. `machine` is the measured layer, None before a probe."""

    def __init__(self, folder: Path, *, user: Path | None = None, machine: MachineFacts | None = None) -> None:
        self._folder = folder
        self._user_file = user
        self.machine = machine

    # --- tables

    @cached_property
    def accelerators(self) -> Mapping[str, rows.Accelerator]:
        return self._overlaid("accelerators", {row.id: row for row in tables.accelerators(self._folder)})

    @cached_property
    def offers(self) -> tuple[rows.Offer, ...]:
        return tuple(self._overlaid("offers", {row.id: row for row in tables.offers(self._folder)}).values())

    @cached_property
    def models(self) -> Mapping[str, rows.ModelSpec]:
        found = {row.id: row for row in tables.models(self._folder, list(self.scores))}
        return self._overlaid("models", found)

    @cached_property
    def engines(self) -> Mapping[str, rows.EngineSpec]:
        return self._overlaid("engines", {row.id: row for row in documents.engines(self._folder)})

    @cached_property
    def scores(self) -> tuple[rows.QualityScore, ...]:
        return tuple(tables.quality(self._folder))

    @cached_property
    def hosted(self) -> tuple[rows.HostedModel, ...]:
        return tuple(tables.hosted(self._folder))

    @cached_property
    def artefacts(self) -> Mapping[str, Artefact]:
        return {row.model: row for row in tables.artefacts(self._folder)}

    @cached_property
    def regulations(self) -> Mapping[str, rows.Regulation]:
        return {row.id: row for row in documents.regulations(self._folder)}

    @cached_property
    def residency_rules(self) -> tuple[rows.ResidencyRule, ...]:
        return tuple(tables.residency_rules(self._folder))

    @cached_property
    def exchange_rates(self) -> tuple[rows.ExchangeRate, ...]:
        return tuple(tables.exchange_rates(self._folder))

    @cached_property
    def regions(self) -> Mapping[tuple[str, str], rows.Region]:
        return {(row.provider, row.region): row for row in tables.regions(self._folder)}

    @cached_property
    def countries(self) -> Mapping[str, rows.Country]:
        return {row.country: row for row in tables.countries(self._folder)}

    @cached_property
    def tariffs(self) -> tuple[rows.EnergyTariff, ...]:
        return tuple(tables.tariffs(self._folder, list(self.countries.values())))

    @cached_property
    def efficiencies(self) -> tuple[rows.Efficiency, ...]:
        return tuple(tables.efficiencies(self._folder))

    @cached_property
    def training_efficiencies(self) -> tuple[rows.TrainingEfficiency, ...]:
        return tuple(tables.training_efficiencies(self._folder))

    @cached_property
    def parts(self) -> Mapping[str, cost_rows.Part]:
        return {row.id: row for row in cost_tables.parts(self._folder)}

    @cached_property
    def nodes(self) -> Mapping[str, cost_rows.Node]:
        return {row.id: row for row in cost_tables.nodes(self._folder)}

    @cached_property
    def storage_prices(self) -> tuple[cost_rows.StoragePrice, ...]:
        return tuple(cost_tables.storage_prices(self._folder))

    @cached_property
    def commitments(self) -> tuple[cost_rows.Commitment, ...]:
        return tuple(cost_tables.commitments(self._folder))

    @cached_property
    def surcharges(self) -> tuple[cost_rows.Surcharge, ...]:
        return tuple(cost_tables.surcharges(self._folder))

    @cached_property
    def quantisations(self) -> Mapping[str, rows.Quantisation]:
        return {row.quantisation: row for row in tables.quantisations(self._folder)}

    @cached_property
    def aliases(self) -> tuple[rows.Alias, ...]:
        return tuple(tables.aliases(self._folder))

    @cached_property
    def device_tools(self) -> tuple[rows.DeviceTool, ...]:
        return tuple(tables.device_tools(self._folder))

    # --- what is known by name

    @cached_property
    def benchmarks(self) -> frozenset[str]:
        """Benchmarks that some model has a share for; a rating over 1 cannot be a floor and is left out."""
        return frozenset(name for model in self.models.values() for name in model.quality)

    @cached_property
    def currencies(self) -> frozenset[str]:
        return frozenset({BASE_CURRENCY, *(rate.quote for rate in self.exchange_rates)})

    @cached_property
    def providers(self) -> frozenset[str]:
        sold = {offer.provider for offer in self.offers} | {model.provider for model in self.hosted}
        return frozenset(sold) | OWN_PROVIDERS

    @cached_property
    def groups(self) -> frozenset[str]:
        return frozenset(place for country in self.countries.values() for place in country.places)

    @cached_property
    def places(self) -> frozenset[str]:
        """Everything a residency or a pinned region may name: countries, groups, `any`, providers' regions."""
        regions = {row.region for row in self.regions.values()}
        return frozenset({ANY, *self.countries, *self.groups, *regions})

    def accelerator(self, name: str) -> rows.Accelerator:
        """By id, alias or family. Raises CatalogError (AW-CAT-01) with the nearest spellings."""
        return names.accelerator(name, self.accelerators, self.aliases)

    def family(self, name: str) -> tuple[rows.Accelerator, ...]:
        """Every accelerator the name covers, empty when none."""
        return names.accelerator_family(name, self.accelerators, self.aliases) or tuple(
            row for row in [self.accelerators.get(self._alias("accelerator", name))] if row is not None
        )

    def machine_named(self, text: str) -> tuple[int, rows.Accelerator]:
        """A machine string like `8x NAME`: how many of which accelerator."""
        count, name = names.machine(text)
        return count, self.accelerator(name)

    def model(self, name: str) -> rows.ModelSpec:
        """By id, alias, or as a model hub spells it. Raises CatalogError (AW-CAT-01)."""
        return names.model(name, self.models, self.aliases)

    def _alias(self, kind: str, name: str) -> str:
        asked = names.squashed(name)
        return next((a.id for a in self.aliases if a.kind == kind and names.squashed(a.name) == asked), "")

    # --- questions

    def quality(self, model_id: str, benchmark: str) -> float | None:
        """The lowest share reported for the model, None when nobody reported one."""
        model = self.models.get(model_id)
        return None if model is None else model.quality.get(benchmark)

    def exchange(self, base: str, quote: str) -> Estimate:
        """How many `quote` one `base` buys: the latest rate, banded by the twelve months' low and high.

        Crosses go through EUR; the two bands combine as independent.
        """
        unit = f"{quote}/{base}"
        if base == quote:
            self._per_euro(base)
            return exact(1.0, unit)
        bought, paid = self._per_euro(quote), self._per_euro(base)
        inverse = Estimate(value=1 / paid.value, low=1 / paid.high, high=1 / paid.low, unit="")
        return product([bought, inverse], unit)

    def _per_euro(self, currency: str) -> Estimate:
        if currency == BASE_CURRENCY:
            return exact(1.0, currency)
        for row in self.exchange_rates:
            if row.quote == currency:
                low, high = min(row.low_12m, row.rate), max(row.high_12m, row.rate)
                return Estimate(value=row.rate, low=low, high=high, unit=currency)
        raise names.unknown("currency", currency, self.currencies)

    def region(self, provider: str, region: str) -> rows.Region | None:
        return self.regions.get((provider, region))

    def inside(self, country: str, place: str) -> bool:
        """Whether `country` (alpha-2) lies in `place`: a country, a group such as EEA, `any`, or the country of a
        provider's region of that name. Raises CatalogError (AW-CAT-01) for a place nobody knows.
        """
        if place not in self.places:
            raise names.unknown("place", place, self.places)
        if place in (ANY, country):
            return True
        known = self.countries.get(country)
        if known is not None and place in known.places:
            return True
        return any(row.region == place and row.country == country for row in self.regions.values())

    def electricity_usd_per_kwh(self, country: str) -> Estimate:
        """The commercial price, else the industrial one; a member without a row takes its union's average and any
        other country the world's middle, both with the wide band of a stand-in.
        """
        for code in (country, *self._stand_ins(country)):
            for row in self._tariffs_of(code):
                price = row.commercial_usd_per_kwh or row.industrial_usd_per_kwh
                if price is not None:
                    if code == country:
                        return row.band(price, "USD/kWh")
                    return within_factor(price, max(STAND_IN_FACTOR, rows.BAND[row.confidence]), "USD/kWh")
        raise names.unknown("electricity price", country, [row.country for row in self.tariffs])

    def grid_gco2_per_kwh(self, country: str) -> Estimate | None:
        """The national yearly mean, with the band a year's change and the hour of day earn; None when unknown."""
        for row in self._tariffs_of(country):
            if row.grid_gco2_per_kwh is not None:
                return within_factor(row.grid_gco2_per_kwh, rows.BAND["medium"], "g/kWh")
        return None

    def estimate(self, row: rows.Fact, value: float, unit: str, basis: str = "") -> Estimate:
        """`value`, a figure of `row`, with the band its confidence earns: how every price enters a plan."""
        return replace(row.band(value, unit), basis=basis)

    def part(self, name: str, basis: str = "") -> Estimate:
        """A figure of running machines of one's own, between the source's low and high."""
        row = self.parts[name]
        widest = row.band(row.typical, row.unit)
        low, high = (row.low, row.high) if row.low < row.high else (widest.low, widest.high)
        return Estimate(value=row.typical, low=low, high=high, unit=row.unit, basis=basis)

    def _stand_ins(self, country: str) -> Iterable[str]:
        known = self.countries.get(country)
        return ("EU27", "WORLD") if known is not None and "EU" in known.places else ("WORLD",)

    def _tariffs_of(self, code: str) -> Iterable[rows.EnergyTariff]:
        return (row for row in self.tariffs if row.country == code and not row.area)

    def efficiency(self, engine: str, quantisation: str, isa: str) -> rows.Efficiency:
        """The nearest row; each step away from an exact match widens its factors (efficiency.py)."""
        return choose(self.efficiencies, engine, quantisation, isa)

    def training_efficiency(self, task: Task, isa: str) -> rows.TrainingEfficiency:
        """The row of the instruction set, else the one that stands for any (efficiency.py)."""
        return choose_training(self.training_efficiencies, task, isa)

    # --- layers

    def layer(self, table: str, name: str) -> rows.Layer:
        """Which layer the fact in force comes from; the machine at hand is the measured one."""
        if name in self._user.get(table, {}):
            return "user"
        return "measured" if table == "machine" and self.machine is not None else "shipped"

    @cached_property
    def _user(self) -> dict[str, dict[str, dict[str, object]]]:
        found = documents.overlay(self._user_file)
        for table in found:
            if table not in OVERLAID:
                raise names.unknown("table in the user's catalog", table, OVERLAID)
        return found

    def _overlaid(self, table: str, shipped: dict[str, R]) -> dict[str, R]:
        changes = self._user.get(table, {})
        if not changes or self._user_file is None:
            return shipped
        for name, fields in changes.items():
            if name not in shipped:
                raise names.unknown(f"row of {table} in the user's catalog", name, shipped)
            shipped[name] = documents.overlaid(shipped[name], fields, self._user_file)
        return shipped

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and bytes of the shipped tables and the user's overlay."""
        total = hashlib.sha256()
        files = sorted(path for pattern in ("*.csv", "**/*.yaml") for path in self._folder.glob(pattern))
        for path in files:
            total.update(path.relative_to(self._folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        if self._user_file is not None and self._user_file.is_file():
            total.update(self._user_file.read_bytes())
        return total.hexdigest()
