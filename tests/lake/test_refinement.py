"""Recipes: what stays, what goes and why, what is altered; the same on every run."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archwright.contract.record import replace
from archwright.errors import UsageError
from archwright.lake import part_files, recipe, refinement
from archwright.lake.governance.policy import DatasetPolicy, append_policy
from archwright.lake.steps.pseudonyms import load_pseudonym_key, make_pseudonym
from archwright.lake.tables import data_files, iceberg_tables, version_index
from archwright.monitor import lineage

from ..tools.checks import refuses
from .temporary_lake import Lake


def drops(lake: Lake, version: int = 1) -> list[dict[str, Any]]:
    path = refinement.drops_path(lake.home, "docs-clean", version)
    return sorted(map(json.loads, path.read_text(encoding="utf-8").splitlines()), key=lambda row: str(row["record_id"]))


def test_duplicates_go_over_batches_and_files_and_the_first_stays(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_files, "BATCH_ROWS", 4)
    monkeypatch.setattr(data_files, "FILE_BYTES", 3000)
    # In the table's order z comes first: the first by file and row stays all the same.
    lake.put_rows("z.jsonl", [{"text": f"t{number % 10}", "n": number} for number in range(40)])
    lake.ingest()
    source = lake.ingest_rows([{"text": "t3", "n": 100}, {"text": None, "n": 101}, {"text": None, "n": 102}]).version
    version = lake.refine("[{drop-duplicates: {columns: [text]}}]").version
    assert lake.values(version, "n") == [100, 101, *(n for n in range(10) if n != 3)]
    assert version.drops == {"drop-duplicates: the same text as another row": 32}
    assert (version.rows, version.parent, version.action) == (11, source.id, "refine")
    ids = {row["record_id"].hex(): row for row in lake.rows(source, "record_id", "text", "n")}
    for drop in drops(lake):
        gone, kept = ids[drop["record_id"]], ids[drop["kept"]]
        assert gone["text"] == kept["text"]
        assert drop["step"] == "drop-duplicates"
        assert kept["n"] in lake.values(version, "n")


def test_all_columns_count_unless_some_are_chosen(lake: Lake) -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 1.0, "b": "x"}, {"a": 2, "b": None}]
    lake.ingest_rows(rows)
    assert lake.refine("[{drop-duplicates: {}}]").version.rows == 3
    assert lake.refine("[{drop-duplicates: {columns: [a]}}]").version.rows == 2


def test_redacting(lake: Lake) -> None:
    lake.put_rows(
        "a.jsonl",
        [
            {"q": "mail a@b.example and c@d.example", "a": "203.0.113.9", "n": 1},
            {"q": "nothing", "a": None, "n": 2},
            {"q": "version 10.15.7.1", "a": {"mail": "a@b.example"}, "n": 3},
        ],
    )
    source = lake.ingest().version
    version = lake.refine("[{redact: {}}]").version
    assert lake.rows(version) == [
        {"q": "mail <EMAIL> and <EMAIL>", "a": "<IP>", "n": 1},
        {"q": "nothing", "a": None, "n": 2},
        {"q": "version 10.15.7.1", "a": '{"mail":"<EMAIL>"}', "n": 3},
    ]
    assert version.changes == {"email": 3, "ip": 1}
    assert version.drops == {}
    assert lake.values(version, "record_id") == lake.values(source, "record_id")
    only = lake.refine("[{redact: {columns: [q], kinds: [ip]}}]").version
    assert only.changes == {}
    assert version.content_sha256 != only.content_sha256
    assert lake.rows(source)[0]["a"] == "203.0.113.9"


def test_rows_that_are_out_are_left_alone_by_later_steps(lake: Lake) -> None:
    lake.ingest_rows([{"t": "a@b.example"}, {"t": "a@b.example"}, {"t": " "}, {"t": None}, {"t": "short"}])
    steps_ = "[{drop-empty: {}}, {drop-duplicates: {}}, {redact: {}}, {drop-short: {characters: 6}}, {drop-empty: {}}]"
    version = lake.refine(steps_).version
    assert lake.values(version, "t") == ["<EMAIL>"]
    assert version.changes == {"email": 1}
    assert version.drops == {
        "drop-duplicates: the same content as another row": 1,
        "drop-empty: t is empty": 2,
        "drop-short: shorter than 6 characters": 1,
    }
    assert ["kept" in drop for drop in drops(lake)].count(True) == 1


def test_duplicates_made_by_an_earlier_step_are_found(lake: Lake) -> None:
    lake.ingest_rows([{"t": "a@b.example"}, {"t": "c@d.example"}])
    assert lake.refine("[{redact: {}}, {drop-duplicates: {}}]").version.rows == 1
    assert lake.refine("[{drop-duplicates: {}}, {redact: {}}]").version.rows == 2


def test_the_same_recipe_on_the_same_version_is_done_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.ingest_rows([{"t": "a@b.example"}])
    first = lake.refine("[{redact: {}}]")
    other = lake.refine("[{drop-duplicates: {}}]")
    with monkeypatch.context() as patched:
        patched.setattr(refinement, "_write_version", None)
        assert lake.refine("[{redact: {action: replace, countries: []}}]") == (first.version, False)
        assert lake.refine("[{drop-duplicates: {}}]", source="docs@v1") == (other.version, False)
    lake.put_rows("b.jsonl", [{"t": "new"}])
    lake.ingest()
    third = lake.refine("[{redact: {}}]")
    assert [made.version.id for made in (first, other, third)] == ["docs-clean@v1", "docs-clean@v2", "docs-clean@v3"]
    assert lake.refine("[{redact: {}}]", source="docs@v1") == (first.version, False)
    assert lake.values(first.version, "t") == ["<EMAIL>"]
    assert lake.values(third.version, "t") == ["<EMAIL>", "new"]
    assert (third.version.source_files, third.version.licence) == (2, "")


def test_columns_follow_the_source(lake: Lake) -> None:
    lake.ingest_rows([{"t": "x", "n": 1}])
    first = lake.refine("[{drop-empty: {columns: [t]}}]").version
    lake.put_rows("b.jsonl", [{"n": 1.5, "new": True}])
    lake.ingest()
    second = lake.refine("[{drop-duplicates: {}}]").version
    assert lake.rows(first) == [{"t": "x", "n": 1}]
    assert lake.rows(second) == [{"t": "x", "n": 1.0, "new": None}, {"t": None, "n": 1.5, "new": True}]
    third = lake.refine("[{drop-duplicates: {}}]", source="docs@v1").version
    assert third.columns == first.columns
    assert lake.rows(third) == lake.rows(first)


def test_every_kind_of_column_passes_through(lake: Lake) -> None:
    noon = datetime.datetime(2026, 1, 2, 12)
    columns = {
        "flag": [True, None],
        "half": [0.5, None],
        "at": [noon, None],
        "utc": pa.array([noon, None], pa.timestamp("us", "UTC")),
        "day": [noon.date(), None],
        "raw": [b"\x00\xff", None],
        "text": ["a@b.example", None],
    }
    pq.write_table(pa.table(columns), lake.put("a.parquet", b""))
    source = lake.ingest().version
    version = lake.refine("[{drop-duplicates: {}}, {redact: {}}]").version
    assert version.columns == source.columns
    assert [{**row, "text": None} for row in lake.rows(version)] == [{**r, "text": None} for r in lake.rows(source)]


def test_lineage_leads_to_the_files_and_nothing_is_ingested_into_a_refined_data_set(lake: Lake) -> None:
    lake.ingest_rows([{"t": "x"}])
    version = lake.refine("[{redact: {}}]").version
    edges = lineage.trace_ancestry(lake.store, f"dataset:{version.id}")
    found = [(edge.parent.partition(":")[0], edge.relation) for edge in edges]
    assert found == [("dataset", "refined"), ("file", "ingested")]
    with refuses("AW-DATA-23"):
        lake.ingest("docs-clean")


REDACT = "[{redact: {}}]"
INVALID_STEPS = (
    *("[]", "[{}]", "[{redact: {}, drop-empty: {}}]", "[{shuffle: {}}]", "[redact]", "[{redact: {kinds: [name]}}]"),
    *("[{drop-short: {}}]", "[{drop-short: {characters: 0}}]"),
)


@pytest.mark.parametrize(
    ("steps_", "source", "into", "expected"),
    [
        *((steps, "docs", "c", "AW-DATA-21") for steps in INVALID_STEPS),
        *((REDACT, source, "c", "AW-DATA-10") for source in ("docz", "docs@v7")),
        (REDACT, "docs", "C!", "AW-DATA-01"),
        *((REDACT, "docs", into, "AW-DATA-23") for into in ("docs", "other")),
        *((f"[{{redact: {{columns: [{name}]}}}}]", "docs", "c", "AW-DATA-22") for name in ("txt", "n")),
        ("[{drop-duplicates: {columns: [record_id]}}]", "docs", "c", "AW-DATA-22"),
        *((steps, "other", "c", "AW-DATA-22") for steps in ("[{drop-empty: {}}]", "[{drop-short: {characters: 1}}]")),
        ("[{drop-short: {characters: 5}}]", "docs", "c", "AW-DATA-24"),
    ],
)
def test_recipes_that_are_refused(lake: Lake, steps_: str, source: str, into: str, expected: str) -> None:
    lake.ingest_rows([{"text": "x", "n": 1}])
    other = lake.put_rows("numbers.jsonl", [{"n": 1}])
    lake.ingest("other", path=other)
    before, files = version_index.list_versions(lake.store), lake.data_files()
    with refuses(expected, "1 drop-short: shorter than 5 characters" if expected == "AW-DATA-24" else ""):
        lake.refine(steps_, source, into)
    assert (version_index.list_versions(lake.store), lake.data_files()) == (before, files)


@pytest.mark.parametrize(
    ("steps_", "said", "line", "field"),
    [
        ("\n  - redact: {}\n  - drop-short: {characters: many}", "", 5, "steps[1].drop-short.characters"),
        (" [{}]", "this item has none", None, "steps[0]"),
    ],
)
def test_where_a_recipe_is_wrong(tmp_path: Path, steps_: str, said: str, line: int | None, field: str) -> None:
    path = tmp_path / "r.yaml"
    with pytest.raises(UsageError):
        recipe.read_recipe(path)
    path.write_text(f"from: docs\ninto: c\nsteps:{steps_}\n", encoding="utf-8")
    with refuses("AW-DATA-21", said) as caught:
        recipe.read_recipe(path)
    assert (caught.value.where.line, caught.value.where.field) == (line, field)
    assert ("options of drop-short: columns, characters" in caught.value.hint) == field.startswith(
        "steps[1].drop-short"
    )


def test_a_version_of_another_home(lake: Lake) -> None:
    version = lake.ingest_rows([{"t": "x"}]).version
    for stranger in (replace(version, data_files=()), replace(version, dataset="no", id="no@v1")):
        with refuses("AW-DATA-11"):
            list(iceberg_tables.read_batches(lake.home, stranger))


def test_pseudonyms_are_those_of_the_tenant(lake: Lake) -> None:
    for tenant in ("clinic", "bank"):
        append_policy(lake.store, DatasetPolicy(dataset=tenant, tenant=tenant, at=1.0))
        lake.put_rows("a.jsonl", [{"t": "a@b.example"}])
        lake.ingest(tenant)
        lake.refine("[{redact: {action: pseudonym}}]", source=tenant, into=f"{tenant}-clean")
    key = load_pseudonym_key(lake.home, "clinic")
    assert lake.values("clinic-clean", "t") == [make_pseudonym(key, "email", "a@b.example")]
    assert lake.values("bank-clean", "t") != lake.values("clinic-clean", "t")
