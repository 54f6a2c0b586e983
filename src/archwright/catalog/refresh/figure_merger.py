"""Joins figures of storage, electricity, scores, models and accelerators to this catalog's rows."""

from __future__ import annotations

import math
from collections.abc import Iterable

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.refreshed_layer import GridCarbon
from archwright.catalog.refresh.plausibility_checks import EXCEPTIONS, STANDARD_ATTENTION, CheckedFacts, run_checks
from archwright.catalog.refresh.refresh_input import RefreshInput, RefreshReportBuilder
from archwright.catalog.sources.source_records import (
    AcceleratorSpec,
    BytePrice,
    CheckpointArchitecture,
    ElectricityTariff,
)
from archwright.catalog.tables.cost_records import StoragePrice
from archwright.catalog.tables.name_resolution import normalise_name, resolve_model
from archwright.catalog.tables.records import Accelerator, EnergyTariff, ModelSpec, QualityScore
from archwright.contract.record import replace
from archwright.errors import CatalogError

GRID_GCO2_RANGE = (0.0, 2000.0)
# USD per kWh; no business pays less or more.
USD_PER_KWH_RANGE = (0.005, 2.0)
USD = "USD"
NO_NUMBER = "its price is no number"
UNKNOWN_COUNTRY = "a country this catalog does not know"
# Keys and values of 16 bits, two of them per layer.
KV_BYTES = 4


