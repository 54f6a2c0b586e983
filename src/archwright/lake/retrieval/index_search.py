"""Search the indexes of versions: by vectors, by keywords, or both.

Hybrid ranking is reciprocal rank fusion: a passage scores the sum of 1 / (60 + rank) over both rankings (Cormack,
Clarke, Buettcher, SIGIR 2009). The caller passes only the indexes that the reader may read; no other is searched.
"""

import heapq
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from math import log
from operator import itemgetter
from typing import Any, Literal, NamedTuple, get_args

from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation, MissingError
from archwright.home import Home
from archwright.lake.passages.embedding import FETCH_LINE, find_embedder, open_embedder
from archwright.lake.passages.terms import split_terms
from archwright.lake.retrieval.index_record import (
    RECORD_NAME,
    IndexRecord,
    damaged_index_error,
    index_folder,
    read_record,
)
from archwright.lake.retrieval.segment import RowScore, Segment

SearchMode = Literal["hybrid", "vector", "keyword"]
MODES: tuple[SearchMode, ...] = get_args(SearchMode)
FUSION_RANK = 60
QUERY_CHARACTERS = 4_000  # of the query's beginning; the rest does not take part
QUERY_TERMS = 64
CANDIDATES = 50  # of each ranking, before the fusion
MAX_RESULTS = 1_000
QUERY_THREADS = 1
OPEN_TRIES = 3


class SearchRequest(NamedTuple):
    """`conditions`: column -> value that a passage must have."""

    query: str
    limit: int = 10
    mode: SearchMode = "hybrid"
    conditions: Mapping[str, str] = {}


class Passage(Record):
    """A found passage with its place: file and row of the source, page if known, characters of the row's text.

    `score`: of the ranking (fused, cosine or BM25). `similarity`: by the model, 0 for unrelated texts, 1 for the same;
    None without a vector search. `coverage`: the part of the query's terms that it has, weighted by their rarity.
    """

    text: str
    dataset: str
    version: str
    record_id: str
    source_file: str
    source_row: int
    page: int | None
    title: str
    start: int
    end: int
    score: float
    similarity: float | None
    coverage: float


class OpenIndex:
    """The open index of a version: it stays as it was opened."""

    def __init__(self, home: Home, record: IndexRecord) -> None:
        self.record = record
        folder = index_folder(home, record.version)
        self.segments = [Segment(record, folder, segment) for segment in record.segments]


