"""The indexes that a tenant may search. Access is decided here, before any passage is looked up."""

from archwright.home import Home
from archwright.lake.governance.policy import access_error, is_readable
from archwright.lake.retrieval.index_record import list_indexed_versions
from archwright.lake.tables.version_index import VERSIONS, find_version, newest_version
from archwright.store import Store


def list_readable_indexes(home: Home, store: Store, tenant: str) -> dict[str, str]:
    """Data set -> its newest version with an index, for the data sets that the tenant may read."""
    indexed = _find_newest(home)
    existing = {str(name) for (name,) in store.columns(VERSIONS, ("dataset",))} if indexed else set()
    names = [dataset for dataset in sorted(indexed) if dataset in existing and is_readable(store, dataset, tenant)]
    return {dataset: indexed[dataset] for dataset in names}


def find_index(home: Home, store: Store, name: str, tenant: str = "") -> str:
    """The version to search for "docs@v1", or for "docs" its newest version with an index.

    Without a tenant, the owner of the home asks. Raises DatasetAccessError AW-DATA-53, for a data set that does not
    exist too; DataError AW-DATA-10 (no such version).
    """
    dataset = name.partition("@")[0]
    exists = newest_version(store, dataset) is not None
    if tenant and not (exists and is_readable(store, dataset, tenant)):
        raise access_error(dataset, tenant)
    indexed = _find_newest(home).get(dataset) if exists and name == dataset else None
    return indexed or find_version(store, name).id


def _find_newest(home: Home) -> dict[str, str]:
    found: dict[str, tuple[int, str]] = {}
    for version in list_indexed_versions(home):
        dataset, _, number = version.partition("@v")
        if number.isdecimal():
            found[dataset] = max(found.get(dataset, (0, "")), (int(number), version))
    return {dataset: version for dataset, (_, version) in found.items()}
