"""The index of a retrieval: how large it is as a graph in memory, as a compressed graph, and on disk.

Bytes of one vector of d numbers, graph of degree M (hierarchical navigable small world):
- memory: 4 d + links; links = 4 (2 M + M / (M - 1)) + 8: the base layer, the mean of the layers above, an id
- compressed: d in memory (8 bits a number) + links; the whole vectors lie beside it to rank the last candidates
- disk: d / 8 in memory (a product code); vector and 64 links on disk, in whole sectors
Each form keeps recall near the exact answer's, the later ones at more reads an answer.
"""

from __future__ import annotations

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
# Of the host memory of the machines that answer, what an index may take: the rest is the engine's and the system's.
MEMORY_SHARE = 0.25


class IndexFootprint(NamedTuple):
    form: IndexForm
    memory_bytes: float
    stored_bytes: float


class VectorIndex(NamedTuple):
    """`vectors` with its band; everything else follows. `stated`: most are documents that the needs count."""

    workload: str
    vectors: Estimate
    dimensions: float
    stated: bool

    @property
    def facts(self) -> tuple[str, ...]:
        """The part of the catalog that a guessed count is proportional to."""
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
        """The fastest form that fits; on disk whatever that takes."""
        forms = (self.footprint("memory"), self.footprint("compressed"))
        return next((form for form in forms if form.memory_bytes <= memory_bytes), self.footprint("disk"))


def size_vector_index(needs: Needs, workload: Workload, catalog: Catalog, month: float = 0.0) -> VectorIndex | None:
    """The index of `workload` after so many months; None without retrieval. Documents that an embedding workload states
    count; the text of other data sets is estimated from their bytes."""
    sets = [data for data in needs.data if data.name in workload.data]
    if workload.kind != "rag" or not sets:
        return None
    used = set(workload.data)
    makers = [other for other in needs.workloads if _stated_document_tokens(other) and used & set(other.data)]
    known = sum(_stated_document_tokens(other) for other in makers)
    covered = {name for other in makers for name in other.data}
    guessed = _estimate_tokens(sum(stored_bytes_at(data, month) for data in sets if data.name not in covered), catalog)
    chunk = catalog.parameter("chunk.tokens")
    low, high = (known + guessed.low) / chunk.high, (known + guessed.high) / chunk.low
    vectors = Estimate(value=(known + guessed.value) / chunk.value, low=low, high=high, unit="vectors")
    return VectorIndex(workload.name, vectors, catalog.parameter("vector.dimensions").value, known >= guessed.value)


def _stated_document_tokens(workload: Workload) -> float:
    """Tokens of the documents an embedding workload states; 0 when it states none."""
    traffic = workload.traffic
    if workload.kind != "embedding" or traffic is None:
        return 0.0
    return (traffic.documents or 0.0) * (traffic.tokens_per_document or 0.0)


def _estimate_tokens(size: float, catalog: Catalog) -> Estimate:
    """Text in so many bytes. Share and bytes of a token are guesses: the band is their corners."""
    share, width = catalog.parameter("text.share"), catalog.parameter("text.bytes")
    low, high = size * share.low / width.high, size * share.high / width.low
    return Estimate(value=size * share.value / width.value, low=low, high=high, unit="tokens")
