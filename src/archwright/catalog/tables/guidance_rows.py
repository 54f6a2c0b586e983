"""Guidance: the texts of a plan's sections, as rows with their sources.

Rows of a topic are sorted from specific to general: the first row that fits a plan is used. Features state which
demands of a regulation this release meets today, and the check of each that needs no person.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from archwright.catalog.tables import yaml_documents
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.records import Fact

Theme = Literal["stack", "security", "scale", "monitoring", "stages", "practices", "providers"]
ReplaceableFunction = Literal["gateway", "engine", "lake", "registry", "monitoring", "training"]
FeatureStatus = Literal["built-in", "configured", "command"]
FOLDER = "guidance"


class Advice(Fact):
    """Advice for plans with all traits of `when` and none of `unless` (see `plan.sections.plan_traits`).

    `choice`, `why`, `alternative` and `why_not` may contain `{words}` of the plan. `clauses` ("NAME CLAUSE"): the
    regulations that demand it. `kept`: the user's own component that replaces it. `figure` names an estimate of the
    option. `as_of` is "plan" if the source is the plan itself.
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
    """A feature that a regulation's rows name by `words` (a pattern), its status today, and its proof.

    `check`: what `reconcile` runs on the platform, and the share that it `measures`; a `command` has none, because a
    person runs it.
    """

    id: str
    words: str
    status: FeatureStatus
    proof: str
    check: str = ""
    measures: str = ""


T = TypeVar("T", Advice, Feature)


@functools.cache
def read_advice(theme: Theme, folder: Path = DATA) -> tuple[Advice, ...]:
    """Read a theme. Raises CatalogError: AW-CAT-03 without the file, AW-CAT-04 for a wrong row."""
    path = folder / FOLDER / f"{theme}.yaml"
    return tuple(_check_rows(path, yaml_documents.read_document(path, list[Advice])))


@functools.cache
def read_features(folder: Path = DATA) -> tuple[Feature, ...]:
    """Read the features of this release. Raises CatalogError like `read_advice`."""
    path = folder / FOLDER / "features.yaml"
    features = _check_rows(path, yaml_documents.read_document(path, list[Feature]))
    for feature in features:
        if (feature.status == "command") is bool(feature.check and feature.measures):
            message = f"row {feature.id!r}: all but a command need a check and what it measures"
            raise yaml_documents.document_error(path, message)
    return tuple(features)


def _check_rows(path: Path, rows: Sequence[T]) -> Sequence[T]:
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise yaml_documents.document_error(path, f"two rows have the id {row.id!r}")
        if not row.source or not row.as_of:
            raise yaml_documents.document_error(path, f"row {row.id!r} has no source or no date")
        seen.add(row.id)
    return rows
