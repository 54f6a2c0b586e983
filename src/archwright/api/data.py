"""Data sets: `data ingest`, `data refine`, `data list`, `data show`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from archwright.api.context import open_home, write_audit_record
from archwright.contract.lineage import DatasetVersion, SourceFile, format_node
from archwright.contract.record import Record, as_dict, replace
from archwright.lake import dataset_card, quarantine, version_index
from archwright.lake import ingestion as lake_ingest
from archwright.lake import recipe as recipes
from archwright.lake import refinement as lake_refine
from archwright.monitor import lineage


class DatasetOutcome(DatasetVersion):
    """A version and what came of asking for it: `new` is False when it was there already; `passed_over` names the
    files that were not read, with the reason; `replaced` the files whose rows in the version before went."""

    new: bool
    passed_over: tuple[str, ...] = ()
    replaced: tuple[SourceFile, ...] = ()


class DatasetCard(Record):
    """A version and everything there is to see of it. `models` were trained on it, `refined` are the versions made
    from it; `quarantine` and `drops` are the files that hold the rows left out (JSON lines), where any were."""

    version: DatasetVersion
    models: tuple[str, ...]
    runs: tuple[str, ...]
    refined: tuple[str, ...]
    card: str
    quarantine: str | None
    drops: str | None


def ingest(path: str, *, name: str, licence: str = "") -> DatasetOutcome:
    """Bring files into the data set `name`: a new version, or the old one if nothing changed. Raises DataError."""
    with open_home() as (_settings, home, store):
        made = lake_ingest.ingest_files(home, store, lake_ingest.IngestRequest(Path(path), name, licence))
        if made.new:
            write_audit_record(store, "data.ingest", made.version.id)
        return replace(_build_outcome(made.version, made.new), passed_over=made.passed_over, replaced=made.replaced)


def refine(recipe: str) -> DatasetOutcome:
    """Make a version of one data set from a version of another, by the recipe in a file; on the cluster, where the
    setting `ray_address` names one. Raises DataError."""
    wanted = recipes.read_recipe(Path(recipe))
    with open_home() as (settings, home, store):
        request = lake_refine.RefineRequest(wanted, "ray" if settings.ray_address else "native")
        made = lake_refine.refine_dataset(home, store, request)
        if made.new:
            write_audit_record(store, "data.refine", made.version.id)
        return _build_outcome(made.version, made.new)


def _build_outcome(version: DatasetVersion, new: bool) -> DatasetOutcome:
    return DatasetOutcome(**as_dict(version), new=new)


def list() -> tuple[DatasetVersion, ...]:  # noqa: A001 - the verb's name
    """Every version of every data set, in the order they were made."""
    with open_home() as (_settings, _home, store):
        return tuple(version_index.list_versions(store))


def show(id: str) -> DatasetCard:  # noqa: A002 - the argument's name
    """A version ("docs@v1"; "docs" for the newest) and what is known of it. Raises DataError AW-DATA-10."""
    with open_home() as (_settings, home, store):
        version = version_index.find_version(store, id)
        edges = lineage.read_children(store, format_node("dataset", version.id))
        made = [edge.child.partition(":")[::2] for edge in edges]
        aside = quarantine.quarantine_path(home, version.dataset, version.version)
        drops = lake_refine.drops_path(home, version.dataset, version.version)
        return DatasetCard(
            version=version,
            models=_select_names(made, "model"),
            runs=_select_names(made, "run"),
            refined=_select_names(made, "dataset"),
            card=str(dataset_card.card_path(home, version)),
            quarantine=str(aside) if aside.is_file() and aside.stat().st_size else None,
            drops=str(drops) if drops.is_file() and drops.stat().st_size else None,
        )


def _select_names(made: Iterable[Sequence[str]], kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for found, name in made if found == kind))
