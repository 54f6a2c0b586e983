from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.engines.model_store import add_model
from archwright.errors import DataError
from archwright.lake.passages.chunking import ChunkText, make_chunk_id, split_text

from ...tools.small_embedder import write_small_embedder
from ..temporary_lake import Lake, code

TEXT = "First sentence here. Second one follows!\n\nA new paragraph begins. It has two sentences.\n\nThe end"


def pieces(text: str, step: ChunkText) -> list[str]:
    return [text[start:end] for start, end in split_text(text, step)]


@given(st.text(alphabet="ab .!\n日。é\U0001f600", max_size=400), st.integers(40, 90), st.integers(0, 20))
def test_passages_hold_every_character_in_order_within_the_size(text: str, size: int, overlap: int) -> None:
    spans = split_text(text, ChunkText(characters=size, overlap=overlap))
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(text[place].isspace() for place in range(len(text)) if place not in covered)
    assert all(0 < end - start <= size for start, end in spans)
    assert spans == sorted(spans) and len({start for start, _ in spans}) == len(spans)
    shared = [before[1] - after[0] for before, after in pairwise(spans)]
    assert all(both <= overlap for both in shared)


def test_a_passage_ends_at_a_paragraph_then_a_sentence_then_a_word() -> None:
    assert pieces(TEXT, ChunkText(characters=60, overlap=0)) == [
        "First sentence here. Second one follows!",
        "A new paragraph begins. It has two sentences.\n\nThe end",
    ]
    assert pieces("One two three. " * 4, ChunkText(characters=40, overlap=0)) == ["One two three. One two three."] * 2
    words = pieces("word " * 30, ChunkText(characters=42, overlap=0))
    assert {word for passage in words for word in passage.split()} == {"word"}
    assert pieces("x" * 100, ChunkText(characters=40, overlap=0)) == ["x" * 40, "x" * 40, "x" * 20]


def test_neighbours_share_the_overlap_from_a_sentence_on() -> None:
    text = "Alpha beta gamma. Delta epsilon. Zeta eta theta iota. Kappa lambda mu."
    first, second, *_ = pieces(text, ChunkText(characters=54, overlap=24))
    assert first.endswith("Zeta eta theta iota.")
    assert second.startswith("Zeta eta theta iota.")


def test_chunks_keep_their_place_in_the_row_and_have_ids_of_their_parent(lake: Lake) -> None:
    lake.ingest_rows([{"text": "one two three four. " * 6, "page": 7}, {"text": "   ", "page": 8}])
    made = lake.refine("[chunk: {characters: 50, overlap: 10}]")
    rows = lake.rows(made.version, "record_id", "parent_id", "text", "chunk", "chunk_start", "chunk_end", "page")
    assert len(rows) > 2
    assert made.version.drops == {"chunk: no text": 1}
    source = "one two three four. " * 6
    for row in rows:
        assert row["text"] == source[row["chunk_start"] : row["chunk_end"]]
        assert row["page"] == 7
        assert row["record_id"] == make_chunk_id(row["parent_id"], row["chunk"])
    assert sorted(row["chunk"] for row in rows) == [*range(len(rows))]


@pytest.mark.parametrize(
    "options", ["{characters: 100, tokens: 50}", "{characters: 100, overlap: 90}", "{column: absent}"]
)
def test_unsuitable_options_are_refused(lake: Lake, options: str) -> None:
    lake.ingest_rows([{"text": "one two"}])
    with pytest.raises(DataError) as caught:
        lake.refine(f"[chunk: {options}]")
    assert code(caught.value) in ("AW-DATA-80", "AW-DATA-22")


def test_a_second_split_is_refused(lake: Lake) -> None:
    lake.ingest_rows([{"text": "one two"}])
    with pytest.raises(DataError) as caught:
        lake.refine("[chunk: {}, chunk: {}]".replace(", chunk", "}, {chunk").replace("[", "[{").replace("]", "}]"))
    assert code(caught.value) == "AW-DATA-80"


def test_tokens_of_a_model_measure_the_passages(lake: Lake) -> None:
    add_model(write_small_embedder(lake.root / "embedder", ("one", "two")), "small", "mit", lake.home)
    lake.ingest_rows([{"text": "one two-three " * 20}])
    rows = lake.rows(lake.refine("[chunk: {tokens: 16, overlap: 4, model: small}]").version, "text", "chunk_start")
    counts = [len(re.findall(r"\w+|[^\w\s]+", row["text"])) for row in rows]
    assert max(counts) <= 16
    assert min(counts[:-1]) > 8
    assert rows[1]["chunk_start"] < len(rows[0]["text"])
