"""The step chunk: split texts into overlapping passages, each with its place in the source text."""

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from archwright.engines.text_model_folder import read_model_folder
from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS, arrow_type
from archwright.lake.lazy_modules import pa
from archwright.lake.passages.embedding import find_embedder
from archwright.lake.steps.step import Rows, Step, StepContext, StepSources, StepWorker
from archwright.lake.steps.text_columns import find_text_column

CHUNK_COLUMNS = {"parent_id": "id", "chunk": "integer", "chunk_start": "integer", "chunk_end": "integer"}
OUTPUT_ROWS = 4096
PARAGRAPH_END = re.compile(r"\n[ \t\r]*\n\s*")
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])|\n(?=\s*(?:[-*#•]|\d+[.)])\s)")
WORD_END = re.compile(r"\s+")


class ChunkText(Step):
    """Split `column` into passages of at most `characters`, or `tokens` of the embedding model `model`.

    Neighbours share at most `overlap` of the same unit, by default 15 % of the size. A passage ends at the last
    paragraph, else sentence, else word in its second half. `by` sentence ignores paragraphs.
    """

    column: str = ""
    characters: Annotated[int, Meta(ge=40, le=100_000)] | None = None
    tokens: Annotated[int, Meta(ge=16, le=32_768)] | None = None
    overlap: Annotated[int, Meta(ge=0)] | None = None
    by: Literal["paragraph", "sentence"] = "paragraph"
    model: str = ""

    def output_columns(self, columns: dict[str, str]) -> dict[str, str]:
        if taken := [name for name in CHUNK_COLUMNS if name in columns]:
            raise _option_error(f"the data set is split already: it has the column {taken[0]}", "chunk")
        if self.characters is not None and self.tokens is not None:
            raise _option_error("chunk has both characters and tokens", "chunk.tokens")
        if self.shared > self.size // 3:  # so every passage advances by a sixth of the size
            raise _option_error(f"the overlap {self.shared} is more than a third of {self.size}", "chunk.overlap")
        find_text_column(columns, self.column)
        first = {name: kind for name, kind in columns.items() if name in SYSTEM_COLUMNS}
        return {**first, **CHUNK_COLUMNS, **{name: kind for name, kind in columns.items() if name not in first}}

    def prepare(self, sources: StepSources) -> StepWorker:
        self.output_columns(sources.columns)
        path = "" if self.tokens is None else find_embedder(sources.home, self.model).path
        return ChunkWorker(self, find_text_column(sources.columns, self.column), path)

    @property
    def size(self) -> int:
        return self.tokens or self.characters or 1000

    @property
    def shared(self) -> int:
        return self.size * 3 // 20 if self.overlap is None else self.overlap


def _option_error(message: str, field: str) -> DataError:
    hint = "write chunk: {column: text, characters: 1000, overlap: 150}, once per recipe"
    return DataError("AW-DATA-80", message, where=ErrorLocation(field=field), hint=hint)


class ChunkWorker:
    """Splits the texts of `column`; `model` is the folder of the tokenizer that counts tokens, or empty."""

    def __init__(self, step: ChunkText, column: str, model: str = "") -> None:
        self._step, self._column, self._model = step, column, model

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        measure: Measure = _measure_characters
        if self._model:
            measure = partial(_measure_tokens, read_model_folder(Path(self._model)).tokenizer)
        for batch in rows:
            texts = batch.column(self._column)
            parents, spans = [], []
            for row, text in enumerate(texts.to_pylist()):
                found = split_text(text or "", self._step, measure)
                parents += [row] * len(found)
                spans += [(number, *span) for number, span in enumerate(found)]
            empty = sorted(set(range(batch.num_rows)) - set(parents))
            if empty:
                context.drop_rows(batch.take(pa.array(empty)), "no text")
            for start in range(0, len(parents), OUTPUT_ROWS):
                yield self._build_batch(batch, parents[start : start + OUTPUT_ROWS], spans[start : start + OUTPUT_ROWS])

    def _build_batch(self, batch: Any, parents: Sequence[int], spans: Sequence[tuple[int, int, int]]) -> Any:
        taken = batch.take(pa.array(parents))
        texts = taken.column(self._column).to_pylist()
        parent_ids = taken.column("record_id").to_pylist()
        numbers, starts, ends = zip(*spans, strict=True)
        ids = [make_chunk_id(parent, number) for parent, number in zip(parent_ids, numbers, strict=True)]
        passages = [text[start:end] for text, start, end in zip(texts, starts, ends, strict=True)]
        made = {
            "record_id": pa.array(ids, arrow_type("id")),
            "parent_id": taken.column("record_id"),
            "chunk": pa.array(numbers, pa.int64()),
            "chunk_start": pa.array(starts, pa.int64()),
            "chunk_end": pa.array(ends, pa.int64()),
            self._column: pa.array(passages, pa.large_string()),
        }
        names = self._step.output_columns(dict.fromkeys(batch.schema.names, "text"))
        return pa.RecordBatch.from_arrays([made[n] if n in made else taken.column(n) for n in names], list(names))


def make_chunk_id(parent: bytes, number: int) -> bytes:
    """The id of a passage: SHA-256 of the parent's id and the passage's number (8 bytes, big endian), cut to 16."""
    return hashlib.sha256(parent + number.to_bytes(8)).digest()[:16]


Shift = Callable[[int, int], int]
Measure = Callable[[str], tuple[Shift, Shift]]
"""Returns, for a text, two functions (place, size): the place at most `size` after it, and at most `size` before it."""


def _measure_characters(text: str) -> tuple[Shift, Shift]:
    return lambda place, size: place + size, lambda place, size: place - size


def _measure_tokens(tokenizer: Any, text: str) -> tuple[Shift, Shift]:
    starts = [start for start, end in tokenizer.encode(text, add_special_tokens=False).offsets if end > start]

    def reach(place: int, size: int) -> int:
        index = bisect_left(starts, place) + size
        return starts[index] if index < len(starts) else len(text)

    def look_back(place: int, size: int) -> int:
        return starts[max(0, bisect_left(starts, place) - size)] if starts else 0

    return reach, look_back


def split_text(text: str, step: ChunkText, measure: Measure = _measure_characters) -> list[tuple[int, int]]:
    """Spans (start, end) of the passages of a text, without white space at both ends; none for an empty text."""
    reach, look_back = measure(text)
    patterns = (PARAGRAPH_END, SENTENCE_END, WORD_END)[step.by == "sentence" :]
    levels = [[match.end() for match in pattern.finditer(text)] for pattern in patterns]
    spans: list[tuple[int, int]] = []
    start, length = 0, len(text)
    while start < length:
        limit = max(start + 1, reach(start, step.size))
        end = length if limit >= length else _find_end(levels, start, limit)
        passage = text[start:end]
        left, right = len(passage) - len(passage.lstrip()), len(passage.rstrip())
        if right:
            spans.append((start + left, start + right))
        if end >= length:
            break
        start = max(start + 1, _find_overlap(levels, look_back(end, step.shared), end))
    return spans


def _find_end(levels: Sequence[Sequence[int]], start: int, limit: int) -> int:
    """The last boundary up to `limit`, of the highest level that has one in the second half."""
    half = start + (limit - start) // 2
    for ends in levels:
        place = bisect_right(ends, limit) - 1
        if place >= 0 and ends[place] > half:
            return ends[place]
    return limit


def _find_overlap(levels: Sequence[Sequence[int]], earliest: int, end: int) -> int:
    """The start of the next passage: the first sentence, else word, that begins in the overlap; else `end`."""
    for ends in levels[-2:]:
        place = bisect_left(ends, earliest)
        if place < len(ends) and ends[place] < end:
            return ends[place]
    return end
