"""Size of a retrieval index in bytes: graph in memory, compressed graph in memory, or graph on disk.

Bytes per vector of d numbers in an HNSW graph of degree M:
- memory: 4 d + links; links = 4 (2 M + M / (M - 1)) + 8: base layer, mean of the upper layers, id
- compressed: d in memory (8 bits per number) + links; the full vectors are stored to re-rank the last candidates
- disk: d / 8 in memory (product quantisation); vector and 64 links on disk, in whole sectors
Each form has recall close to the exact search; the later forms need more reads per query.
"""

import math
from typing import Literal, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs, Workload
from archwright.sizing.infrastructure.storage import stored_bytes_at

IndexForm = Literal["memory", "compressed", "disk"]
DEGREE = 16
DISK_DEGREE = 64
ID_BYTES, NUMBER_BYTES, LINK_BYTES = 8, 4, 4
SECTOR = 4096
CODE_SHARE = 1 / 8
# Largest share of the serving machines' host memory for an index; the rest is for engine and operating system.
MEMORY_SHARE = 0.25


class IndexFootprint(NamedTuple):
    form: IndexForm
    memory_bytes: float
    stored_bytes: float


class VectorIndex(NamedTuple):
    """Index of `vectors` (with band) of `dimensions`; `stated`: the needs state the documents."""

    workload: str
    vectors: Estimate
    dimensions: float
    stated: bool

    @property
    def facts(self) -> tuple[str, ...]:
        """Return the catalog parts that an estimated count is proportional to."""
        return () if self.stated else ("text.share",)

    def footprint(self, form: IndexForm) -> IndexFootprint:
        count, numbers = self.vectors.value, self.dimensions
        whole = NUMBER_BYTES * numbers
        links = LINK_BYTES * (2 * DEGREE + DEGREE / (DEGREE - 1)) + ID_BYTES
        if form == "memory":
            return IndexFootprint(form, count * (whole + links), count * (whole + links))
        if form == "compressed":
            return IndexFootprint(form, count * (numbers + links), count * (whole + numbers + links))
        sectors = math.ceil((whole + LINK_BYTES * (DISK_DEGREE + 1)) / SECTOR)
        return IndexFootprint(form, count * numbers * CODE_SHARE, count * sectors * SECTOR)

    def fastest_fitting(self, memory_bytes: float) -> IndexFootprint:
        """Return the fastest form that fits in `memory_bytes`, else the disk form."""
        forms = (self.footprint("memory"), self.footprint("compressed"))
        return next((form for form in forms if form.memory_bytes <= memory_bytes), self.footprint("disk"))


def size_vector_index(needs: Needs, workload: Workload, catalog: Catalog, month: float = 0.0) -> VectorIndex | None:
    """Size the index of `workload` after `month` months; None without retrieval.

    Embedding workloads that state documents of the same data state the whole index. Without one, the text is estimated
    from the bytes of the data, with the corners of text share and bytes per token as band."""
    sets = [data for data in needs.data if data.name in workload.data]
    if workload.kind != "rag" or not sets:
        return None
    used = set(workload.data)
    stated = sum(_stated_document_tokens(other) for other in needs.workloads if used & set(other.data))
    size = 0.0 if stated else sum(stored_bytes_at(data, month) for data in sets)
    share, width, chunk = (catalog.parameter(name) for name in ("text.share", "text.bytes", "chunk.tokens"))
    estimated = size * share.value / width.value
    vectors = Estimate(
        value=(stated + estimated) / chunk.value,
        low=(stated + size * share.low / width.high) / chunk.high,
        high=(stated + size * share.high / width.low) / chunk.low,
        unit="vectors",
    )
    return VectorIndex(workload.name, vectors, catalog.parameter("vector.dimensions").value, bool(stated))


def _stated_document_tokens(workload: Workload) -> float:
    """Return the tokens of the documents that an embedding workload states, 0 if it states none."""
    traffic = workload.traffic
    if workload.kind != "embedding" or traffic is None:
        return 0.0
    return (traffic.documents or 0.0) * (traffic.tokens_per_document or 0.0)