class IndexLibrary:
    """Open indexes by version. Each `get` compares the record's file, so a new or reduced index is used at once."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._open: dict[str, tuple[tuple[int, int, int], OpenIndex]] = {}

    def get(self, version: str) -> OpenIndex:
        """Raises DataError AW-DATA-76 (no index), -77 (damaged)."""
        with self._lock:
            for _ in range(OPEN_TRIES):
                stamp, (known, index) = self._read_stamp(version), self._open.get(version, (None, None))
                if index is not None and stamp == known:
                    return index
                self._open.pop(version, None)
                record = read_record(self._home, version)
                if stamp is None or record is None:
                    message = f"{version} has no index"
                    hint = f"build it: archwright data index {version}"
                    raise DataError("AW-DATA-76", message, where=ErrorLocation(field=version), hint=hint)
                try:
                    self._open[version] = stamp, OpenIndex(self._home, record)
                except FileNotFoundError:
                    continue  # a writer replaced the segments in between
                return self._open[version][1]
        raise damaged_index_error(version, index_folder(self._home, version), "a file is missing")

    def drop_changed(self) -> None:
        """Close indexes that were changed or removed, so that their deleted files leave the disk. Never waits."""
        if not self._open or not self._lock.acquire(blocking=False):
            return  # a search is opening an index, and compares its stamp itself
        try:
            for version, (known, _) in [*self._open.items()]:
                if self._read_stamp(version) != known:
                    del self._open[version]
        finally:
            self._lock.release()

    def _read_stamp(self, version: str) -> tuple[int, int, int] | None:
        try:
            found = os.stat(index_folder(self._home, version) / RECORD_NAME)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


class _Place(NamedTuple):
    """A passage of an open index."""

    source: OpenIndex
    segment: Segment
    row: int


class _QueryVector(NamedTuple):
    """The vector of the query, and the cosine of unrelated texts by its model."""

    vector: Any
    unrelated: float

    def compare(self, cosine: float) -> float:
        return (cosine - self.unrelated) / max(1e-6, 1 - self.unrelated)


Ranking = list[tuple[float, _Place]]


def search_indexes(home: Home, indexes: Sequence[OpenIndex], request: SearchRequest) -> tuple[Passage, ...]:
    """The best passages of all indexes, best first.

    Raises DataError AW-DATA-78 (no vectors, or no model for the query), -79 (invalid query or limit), -81 (no such
    column).
    """
    query = request.query[:QUERY_CHARACTERS].encode("utf-8", "replace").decode()  # half of a surrogate pair is no text
    if not query.strip() or not 1 <= request.limit <= MAX_RESULTS or request.mode not in MODES:
        message = f"limit must be 1 to {MAX_RESULTS}, and mode one of {', '.join(MODES)}"
        message = message if query.strip() else "the query is empty"
        raise DataError("AW-DATA-79", message, hint='archwright data search NAME "what you look for" --limit 10')
    return _Search(home, indexes, request, query).run()


class _Search:
    """One search. `_vectors`: the vector of the query by digest of the model."""

    def __init__(self, home: Home, indexes: Sequence[OpenIndex], request: SearchRequest, query: str) -> None:
        self._indexes, self._request = indexes, request
        self._terms = list(dict.fromkeys(split_terms(query)))[:QUERY_TERMS]
        self._count = max(CANDIDATES, request.limit)
        self._vectors = {} if request.mode == "keyword" else self._embed_query(home, query)
        self._allowed = {id(s): self._select_rows(index, s) for index in indexes for s in index.segments}

    def run(self) -> tuple[Passage, ...]:
        rankings = [self._rank_vectors(model) for model in self._vectors]
        if self._request.mode != "vector":
            rankings.append(self._rank_terms())
        return self._build_passages(rankings)

    def _embed_query(self, home: Home, query: str) -> dict[str, _QueryVector]:
        """In hybrid mode, indexes without a vector or a model take part by their keywords only."""
        found: dict[str, _QueryVector] = {}
        for record in (index.record for index in self._indexes):
            if record.model_sha256 in found:
                continue
            try:
                if not record.dimensions:
                    message = f"the index of {record.version} has no vectors"
                    hint = f"{FETCH_LINE}; then: archwright data index {record.version}"
                    raise DataError("AW-DATA-78", message, where=ErrorLocation(field="mode"), hint=hint)
                embedder = open_embedder(find_embedder(home, record.model_sha256).path, QUERY_THREADS)
                found[record.model_sha256] = _QueryVector(embedder.embed_texts([query])[0], embedder.unrelated_cosine)
            except (DataError, MissingError):
                if self._request.mode == "vector":
                    raise
        return found

    def _select_rows(self, index: OpenIndex, segment: Segment) -> Any | None:
        conditions = self._request.conditions
        names = [name for name in segment.passages.column_names if name not in ("record_id", "parent_id")]
        for name in conditions:
            if name not in names:
                message = f"{index.record.version} has no column {name!r} that can be compared"
                hint = f"choose one of: {', '.join(names[:24])}"
                raise DataError("AW-DATA-81", message, where=ErrorLocation(field=name), hint=hint)
        return segment.select_rows(conditions) if conditions else None

    def _rank_vectors(self, model: str) -> Ranking:
        query = self._vectors[model].vector
        return self._rank(
            lambda segment: segment.search_vectors(query, self._count, self._allowed[id(segment)]),
            [index for index in self._indexes if index.record.model_sha256 == model],
        )

    def _rank_terms(self) -> Ranking:
        if not self._terms:
            return []
        return self._rank(
            lambda segment: segment.search_terms(self._terms, self._count, self._allowed[id(segment)]), self._indexes
        )

    def _rank(self, search: Callable[[Segment], list[RowScore]], indexes: Sequence[OpenIndex]) -> Ranking:
        found = [
            (hit.score, _Place(index, segment, hit.row))
            for index in indexes
            for segment in index.segments
            for hit in search(segment)
        ]
        return heapq.nlargest(self._count, found, key=itemgetter(0))

    def _build_passages(self, rankings: Sequence[Ranking]) -> tuple[Passage, ...]:
        fused: dict[tuple[int, int], tuple[float, _Place]] = {}
        for ranking in rankings:
            for rank, (score, place) in enumerate(ranking, 1):
                key, add = (id(place.segment), place.row), 1 / (FUSION_RANK + rank)
                if self._request.mode != "hybrid":
                    add = score
                fused[key] = fused.get(key, (0.0, place))[0] + add, place
        best = heapq.nlargest(self._request.limit, fused.values(), key=itemgetter(0))
        weights = self._weigh_terms()
        return tuple(self._build_passage(score, place, weights) for score, place in best)

    def _build_passage(self, score: float, place: _Place, weights: dict[str, float]) -> Passage:
        record, segment = place.source.record, place.segment
        row = segment.passages.slice(place.row, 1).to_pylist()[0]
        text = row[record.column] or ""
        query = self._vectors.get(record.model_sha256)
        present = set(split_terms(text))
        total = sum(weights.values())
        page = row.get("page")
        return Passage(
            text=text,
            dataset=record.dataset,
            version=record.version,
            record_id=row["record_id"].hex(),
            source_file=row["source_file"],
            source_row=row["source_row"],
            page=page if isinstance(page, int) else None,
            title=str(row.get("title") or ""),
            start=row.get("chunk_start", 0),
            end=row.get("chunk_end", len(text)),
            score=score,
            similarity=None if query is None else query.compare(segment.read_cosine(place.row, query.vector)),
            coverage=sum(weight for term, weight in weights.items() if term in present) / total if total else 0.0,
        )

    def _weigh_terms(self) -> dict[str, float]:
        """The terms of the query with the inverse frequency of their passages, as in BM25."""
        segments = [segment for index in self._indexes for segment in index.segments]
        rows = sum(segment.rows for segment in segments)
        counts = {term: sum(segment.count_documents(term) for segment in segments) for term in self._terms}
        return {term: log(1 + (rows - count + 0.5) / (count + 0.5)) for term, count in counts.items()}
