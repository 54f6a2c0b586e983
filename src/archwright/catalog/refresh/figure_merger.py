"""Joins figures of storage, electricity, scores, models and accelerators to this catalog's rows."""

import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.refreshed_layer import GridCarbon
from archwright.catalog.refresh.plausibility_checks import EXCEPTIONS, STANDARD_ATTENTION, CheckedFacts, run_checks
from archwright.catalog.refresh.refresh_input import RefreshInput, RefreshReportBuilder
from archwright.catalog.sources.source_records import CheckpointArchitecture
from archwright.catalog.tables.cost_records import StoragePrice
from archwright.catalog.tables.name_resolution import normalise_name, resolve_model
from archwright.catalog.tables.records import Accelerator, EnergyTariff, ModelSpec, QualityScore, ScoreTable
from archwright.contract.record import replace
from archwright.errors import CatalogError

GRID_GCO2_RANGE = (0.0, 2000.0)
# USD per kWh; no business pays less or more.
USD_PER_KWH_RANGE = (0.005, 2.0)
USD = "USD"
UNKNOWN_COUNTRY = "the catalog has no such country"
# Points of a share by which a score may miss the range of two other sources.
CONTRADICTION = 0.03
# The day of a version at the end of a hosted model's name.
DAY = re.compile(r"-20\d\d-?\d\d-?\d\d$")
# Keys and values of 16 bits, two of them per layer.
KV_BYTES = 4