class FigureMerger:
    """Sources come in the order of their priority: the first that states a figure counts."""

    def __init__(self, catalog: Catalog, aside: RefreshReportBuilder) -> None:
        self._catalog, self._aside = catalog, aside

    # --- what storing and moving bytes costs

    def merge_storage_prices(self, brought: Iterable[RefreshInput]) -> tuple[StoragePrice, ...]:
        """Under the item's name in this catalog where it has one."""
        found = []
        for file in brought:
            for price in file.found.stored:
                name = f"{price.provider}: {price.item}"
                if price.provider not in self._catalog.providers:
                    self._aside.skip_row(file.source.id, "a provider this catalog does not know", name)
                elif not (math.isfinite(price.usd_per_byte) and price.usd_per_byte >= 0):
                    self._aside.skip_row(file.source.id, NO_NUMBER, name)
                else:
                    found.append(self._storage_price(file, price))
        return tuple(found)

    def _storage_price(self, file: RefreshInput, price: BytePrice) -> StoragePrice:
        alike = (
            row.item
            for row in self._catalog.shipped_storage_prices
            if (row.provider, row.kind) == (price.provider, price.kind)
            and normalise_name(row.item).startswith(normalise_name(price.item))
        )
        return StoragePrice(**{**price._asdict(), "item": next(alike, price.item)}, **file.provenance)

    # --- electricity

    def merge_grid_carbon(self, brought: Iterable[RefreshInput]) -> tuple[GridCarbon, ...]:
        """By the country's code where this catalog has it, else by its name."""
        known = self._catalog.countries.values()
        codes = {normalise_name(row.name): row.country for row in known}
        codes |= {row.alpha3: row.country for row in known if row.alpha3}
        found = []
        for file in brought:
            for carbon in file.found.carbon:
                country = codes.get(carbon.country) or codes.get(normalise_name(carbon.name))
                if country is None:
                    self._aside.skip_row(file.source.id, UNKNOWN_COUNTRY, carbon.name or carbon.country)
                elif not GRID_GCO2_RANGE[0] <= carbon.gco2_per_kwh <= GRID_GCO2_RANGE[1]:
                    self._aside.skip_row(file.source.id, "no carbon a grid can have", carbon.country)
                else:
                    figure, source = carbon.gco2_per_kwh, file.source_label
                    found.append(GridCarbon(country=country, gco2_per_kwh=figure, year=carbon.year, source=source))
        return tuple(found)

    def merge_tariffs(self, brought: Iterable[RefreshInput]) -> tuple[EnergyTariff, ...]:
        """In USD at today's rate; dated by the period the source states."""
        known = {*self._catalog.countries, *(row.country for row in self._catalog.shipped_tariffs)}
        found: dict[tuple[str, str], EnergyTariff] = {}
        lowest, highest = USD_PER_KWH_RANGE
        for file in brought:
            for tariff in file.found.tariffs:
                row, name = self._convert_tariff(file, tariff), tariff.area or tariff.country
                prices = (row.commercial_usd_per_kwh, row.industrial_usd_per_kwh)
                if tariff.country not in known:
                    self._aside.skip_row(file.source.id, UNKNOWN_COUNTRY, name)
                elif row.commercial_usd_per_kwh is None:
                    # An industry's price alone would stand in for a business's.
                    self._aside.skip_row(file.source.id, "states no price for a business", name)
                elif any(price is not None and not lowest <= price <= highest for price in prices):
                    self._aside.skip_row(file.source.id, "no price a kWh can have", name)
                else:
                    found.setdefault((row.country, row.area), row)
        return tuple(found.values())

    def _convert_tariff(self, file: RefreshInput, tariff: ElectricityTariff) -> EnergyTariff:
        rate = self._catalog.exchange_rate(tariff.currency, USD).value
        return EnergyTariff(
            country=tariff.country,
            area=tariff.area,
            commercial_usd_per_kwh=None if tariff.commercial is None else tariff.commercial * rate,
            industrial_usd_per_kwh=None if tariff.industrial is None else tariff.industrial * rate,
            source=file.source_label if tariff.currency == USD else f"{file.source_label} x {rate:g}",
            as_of=tariff.period,
            confidence="high",
        )

    # --- models and accelerators this catalog has a row of

    def merge_scores(self, brought: Iterable[RefreshInput]) -> tuple[QualityScore, ...]:
        found = []
        for file in brought:
            for score in file.found.scores:
                name = f"{score.model}: {score.benchmark}"
                model = self._resolve_model(file, score.model)
                if model is not None and not 0 < score.score < 1:
                    self._aside.skip_row(file.source.id, "a score that is no share", name)
                elif model is not None:
                    named = score._replace(model=model.id, benchmark=score.benchmark.replace("-", "_"))
                    found.append(QualityScore(**named._asdict(), **file.provenance))
        return tuple(found)

    def merge_models(self, brought: Iterable[RefreshInput]) -> tuple[ModelSpec, ...]:
        """Shapes as the checkpoints state them, laid into this catalog's rows: a licence is in no configuration."""
        found: dict[str, ModelSpec] = {}
        for file in brought:
            for shape in file.found.architectures:
                model = self._resolve_model(file, shape.model)
                if model is not None:
                    made = _with_architecture(file, model, shape)
                    if self._passes_checks(file, CheckedFacts({}, models=(made,))):
                        found.setdefault(made.id, made)
        return tuple(found.values())

    def merge_accelerators(self, brought: Iterable[RefreshInput]) -> tuple[Accelerator, ...]:
        """Rates, bandwidth, links and watts; the memory stays, since software sees less than is sold."""
        found: dict[str, Accelerator] = {}
        for file in brought:
            for device in file.found.devices:
                try:
                    row = self._catalog.accelerator(device.name)
                except CatalogError:
                    self._aside.skip_row(file.source.id, "an accelerator this catalog has no row of", device.name)
                    continue
                made = _with_accelerator_sheet(file, row, device)
                stated = replace(made, memory_bytes=device.memory_bytes)
                if all(self._passes_checks(file, CheckedFacts({made.id: row})) for row in (made, stated)):
                    found.setdefault(made.id, made)
        return tuple(found.values())

    def _passes_checks(self, file: RefreshInput, facts: CheckedFacts) -> bool:
        """Whether no gate refuses; what it says is set aside."""
        findings = run_checks(facts, self._catalog.gate_exceptions)
        refused = [one for one in findings if one.refuses and one.gate != EXCEPTIONS]
        for one in refused:
            self._aside.skip_row(file.source.id, f"gate {one.gate}", f"{one.subject}: {one.says}")
        return not refused

    def _resolve_model(self, file: RefreshInput, said: str) -> ModelSpec | None:
        """Not by an alias: that one plain name stands for the newest model does not make an older one's figures its."""
        try:
            return resolve_model(said, self._catalog.models, ())
        except CatalogError:
            self._aside.skip_row(file.source.id, "a model this catalog has no row of", said)
            return None


def _with_architecture(file: RefreshInput, row: ModelSpec, shape: CheckpointArchitecture) -> ModelSpec:
    """The file is the thing itself and not a copy of a page: it is as good as the day it was brought."""
    fields = dict(shape.fields)
    if row.attention in STANDARD_ATTENTION:
        layers, heads, wide = (fields.get(name, getattr(row, name)) for name in ("layers", "kv_heads", "head_dim"))
        fields["kv_bytes_per_token_bf16"] = KV_BYTES * layers * heads * wide
    return replace(row, **fields, source=file.source_label, as_of=file.as_of or file.brought_on, confidence="high")


def _with_accelerator_sheet(file: RefreshInput, row: Accelerator, device: AcceleratorSpec) -> Accelerator:
    return replace(
        row,
        memory_bandwidth_bytes_per_s=device.bandwidth_bytes_per_s,
        flops={**row.flops, **device.flops},
        scale_up_bytes_per_s=device.scale_up_bytes_per_s or row.scale_up_bytes_per_s,
        tdp_w=device.tdp_w or row.tdp_w,
        source=file.source_label,
        as_of=file.as_of,
        confidence="high" if file.as_of else row.confidence,
    )
