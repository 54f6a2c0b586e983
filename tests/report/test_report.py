"""The verb: three formats from one plan file, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from archwright import api
from archwright.cli import main
from archwright.errors import MissingError, PlanFileError, UsageError
from archwright.plan.plan_file import write_plan

from .full_plan import BOARD


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    write_plan(BOARD, tmp_path / "plan.json")
    return tmp_path / "plan.json"


@pytest.mark.parametrize(("suffix", "start"), [(".html", b"<!doctype html>"), (".pdf", b"%PDF"), (".XLSX", b"PK")])
def test_the_suffix_chooses_the_format(plan_file: Path, suffix: str, start: bytes) -> None:
    output = plan_file.with_name(f"report{suffix}")
    assert api.report(str(plan_file), output=str(output)) == output
    assert output.read_bytes().lstrip().startswith(start)


def test_another_suffix_is_refused(plan_file: Path) -> None:
    with pytest.raises(UsageError) as caught:
        api.report(str(plan_file), output=str(plan_file.with_name("report.docx")))
    assert caught.value.code == "AW-USE-65"
    assert ".html, .pdf, .xlsx" in caught.value.hint


def test_a_broken_plan_is_refused_and_nothing_is_written(plan_file: Path) -> None:
    plan_file.write_text("{}")
    output = plan_file.with_name("report.html")
    with pytest.raises(PlanFileError):
        api.report(str(plan_file), output=str(output))
    assert not output.exists()


@pytest.mark.parametrize(("suffix", "package"), [(".html", "jinja2"), (".pdf", "typst"), (".xlsx", "xlsxwriter")])
def test_without_the_extra_the_answer_is_the_line_that_installs_it(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError) as caught:
        api.report(str(plan_file), output=str(plan_file.with_name(f"report{suffix}")))
    assert caught.value.hint == "pip install 'archwright[report]'"
    assert package in caught.value.message


def test_the_shell_says_what_it_wrote(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = plan_file.with_name("report.html")
    assert main(["report", str(plan_file), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    assert main(["report", str(plan_file)]) == 2
    assert "--output" in capsys.readouterr().err
