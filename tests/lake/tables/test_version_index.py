"""Finding versions, and the card of each."""

from __future__ import annotations

from archwright.contract.lineage import DatasetVersion, SourceFile
from archwright.contract.record import replace
from archwright.lake import dataset_card
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


FILE = SourceFile(path="<b>\\a|b\n.txt", sha256="ab" * 32, size_bytes=9, rows=1234, quarantined=3)


def lake_version() -> DatasetVersion:
    return replace(
        version_of((), 1234, "docs"),
        columns={"record_id": "id", "a|b": "integer"},
        drops={"quarantine: not JSON": 3},
        content_sha256="cd" * 32,
    )


def test_a_card_says_all_of_it() -> None:
    text = dataset_card.format_card(lake_version(), [FILE])
    for line in (
        "# Data set docs@v1",
        "| made | 1970-01-01 00:00 UTC, ingested from files |",
        "| rows | 1,234 |",
        "| licence | not stated |",
        "| version before | none |",
        f"| content (SHA-256) | {'cd' * 32} |",
        "| record_id | id | system |",
        "| a\\|b | integer |  |",
        "| quarantine: not JSON | 3 |",
        "## Changed values\n\nnone",
        f"| &lt;b>\\\\a\\|b .txt | 1,234 | 3 | 9 | {'ab' * 32} |",
    ):
        assert line in text
    assert "## Recipe" not in text
    assert text.endswith("\n")


def test_a_card_of_a_refined_version() -> None:
    recipe, changes = '[{"redact":{"kinds":["ip"]}}]', {"ip": 2}
    made = replace(lake_version(), action="refine", parent="docs@v1", recipe=recipe, drops={}, changes=changes)
    text = dataset_card.format_card(replace(made, licence="MIT"), [FILE])
    for line in (
        "refined from docs@v1",
        "| parent | docs@v1 |",
        "## Dropped rows\n\nnone",
        "| ip | 2 |",
        '"redact": {',
        "| licence | MIT |",
    ):
        assert line in text


def test_a_card_of_very_many_files_is_bounded() -> None:
    text = dataset_card.format_card(lake_version(), [FILE] * 1000)
    assert text.count("ab" * 32) == dataset_card.MAX_LISTED_FILES
    assert "and 800 more files: `archwright data show docs@v1 --json`" in text


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
