"""Data sets: `data ingest`, `data refine`, `data list`, `data show`, `data index`, `data search`, `data check`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from archwright.api import data_check, data_index, data_search
from archwright.api.context import open_home, write_audit_record
from archwright.api.data_check import VersionCheck
from archwright.api.data_index import IndexOutcome
from archwright.api.data_search import SearchOutcome
from archwright.contract.lineage import DatasetVersion, SourceFile, format_node
from archwright.contract.record import Record, as_dict, replace
from archwright.lake import dataset_card
from archwright.lake import ingestion as lake_ingest
from archwright.lake import recipe as recipes
from archwright.lake import refinement as lake_refine
from archwright.lake.retrieval.index_search import SearchMode, SearchRequest
from archwright.lake.tables import quarantine, source_file_list, version_index
from archwright.monitor import lineage


class DatasetOutcome(DatasetVersion):
    """A version and how it was made.

    `new` is False if the version existed already. `passed_over`: files that were not read, with the reason. `replaced`:
    files whose rows in the previous version were removed.
    """

    new: bool
    passed_over: tuple[str, ...] = ()
    replaced: tuple[SourceFile, ...] = ()


class DatasetCard(Record):
    """A version with its uses and files.

    `models` were trained on it; `refined` are the versions made from it. `quarantine` and `drops` are the files with
    the rows left out (JSON lines), None if there are none.
    """

    version: DatasetVersion
    models: tuple[str, ...]
    runs: tuple[str, ...]
    refined: tuple[str, ...]
    files: tuple[SourceFile, ...]
    card: str
    quarantine: str | None
    drops: str | None


def ingest(path: str, *, name: str, licence: str = "", table: str = "", query: str = "") -> DatasetOutcome:
    """Ingest files, objects of S3 or rows of a database into the data set `name`; new unless nothing changed.

    Raises DataError.
    """
    with open_home() as (_settings, home, store):
        request = lake_ingest.IngestRequest(path, name, licence, table=table, query=query)
        made = lake_ingest.ingest_files(home, store, request)
        if made.new:
            write_audit_record(store, "data.ingest", made.version.id)
        return replace(_build_outcome(made.version, made.new), passed_over=made.passed_over, replaced=made.replaced)


def refine(recipe: str) -> DatasetOutcome:
    """Make a version of one data set from a version of another, by the recipe in a file. Raises DataError.

    The work runs on the cluster if the setting `ray_address` is set.
    """
    steps = recipes.read_recipe(Path(recipe))
    with open_home() as (settings, home, store):
        request = lake_refine.RefineRequest(steps, "ray" if settings.ray_address else "native")
        made = lake_refine.refine_dataset(home, store, request)
        if made.new:
            write_audit_record(store, "data.refine", made.version.id)
        return _build_outcome(made.version, made.new)


def _build_outcome(version: DatasetVersion, new: bool) -> DatasetOutcome:
    return DatasetOutcome(**as_dict(version), new=new)


def list() -> tuple[DatasetVersion, ...]:  # noqa: A001 - the verb's name
    """Return every version of every data set, oldest first."""
    with open_home() as (_settings, _home, store):
        return tuple(version_index.list_versions(store))


def show(id: str) -> DatasetCard:  # noqa: A002 - the argument's name
    """Return the card of a version ("docs@v1"; "docs" for the newest). Raises DataError AW-DATA-10."""
    with open_home() as (_settings, home, store):
        version = version_index.find_version(store, id)
        edges = lineage.read_children(store, format_node("dataset", version.id))
        edges = [edge for edge in edges if edge.relation != "extended"]
        made = [edge.child.partition(":")[::2] for edge in edges]
        rejected = quarantine.quarantine_path(home, version.dataset, version.version)
        drops = lake_refine.drops_path(home, version.dataset, version.version)
        return DatasetCard(
            version=version,
            models=_select_names(made, "model"),
            runs=_select_names(made, "run"),
            refined=_select_names(made, "dataset"),
            files=source_file_list.read_source_files(home, version),
            card=str(dataset_card.card_path(home, version)),
            quarantine=str(rejected) if rejected.is_file() and rejected.stat().st_size else None,
            drops=str(drops) if drops.is_file() and drops.stat().st_size else None,
        )


def index(name: str, *, column: str = "", model: str = "") -> IndexOutcome:
    """Index a version for search ("docs@v1"; "docs" for the newest). Raises DataError, MissingError AW-GET-02."""
    return data_index.index_version(name, column, model)


def search(
    name: str,
    query: str,
    *,
    tenant: str = "",
    limit: int = 10,
    mode: SearchMode = "hybrid",
    where: Sequence[str] | None = None,
) -> SearchOutcome:
    """Return the best passages of an indexed data set. Raises DataError."""
    conditions = data_search.parse_conditions(where or ())
    return data_search.search_dataset(name, SearchRequest(query, limit, mode, conditions), tenant)


def check(name: str | None = None) -> VersionCheck:
    """Compare a version, all versions of a data set, or all of the home with their records. Raises DataError."""
    return data_check.check_datasets(name)


def _select_names(made: Iterable[Sequence[str]], kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for found, name in made if found == kind))
