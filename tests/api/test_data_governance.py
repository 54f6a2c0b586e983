"""The verbs of governance: policy, residency, tenants, catalogue, access export, retention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archwright import api
from archwright.access import audit_log
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lake.tables import version_index
from archwright.store import Store

from ..command_line import CommandLine

RECIPE = "from: docs\ninto: docs-clean\nsteps:\n  - redact: {}\n"


@pytest.fixture
def source(tmp_path: Path, home: Home) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    rows = [
        {"who": "ann@example.org", "age": 31},
        {"who": "x [b] ANN@example.org.", "age": 7},
        {"who": "bob", "age": 3},
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def actions(home: Home, kind: str) -> list[tuple[str, str, str]]:
    store = Store(home.store_url)
    try:
        found = [(event.action, event.resource, event.tenant) for event in audit_log.read_entries(store, home)]
        return [event for event in found if event[0] == f"data.{kind}"]
    finally:
        store.close()


def test_a_policy_is_set_field_by_field_with_its_history(source: Path, home: Home, cli: CommandLine) -> None:
    assert cli.run("data policy docs", 10)[1].startswith("AW-DATA-10")
    options = "--owner Ann --lawful-basis consent --classification restricted --retention-days 30 --reader research"
    out = cli.text(f"data policy docs --tenant clinic {options} --purpose 'find [b] triage'")
    assert "owner           Ann" in out and "readers         clinic, research" in out and "find [b] triage" in out
    changed = cli.json("data policy docs --residency DE --residency EEA --owner '' --retention-days 0 --reader ''")
    rules = changed["in_force"]
    assert (rules["owner"], rules["tenant"], rules["classification"]) == ("", "clinic", "restricted")
    assert (rules["retention_days"], rules["readers"]) == (None, ["clinic"])
    assert {"DE", "FR", "IE"} <= set(rules["residency"]) and "US" not in rules["residency"]
    assert [one["owner"] for one in changed["history"]] == ["Ann", ""]
    assert all(one["by"] and one["at"] for one in changed["history"])
    assert cli.json("data policy docs --tenant school")["in_force"]["readers"] == ["school"]
    assert cli.json("data policy docs --residency any --residency DE")["in_force"]["residency"] == ["any"]
    assert [event[1:] for event in actions(home, "policy")][::-1] == [
        *(("docs", "clinic"), ("docs", "clinic"), ("docs", "school"), ("docs", "school")),
    ]
    for option, near in (("--residency Germny", ""), ("--lawful-basis consnt", "consent"), ("--retention-days -1", "")):
        error = cli.json_error(f"data policy docs {option}", 10)
        assert error["code"] == "AW-DATA-49" and near in "".join(error["nearest"])
    assert cli.json_error("data policy 'No Name' --owner x", 10)["code"] == "AW-DATA-01"


def test_residency_is_refused_before_a_byte_is_written(
    source: Path, home: Home, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.text("data policy docs --residency DE")
    for place in ("", "US"):
        monkeypatch.setenv("ARCHWRIGHT_RESIDENCY", place)
        assert cli.json_error(f"data ingest {source} --name docs", 10)["code"] == "AW-DATA-48"
        assert not (home.root / "lake" / "tables").exists()
    monkeypatch.setenv("ARCHWRIGHT_RESIDENCY", "DE")
    cli.text(f"data ingest {source} --name docs")
    monkeypatch.setenv("ARCHWRIGHT_RESIDENCY", "US")
    assert cli.json_error("data refine recipe.yaml", 10)["code"] == "AW-DATA-48"
    assert not (home.root / "lake" / "work").exists()
    assert cli.json_error("data index docs", 10)["code"] == "AW-DATA-48"
    assert not (home.root / "lake" / "indexes").exists()
    monkeypatch.setenv("ARCHWRIGHT_RESIDENCY", "Germany")
    assert cli.json_error("data list", 2)["code"] == "AW-SET-02"


def test_a_data_set_belongs_to_a_tenant(source: Path, home: Home, cli: CommandLine) -> None:
    cli.text(f"data ingest {source} --name docs --tenant clinic")
    cli.text("data refine recipe.yaml")
    cli.text(f"data ingest {source} --name docs --tenant clinic")
    assert cli.json_error(f"data ingest {source} --name docs --tenant bank", 10)["code"] == "AW-DATA-54"
    cli.text("data policy docs --reader bank")
    assert [one["id"] for one in cli.json("data list --tenant clinic")] == ["docs@v1", "docs-clean@v1"]
    assert [one["id"] for one in cli.json("data list --tenant bank")] == ["docs@v1", "docs-clean@v1"]
    assert cli.json("data list --tenant default") == []
    assert len(cli.json("data list")) == 2


def test_the_catalogue_is_searched_by_words_and_filters(source: Path, cli: CommandLine) -> None:
    cli.text(f"data ingest {source} --name docs --licence MIT")
    cli.text("data refine recipe.yaml")
    cli.text("data policy docs --owner 'Dr. Lee' --purpose triage --classification restricted --reader research")

    def found(line: str) -> list[str]:
        return [one["version"] for one in cli.json(f"data find {line}")]

    both = ["docs@v1", "docs-clean@v1"]
    assert found("") == found("'LEE triage'") == found("mit") == found("a.jsonl") == found("age") == both
    assert found("'lee nobody'") == []
    assert found("--classification restricted") == found("--tenant research") == both
    assert found("--classification public") == found("--tenant bank") == found("--column-kind boolean") == []
    assert found("--column-kind integer") == found("--personal-data email") == both
    assert found("--personal-data iban") == []
    out = cli.text("data find triage")
    assert "docs-clean@v1" in out and "Dr. Lee" in out and "email" in out
    assert "no data set matches" in cli.text("data find nothing-like-it")


def test_an_access_export_has_every_row_of_the_person(
    source: Path, home: Home, cli: CommandLine, tmp_path: Path
) -> None:
    (source / "a.jsonl").write_text((source / "a.jsonl").read_text() + '{"who": ann@example.org}\n', encoding="utf-8")
    cli.text(f"data ingest {source} --name docs")
    (source / "b.jsonl").write_text('{"who": "bob"}\n', encoding="utf-8")
    cli.text(f"data ingest {source} --name docs")
    cli.text("data refine recipe.yaml")
    assert "3 rows" in cli.text("data export --subject ann@example.org -o out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [(one["version"], one["file"], one["row"], one["columns"]) for one in lines] == [
        ("docs@v2", "a.jsonl", 1, ["who"]),
        ("docs@v2", "a.jsonl", 2, ["who"]),
        ("docs@v2", "a.jsonl", 4, ["excerpt"]),
    ]
    assert lines[0]["values"] == {"who": "ann@example.org", "age": 31} and len(lines[0]["record_id"]) == 32
    assert (tmp_path / "out" / "rows.jsonl").stat().st_mode & 0o077 == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rows"], summary["searched"]) == (3, ["docs@v2", "docs-clean@v1"])
    made = api.data.export(subject=("ann@example.org",), output="all", all_versions=True)
    assert made.versions == {"docs@v1": 3, "docs@v2": 3}
    error = cli.json_error("data export --subject nobody@example.org -o none", 10)
    assert error["code"] == "AW-DATA-52" and not (tmp_path / "none" / "rows.jsonl").exists()
    assert cli.json_error("data export --subject nobody@example.org -o out", 10)["code"] == "AW-DATA-52"
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 3
    assert [event[1] for event in actions(home, "export")] == ["6 rows of 2 versions", "3 rows of 1 versions"]


def test_old_versions_are_deleted_and_audited(source: Path, home: Home, cli: CommandLine) -> None:
    cli.text(f"data ingest {source} --name docs --tenant clinic")
    assert "no version is older" in cli.text("data retain")
    cli.text("data policy docs --retention-days 1")
    store = Store(home.store_url)
    old = [replace(version, at=1000.0) for version in version_index.list_versions(store)]
    store.append_together([(version_index.VERSIONS, old)], instead=(version_index.VERSIONS, 1, 1))
    store.close()
    out = cli.text("data retain --dry-run")
    assert "would be deleted" in out and "docs@v1" in out
    assert cli.json("data list")[0]["dropped_at"] is None and actions(home, "retain") == []
    assert [one["version"] for one in cli.json("data retain")["expired"]] == ["docs@v1"]
    assert cli.json("data list")[0]["dropped_at"] > 0
    assert actions(home, "retain") == [("data.retain", "docs@v1", "clinic")]
    assert "- The rows of this version were deleted." in cli.text("data card docs@v1")
    assert cli.json("data find") == []


def test_expectations_of_a_file_block_an_ingest(source: Path, cli: CommandLine) -> None:
    Path("expect.yaml").write_text("expectations:\n  - {column: age, max: 30}\n", encoding="utf-8")
    ingest = f"data ingest {source} --name docs --expect expect.yaml"
    error = cli.json_error(ingest, 10)
    assert error["code"] == "AW-DATA-51" and "age: max 30, 1 row fails, such as a.jsonl:1" in error["message"]
    assert cli.json("data list") == []
    Path("expect.yaml").write_text("expectations:\n  - {column: age, max: 31}\n", encoding="utf-8")
    assert cli.json(ingest)["expectations"][0]["measured"] == 1.0
    assert "| age | max | 31 | 1 |" in cli.text("data card docs")
