"""Data sets: the verbs of the group `data`."""

import time
from collections.abc import Sequence
from pathlib import Path

from archwright import settings
from archwright.api import data_check, data_erasure, data_governance, data_index, data_search
from archwright.api.context import audit_read, open_home, write_audit_record
from archwright.api.data_check import VersionCheck
from archwright.api.data_erasure import CheckedReceipt
from archwright.api.data_governance import CatalogueEntry, CatalogueFilter, PolicyChange, PolicyView
from archwright.api.data_index import IndexOutcome
from archwright.api.data_search import SearchOutcome
from archwright.contract.lineage import DatasetVersion, SourceFile
from archwright.contract.record import Record, as_dict, replace
from archwright.lake import dataset_card
from archwright.lake import ingestion as lake_ingest
from archwright.lake import recipe as recipes
from archwright.lake import refinement as lake_refine
from archwright.lake.dataset_card import DatasetCard
from archwright.lake.erasure.erasure import ErasureOutcome
from archwright.lake.formats.source_files import ReadOptions
from archwright.lake.governance import policy as policies
from archwright.lake.governance.expectations import read_expectations
from archwright.lake.governance.subject_export import SubjectExport
from archwright.lake.retention import RetentionReport
from archwright.lake.retrieval.index_search import SearchMode, SearchRequest
from archwright.lake.tables import version_index


class DatasetOutcome(DatasetVersion):
    """A version and how it was made.

    `new` is False if the version existed already. `passed_over`: files that were not read, with the reason. `replaced`:
    files whose rows in the previous version were removed. `skipped`: number of files of other formats by suffix.
    """

    new: bool
    passed_over: tuple[str, ...] = ()
    replaced: tuple[SourceFile, ...] = ()
    skipped: dict[str, int] = {}


class IngestOptions(Record):
    """`table` and `query` select rows of a database. `expect`: file of expectations. `tenant`: of a new data set.

    The other fields are those of `lake.formats.source_files.ReadOptions`.
    """

    licence: str = ""
    table: str = ""
    query: str = ""
    expect: str | None = None
    tenant: str = ""
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    skip_unreadable: bool = False
    encoding: str = ""
    max_unpacked_gib: float = 4.0


def ingest(path: str, *, name: str, options: IngestOptions = IngestOptions()) -> DatasetOutcome:  # noqa: B008 - frozen
    """Ingest files, objects of S3 or rows of a database into the data set `name`; new unless nothing changed.

    Raises DataError.
    """
    expectations = read_expectations(Path(options.expect)) if options.expect else None
    lake_ingest.check_dataset_name(name)
    with open_home() as (chosen, home, store):
        if options.tenant:
            policies.assign_tenant(store, name, options.tenant, time.time(), settings.read_os_user())
        request = lake_ingest.IngestRequest(
            path,
            name,
            options.licence,
            table=options.table,
            query=options.query,
            expectations=expectations,
            country=chosen.residency,
            reading=ReadOptions(
                options.include or (),
                options.exclude or (),
                options.skip_unreadable,
                options.encoding,
                options.max_unpacked_gib,
            ),
        )
        made = lake_ingest.ingest_files(home, store, request)
        if made.new:
            write_audit_record(store, "data.ingest", made.version.id)
        outcome = _build_outcome(made.version, made.new)
        return replace(outcome, passed_over=made.passed_over, replaced=made.replaced, skipped=made.skipped)


def refine(recipe: str) -> DatasetOutcome:
    """Make a version of one data set from a version of another, by the recipe in a file. Raises DataError.

    The work runs on the cluster if the setting `ray_address` is set.
    """
    steps = recipes.read_recipe(Path(recipe))
    with open_home() as (chosen, home, store):
        request = lake_refine.RefineRequest(steps, "ray" if chosen.ray_address else "native", country=chosen.residency)
        made = lake_refine.refine_dataset(home, store, request)
        if made.new:
            write_audit_record(store, "data.refine", made.version.id)
        return _build_outcome(made.version, made.new)


def _build_outcome(version: DatasetVersion, new: bool) -> DatasetOutcome:
    return DatasetOutcome(**as_dict(version), new=new)


@audit_read("data.list")
def list(*, tenant: str = "") -> tuple[DatasetVersion, ...]:  # noqa: A001 - the verb's name
    """Return every version of every data set that the tenant may read (default: of all), oldest first."""
    with open_home() as (_settings, _home, store):
        found = version_index.list_versions(store)
        names = policies.readable_datasets(store, tenant) if tenant else {version.dataset for version in found}
        return tuple(version for version in found if version.dataset in names)


@audit_read("data.show", "id")
def show(id: str) -> DatasetCard:  # noqa: A002 - the argument's name
    """Return the card of a version ("docs@v1"; "docs" for the newest). Raises DataError AW-DATA-10."""
    return _read_card(id)


def _read_card(version: str) -> DatasetCard:
    with open_home() as (_settings, home, store):
        return dataset_card.build_card(home, store, version_index.find_version(store, version))


def index(name: str, *, column: str = "", model: str = "") -> IndexOutcome:
    """Index a version for search ("docs@v1"; "docs" for the newest). Raises DataError, MissingError AW-GET-02."""
    return data_index.index_version(name, column, model)


@audit_read("data.search", "name")
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


@audit_read("data.check", "name")
def check(name: str | None = None) -> VersionCheck:
    """Compare a version, all versions of a data set, or all of the home with their records. Raises DataError."""
    return data_check.check_datasets(name)


@audit_read("data.card", "id")
def card(id: str) -> str:  # noqa: A002 - the argument's name
    """Return the card of a version as Markdown; `show` returns it as a record. Raises DataError AW-DATA-10."""
    return dataset_card.format_card(_read_card(id))


@audit_read("data.find")
def find(
    words: str | None = None,
    *,
    filters: CatalogueFilter = CatalogueFilter(),  # noqa: B008 - frozen
) -> tuple[CatalogueEntry, ...]:
    """Return the data sets with every word in the card of their newest version, which meet all filters."""
    return data_governance.find_datasets(words or "", filters)


def policy(name: str, *, change: PolicyChange = PolicyChange()) -> PolicyView:  # noqa: B008 - frozen
    """Show the policy of a data set, or change fields of it. Raises DataError AW-DATA-10, AW-DATA-49."""
    return data_governance.change_policy(name, change)


def retain(*, dry_run: bool = False) -> RetentionReport:
    """Delete the versions that are older than the retention of their data set."""
    return data_governance.retain_versions(dry_run)


def export(*, subject: Sequence[str], output: str, all_versions: bool = False) -> SubjectExport:
    """Write every row that names a person into a folder. Raises DataError AW-DATA-52 if no row does, AW-DATA-55."""
    return data_governance.export_rows(subject, output, all_versions)


def erase(*, subject: tuple[str, ...], dry_run: bool = False, expect_rows: int | None = None) -> ErasureOutcome:
    """Erase a person from everything that the home stores, prove it, and sign a receipt.

    Raises DataError AW-DATA-56 (identifier), -57 (nothing found), -58 (too many rows), -59 (not proven).
    """
    return data_erasure.erase_person(subject, dry_run, expect_rows)


@audit_read("data.receipt")
def receipt(file: str, *, public_key: tuple[str, ...] | None = None) -> CheckedReceipt:
    """Check that a key in `public_key` (hex; default: the home's key) signed a receipt.

    Raises DataError AW-DATA-60 (not readable), AW-DATA-61 (altered), AW-DATA-82 (signed by another key)."""
    return data_erasure.check_receipt(file, tuple(public_key or ()))
