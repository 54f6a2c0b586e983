"""A lake with an indexed data set, and an embedder that knows its words."""

from __future__ import annotations

from archwright.engines.model_store import add_model
from archwright.lake.retrieval.index_builder import IndexRequest, IndexResult, build_index
from archwright.lake.retrieval.index_search import IndexLibrary, Passage, SearchRequest, search_indexes
from archwright.lake.tables.version_index import find_version

from ...tools.small_embedder import write_small_embedder
from ..temporary_lake import Lake

ROWS = (
    {"title": "harbour", "text": "The ship leaves the harbour at noon.", "page": 1, "kind": "notice"},
    {"title": "tax", "text": "The tax form is due in spring.", "page": 2, "kind": "law"},
    {"title": "garden", "text": "Roses need water and sun.", "page": 3, "kind": "notice"},
    {"title": "東京", "text": "東京の天気は晴れです。", "page": 4, "kind": "notice"},
)
WORDS = tuple(f"{word}" for row in ROWS for word in str(row["text"]).replace(".", " .").split())


def add_embedder(lake: Lake) -> None:
    add_model(write_small_embedder(lake.root / "embedder", WORDS), "small", "mit", lake.home)


def index(lake: Lake, version: str = "docs", column: str = "") -> IndexResult:
    return build_index(lake.home, IndexRequest(find_version(lake.store, version), column, now=lambda: 1.0))


def search(
    lake: Lake, query: str, version: str = "docs@v1", library: IndexLibrary | None = None, **options: object
) -> tuple[Passage, ...]:
    opened = (library or IndexLibrary(lake.home)).get(version)
    return search_indexes(lake.home, [opened], SearchRequest(query, **options))  # type: ignore[arg-type]
