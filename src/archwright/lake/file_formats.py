"""Which reader reads which format, and how its columns are found before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from archwright.lake import csv_reader, document_reader, jsonl_reader, parquet_reader, type_inference
from archwright.lake.row_chunks import Broken, Chunks, OnBroken
from archwright.lake.source_files import Source
from archwright.lake.type_inference import Votes


class Format(NamedTuple):
    chunks: Callable[[Source, OnBroken], Chunks]
    survey: Callable[[Source, Votes], None]


def _by_reading(chunks: Callable[[Source, OnBroken], Chunks]) -> Format:
    """A format that says nothing about its columns: all of it is read."""

    def survey(source: Source, votes: Votes) -> None:
        for chunk in chunks(source, _ignored):
            type_inference.vote(chunk, votes)

    return Format(chunks, survey)


def _ignored(broken: Broken) -> None:
    """The second pass keeps it."""


def _document(_source: Source, votes: Votes) -> None:
    votes.setdefault(document_reader.COLUMN, Counter())["text"] += 1


FORMATS: dict[str, Format] = {
    "jsonl": _by_reading(jsonl_reader.chunks),
    "csv": _by_reading(csv_reader.chunks),
    "parquet": Format(parquet_reader.chunks, parquet_reader.survey),
    "text": Format(document_reader.chunks, _document),
}
