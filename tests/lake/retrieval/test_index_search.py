from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.errors import DataError
from archwright.lake.governance import policy
from archwright.lake.passages.terms import split_terms
from archwright.lake.retrieval.index_search import MODES, IndexLibrary
from archwright.lake.retrieval.readable_indexes import find_index, list_readable_indexes

from ..temporary_lake import Lake, code
from .indexed_lake import ROWS, add_embedder, index, search


@pytest.fixture
def indexed(lake: Lake) -> Lake:
    add_embedder(lake)
    lake.ingest_rows(ROWS)
    index(lake)
    return lake


def test_the_best_passage_comes_first_with_its_place(indexed: Lake) -> None:
    for mode in MODES:
        best = search(indexed, "ship harbour", mode=mode)[0]
        assert best.text == ROWS[0]["text"]
        assert (best.dataset, best.version, best.source_file, best.page) == ("docs", "docs@v1", "a.jsonl", 1)
        assert (best.start, best.end) == (0, len(best.text))
        assert best.score > 0


def test_hybrid_scores_are_reciprocal_ranks(indexed: Lake) -> None:
    best = search(indexed, "Roses need water", limit=1)[0]
    assert best.score == pytest.approx(2 / 61)  # first in both rankings


def test_words_of_scripts_without_spaces_are_found(indexed: Lake) -> None:
    assert search(indexed, "天気", mode="keyword")[0].page == 4
    assert split_terms("Straße ﬁne 東京都 e2e") == ["strasse", "fine", "東京", "京都", "e2e"]


def test_a_condition_applies_before_the_search(indexed: Lake) -> None:
    for mode in MODES:
        found = search(indexed, "tax form ship", mode=mode, limit=1, conditions={"kind": "notice"})
        assert [one.page for one in found] == [1]
        assert search(indexed, "tax", mode=mode, conditions={"page": "9"}) == ()
    for name in ("absent", "record_id"):
        with pytest.raises(DataError) as caught:
            search(indexed, "tax", conditions={name: "9"})
        assert code(caught.value) == "AW-DATA-81"


HOSTILE = (
    '"',
    "a:b",
    "+-&&||!(){}[]^~*?\\/",
    "title:tax OR *",
    "\x00",
    "\ud800",
    "tax " * 250_000,
    "🚂",
    "[a TO z]",
    "'",
)


def test_no_query_is_parsed_as_a_language(indexed: Lake) -> None:
    library = IndexLibrary(indexed.home)
    for query in HOSTILE:
        for mode in ("keyword", "hybrid"):
            assert len(search(indexed, query, library=library, mode=mode)) <= len(ROWS)


@given(st.text(max_size=60))
@settings(max_examples=60)
def test_terms_of_any_text_are_not_empty_and_lower_case(text: str) -> None:
    assert all(term and term == term.casefold() and len(term) <= 64 for term in split_terms(text))


def test_an_empty_query_and_a_wrong_limit_are_refused(indexed: Lake) -> None:
    for query, limit in (("", 1), (" \n", 1), ("tax", 0), ("tax", 1001)):
        with pytest.raises(DataError) as caught:
            search(indexed, query, limit=limit)
        assert code(caught.value) == "AW-DATA-79"


def test_without_an_embedder_keywords_are_indexed_and_the_line_to_get_one_is_told(lake: Lake) -> None:
    lake.ingest_rows(ROWS)
    made = index(lake)
    assert "archwright models fetch hf:" in made.note
    assert made.record.dimensions == 0
    assert search(lake, "tax")[0].page == 2  # hybrid falls back to keywords
    with pytest.raises(DataError) as caught:
        search(lake, "tax", mode="vector")
    assert code(caught.value) == "AW-DATA-78"
    add_embedder(lake)
    assert index(lake).record.dimensions > 0


def test_a_version_without_an_index_says_how_to_build_it(lake: Lake) -> None:
    with pytest.raises(DataError, match="has no index") as caught:
        search(lake, "tax")
    assert code(caught.value) == "AW-DATA-76"


def test_vectors_of_a_recipe_are_used_by_its_index(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    add_embedder(lake)
    lake.ingest_rows(ROWS)
    lake.refine("[{chunk: {}}, {embed: {model: small}}]")
    monkeypatch.setattr("archwright.lake.passages.embedding.embed_cached", None)
    assert index(lake, "docs-clean").record.model == "small"
    assert search(lake, "ship harbour", "docs-clean@v1", mode="vector")[0].page == 1


def test_a_damaged_file_is_named_and_built_again(indexed: Lake) -> None:
    for name in ("passages.arrow", "vectors.usearch", "keywords/meta.json"):
        path = next((indexed.home.lake / "indexes" / "docs@v1").glob(f"*/{name}"))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        with pytest.raises(DataError, match=path.name) as caught:
            search(indexed, "tax")
        assert code(caught.value) == "AW-DATA-77"
        assert index(indexed).new
        assert search(indexed, "tax")[0].page == 2


def test_a_damaged_record_is_reported(indexed: Lake) -> None:
    (indexed.home.lake / "indexes" / "docs@v1" / "index.json").write_bytes(b"{}")
    with pytest.raises(DataError) as caught:
        search(indexed, "tax")
    assert code(caught.value) == "AW-DATA-77"


def test_the_same_index_is_not_built_again(indexed: Lake) -> None:
    assert not index(indexed).new
    assert index(indexed, column="title").new


def test_an_open_library_sees_a_new_index_and_drops_a_removed_one(indexed: Lake) -> None:
    library = IndexLibrary(indexed.home)
    assert search(indexed, "ship", library=library)[0].page == 1
    index(indexed, column="title")
    assert search(indexed, "garden", library=library)[0].text == "garden"


def test_a_tenant_gets_the_same_answer_for_a_foreign_and_for_an_absent_data_set(indexed: Lake) -> None:
    policy.append_policy(indexed.store, policy.DatasetPolicy(dataset="docs", tenant="acme"))
    assert find_index(indexed.home, indexed.store, "docs", "acme") == "docs@v1"
    assert list_readable_indexes(indexed.home, indexed.store, "acme") == {"docs": "docs@v1"}
    for tenant in ("other", "default"):
        answers = []
        for name in ("docs", "absent"):
            with pytest.raises(DataError) as caught:
                find_index(indexed.home, indexed.store, name, tenant)
            answers.append(caught.value.lines().replace(name, "NAME"))
        assert answers[0] == answers[1]
        assert list_readable_indexes(indexed.home, indexed.store, tenant) == {}


def test_the_newest_indexed_version_is_searched_unless_a_version_is_named(indexed: Lake) -> None:
    indexed.put_rows("b.jsonl", [{"text": "A new row.", "title": "new", "page": 5, "kind": "law"}])
    indexed.ingest()
    assert find_index(indexed.home, indexed.store, "docs") == "docs@v1"
    assert find_index(indexed.home, indexed.store, "docs@v2") == "docs@v2"
    index(indexed)
    assert find_index(indexed.home, indexed.store, "docs") == "docs@v2"
    assert find_index(indexed.home, indexed.store, "docs@v1") == "docs@v1"
