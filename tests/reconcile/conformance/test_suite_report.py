"""The suite stands alone: it imports the standard library and itself, and its result says what was tested with what."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

from archwright.reconcile.conformance import __version__
from archwright.reconcile.conformance.budget_cases import CaseResult
from archwright.reconcile.conformance.command import build_parser, main, write_json
from archwright.reconcile.conformance.suite_options import read_options
from archwright.reconcile.conformance.suite_report import (
    ConformanceReport,
    GatewayUnderTest,
    identify_suite,
    write_text,
)

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "src" / "archwright" / "reconcile" / "conformance"
DISTRIBUTION = ROOT / "packaging" / "gateway-conformance"
STATED = ["--gateway", "Stand-in", "--gateway-version", "1.2", "--gateway-command", "stand-in --port 1"]
CHANGES = ["--gateway-change", "one worker", "--gateway-change", "no cache"]


def make_report(gateway: GatewayUnderTest) -> ConformanceReport:
    cases = (CaseResult(case="batch", verdict="skipped", note="no batches here"),)
    return ConformanceReport(
        url="http://g/v1",
        model="m",
        price="1:4",
        requests=8,
        started_at="2026-12-02",
        gateway=gateway,
        suite=identify_suite(),
        cases=cases,
    )


def list_imports(path: Path) -> set[str]:
    """The top modules of the imports of a file; ".": a module beside it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level or (node.module or "").partition(".")[0])
    return names


def test_the_suite_imports_the_standard_library_and_itself_only() -> None:
    foreign = {path.name: list_imports(path) - {".", *sys.stdlib_module_names} for path in FOLDER.glob("*.py")}
    assert {name: names for name, names in foreign.items() if names} == {}


def test_the_distribution_is_built_of_the_one_source() -> None:
    assert (DISTRIBUTION / "gateway_conformance").resolve() == FOLDER
    assert (DISTRIBUTION / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_digest_changes_with_the_source_alone(tmp_path: Path) -> None:
    """A copy under another name has the same digest; one more byte gives another."""
    copy = tmp_path / "renamed"
    copy.mkdir()
    for path in FOLDER.glob("*.py"):
        (copy / path.name).write_bytes(path.read_bytes())
    assert identify_suite(copy) == identify_suite()
    assert identify_suite().version == __version__
    with (copy / "command.py").open("a") as file:
        file.write("\n")
    assert identify_suite(copy).digest != identify_suite().digest


def test_the_result_states_the_gateway_and_the_suite() -> None:
    options = read_options(build_parser().parse_args(["http://g/v1", "--key-env", "K", *STATED, *CHANGES]))
    report = make_report(options.gateway)
    result = json.loads(write_json(report))
    assert result["gateway"] == {
        "name": "Stand-in",
        "version": "1.2",
        "command": "stand-in --port 1",
        "changes": ["one worker", "no cache"],
    }
    assert result["suite"] == {"version": __version__, "digest": identify_suite().digest}
    text = write_text(report)
    for part in ("Stand-in, version 1.2", "stand-in --port 1", "one worker; no cache", identify_suite().digest):
        assert part in text
    assert "command: not stated" in write_text(make_report(GatewayUnderTest()))


@pytest.mark.parametrize("words", [[], ["--price", "1"], ["--admin", "ftp://x", "--price", "1:4"]])
def test_the_command_says_what_cannot_be_used(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEY", "a key")
    monkeypatch.setattr("sys.argv", ["gateway-conformance", "http://g/v1", "--key-env", "KEY", *words])
    assert main() == 2
    assert "give" in capsys.readouterr().err or "ftp" in words[1]
