"""The catalog for the planner: tables as records, their provenance, and queries across tables."""

from collections.abc import Iterable, Mapping
from functools import cached_property

from archwright.catalog.layers.efficiency_lookup import choose_efficiency, choose_training
from archwright.catalog.layers.fact_provenance import FactProvenance
from archwright.catalog.layers.packaged_tables import OVERLAID
from archwright.catalog.tables import name_resolution, records
from archwright.catalog.tables.name_resolution import normalise_name, unknown_name_error
from archwright.catalog.tables.row_names import row_name
from archwright.catalog.tables.specialist_tables import ImageModel
from archwright.contract.decision import ScoreEvidence
from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates, within_factor
from archwright.contract.lineage import Task
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.errors import CatalogError

__all__ = ["ANY_PLACE", "BASE_CURRENCY", "OVERLAID", "OWN_PROVIDERS", "Catalog"]

BASE_CURRENCY = "EUR"
# This place allows all countries; groups of countries are in the country table.
ANY_PLACE = "any"
OWN_PROVIDERS = frozenset({"on-premises", "this-machine"})
# Band of an electricity price if the average of a group replaces a country's own row.
STAND_IN_FACTOR = 1.6
# Benchmarks with this ending measure errors, of which a minimum has no sense.
ERROR_RATE = "_wer"


