"""Indexes of data set versions."""

from archwright.api.context import open_home, write_audit_record
from archwright.contract.record import Record
from archwright.lake.governance.policy import check_location
from archwright.lake.retrieval.index_builder import IndexRequest, build_index
from archwright.lake.tables import version_index


class IndexOutcome(Record):
    """The index of a version. `new` is False if it existed; `note` says why it has no vectors.

    `model` is the embedding model, empty for keywords only; `column` is the indexed column.
    """

    version: str
    column: str
    passages: int
    size_bytes: int
    model: str
    model_sha256: str
    dimensions: int
    new: bool
    note: str = ""


def index_version(name: str, column: str, model: str) -> IndexOutcome:
    with open_home() as (chosen, home, store):
        version = version_index.find_version(store, name)
        check_location(store, version.dataset, chosen.residency)
        made = build_index(home, IndexRequest(version, column, model))
        if made.new:
            write_audit_record(store, "data.index", made.record.version)
        fields = ("version", "column", "passages", "size_bytes", "model", "model_sha256", "dimensions")
        stated = {field: getattr(made.record, field) for field in fields}
        return IndexOutcome(**stated, new=made.new, note=made.note)
