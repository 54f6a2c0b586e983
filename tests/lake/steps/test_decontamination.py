"""Rows that share a run of words with an evaluation set are dropped, and the set is named."""

from __future__ import annotations

import pytest

from archwright.errors import DataError

from ..temporary_lake import Lake, code

QUESTION = "In which year did the first person walk on the surface of the moon?"  # 14 words
ANSWER = "1969 by Neil Armstrong"


@pytest.fixture
def evaluated(lake: Lake) -> Lake:
    rows = [{"question": QUESTION, "answer": ANSWER, "n": 1}, {"question": None, "answer": "forty two", "n": 2}]
    questions = lake.put_rows("questions.jsonl", rows)
    lake.ingest("quiz", path=questions)
    other = lake.put_rows("other.jsonl", [{"t": " ".join(f"word{n}" for n in range(13))}])
    lake.ingest("other", path=other)
    questions.unlink()
    other.unlink()
    words = QUESTION.upper().replace(" ", "\n ").split()
    texts = [
        f"A page that quotes it: {' '.join(words)} and goes on.",
        f"Twelve words only: {' '.join(words[:12])} stars?",
        "Forty-two!",
        "It was forty two of them",
        f"{' '.join(f'Word{n},' for n in range(14))} {QUESTION}",
        "",
        None,
    ]
    lake.ingest_rows({"text": text, "n": number} for number, text in enumerate(texts))
    return lake


def test_contaminated_rows_are_dropped_with_the_name_of_the_set(evaluated: Lake) -> None:
    version = evaluated.refine("[{decontaminate: {against: [other@v1, quiz@v1]}}]").version
    assert evaluated.values(version, "n") == [1, 3, 5, 6]
    assert version.drops == {
        "decontaminate: shares 13 words in a row with other@v1": 1,
        "decontaminate: shares 13 words in a row with quiz@v1": 2,
    }


def test_contaminated_rows_may_be_counted_only(evaluated: Lake) -> None:
    version = evaluated.refine("[{decontaminate: {against: [quiz@v1], report-only: true}}]").version
    assert version.rows == 7 and version.drops == {}
    assert version.changes == {"rows that share 13 words with quiz@v1": 3}


def test_fewer_words_find_more(evaluated: Lake) -> None:
    version = evaluated.refine("[{decontaminate: {against: [quiz@v1], words: 12, columns: [text]}}]").version
    assert evaluated.values(version, "n") == [3, 5, 6]


@pytest.mark.parametrize(
    ("name", "wanted"), [("quiz", "AW-DATA-67"), ("questions.jsonl", "AW-DATA-67"), ("quiz@v7", "AW-DATA-10")]
)
def test_the_evaluation_set_must_be_a_version(evaluated: Lake, name: str, wanted: str) -> None:
    with pytest.raises(DataError) as caught:
        evaluated.refine(f"[{{decontaminate: {{against: [{name}]}}}}]")
    assert code(caught.value) == wanted
