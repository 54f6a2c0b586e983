"""The verbs of the lake: their effects, output and records."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from archwright import api
from archwright.access import audit_log
from archwright.api import data
from archwright.cli import show_data
from archwright.contract.lineage import LineageEdge, SourceFile
from archwright.contract.record import replace
from archwright.home import Home
from archwright.monitor import lineage
from archwright.store import Store

from ..command_line import CommandLine

RECIPE = "from: docs\ninto: docs-clean\nsteps:\n  - drop-duplicates: {}\n  - redact: {}\n"


@pytest.fixture
def source(tmp_path: Path, home: Home) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    rows = [{"text": "mail a@b.example"}, {"text": "mail a@b.example"}, {"text": "[bold]x[/]"}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n", encoding="utf-8")
    (folder / ".hidden").write_text("", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def actions(home: Home) -> list[tuple[str, str]]:
    store = Store(home.store_url)
    try:
        return [(event.action, event.resource) for event in audit_log.read_entries(store)]
    finally:
        store.close()


def test_the_verbs_one_after_the_other(source: Path, home: Home, cli: CommandLine) -> None:
    assert "no data set yet" in cli.text("data list")
    ingest = f"data ingest {source} --name docs"
    out = cli.text(f"{ingest} --licence CC0-1.0")
    assert "docs@v1\n  3 rows, 4 columns, 1 file" in out
    assert "left out         1  quarantine: not JSON" in out
    assert "skipped             .hidden: hidden" in out
    again = cli.json(ingest)
    assert (again["id"], again["new"], again["passed_over"]) == ("docs@v1", False, [".hidden: hidden"])
    assert "nothing changed" in cli.text(ingest)
    assert "redacted         1  email" in cli.text("data refine recipe.yaml")
    refined = cli.json("data refine recipe.yaml")
    assert (refined["id"], refined["new"], refined["rows"]) == ("docs-clean@v1", False, 2)
    listed = cli.json("data list")
    assert [version["id"] for version in listed] == ["docs@v1", "docs-clean@v1"]
    assert "new" not in listed[0]
    lines = cli.text("data list").splitlines()
    assert lines[0].split()[:2] == ["version", "rows"]
    assert lines[2].split()[:4] == ["docs-clean@v1", "2", "1", "1"]
    assert all(len(line) <= 100 for line in lines)
    found = [(action, resource) for action, resource in actions(home) if action in ("data.ingest", "data.refine")]
    assert sorted(found) == [("data.ingest", "docs@v1"), ("data.refine", "docs-clean@v1")]


def test_what_is_known_of_a_version(source: Path, home: Home, cli: CommandLine) -> None:
    data.ingest(str(source), name="docs")
    data.refine("recipe.yaml")
    store = Store(home.store_url)
    made = [("run:r-1", "trained-on"), ("model:m@v1", "trained-on"), ("model:m@v1", "trained-on")]
    edges = [LineageEdge(at=0.0, child=child, parent="dataset:docs@v1", relation="trained-on") for child, _ in made]
    lineage.append_edges(store, edges)
    store.close()
    found = api.data.show("docs")
    assert (found.version.id, found.runs, found.models, found.refined) == (
        *("docs@v1", ("r-1",), ("m@v1",), ("docs-clean@v1",)),
    )
    assert cli.text("data card docs").startswith("# Data set docs@v1")
    assert found.quarantine is not None
    assert Path(found.quarantine).read_text(encoding="utf-8").count("\n") == 1
    assert found.drops is None
    refined = api.data.show("docs-clean@v1")
    assert (refined.quarantine, refined.models) == (None, ())
    assert refined.drops is not None
    out = cli.text("data show docs")
    assert "trained on it    r-1, m@v1" in out and "refined from it  docs-clean@v1" in out
    assert "quarantine: not JSON" in out
    out = cli.text("data show docs-clean")
    assert "refined from docs@v1" in out and "trained on it    nothing yet" in out
    assert cli.json("data show docs")["version"]["rows"] == 3


def test_damage_has_an_exit_status(source: Path, home: Home, cli: CommandLine) -> None:
    data.ingest(str(source), name="docs")
    out = cli.text("data check")
    assert out.startswith("1 version(s), 1 file(s), ") and "per second: no problem" in out
    assert cli.json("data check docs@v1")["problems"] == []
    assert "similar names: docs" in cli.error("data check dogs", 10)
    (path,) = home.lake.rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    out = cli.text("data check docs", 3)
    assert "docs@v1" in out and path.name in out and "1 problem(s)" in out
    found = json.loads(cli.text("data check docs --json", 3))
    assert "SHA-256 differs" in found["problems"][0]["problem"]


def test_large_versions_are_cut_for_people_only(source: Path, cli: CommandLine) -> None:
    made = data.ingest(str(source), name="docs")
    file = SourceFile(path="[red]x", sha256="ab" * 32, size_bytes=1, rows=1)
    wide = {f"pixel_{number:03d}": "integer" for number in range(784)}
    large = replace(made, source_files=1000, columns=wide, passed_over=("a: hidden",) * 9)
    assert "and 4 more (--json shows all)" in cli.printed(show_data.print_outcome, large)
    out = cli.printed(show_data.print_card, replace(api.data.show("docs"), version=large, files=(file,) * 1000))
    assert "and 760 more" in out and "and 988 more" in out and "[red]x" in out
    assert out.count("\n") < 60


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ingest nowhere --name docs", "AW-USE-01"),
        ("ingest source --name 'No Name'", "AW-DATA-01"),
        ("ingest source", "AW-USE-07"),
        ("refine nowhere.yaml", "AW-USE-01"),
        ("refine source/a.jsonl", "AW-DATA-21"),
        ("refine recipe.yaml", "AW-DATA-10"),
        ("show docs", "AW-DATA-10"),
    ],
)
def test_errors_are_three_lines(source: Path, cli: CommandLine, line: str, code: str) -> None:
    status = 10 if "DATA" in code else 2
    out, err = cli.run(f"data {line}", status)
    assert out == "" and err.startswith(code) and 2 <= err.count("\n") <= 3
    assert cli.json_error(f"data {line}", status)["code"] == code


@pytest.mark.process
def test_help_loads_no_part_of_the_lake() -> None:
    import subprocess  # noqa: PLC0415

    program = "import sys; from archwright.cli import main; main(['data', 'list', '--help'])"
    check = f"""
try:
    {program}
except SystemExit:
    pass
heavy = {{'pyarrow', 'pyiceberg', 'rich', 'archwright.lake'}} & set(sys.modules)
assert not heavy, heavy
from archwright import api
api.data.list
heavy = {{'pyarrow', 'pyiceberg'}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
