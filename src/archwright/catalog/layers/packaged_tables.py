"""Tables as records. Layers, highest first: user, measured, refreshed, shipped, derived by rule."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import msgspec

from archwright.catalog.layers.derived_offers import OfferDeriver
from archwright.catalog.layers.engine_measurements import NOT_MEASURED, MeasuredLayer
from archwright.catalog.layers.model_scores import ModelScores
from archwright.catalog.layers.refreshed_layer import (
    GridCarbon,
    RefreshedLayer,
    expand_offers,
    overlay_offer,
    read_generation,
)
from archwright.catalog.layers.stored_models import build_artefact, build_model_spec
from archwright.catalog.layers.user_overlay import UserOverlay, overlaid_property
from archwright.catalog.tables import cost_records, metadata_records, parsers, records
from archwright.catalog.tables.csv_table import table_reader
from archwright.catalog.tables.row_names import replacement_key, row_name
from archwright.catalog.tables.specialist_tables import (
    SpecialistRule,
    read_encoders,
    read_image_models,
    read_published_rate_models,
    read_specialist_rules,
    read_specialist_scores,
)
from archwright.catalog.tables.work_rate_parsers import read_work_rates
from archwright.catalog.tables.yaml_documents import read_engines, read_regulations
from archwright.contract.estimate import Estimate
from archwright.contract.plan import Artefact
from archwright.contract.record import Record, replace
from archwright.contract.stored_model import StoredModel

R = TypeVar("R", bound=Record)

# Country, or group of countries, of a region -> `geo` of an offer.
GEOS = {"US": "US", "GB": "UK", "EEA": "EU", "APAC": "Asia"}
# Weights per block of a K format of GGUF; llama.cpp's quantiser uses another format for rows of other lengths.
K_BLOCK = 256
DIGESTED = ("*.csv", "**/*.yaml", "**/*.json")


def _internal_table(read: Callable[[Path], list[R]]) -> cached_property[tuple[R, ...]]:
    """A table that the user cannot change."""
    return cached_property(lambda tables: tuple(read(tables.folder)))


def _list_table(read: Callable[[Path], list[R]]) -> overlaid_property[tuple[R, ...]]:
    return overlaid_property(lambda tables: tuple(read(tables.folder)))


def _keyed_table(read: Callable[[Path], list[R]], key: str = "id") -> overlaid_property[Mapping[str, R]]:
    return overlaid_property(lambda tables: {getattr(row, key): row for row in read(tables.folder)})


class CatalogTables:
    """`measured`: what was measured on this machine; `latest`: the file of the refreshed layer.

    `stored`: the models of the home. `held`: digests of all model files there, also of those without a record.
    """

    def __init__(
        self,
        folder: Path,
        *,
        user: Path | None = None,
        measured: MeasuredLayer = NOT_MEASURED,
        latest: Path | None = None,
        today: date | None = None,
        stored: tuple[StoredModel, ...] = (),
    ) -> None:
        self.folder = folder
        self.stored = stored
        self.held: frozenset[str] = frozenset()
        self._today = today
        self._user_file = user
        self._latest_file = latest
        self.measured = measured
        self.machine = measured.machine
        self.engine_measurements = measured.engines
        self._offers_by_provider: dict[str, tuple[records.Offer, ...]] = {}
        self._sold: dict[tuple[str, bool], tuple[records.Offer, ...]] = {}
        self._rows_by_name: dict[str, dict[str, Record]] = {}
        self._parameters: dict[str, tuple[Record, Estimate]] = {}

    @overlaid_property
    def accelerators(self) -> Mapping[str, records.Accelerator]:
        found = {row.id: row for row in parsers.read_accelerators(self.folder)}
        return found | {row.id: row for row in self.refreshed_layer.accelerators if row.id in found}

    # --- offers: derived < shipped < refreshed < the user's

    @cached_property
    def offers(self) -> tuple[records.Offer, ...]:
        """Every offer; use `offers_of` for one provider, since the refreshed layer may have 100,000 offers."""
        found = tuple(offer for provider in self.cloud_providers for offer in self.offers_of(provider))
        self.user_overlay.check_names("offers", (offer.id for offer in found))
        return found

    def offers_of(self, provider: str) -> tuple[records.Offer, ...]:
        """Return the offers of one provider; the highest layer wins."""
        if provider not in self._offers_by_provider:
            found = {**self.derived_offers.get(provider, {}), **self.shipped_offers.get(provider, {})}
            if provider in self.refreshed_layer.prices:
                for offer in expand_offers(self.refreshed_layer.prices[provider]):
                    below = found.get(offer.id)
                    found[offer.id] = offer if below is None else overlay_offer(below, offer)
            for name in self.user_overlay.overridden_names("offers") & found.keys():
                found[name] = self.user_overlay.apply_to_row("offers", found[name])
            self._offers_by_provider[provider] = tuple(found.values())
        return self._offers_by_provider[provider]

    @cached_property
    def cloud_providers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.shipped_offers, *self.derived_offers, *self.refreshed_layer.prices]))

    @cached_property
    def shipped_offers(self) -> Mapping[str, Mapping[str, records.Offer]]:
        """Shipped offers by provider and id."""
        return _group_by_provider(parsers.read_offers(self.folder))

    @cached_property
    def derived_offers(self) -> Mapping[str, Mapping[str, records.Offer]]:
        shipped = [offer for of in self.shipped_offers.values() for offer in of.values()]
        derived = OfferDeriver(shipped, self.availability, self.geo).offers(self.region_ratios)
        return _group_by_provider(derived.values())

    def geo(self, provider: str, region: str) -> str | None:
        """Return the `geo` of offers in a region, None if the region is unknown."""
        known = self.regions.get((provider, region))
        if known is None:
            return None
        groups = {known.country, *self.countries[known.country].places}
        return next((geo for place, geo in GEOS.items() if place in groups), "other")

    @cached_property
    def refreshed_layer(self) -> RefreshedLayer:
        return RefreshedLayer() if self._latest_file is None else read_generation(self._latest_file)

    # --- models

    @overlaid_property
    def models(self) -> Mapping[str, records.ModelSpec]:
        found = {row.id: row for row in parsers.read_models(self.folder, list(self.scores))}
        # A refreshed architecture has no scores.
        newer = [row for row in self.refreshed_layer.models if row.id in found]
        found |= {row.id: replace(row, quality=found[row.id].quality) for row in newer}
        return {spec.id: spec for spec in map(build_model_spec, self.stored) if spec is not None} | found

    @overlaid_property
    def scores(self) -> tuple[records.QualityScore, ...]:
        """The refreshed scores of a model on a benchmark replace the shipped one."""
        newer = {(row.table, row.model, row.benchmark) for row in self.refreshed_layer.scores}
        shipped = parsers.read_quality_scores(self.folder)
        kept = (row for row in shipped if (row.table, row.model, row.benchmark) not in newer)
        return (*kept, *self.refreshed_layer.scores)

    benchmark_table = cached_property[Mapping[str, records.Benchmark]](
        lambda tables: {row.id: row for row in parsers.read_benchmarks(tables.folder)}
    )

    @cached_property
    def model_scores(self) -> ModelScores:
        return ModelScores(self.benchmark_table, self.scores, parsers.read_score_estimates(self.folder))

    @overlaid_property
    def hosted(self) -> tuple[records.HostedModel, ...]:
        """A refreshed price replaces the shipped price of the same model; all other shipped prices stay.

        No price source states the place of processing or a model's namesake: they stay, too."""
        newer = {(row.provider, row.id): row for row in self.refreshed_layer.hosted}
        found = {(row.provider, row.id): row for row in self.shipped_hosted}
        for key, row in newer.items():
            below = found.get(key, row)
            found[key] = replace(row, places=below.places, scores_of=below.scores_of)
        return tuple(found.values())

    shipped_hosted = _internal_table(parsers.read_hosted_models)
    hosted_facts = _list_table(table_reader(metadata_records.HostedModelFact, "hosted_facts.csv"))
    engines = _keyed_table(read_engines)
    engine_metrics = _list_table(table_reader(records.EngineMetric, "engine_metrics.csv"))

    @cached_property
    def artefacts(self) -> Mapping[str, Artefact]:
        return {row.model: row for row in table_reader(Artefact, "artefacts.csv")(self.folder)}

    hub_models = _keyed_table(table_reader(records.HubModel, "hub_models.csv"), "model")
    drafts = _keyed_table(table_reader(records.DraftModel, "drafts.csv"), "model")
    serving_parsers = _keyed_table(table_reader(records.ServingParsers, "serving_parsers.csv"), "model")

    @cached_property
    def model_files(self) -> Mapping[str, tuple[Artefact, ...]]:
        """The files of each model: those in the home, then the wheel, then the quantisations on the hub."""
        stored = [*map(build_artefact, self.stored)]
        offered = [*self.artefacts.values()]
        for row in self.hub_models.values():
            if row.model in self.models:
                offered += [self.compute_model_file(row.model, quantisation) for quantisation in row.quantisations]

        files_by_model: dict[str, list[Artefact]] = {}
        for file in stored:
            files_by_model.setdefault(file.model, []).append(file)
        stored_formats = {(file.model, file.quantisation) for file in stored}
        for file in offered:
            if (file.model, file.quantisation) not in stored_formats:
                files_by_model.setdefault(file.model, []).append(file)
        return {model: tuple(files) for model, files in files_by_model.items()}

    def compute_model_file(self, model: str, quantisation: str) -> Artefact:
        """Return a file of a known model with a size from its bits per weight, from its hub repository if one is known.

        The format is the one that the model's width allows."""
        spec, row = self.models[model], self.hub_models.get(model)
        kind = self.quantisations[self.stored_format(spec, quantisation)]
        return Artefact(
            name=f"{model}-{quantisation}",
            model=model,
            package="",
            version="",
            member="",
            sha256="",
            size_bytes=round(spec.parameters * kind.bits_per_weight / 8),
            quantisation=quantisation,
            licence=spec.licence,
            source=f"parameters x {kind.bits_per_weight:g} bits ({kind.source})" if row is None else row.source,
            template_tokens=0 if row is None else row.template_tokens,
            repository="" if row is None else row.gguf_repository,
            template_tools=row is not None and bool(row.tool_format),
        )

    def stored_format(self, model: records.ModelSpec, quantisation: str) -> str:
        """Return the format of most weights: another one if the model's width is no multiple of a K format's block."""
        known = self.quantisations.get(quantisation)
        return known.fallback if known is not None and known.fallback and model.hidden % K_BLOCK else quantisation

    quantisations = _keyed_table(table_reader(records.Quantisation, "quantisations.csv"), "quantisation")
    efficiencies = _list_table(table_reader(records.Efficiency, "efficiencies.csv"))
    training_efficiencies = _list_table(table_reader(records.TrainingEfficiency, "training_efficiencies.csv"))
    work_rates = _keyed_table(read_work_rates)

    components = _keyed_table(table_reader(records.Component, "components.csv"))

    # --- models that generate no chat text

    embedders = _keyed_table(partial(read_encoders, file="embedders.csv"))
    rerankers = _keyed_table(partial(read_encoders, file="rerankers.csv"))
    speech_models = _keyed_table(partial(read_published_rate_models, file="speech_models.csv"))
    document_parsers = _keyed_table(partial(read_published_rate_models, file="document_parsers.csv"))
    image_models = _keyed_table(read_image_models, "model")
    specialist_scores = _internal_table(read_specialist_scores)

    @cached_property
    def specialist_rules(self) -> Mapping[str, SpecialistRule]:
        return {rule.kind: rule for rule in read_specialist_rules(self.folder)}

    # --- what needs may leave out

    load_rules = _list_table(table_reader(metadata_records.LoadRule, "load_rules.csv"))
    slo_limits = _list_table(table_reader(metadata_records.SLOLimit, "slo_presets.csv"))
    languages = _keyed_table(table_reader(metadata_records.Language, "languages.csv"), "language")
    country_languages = _keyed_table(
        table_reader(metadata_records.CountryLanguages, "country_languages.csv"), "country"
    )

    # --- places and rules

    regulations = _keyed_table(read_regulations)
    residency_rules = _list_table(table_reader(records.ResidencyRule, "residency.csv"))

    @overlaid_property
    def regions(self) -> Mapping[tuple[str, str], records.Region]:
        return {(row.provider, row.region): row for row in parsers.read_regions(self.folder)}

    countries = _keyed_table(parsers.read_countries, "country")
    availability = _list_table(parsers.read_availability)
    region_ratios = _list_table(parsers.read_region_ratios)

    # --- money

    exchange_rates = _list_table(table_reader(records.ExchangeRate, "fx.csv"))

    @cached_property
    def shipped_tariffs(self) -> tuple[records.EnergyTariff, ...]:
        return tuple(parsers.read_tariffs(self.folder, list(self.countries.values())))

    @overlaid_property
    def tariffs(self) -> tuple[records.EnergyTariff, ...]:
        """Prices and carbon intensity, each refreshed independently, also for new places."""
        prices = {row_name(row): row for row in self.refreshed_layer.tariffs}
        grids = {row.country: row for row in self.refreshed_layer.grid}
        found = {row_name(row): row for row in self.shipped_tariffs}
        for name, newer in prices.items():
            below = found.get(name, newer)
            # Keep the carbon intensity, but no older price of the other band: it would get the new date.
            grid = {field: getattr(below, field) for field in ("grid_gco2_per_kwh", "grid_year", "grid_source")}
            found[name] = replace(newer, **grid)
        known = {row.country for row in found.values() if not row.area}
        alone = [_tariff_from_grid(row) for row in self.refreshed_layer.grid if row.country not in known]
        for name, row in found.items():
            newer_grid = None if row.area else grids.get(row.country)
            if newer_grid is not None:
                figure, year, source = newer_grid.gco2_per_kwh, newer_grid.year, newer_grid.source
                found[name] = replace(row, grid_gco2_per_kwh=figure, grid_year=year, grid_source=source)
        return (*found.values(), *alone)

    parts = _keyed_table(parsers.read_parts)
    cloud_services = _list_table(parsers.read_cloud_services)
    system_machines = _list_table(parsers.read_system_machines)
    nodes = _keyed_table(parsers.read_servers)

    @overlaid_property
    def storage_prices(self) -> tuple[cost_records.StoragePrice, ...]:
        """Refreshed prices of an item replace all its shipped prices: tiers are valid only together."""
        newer = {replacement_key(row) for row in self.refreshed_layer.storage}
        kept = [row for row in self.shipped_storage_prices if replacement_key(row) not in newer]
        return (*kept, *self.refreshed_layer.storage)

    shipped_storage_prices = _internal_table(parsers.read_storage_prices)
    commitments = _list_table(parsers.read_commitment_discounts)
    surcharges = _list_table(parsers.read_surcharges)

    # --- names and metadata of facts

    aliases = _internal_table(table_reader(records.Alias, "aliases.csv"))
    times_to_live = _internal_table(parsers.read_times_to_live)
    source_words = _internal_table(parsers.read_source_patterns)
    refresh_sources = _internal_table(parsers.read_refresh_sources)
    gate_exceptions = _internal_table(parsers.read_plausibility_exceptions)

    # --- layers

    @cached_property
    def user_overlay(self) -> UserOverlay:
        return UserOverlay(self._user_file, OVERLAID, self._today or date.min)

    @property
    def expired_overrides(self) -> tuple[str, ...]:
        return self.user_overlay.expired_overrides

    def rows_by_name(self, table: str) -> Mapping[str, Record]:
        if table not in self._rows_by_name:
            rows_of = getattr(self, table)
            listed = rows_of.values() if isinstance(rows_of, Mapping) else rows_of
            self._rows_by_name[table] = {row_name(row): row for row in listed}
        return self._rows_by_name[table]

    @cached_property
    def without_user_overlay(self) -> CatalogTables:
        return CatalogTables(self.folder, measured=self.measured, latest=self._latest_file)

    @cached_property
    def packaged_only(self) -> CatalogTables:
        return CatalogTables(self.folder)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the shipped data (names and bytes), the refreshed layer and the user's active facts."""
        total = hashlib.sha256()
        files = sorted({path for pattern in DIGESTED for path in self.folder.glob(pattern)})
        for path in files:
            total.update(path.relative_to(self.folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        if self._latest_file is not None:
            total.update(msgspec.msgpack.encode(self.refreshed_layer))
        if self._user_file is not None and self._user_file.is_file():
            expired = b"\0".join(name.encode() for name in self.user_overlay.expired_overrides)
            total.update(self._user_file.read_bytes() + expired)
        return total.hexdigest()


# The tables that a user's own facts can change.
OVERLAID = ("offers", *(name for name, value in vars(CatalogTables).items() if isinstance(value, overlaid_property)))


def _group_by_provider(offers: Iterable[records.Offer]) -> dict[str, dict[str, records.Offer]]:
    found: dict[str, dict[str, records.Offer]] = {}
    for offer in offers:
        found.setdefault(offer.provider, {})[offer.id] = offer
    return found


def _tariff_from_grid(row: GridCarbon) -> records.EnergyTariff:
    return records.EnergyTariff(
        country=row.country,
        area="",
        grid_gco2_per_kwh=row.gco2_per_kwh,
        grid_year=row.year,
        grid_source=row.source,
        source=row.source,
        as_of=row.year,
        confidence="medium",
    )
