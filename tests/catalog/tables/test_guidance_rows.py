"""Guidance: every row has its source and date, and a broken file is refused where it is broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from archwright.catalog.load import load_catalog
from archwright.catalog.tables.guidance_rows import FOLDER, Theme, read_advice, read_features
from archwright.errors import CatalogError

THEMES: tuple[Theme, ...] = get_args(Theme)
GOOD = "- {id: one, topic: T, choice: C, why: W, source: S, as_of: '2026', confidence: low}\n"


def broken(tmp_path: Path, text: str) -> CatalogError:
    (tmp_path / FOLDER).mkdir(exist_ok=True)
    (tmp_path / FOLDER / "stack.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        read_advice("stack", tmp_path)
    return caught.value


@pytest.mark.parametrize("theme", THEMES)
def test_every_shipped_row_has_a_source_a_date_and_words(theme: Theme) -> None:
    rows = read_advice(theme)
    assert len(rows) > 5
    for row in rows:
        assert row.topic and row.choice and row.why and row.source and row.as_of, row.id
        assert bool(row.why_not) <= bool(row.alternative), row.id


def test_every_stack_choice_names_what_else_it_could_be_and_why_not() -> None:
    assert [row.id for row in read_advice("stack") if not row.alternative or not row.why_not] == []


@pytest.mark.parametrize("theme", THEMES)
def test_no_row_stands_behind_one_that_always_fits_where_it_does(theme: Theme) -> None:
    rows = read_advice(theme)
    for place, row in enumerate(rows):
        before = [one for one in rows[:place] if one.topic == row.topic]
        hidden = [one.id for one in before if set(one.when) <= set(row.when) and set(one.unless) <= set(row.unless)]
        assert hidden == [], row.id


def test_every_clause_is_one_of_a_regulation_of_the_catalog() -> None:
    known = {f"{name} {rule.clause}" for name, law in load_catalog().regulations.items() for rule in law.controls}
    named = {(row.id, clause) for theme in THEMES for row in read_advice(theme) for clause in row.clauses}
    assert [pair for pair in named if pair[1] not in known] == []


def test_most_clauses_of_every_regulation_are_spoken_to() -> None:
    named = {clause for theme in THEMES for row in read_advice(theme) for clause in row.clauses}
    for name, law in load_catalog().regulations.items():
        said = sum(f"{name} {rule.clause}" in named for rule in law.controls)
        assert said >= 0.5 * len(law.controls), name


def test_every_feature_answers_a_part_of_some_regulation() -> None:
    parts = {
        part.strip()
        for law in load_catalog().regulations.values()
        for rule in law.controls
        for part in rule.feature.lower().split(",")
    }
    for feature in read_features():
        assert any(re.fullmatch(feature.words, part) for part in parts), feature.id
        assert feature.proof and feature.source


def test_a_missing_file_a_twin_and_a_row_without_source_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        read_advice("scale", tmp_path)
    assert caught.value.code == "AW-CAT-03"
    twin = broken(tmp_path / "", GOOD + GOOD)
    assert twin.code == "AW-CAT-04" and "'one'" in twin.message


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        (GOOD.replace("source: S, ", "source: '', "), "no source", None),
        (GOOD.replace("as_of: '2026', ", ""), "no date", None),
        (GOOD.replace("topic: T, ", ""), "topic", None),
        (GOOD + "  x: [\n", "not valid YAML", 3),
        (GOOD.replace("why: W", "why: W, kept: kitchen"), "kitchen", None),
    ],
)
def test_a_broken_row_is_refused(tmp_path: Path, text: str, said: str, line: int | None) -> None:
    error = broken(tmp_path, text)
    assert error.code == "AW-CAT-04" and said in error.message
    assert error.where is not None and error.where.file is not None and error.where.file.endswith("stack.yaml")
    if line is not None:
        assert error.where.line in (2, line)
