"""Resolves names in benchmark tables: more models, accelerators and engines than a plan can use."""

from collections.abc import Mapping
from functools import cached_property

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables import parsers
from archwright.catalog.tables.csv_table import DATA, read_rows
from archwright.catalog.tables.name_resolution import normalise_name, resolve_accelerator, resolve_model
from archwright.catalog.tables.records import Accelerator, ModelSpec


class BenchmarkNameResolver:
    """Resolves names to rows; results are cached, since a table repeats its names."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._models: dict[str, ModelSpec] = {}
        self._accelerators: dict[str, Accelerator] = {}

    @cached_property
    def models(self) -> Mapping[str, ModelSpec]:
        own = self.catalog.models
        return {**own, **{row.id: row for row in parsers.read_architectures(DATA) if row.id not in own}}

    @cached_property
    def accelerators(self) -> Mapping[str, Accelerator]:
        own = self.catalog.accelerators
        # A plain name means the first matching row, so accelerators for plans come first.
        return {**own, **{row.id: row for row in parsers.read_accelerators(DATA, "devices.csv") if row.id not in own}}

    @cached_property
    def _spellings(self) -> tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]:
        found: dict[str, dict[str, str]] = {"model": {}, "accelerator": {}, "engine": {}}
        for row in read_rows(DATA, "benchmark_names.csv"):
            name, kind = row.required_text("name"), row.required_text("kind")
            found[kind][name if kind == "engine" else normalise_name(name)] = row.required_text("id")
        return found["model"], found["accelerator"], found["engine"]

    def model(self, name: str) -> ModelSpec:
        """Raises CatalogError AW-CAT-01 with the nearest spellings."""
        if name not in self._models:
            known = self._spellings[0].get(normalise_name(name.rsplit("/", 1)[-1]), "")
            self._models[name] = self.models.get(known) or resolve_model(name, self.models, self.catalog.aliases)
        return self._models[name]

    def accelerator(self, name: str) -> Accelerator:
        """Raises CatalogError AW-CAT-01 with the nearest spellings."""
        if name not in self._accelerators:
            direct = self.accelerators.get(self._spellings[1].get(normalise_name(name), ""))
            self._accelerators[name] = direct or resolve_accelerator(name, self.accelerators, self.catalog.aliases)
        return self._accelerators[name]

    def engine_family(self, text: str) -> str:
        """Return the family of an engine and version, `other` if the name is unknown."""
        return next((family for name, family in self._spellings[2].items() if name in text.lower()), "other")

    @cached_property
    def _scenario_loads(self) -> tuple[tuple[str, str, float, float, int], ...]:
        found = []
        for row in read_rows(DATA, "benchmark_loads.csv"):
            tokens = row.required_number("input_tokens"), row.required_number("output_tokens")
            found.append((row.text("suite"), row.text("model"), *tokens, row.count("beams")))
        return tuple(found)

    def scenario_load(self, scenario: str, model: str) -> tuple[float, float, int]:
        """Return mean input tokens, output tokens and beams of a benchmark scenario, or the assumed load."""
        *suites, assumed = self._scenario_loads
        named = (row for row in suites if scenario.startswith(row[0]) and row[1] == model)
        return next(named, assumed)[2:]
