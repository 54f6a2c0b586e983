"""Which reader reads which format, and how its columns are found before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from archwright.lake import columns, csvfile, document, jsonl, parquet
from archwright.lake.chunks import Broken, Chunks, OnBroken
from archwright.lake.columns import Votes
from archwright.lake.sources import Source


class Format(NamedTuple):
    chunks: Callable[[Source, OnBroken], Chunks]
    survey: Callable[[Source, Votes], None]


def _by_reading(chunks: Callable[[Source, OnBroken], Chunks]) -> Format:
    """A format that says nothing about its columns: all of it is read."""

    def survey(source: Source, votes: Votes) -> None:
        for chunk in chunks(source, _ignored):
            columns.vote(chunk, votes)

    return Format(chunks, survey)


def _ignored(broken: Broken) -> None:
    """The second pass keeps it."""


def _document(_source: Source, votes: Votes) -> None:
    votes.setdefault(document.COLUMN, Counter())["text"] += 1


FORMATS: dict[str, Format] = {
    "jsonl": _by_reading(jsonl.chunks),
    "csv": _by_reading(csvfile.chunks),
    "parquet": Format(parquet.chunks, parquet.survey),
    "text": Format(document.chunks, _document),
}
