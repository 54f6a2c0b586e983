"""Input made to break things comes in whole or is refused; it never breaks anything."""

from __future__ import annotations

import json

import pytest

from archwright.home import Home
from archwright.lake.formats import jsonl_reader
from archwright.lake.formats.row_chunks import CHUNK_BYTES
from archwright.lake.formats.source_files import scan_sources
from archwright.store import Store

from .temporary_lake import Lake

CLEAN = "[{drop-duplicates: {}}, {redact: {}}]"


def test_a_line_of_a_megabyte_and_values_of_every_sort(lake: Lake) -> None:
    long = "x" * 1_000_000
    odd = "\u0000 \ud7ff \U0010ffff \u202e <b>[red]{x}%s\\ ' \" \r\n\t"
    version = lake.ingest_rows([{"text": long}, {"text": odd}, {"text": ""}, {"text": None}, {}]).version
    assert lake.values(version, "text") == [long, odd, "", None, None]
    refined = lake.refine(CLEAN).version
    assert lake.values(refined, "text") == [long, odd, "", None]  # the two empty rows are the same


def test_names_with_spaces_dots_and_signs(lake: Lake) -> None:
    row = {"a b": "1", "a.b": "2", "ü-%#?*[0]": "3", "SELECT": "4", "x" * 255: "5", "Text": "6", "text": "7"}
    lake.put_rows("a folder/ü #%?*[1] 'x'.jsonl", [row])
    version = lake.ingest().version
    assert lake.rows(version) == [row]
    assert lake.files(version)[0].path == "a folder/ü #%?*[1] 'x'.jsonl"
    assert lake.rows(lake.refine(CLEAN).version) == [row]


def test_a_home_with_spaces_and_signs(lake: Lake) -> None:
    lake.home = Home(lake.root / "my home ü #1")
    lake.store.close()
    lake.store = Store(lake.home.store_url)
    lake.ingest_rows([{"text": "a@b.example"}])
    assert lake.values(lake.refine(CLEAN).version, "text") == ["<EMAIL>"]


def test_hundreds_of_columns(lake: Lake) -> None:
    row = {f"c{number:04d}": number for number in range(300)}
    lake.put_rows("a.jsonl", [row, {"c0001": 5}])
    assert lake.rows(lake.ingest().version)[0] == row


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_and_bom_and_of_one_key_twice_the_last_as_every_reader_does(lake: Lake, end: str) -> None:
    lake.put("a.jsonl", f'\ufeff{{"n": 1}}{end}{end}  {end}{{"n": 1, "n": 2}}{end}')
    version = lake.ingest().version
    assert lake.rows(version, "source_row", "n") == [{"source_row": 1, "n": 1}, {"source_row": 4, "n": 2}]
    assert version.drops == {}


def test_many_small_files(lake: Lake) -> None:
    for number in range(300):
        lake.put(f"{number // 100}/{number}.txt", f"document {number}")
    version = lake.ingest().version
    assert (version.rows, version.source_files, len(lake.data_files())) == (300, 300, 1)
    for number in range(250):  # more than the table format prunes by
        lake.put(f"{number // 100}/{number}.txt", f"document {number}, changed")
    changed = lake.ingest().version
    assert (changed.rows, sum("changed" in text for text in lake.values(changed, "text"))) == (300, 250)


def test_memory_is_bounded_by_chunks_not_files(lake: Lake) -> None:
    """A file of several chunks: no chunk holds more than its share."""
    row = json.dumps({"text": "x" * 100_000})
    lake.put("a.jsonl", f"{row}\n" * 250)
    chunks = jsonl_reader.read_chunks(scan_sources(lake.source).sources[0], lambda broken: None)
    seen = [sum(len(chunk.contents[place]) for place in range(len(chunk.rows))) for chunk in chunks]
    assert sum(seen) == len(row) * 250
    assert max(seen) < CHUNK_BYTES + len(row)
    assert len(seen) == 8  # the first one is small
