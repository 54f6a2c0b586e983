"""Resolves names in benchmark tables: more models, accelerators and engines than a plan can use."""

import math
import re
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.processor_names import resolve_processor, take_cores
from archwright.catalog.tables import parsers
from archwright.catalog.tables.csv_table import DATA, read_rows
from archwright.catalog.tables.name_resolution import (
    match_model_family,
    normalise_name,
    resolve_accelerator,
    resolve_model,
)
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.errors import CatalogError

# A processor's name may state the threads in use, one per core.
_THREADS = re.compile(r"\s*\(?(\d+) threads?\)?")
MOST_THREADS = 4096
# Longer texts name nothing, and would take long to compare with every row.
LONGEST_NAME = 200


class EngineFamily(NamedTuple):
    """Engines that share fitted coefficients. `slots`: most requests at a time.

    `local`: kernels of local engines, which split a model by layers and add products in 16 bits."""

    id: str
    slots: float = math.inf
    local: bool = False


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
    def _spellings(self) -> Mapping[tuple[str, str], str]:
        """Return the ids of rows by kind and normalised name."""
        return {
            (row.required_text("kind"), normalise_name(row.required_text("name"))): row.required_text("id")
            for row in read_rows(DATA, "benchmark_names.csv")
        }

    @cached_property
    def _families(self) -> Mapping[str, EngineFamily]:
        engines = (row for row in read_rows(DATA, "benchmark_names.csv") if row.required_text("kind") == "engine")
        return {
            row.required_text("name"): EngineFamily(
                row.required_text("id"), row.count("slots") or math.inf, row.text("kernels") == "ggml"
            )
            for row in engines
        }

    def model(self, name: str) -> ModelSpec:
        """Raises CatalogError AW-CAT-01 with the nearest spellings."""
        if name not in self._models:
            known = self._spellings.get(("model", normalise_name(name.rsplit("/", 1)[-1])), "")
            self._models[name] = self.models.get(known) or resolve_model(name, self.models, self.catalog.aliases)
        return self._models[name]

    def meant_model(self, name: str) -> ModelSpec:
        """Return the one model that a user's name means: tables use names for one that stand for several.

        Raises CatalogError AW-CAT-01, AW-CAT-10 if several models match equally."""
        try:
            return resolve_model(name, self.models, self.catalog.aliases)
        except CatalogError:
            family = match_model_family(name, self.catalog.models) or match_model_family(name, self.models)
        if len(family) < 2:
            return family[0] if family else self.model(name)
        ids = tuple(row.id for row in family)
        message, hint = f"{name!r} means any of {len(ids)} models", f"write one of {', '.join(ids)}"
        raise CatalogError("AW-CAT-10", message, hint=hint, nearest=ids)

    def accelerator(self, name: str) -> Accelerator:
        """Raises CatalogError AW-CAT-01 with the nearest spellings."""
        if name not in self._accelerators:
            self._accelerators[name] = self._resolve_device(name)
        return self._accelerators[name]

    def _resolve_device(self, name: str) -> Accelerator:
        """Return the row of an accelerator, else of a processor or machine type, with the threads that it states."""
        if len(name) > LONGEST_NAME:
            hint = f"write at most {LONGEST_NAME} characters"
            raise CatalogError("AW-CAT-01", f"unknown accelerator {name[:LONGEST_NAME]!r}", hint=hint)
        threads = _THREADS.search(name)
        bare = _THREADS.sub("", name)
        spelling = ("accelerator", normalise_name(bare))
        device = self.accelerators.get(self._spellings.get(spelling, ""))
        if device is None:
            try:
                device = resolve_accelerator(bare, self.accelerators, self.catalog.aliases)
            except CatalogError:
                device = resolve_processor(bare, DATA)
                if device is None:
                    raise
        if threads is None:
            return device
        if not 1 <= int(threads[1]) <= MOST_THREADS:
            hint = f"state 1 to {MOST_THREADS:,} threads"
            raise CatalogError("AW-CAT-01", f"unknown accelerator {name!r}", hint=hint)
        return take_cores(device, int(threads[1]))

    def engine_family(self, text: str) -> EngineFamily:
        """Return the family of an engine and version, `other` if the name is unknown."""
        return next((family for name, family in self._families.items() if name in text.lower()), EngineFamily("other"))

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
