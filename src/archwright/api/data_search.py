"""Search in indexed data sets."""

from collections.abc import Sequence

from archwright.api.context import open_home
from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation
from archwright.lake.retrieval.index_search import IndexLibrary, Passage, SearchMode, SearchRequest, search_indexes
from archwright.lake.retrieval.readable_indexes import find_index

__all__ = ["Passage", "SearchOutcome", "parse_conditions", "search_dataset"]


class SearchOutcome(Record):
    """The passages found in a version, best first."""

    version: str
    mode: SearchMode
    passages: tuple[Passage, ...]


def search_dataset(name: str, request: SearchRequest, tenant: str) -> SearchOutcome:
    """Without a tenant, the owner of the home searches."""
    with open_home() as (_settings, home, store):
        version = find_index(home, store, name, tenant)
        passages = search_indexes(home, [IndexLibrary(home).get(version)], request)
        return SearchOutcome(version=version, mode=request.mode, passages=passages)


def parse_conditions(where: Sequence[str]) -> dict[str, str]:
    """Column -> value of conditions COLUMN=VALUE. Raises DataError AW-DATA-81."""
    pairs = [text.partition("=") for text in where]
    if wrong := next((column for column, equals, _ in pairs if not equals), None):
        where_field, hint = ErrorLocation(field="where"), "write a condition as COLUMN=VALUE"
        raise DataError("AW-DATA-81", f"{wrong!r} is no condition", where=where_field, hint=hint)
    return {column: value for column, _, value in pairs}