class FigureMerger:
    """Sources come in the order of their priority: the first source of a figure wins."""

    def __init__(self, catalog: Catalog, report: RefreshReportBuilder) -> None:
        self._catalog, self._report = catalog, report

    def merge_storage_prices(self, files: Iterable[RefreshInput]) -> tuple[StoragePrice, ...]:
        """Convert prices of storing and moving bytes, under the item's name in this catalog if there is one."""
        found = []
        for file in files:
            for price in file.found.stored:
                name = f"{price.provider}: {price.item}"
                shipped, key = self._catalog.shipped_storage_prices, normalise_name(price.item)
                of_kind = [row.item for row in shipped if (row.provider, row.kind) == (price.provider, price.kind)]
                same_items = (item for item in of_kind if normalise_name(item).startswith(key))
                if price.provider not in self._catalog.providers:
                    self._report.skip_row(file.source.id, "the catalog has no such provider", name)
                elif not (math.isfinite(price.usd_per_byte) and price.usd_per_byte >= 0):
                    self._report.skip_row(file.source.id, "the price is not a number of at least 0", name)
                else:
                    fields = price._asdict() | {"item": next(same_items, price.item)}
                    found.append(StoragePrice(**fields, **file.provenance))
        return tuple(found)

    def merge_grid_carbon(self, files: Iterable[RefreshInput]) -> tuple[GridCarbon, ...]:
        """Find each country by its code, or else by its name."""
        known = self._catalog.countries.values()
        codes = {normalise_name(row.name): row.country for row in known}
        codes |= {row.alpha3: row.country for row in known if row.alpha3}
        lowest, highest = GRID_GCO2_RANGE
        found = []
        for file in files:
            for carbon in file.found.carbon:
                country = codes.get(carbon.country) or codes.get(normalise_name(carbon.name))
                figure = carbon.gco2_per_kwh
                if country is None:
                    self._report.skip_row(file.source.id, UNKNOWN_COUNTRY, carbon.name or carbon.country)
                elif not lowest <= figure <= highest:
                    reason = f"carbon intensity outside {lowest:g} to {highest:g} g/kWh"
                    self._report.skip_row(file.source.id, reason, carbon.country)
                else:
                    source = file.source_label
                    found.append(GridCarbon(country=country, gco2_per_kwh=figure, year=carbon.year, source=source))
        return tuple(found)

    def merge_tariffs(self, files: Iterable[RefreshInput]) -> tuple[EnergyTariff, ...]:
        """Convert tariffs to USD at today's rate; they are dated by the period that the source states."""
        known = {*self._catalog.countries, *(row.country for row in self._catalog.shipped_tariffs)}
        found: dict[tuple[str, str], EnergyTariff] = {}
        lowest, highest = USD_PER_KWH_RANGE
        for file in files:
            for tariff in file.found.tariffs:
                name, rate = tariff.area or tariff.country, self._catalog.exchange_rate(tariff.currency, USD).value
                stated = (tariff.commercial, tariff.industrial)
                commercial, industrial = (None if price is None else price * rate for price in stated)
                if tariff.country not in known:
                    self._report.skip_row(file.source.id, UNKNOWN_COUNTRY, name)
                elif commercial is None:
                    # An industrial price alone would replace the price of a business.
                    self._report.skip_row(file.source.id, "no price for a business", name)
                elif any(price is not None and not lowest <= price <= highest for price in (commercial, industrial)):
                    reason = f"price per kWh outside {lowest:g} to {highest:g} USD"
                    self._report.skip_row(file.source.id, reason, name)
                else:
                    row = EnergyTariff(
                        country=tariff.country,
                        area=tariff.area,
                        commercial_usd_per_kwh=commercial,
                        industrial_usd_per_kwh=industrial,
                        source=file.source_label + ("" if tariff.currency == USD else f" x {rate:g}"),
                        as_of=tariff.period,
                        confidence="high",
                    )
                    found.setdefault((row.country, row.area), row)
        return tuple(found.values())

    def merge_scores(self, files: Iterable[RefreshInput]) -> tuple[QualityScore, ...]:
        """Merge scores of open and hosted models; a score must not contradict two sources of the shipped score."""
        shipped = {(row.table, row.model, row.benchmark): row for row in self._catalog.packaged_only.scores}
        found = []
        for file in files:
            for score in file.found.scores:
                benchmark, subject = score.benchmark.replace("-", "_"), f"{score.model}: {score.benchmark}"
                known = self._catalog.benchmark_table.get(benchmark)
                model = self._resolve_scored_model(file, score.model)
                if model is None:
                    continue
                if (known is None or known.unit == "share") and not 0 < score.score < 1:
                    self._report.skip_row(file.source.id, "the score is not a share between 0 and 1", subject)
                elif _is_contradicted(score.score, shipped.get((*model, benchmark))):
                    self._report.skip_row(file.source.id, "two sources of the shipped score contradict it", subject)
                else:
                    named = score._asdict() | {"table": model[0], "model": model[1], "benchmark": benchmark}
                    found.append(QualityScore(**named, **file.provenance))
        return tuple(found)

    def _resolve_scored_model(self, file: RefreshInput, name: str) -> tuple[ScoreTable, str] | None:
        """Return table and id of a hosted or open model; sources add a day to the names of hosted models."""
        hosted = self._hosted_names.get(normalise_name(DAY.sub("", name)))
        if hosted is not None:
            return hosted
        model = self._resolve_model(file, name)
        return None if model is None else ("open", model.id)

    @cached_property
    def _hosted_names(self) -> Mapping[str, tuple[ScoreTable, str]]:
        rows = (row for row in self._catalog.shipped_hosted if row.scores_of in ("", row.id))
        return {normalise_name(row.id): ("hosted", row.id) for row in rows}

    def merge_models(self, files: Iterable[RefreshInput]) -> tuple[ModelSpec, ...]:
        """Merge architectures into this catalog's rows, since a configuration states no licence."""
        found: dict[str, ModelSpec] = {}
        for file in files:
            for architecture in file.found.architectures:
                model = self._resolve_model(file, architecture.model)
                if model is not None:
                    merged = _with_architecture(file, model, architecture)
                    if self._passes_checks(file, CheckedFacts({}, models=(merged,))):
                        found.setdefault(merged.id, merged)
        return tuple(found.values())

    def merge_accelerators(self, files: Iterable[RefreshInput]) -> tuple[Accelerator, ...]:
        """Merge rates, bandwidth, links and watts; the memory stays, since sheets state more than is usable."""
        found: dict[str, Accelerator] = {}
        for file in files:
            for device in file.found.devices:
                try:
                    row = self._catalog.accelerator(device.name)
                except CatalogError:
                    self._report.skip_row(file.source.id, "the catalog has no such accelerator", device.name)
                    continue
                merged = replace(
                    row,
                    memory_bandwidth_bytes_per_s=device.bandwidth_bytes_per_s,
                    flops={**row.flops, **device.flops},
                    scale_up_bytes_per_s=device.scale_up_bytes_per_s or row.scale_up_bytes_per_s,
                    tdp_w=device.tdp_w or row.tdp_w,
                    source=file.source_label,
                    as_of=file.as_of,
                    confidence="high" if file.as_of else row.confidence,
                )
                stated = replace(merged, memory_bytes=device.memory_bytes)
                if all(self._passes_checks(file, CheckedFacts({merged.id: row})) for row in (merged, stated)):
                    found.setdefault(merged.id, merged)
        return tuple(found.values())

    def _passes_checks(self, file: RefreshInput, facts: CheckedFacts) -> bool:
        """True if no gate refuses; refusals go to the report."""
        findings = run_checks(facts, self._catalog.gate_exceptions)
        refused = [finding for finding in findings if finding.refuses and finding.gate != EXCEPTIONS]
        for finding in refused:
            self._report.skip_row(file.source.id, f"gate {finding.gate}", f"{finding.subject}: {finding.says}")
        return not refused

    def _resolve_model(self, file: RefreshInput, name: str) -> ModelSpec | None:
        """Resolve without aliases: a plain name may mean the newest model, while the figures are older."""
        try:
            return resolve_model(name, self._catalog.models, ())
        except CatalogError:
            self._report.skip_row(file.source.id, "the catalog has no such model", name)
            return None


def _is_contradicted(score: float, shipped: QualityScore | None) -> bool:
    """True if `score` lies outside the range of at least two shipped rows by more than CONTRADICTION."""
    if shipped is None or shipped.rows < 2 or shipped.low is None or shipped.high is None or shipped.high > 1:
        return False
    return not shipped.low - CONTRADICTION <= score <= shipped.high + CONTRADICTION


def _with_architecture(file: RefreshInput, row: ModelSpec, architecture: CheckpointArchitecture) -> ModelSpec:
    """Merge a checkpoint's own file, which is valid on the day of the refresh, not a copy of a page."""
    fields = dict(architecture.fields)
    if row.attention in STANDARD_ATTENTION:
        layers, heads, width = (fields.get(name, getattr(row, name)) for name in ("layers", "kv_heads", "head_dim"))
        fields["kv_bytes_per_token_bf16"] = KV_BYTES * layers * heads * width
    return replace(row, **fields, source=file.source_label, as_of=file.as_of or file.brought_on, confidence="high")
