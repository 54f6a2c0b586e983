"""A segment of an index: passages (Arrow), their vectors (usearch), their terms (tantivy).

Design: a segment is small, so that a deletion rewrites few passages. Nothing in it is ever changed: a rewritten segment
holds no trace of a deleted passage. A passage is its row number in all three files, which are read as memory maps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from archwright.lake.lazy_modules import np, pa, pc, tantivy, vector_files
from archwright.lake.passages.terms import split_terms
from archwright.lake.retrieval.index_record import IndexRecord, IndexSegment, check_segment, describe_files

SEGMENT_ROWS = 8_192
PASSAGES, VECTORS, KEYWORDS = "passages.arrow", "vectors.usearch", "keywords"
# Parameters of the HNSW graph (arXiv 1603.09320): recall@10 above 0.99 at these widths, see bench/data/retrieval.py.
GRAPH = {"connectivity": 16, "expansion_add": 96, "expansion_search": 128}
WRITER_BYTES = 32 << 20


class RowScore(NamedTuple):
    """A passage of a segment, and its cosine or BM25 score."""

    score: float
    row: int


def write_segment(folder: Path, passages: Any, column: str, vectors: Any | None) -> IndexSegment:
    """Write the Arrow table `passages` and its vectors (rows x dimensions, None without a model)."""
    name = uuid4().hex
    target = folder / name
    (target / KEYWORDS).mkdir(parents=True, mode=0o700)
    with pa.OSFile(str(target / PASSAGES), "wb") as sink, pa.ipc.new_file(sink, passages.schema) as writer:
        writer.write_table(passages.combine_chunks())
    if vectors is not None:
        index = vector_files.Index(ndim=vectors.shape[1], metric="cos", dtype="f16", **GRAPH)
        index.add(np.arange(len(vectors)), vectors)
        index.save(str(target / VECTORS))
    write_keywords(target / KEYWORDS, passages.column(column).to_pylist())
    return IndexSegment(name=name, rows=passages.num_rows, files=describe_files(target))


def write_keywords(folder: Path, texts: Sequence[str | None]) -> None:
    """Write the keyword index of the texts. One thread writes, so the same texts always give the same files."""
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("row", stored=False, indexed=True, fast=True)
    builder.add_text_field("terms", stored=False, tokenizer_name="whitespace", index_option="freq")
    writer = tantivy.Index(builder.build(), path=str(folder)).writer(WRITER_BYTES, 1)
    for row, text in enumerate(texts):
        document = tantivy.Document()
        document.add_unsigned("row", row)
        document.add_text("terms", " ".join(split_terms(text or "")))
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()


class Segment:
    """An open segment; its methods may be called from several threads at once."""

    def __init__(self, record: IndexRecord, folder: Path, segment: IndexSegment) -> None:
        """Raises DataError AW-DATA-77, FileNotFoundError."""
        check_segment(record.version, folder, segment)
        path = folder / segment.name
        self.rows = segment.rows
        self.passages = pa.ipc.open_file(pa.memory_map(str(path / PASSAGES))).read_all()
        self._vectors = None
        if record.dimensions:
            self._vectors = vector_files.Index.restore(str(path / VECTORS), view=True)
            self._vectors.expansion_search = GRAPH["expansion_search"]
        self._keywords = tantivy.Index.open(str(path / KEYWORDS))
        self._searcher = self._keywords.searcher()

    def read_vectors(self) -> Any | None:
        return None if self._vectors is None else np.stack(self._vectors.get(np.arange(self.rows)))

    def read_cosine(self, row: int, query: Any) -> float:
        assert self._vectors is not None, "a segment without vectors was compared"
        vector = self._vectors.get(row).astype(np.float32)
        return float(vector @ query / max(1e-12, float(np.linalg.norm(vector))))

    def select_rows(self, conditions: Mapping[str, str]) -> Any:
        """The row numbers whose columns equal the values; a value is compared as text."""
        mask = np.ones(self.rows, bool)
        for name, value in conditions.items():
            column = self.passages.column(name).cast(pa.large_string())
            mask &= pc.fill_null(pc.equal(column, value), False).to_numpy()
        return np.flatnonzero(mask)

    def search_vectors(self, query: Any, count: int, allowed: Any | None = None) -> list[RowScore]:
        """The nearest passages by cosine; among the `allowed` rows the search is exact."""
        if self._vectors is None:
            return []
        if allowed is not None:
            if not len(allowed):
                return []
            near = np.stack(self._vectors.get(allowed)).astype(np.float32)
            scores = near @ query / np.linalg.norm(near, axis=1).clip(1e-12)
            best = np.argsort(-scores, kind="stable")[:count]
            return [RowScore(float(scores[place]), int(allowed[place])) for place in best]
        found = self._vectors.search(query, min(count, self.rows))
        return [RowScore(1.0 - float(far), int(row)) for row, far in zip(found.keys, found.distances, strict=True)]

    def search_terms(self, terms: Sequence[str], count: int, allowed: Any | None = None) -> list[RowScore]:
        """The passages with the highest BM25 score of the terms. No term is parsed as a query language."""
        schema, query = self._keywords.schema, tantivy.Query
        parts = [(tantivy.Occur.Should, query.term_query(schema, "terms", term)) for term in terms]
        found = query.boolean_query(parts)
        if allowed is not None:
            only = query.const_score_query(query.term_set_query(schema, "row", allowed.tolist()), 0.0)
            found = query.boolean_query([(tantivy.Occur.Must, found), (tantivy.Occur.Must, only)])
        hits = self._searcher.search(found, count).hits
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        return sorted((RowScore(float(score), row) for (score, _), row in zip(hits, rows, strict=True)), reverse=True)

    def count_documents(self, term: str) -> int:
        return int(self._searcher.doc_freq("terms", term))
