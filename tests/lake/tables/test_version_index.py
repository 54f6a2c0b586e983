"""Finding versions, and reading them."""

from __future__ import annotations

from archwright.contract.lineage import DatasetVersion
from archwright.contract.record import replace
from archwright.lake.tables import iceberg_tables, version_index

from ...tools.checks import refuses
from ...training.counting_trainer import version_of
from ..temporary_lake import Lake


def test_a_name_is_its_newest_version_and_a_near_one_is_offered(lake: Lake) -> None:
    lake.ingest_rows([{"n": 1}])
    lake.put_rows("b.jsonl", [{"n": 2}])
    lake.ingest()
    assert [version.id for version in version_index.list_versions(lake.store)] == ["docs@v1", "docs@v2"]
    assert version_index.find_version(lake.store, "docs").version == 2
    assert version_index.find_version(lake.store, "docs@v1").version == 1
    for name in ("doc", "docs@v3"):
        with refuses("AW-DATA-10") as caught:
            version_index.find_version(lake.store, name)
        assert set(caught.value.nearest) <= {"docs", "docs@v1", "docs@v2"}
        assert "similar names: docs" in caught.value.hint
    with refuses("AW-DATA-10") as caught:
        version_index.find_version(lake.store, "zzz")
    assert caught.value.nearest == ()
    assert caught.value.hint.startswith("list all: archwright data list")


def test_the_newest_is_by_number_not_by_text(lake: Lake) -> None:
    made = lake_version()
    lake.store.append(version_index.VERSIONS, [replace(made, id=f"docs@v{n}", version=n) for n in (9, 10, 2)])
    assert version_index.find_version(lake.store, "docs").id == "docs@v10"


def lake_version() -> DatasetVersion:
    return replace(
        version_of((), 1234, "docs"),
        columns={"record_id": "id", "a|b": "integer"},
        drops={"quarantine: not JSON": 3},
        content_sha256="cd" * 32,
    )


def test_reading_some_columns_in_the_order_asked_for(lake: Lake) -> None:
    assert iceberg_tables.load_table(lake.home, "docs") is None
    with refuses("AW-DATA-11"):
        list(iceberg_tables.read_batches(lake.home, lake_version()))
    version = lake.ingest_rows([{"a": 1, "b": "x"}]).version
    (batch,) = iceberg_tables.read_batches(lake.home, version, ["b", "record_id", "a"])
    assert batch.schema.names == ["b", "record_id", "a"]
    assert [str(kind) for kind in batch.schema.types] == ["large_string", "fixed_size_binary[16]", "int64"]
    with refuses("AW-DATA-22"):
        list(iceberg_tables.read_batches(lake.home, version, ["c"]))
