"""The tables of formats.yaml: every entry is usable, and a value is found, converted or refused by its path."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from archwright.catalog.sources import READERS, row_reader
from archwright.catalog.sources.row_reader import SourceColumn, SourceFormat


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    columns = {
        "name": SourceColumn(at="@"),
        "owner": SourceColumn(at="^id", required=True),
        "size": SourceColumn(at="a.b|c", kind="int", scale=2, default=7),
        "state": SourceColumn(at="s", values={"on": True}),
    }
    table = SourceFormat(rows="#.rows.*", without={"s": ("gone",)}, columns=columns)
    monkeypatch.setattr(row_reader, "load_formats", lambda: {"t": table})
    yield


def read(document: object) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in row_reader.read_rows("t", json.dumps(document).encode())]


def test_every_format_belongs_to_an_adapter_and_every_kind_is_known() -> None:
    formats = row_reader.load_formats()
    assert {name.partition(".")[0] for name in formats} <= set(READERS)
    kinds = {(table.form == "csv", column.kind) for table in formats.values() for column in table.columns.values()}
    assert {kind for is_csv, kind in kinds if is_csv} == set(row_reader._CELL_CONVERTERS)
    assert {kind for is_csv, kind in kinds if not is_csv} == set(row_reader._CONVERTERS)


@pytest.mark.usefixtures("table")
def test_keys_enclosing_objects_alternatives_units_and_words() -> None:
    rows = {"x": {"a": {"b": 3}, "c": 9, "s": "on"}, "y": {"c": 4, "s": "off"}, "z": {"s": "gone"}, "v": {"a": None}}
    assert read([{"id": "o", "rows": rows}, {"id": "p", "rows": {}}]) == [
        ("x", "o", 6, True),
        ("y", "o", 8, None),
        ("v", "o", 7, None),
    ]


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"rows": {}}, "Expected `array`, got `object`"),
        ([{"id": "o"}], "got `null`"),
        ([{"id": "o", "rows": [1]}], "Expected `object`, got `array`"),
        ([{"id": "o", "rows": {"x": {"c": "many"}}}], "Expected `int`, got `str` - at `$.c`"),
        ([{"id": "o", "rows": {"x": {"a": 1}}}], "Expected `object`, got `int` - at `$.a.b`"),
        ([{"rows": {"x": {}}}], "missing - at `$.^id`"),
    ],
)
def test_another_form_is_refused_with_the_path(document: object, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(document)
    assert says in str(caught.value)
