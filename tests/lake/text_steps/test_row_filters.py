"""Empty and short rows are dropped with a reason."""

from __future__ import annotations

import pytest

from archwright.errors import DataError
from archwright.lake.steps.text_columns import resolve_columns
from archwright.lake.text_steps.row_filters import DropEmpty, DropShort

from ..steps.step_runner import run_step


def test_drop_empty_names_the_first_empty_column() -> None:
    run = run_step(DropEmpty(), a=["x", " \t", None, "x"], b=["y", None, "y", "\n"])
    assert run["source_row"] == [0]
    assert run.dropped == [(1, "a is empty"), (2, "a is empty"), (3, "b is empty")]


def test_drop_short_counts_the_characters_of_all_columns() -> None:
    run = run_step(DropShort(characters=4), a=["ab", None, "ü"], b=["cd", None, "öä"])
    assert run["a"] == ["ab"]
    assert run.dropped == [(1, "shorter than 4 characters"), (2, "shorter than 4 characters")]


def test_only_the_chosen_columns_count() -> None:
    assert run_step(DropShort(characters=3, columns=("a",)), a=["ab"], b=["cd"]).dropped
    assert not run_step(DropEmpty(columns=("a",)), a=["ab"], b=[""]).dropped


def test_only_text_columns_are_suitable() -> None:
    columns = {"record_id": "text", "title": "text", "number": "integer"}
    assert resolve_columns((), columns) == ("title",)
    assert resolve_columns((), columns, texts=False) == ("title", "number")
    for chosen, message in (("number", "does not contain text"), ("titel", "no column"), ("record_id", "no column")):
        with pytest.raises(DataError, match=message) as caught:
            DropEmpty(columns=(chosen,)).output_columns(columns)
        assert caught.value.code == "AW-DATA-22"
    with pytest.raises(DataError, match="no column contains text"):
        DropEmpty().output_columns({"number": "integer"})