class Catalog(FactProvenance):
    """Tables are read on first use and cached."""

    # --- names

    @cached_property
    def benchmarks(self) -> frozenset[str]:
        """Benchmarks for which a model has a share; ratings above 1 cannot be a minimum and are left out."""
        specialist = (row for row in self.specialist_scores if not row.benchmark.endswith(ERROR_RATE))
        return frozenset(row.benchmark for row in (*self.scores, *specialist) if 0 < row.score < 1)

    @cached_property
    def currencies(self) -> frozenset[str]:
        return frozenset({BASE_CURRENCY, *(rate.quote for rate in self.exchange_rates)})

    @cached_property
    def providers(self) -> frozenset[str]:
        sold = {*self.cloud_providers, *(model.provider for model in self.hosted)}
        return frozenset(sold) | OWN_PROVIDERS

    @cached_property
    def country_groups(self) -> frozenset[str]:
        return frozenset(place for country in self.countries.values() for place in country.places)

    @cached_property
    def places(self) -> frozenset[str]:
        """Valid values of a residency or a pinned region: countries, groups, `any`, providers' regions."""
        regions = {row.region for row in self.regions.values()}
        return frozenset({ANY_PLACE, *self.countries, *self.country_groups, *regions})

    def accelerator(self, name: str) -> records.Accelerator:
        """Find by id, alias or family. Raises CatalogError AW-CAT-01 with the nearest spellings."""
        return name_resolution.resolve_accelerator(name, self.accelerators, self.aliases)

    def accelerator_family(self, name: str) -> tuple[records.Accelerator, ...]:
        matched = name_resolution.match_accelerator_family(name, self.accelerators, self.aliases)
        key = normalise_name(name)
        ids = (a.id for a in self.aliases if a.kind == "accelerator" and normalise_name(a.name) == key)
        alias = self.accelerators.get(next(ids, ""))
        return matched or (() if alias is None else (alias,))

    def accelerator_ids(self, families: Iterable[str]) -> frozenset[str]:
        return frozenset(row.id for name in families for row in self.accelerator_family(name))

    def resolve_machine(self, text: str) -> tuple[int, records.Accelerator]:
        """Return count and accelerator of a machine such as `8x NAME`."""
        count, name = name_resolution.parse_machine(text)
        return count, self.accelerator(name)

    def model(self, name: str) -> records.ModelSpec:
        """Find by id, alias, the name on a model hub, or of a file in the home. Raises CatalogError AW-CAT-01."""
        if name not in self._models_by_spelling:
            stored = (self.models[one.model] for one in self.stored if one.name == name and one.model in self.models)
            model = next(stored, None)
            if model is None:
                model = name_resolution.resolve_model(name, self.models, self.aliases)
            self._models_by_spelling[name] = model
        return self._models_by_spelling[name]

    @cached_property
    def _models_by_spelling(self) -> dict[str, records.ModelSpec]:
        """The models that were asked for: a comparison with all spellings takes long."""
        return {}

    def canonical_provider(self, name: str) -> str:
        """Return this catalog's name of a provider that a price table calls `name`."""
        return next((a.id for a in self.aliases if a.kind == "provider" and a.name == name), name)

    # --- queries

    @cached_property
    def default_engine(self) -> records.EngineSpec:
        """The first engine with HTTP for accelerators: for plans, and for benchmarks that state no engine.

        Raises CatalogError AW-CAT-30 if there is none.
        """
        for engine in self.engines.values():
            if engine.kind == "gpu" and engine.openai_http and not engine.embedded:
                return engine
        message, hint = "no engine in the catalog runs on accelerators", "add such an engine to engines.yaml"
        raise CatalogError("AW-CAT-30", message, hint=hint)

    @cached_property
    def embedded_engine(self) -> records.EngineSpec:
        """The engine that runs in a process of the platform. Raises CatalogError AW-CAT-30 if there is none."""
        for engine in self.engines.values():
            if engine.embedded and engine.quantisations:
                return engine
        hint = "add such an engine to engines.yaml"
        raise CatalogError("AW-CAT-30", "no engine in the catalog is embedded", hint=hint)

    def list_engine_series(self, engine: str) -> dict[str, str]:
        """Return the series of an engine's newest version for the quantities that we measure."""
        rows = (row for row in self.engine_metrics if row.engine == engine and row.covers(""))
        return {row.quantity: row.series for row in rows if row.quantity in METRIC_BY_QUANTITY}

    def list_known_series(self) -> list[dict[str, str]]:
        """Return series by quantity: of each engine, then what the names were in its earlier versions."""
        ages = dict.fromkeys((row.until, row.engine) for row in self.engine_metrics)
        rows = [(key, row) for key in sorted(ages) for row in self.engine_metrics if (row.until, row.engine) == key]
        return [{row.quantity: row.series for at, row in rows if at == key} for key in sorted(ages)]

    def exchange_rate(self, base: str, quote: str) -> Estimate:
        """Return the price of one `base` in `quote`, through EUR, within low and high of twelve months."""
        unit = f"{quote}/{base}"
        if base == quote:
            self._per_euro(base)
            return exact_estimate(1.0, unit)
        bought, paid = self._per_euro(quote), self._per_euro(base)
        return multiply_estimates([bought, paid.divide_amount(1.0, "")], unit)

    def _per_euro(self, currency: str) -> Estimate:
        if currency == BASE_CURRENCY:
            return exact_estimate(1.0, currency)
        for row in self.exchange_rates:
            if row.quote == currency:
                low, high = min(row.low_12m, row.rate), max(row.high_12m, row.rate)
                return Estimate(value=row.rate, low=low, high=high, unit=currency)
        raise unknown_name_error("currency", currency, self.currencies)

    def hosted_places(self, provider: str, model: str) -> tuple[str, ...] | None:
        """Return the countries or groups in which a hosted model processes data, None if unknown."""
        row = self._hosted_by_name.get((provider, model))
        if row is not None and row.places:
            return row.places
        places = [row for row in self.hosted_facts if (row.provider, row.kind) == (provider, "place")]
        of_model, of_all = (tuple(row.name for row in places if row.model == m) for m in (model, "*"))
        return of_model or of_all or None

    def hosted_media(self, provider: str, model: str) -> tuple[str, ...]:
        """Return the media that a hosted model is made for; none: text."""
        found = (row for row in self.hosted_facts if (row.provider, row.model, row.kind) == (provider, model, "media"))
        return tuple(row.name for row in found)

    def open_evidence(self, model: str) -> Mapping[str, ScoreEvidence]:
        """Return the scores of an open model by benchmark, measured or estimated; empty if nothing is known."""
        return self.model_scores.evidence("open", model)

    def hosted_evidence(self, provider: str, model: str) -> Mapping[str, ScoreEvidence]:
        """Return the scores of a hosted model by benchmark: its own, else those of the model with the same weights."""
        row = self._hosted_by_name.get((provider, model))
        name = row.scores_of if row is not None and row.scores_of else model
        own = self.model_scores.evidence("hosted", name)
        return own or self.open_evidence(self._open_by_name.get(normalise_name(name), name))

    def specialist_models(self, kind: str) -> Mapping[str, records.ModelSpec]:
        """Return the models of a kind of work that has its own: embedding, rerank, speech-to-text, document-parsing."""
        tables = {
            "embedding": self.embedders,
            "rerank": self.rerankers,
            "speech-to-text": self.speech_models,
            "document-parsing": self.document_parsers,
        }
        return tables.get(kind, {})

    def find_specialist(self, name: str) -> records.ModelSpec | None:
        """Return the embedder, reranker, speech model or parser of this id; None if there is none."""
        found = (self.embedders, self.rerankers, self.speech_models, self.document_parsers)
        return next((table[name] for table in found if name in table), None)

    def image_model(self, provider: str, model: str) -> ImageModel | None:
        """Return how a model counts images, None if it takes none; `provider` is empty for an open model.

        A hosted model without a row has that of the model with the same weights.
        """
        row = self._hosted_by_name.get((provider, model)) if provider else None
        name = row.scores_of if row is not None and row.scores_of else model
        same = self._open_by_name.get(normalise_name(name), name) if provider else name
        return next((self.image_models[one] for one in (model, name, same) if one in self.image_models), None)

    @cached_property
    def _hosted_by_name(self) -> Mapping[tuple[str, str], records.HostedModel]:
        return {(row.provider, row.id): row for row in self.hosted}

    @cached_property
    def _open_by_name(self) -> Mapping[str, str]:
        return {normalise_name(name): name for name in self.models}

    def unpriced_accelerators(self) -> tuple[str, ...]:
        """Return accelerators without a price in the catalog, neither in an offer nor in a server to buy."""
        sold = {offer.accelerator for offer in self.offers} | {node.accelerator for node in self.nodes.values()}
        return tuple(name for name, row in self.accelerators.items() if name not in sold and row.kind != "cpu")

    def region(self, provider: str, region: str) -> records.Region | None:
        return self.regions.get((provider, region))

    def is_inside(self, country: str, place: str) -> bool:
        """True if `country` (alpha-2) is in `place`. Raises CatalogError AW-CAT-01 for an unknown place."""
        if place not in self.places:
            raise unknown_name_error("place", place, self.places)
        known = self.countries.get(country)
        in_group = known is not None and place in known.places
        return place in (ANY_PLACE, country) or in_group or country in self._countries_of_region.get(place, ())

    @cached_property
    def _countries_of_region(self) -> dict[str, frozenset[str]]:
        """Countries by region name: two providers may use one name in different countries."""
        found: dict[str, set[str]] = {}
        for row in self.regions.values():
            found.setdefault(row.region, set()).add(row.country)
        return {region: frozenset(countries) for region, countries in found.items()}

    def electricity_usd_per_kwh(self, country: str) -> Estimate:
        """Return the price of `electricity_tariff`, with a wide band if it is the average of the country's group."""
        row = self.electricity_tariff(country)
        price = row.commercial_usd_per_kwh or row.industrial_usd_per_kwh or 0.0
        if row.country == country:
            return self.estimate(row, price, "USD/kWh")
        return within_factor(price, max(STAND_IN_FACTOR, records.BAND[row.confidence]), "USD/kWh")

    def electricity_tariff(self, country: str) -> records.EnergyTariff:
        """Return the row of the commercial price, else of the industrial one, else of the group's average."""
        known = self.countries.get(country)
        stand_ins = ("EU27", "WORLD") if known is not None and "EU" in known.places else ("WORLD",)
        for code in (country, *stand_ins):
            for row in self._tariffs_of(code):
                if row.commercial_usd_per_kwh or row.industrial_usd_per_kwh:
                    return row
        raise unknown_name_error("electricity price", country, [row.country for row in self.tariffs])

    def grid_gco2_per_kwh(self, country: str) -> Estimate | None:
        """Return the national yearly mean with a band for yearly and hourly changes, None if unknown."""
        for row in self._tariffs_of(country):
            if row.grid_gco2_per_kwh is not None:
                return within_factor(row.grid_gco2_per_kwh, records.BAND["medium"], "g/kWh")
        return None

    def _tariffs_of(self, code: str) -> Iterable[records.EnergyTariff]:
        return (row for row in self.tariffs if row.country == code and not row.area)

    def efficiency(
        self, engine: str, quantisation: str, isa: str, model: records.ModelSpec | None = None
    ) -> records.Efficiency:
        """Return the nearest row; its factors widen with its distance (`choose_efficiency`).

        With `model`: the row of the format that its width allows.
        """
        stored_as = quantisation if model is None else self.stored_format(model, quantisation)
        return choose_efficiency(self.efficiencies, engine, stored_as, isa)

    def is_users_own(self, row: records.Efficiency) -> bool:
        """True if the user's own facts change this row: they take precedence over measurements."""
        return row_name(row) in self.user_overlay.overridden_names("efficiencies")

    def training_efficiency(self, task: Task, isa: str) -> records.TrainingEfficiency:
        """Return the row of the instruction set, else the row for any set (`choose_training`)."""
        return choose_training(self.training_efficiencies, task, isa)
