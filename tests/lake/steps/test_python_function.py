"""A user's function as a step: rows in, rows out; errors name the file and the function."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright.lake.steps.python_function import PythonFunction

from ...tools.checks import refuses
from ..temporary_lake import Lake

CODE = """
import re

def clean(rows):
    for row in rows:
        if row["text"] is None:
            continue
        row["words"] = len(re.findall("[a-z]+", row["text"]))
        if row["words"] > 1:
            row["text"] = row["text"].strip()
            yield row

def fail(rows):
    for row in rows:
        yield {"text": "no id"}

def crash(rows):
    for row in rows:
        yield row["missing"]

def lie(rows):
    for row in rows:
        row["words"] = "many"
        yield row
"""


def refine(lake: Lake, options: str) -> list[dict[str, object]]:
    (lake.root / "own.py").write_text(CODE)
    version = lake.refine(f"[{{python: {{file: own.py, {options}}}}}]").version
    assert version.drops == {"python: not returned by clean": 2}
    assert version.changes == {"clean": 1}
    return lake.rows(version)


def test_rows_stay_change_or_go(lake: Lake) -> None:
    lake.ingest_rows([{"text": " two words "}, {"text": "one"}, {"text": None}, {"text": "and two"}])
    made = refine(lake, "function: clean, adds: {words: integer}")
    assert made == [{"text": "two words", "words": 2}, {"text": "and two", "words": 2}]


def test_a_changed_function_makes_a_new_version(lake: Lake) -> None:
    lake.ingest_rows([{"text": "two words"}])
    (lake.root / "own.py").write_text(CODE)
    steps = "[{python: {file: own.py, function: clean, adds: {words: integer}}}]"
    first = lake.refine(steps)
    assert not lake.refine(steps).new
    (lake.root / "own.py").write_text(CODE.replace("[a-z]+", "[a-z]"))
    second = lake.refine(steps)
    assert second.new and lake.values(second.version, "words") == [8] != lake.values(first.version, "words")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("function: fail", "yield rows that it received"),
        ("function: crash", "KeyError: 'missing'"),
        ("function: none", "no function 'none'"),
        ("function: lie, adds: {words: integer}", "another kind in the column 'words'"),
        ("function: clean, adds: {words: number-like}", "no column kind 'number-like'"),
    ],
)
def test_functions_that_are_refused(lake: Lake, options: str, words: str) -> None:
    lake.ingest_rows([{"text": "two words"}])
    with refuses("AW-DATA-64", words) as caught:
        refine(lake, options)
    assert caught.value.where.file == "own.py"


def test_a_file_that_does_not_load(tmp_path: Path) -> None:
    with refuses("AW-DATA-64", "cannot be loaded"):
        PythonFunction(file="own.py", function="f", source="def f(:")._load_function()
