"""A record of a version of a data set, without rows; tests replace what they need."""

from archwright.contract.lineage import DatasetVersion

VERSION = DatasetVersion(
    id="",
    dataset="",
    version=1,
    at=0.0,
    action="ingest",
    parent=None,
    rows=1,
    size_bytes=1,
    columns={},
    drops={},
    changes={},
    source_files=1,
    content_sha256="",
)
