"""Guidance: what a plan's sections say in words, as rows with their sources.

Rows of one topic stand from the particular to the general: the first that fits a plan speaks for the topic. Features
say which demands of a regulation something that exists answers today.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from archwright.catalog.tables import yaml_documents
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.records import Fact

Theme = Literal["stack", "security", "scale", "monitoring", "stages", "practices", "providers"]
ReplaceableFunction = Literal["gateway", "engine", "lake", "registry", "monitoring", "training"]
FeatureStatus = Literal["built-in", "configured"]
FOLDER = "guidance"


class Advice(Fact):
    """One row. It fits a plan that has all traits of `when` and none of `unless` (see `plan.sections.plan_traits`).

    `choice`, `why`, `alternative` and `why_not` may hold `{words}` of the plan. `clauses` ("NAME CLAUSE") says which
    regulations demand it. `kept`: what of the user's own takes its place. `figure` names an estimate of the option.
    `as_of` is "plan" where the source is the plan itself.
    """

    id: str
    topic: str
    choice: str
    why: str
    when: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    clauses: tuple[str, ...] = ()
    proof: str = ""
    alternative: str = ""
    why_not: str = ""
    kept: ReplaceableFunction | None = None
    figure: str = ""


class Feature(Fact):
    """What a part of a regulation's feature is called (`words`, a pattern), its state today, and what proves it."""

    id: str
    words: str
    status: FeatureStatus
    proof: str


T = TypeVar("T", Advice, Feature)


@functools.cache
def read_advice(theme: Theme, folder: Path = DATA) -> tuple[Advice, ...]:
    """The rows of a theme. Raises CatalogError: AW-CAT-03 without the file, AW-CAT-04 for a wrong row."""
    path = folder / FOLDER / f"{theme}.yaml"
    return tuple(_check_rows(path, yaml_documents.read_document(path, list[Advice])))


@functools.cache
def read_features(folder: Path = DATA) -> tuple[Feature, ...]:
    """What this release does, by the words that the regulations' rows use. Raises CatalogError as `read_advice`."""
    path = folder / FOLDER / "features.yaml"
    return tuple(_check_rows(path, yaml_documents.read_document(path, list[Feature])))


def _check_rows(path: Path, rows: Sequence[T]) -> Sequence[T]:
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise yaml_documents.document_error(path, f"two rows are called {row.id!r}")
        if not row.source or not row.as_of:
            raise yaml_documents.document_error(path, f"row {row.id!r} has no source or no date")
        seen.add(row.id)
    return rows
