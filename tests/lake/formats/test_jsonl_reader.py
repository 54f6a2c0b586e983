"""JSON lines and JSON files: blocks and single lines are read alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archwright.lake.formats import jsonl_reader, source_files
from archwright.lake.formats.row_chunks import BrokenRow
from archwright.lake.formats.text_lines import TextLine

from ...tools.checks import refuses
from ..temporary_lake import Lake

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-9, 9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.just({"a": [1, "x"]}),
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "c d", "\u00e9"]), VALUES, max_size=3).map(json.dumps)
BROKEN = st.sampled_from(
    ['{"a": 1} {"a": 2}', '{"a":', "1}", "", "  ", "[1]", '{"a": 1e999}', '{"a": 1, "a": "x"}', '{"": 1}', "\0"]
)


def read(source: source_files.ScannedFile) -> list[object]:
    found: list[object] = []
    for chunk in jsonl_reader.read_chunks(source, found.append):
        columns = {
            name: [*values] if isinstance(values, list) else values.to_pylist()
            for name, values in chunk.columns.items()
        }
        for place, row in enumerate(chunk.rows):
            record = {name: values[place] for name, values in columns.items() if values[place] is not None}
            found.append((row, chunk.contents[place], repr(sorted(record.items(), key=str))))
    return sorted(found, key=lambda row: row.row if isinstance(row, BrokenRow) else row[0])  # type: ignore[index]


@given(
    lines=st.one_of(st.lists(OBJECTS), st.lists(st.one_of(OBJECTS, BROKEN))),
    end=st.sampled_from(["\n", "\r\n"]),
    tail=st.sampled_from([b"", b"\n", b'\xff\n{"a": "\xff"}', b"\r"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
def test_blocks_and_single_lines_are_read_alike(tmp_path: Path, lines: list[str], end: str, tail: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(end.join(lines * 2).encode() + tail)
    source = source_files.scan_sources(path).sources[0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jsonl_reader, "BLOCK_BYTES", 128)
        blocks = read(source)
        patched.setattr(jsonl_reader.ObjectLines, "decode_block", lambda *_: None)
        singles = read(source)
    assert blocks == singles


def test_regular_lines_are_read_in_blocks(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_reader, "BLOCK_BYTES", 10_000)
    lake.put_rows("a.jsonl", [{"n": n, "text": f"text {n}", "deep": [n]} for n in range(3000)])
    singly: list[object] = []
    parse = jsonl_reader._parse_record

    def noted(line: TextLine) -> object:
        singly.append(line)
        return parse(line)

    monkeypatch.setattr(jsonl_reader, "_parse_record", noted)
    assert lake.values(lake.ingest().version, "n") == [*range(3000)]
    assert len(singly) < 1000


@pytest.mark.parametrize(
    "text",
    [
        '[{"n": 1}, {"n": 2.5, "t": "x"},\n {"n": 3}]',
        '\ufeff [ {"n": 1},{"n": 2.5,"t":"x"},{"n":3} ] \n',
        '{"n": 1}\n{"n": 2.5, "t": "x"} {"n": 3}',
    ],
)
def test_json_files(lake: Lake, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("archwright.lake.formats.json_reader.READ_BYTES", 3)
    lake.put("a.json", text)
    version = lake.ingest().version
    assert lake.rows(version, "source_row", "n", "t") == [
        {"source_row": 1, "n": 1.0, "t": None},
        {"source_row": 2, "n": 2.5, "t": "x"},
        {"source_row": 3, "n": 3.0, "t": None},
    ]


def test_json_files_with_broken_values_and_one_object(lake: Lake) -> None:
    lake.put("one.json", '{\n "n": 1\n}')
    lake.put("many.json", '[1, {"n": 2}, {"n": 1e999}, "x", [3]]')
    lake.put("none.json", "[]")
    version = lake.ingest().version
    assert lake.values(version, "n") == [2, 1]
    assert lake.quarantined(version) == [
        ("many.json", 1, "not a JSON object"),
        ("many.json", 3, "number not finite"),
        ("many.json", 4, "not a JSON object"),
        ("many.json", 5, "not a JSON object"),
    ]


@pytest.mark.parametrize(
    "text", ['[{"n": 1}', '[{"n": 1} {"n": 2}]', '[{"n": 1}] x', "{n: 1}", '[{"n": 1},]', "[" * 9999]
)
def test_what_is_no_json_file(lake: Lake, text: str) -> None:
    lake.put("a.json", text)
    with refuses("AW-DATA-29"):
        lake.ingest()
