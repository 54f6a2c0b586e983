"""Runs a step that surveys all rows, without an executor: parts in any order, batches of any size."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa

from archwright.home import Home
from archwright.lake.steps.step import Step, StepSources, SurveyedWorker
from archwright.store import Store

KINDS = {"record_id": "id", "source_file": "text", "source_row": "integer", "text": "text"}


class Drop(NamedTuple):
    reason: str
    kept: str
    similarity: float


class DropList:
    """Dropped rows by name ("file:row")."""

    def __init__(self, decision: Any, names: dict[bytes, str]) -> None:
        self.decision = decision
        self.drops: dict[str, Drop] = {}
        self._names = names

    def drop_rows(
        self,
        rows: Any,
        reason: str | Sequence[str],
        kept: Sequence[bytes | None] | None = None,
        similarity: Sequence[float | None] | None = None,
    ) -> None:
        assert kept and similarity and not isinstance(reason, str)
        ids = rows.column("record_id").to_pylist()
        for record, why, first, share in zip(ids, reason, kept, similarity, strict=True):
            self.drops[self._names[record]] = Drop(why, self._names[cast(bytes, first)], round(cast(float, share), 4))

    def count_changes(self, kind: str, number: int) -> None:
        raise AssertionError(kind)


def make_part(file: str, texts: Sequence[str | None]) -> pa.Table:
    start = hashlib.sha256(file.encode()).digest()[:8]
    ids = [start + row.to_bytes(8, "big") for row in range(len(texts))]
    columns = {
        "record_id": pa.array(ids, pa.binary(16)),
        "source_file": pa.array([file] * len(texts), pa.large_string()),
        "source_row": pa.array(range(len(texts)), pa.int64()),
        "text": pa.array(texts, pa.large_string()),
    }
    return pa.table(columns)


def find_duplicates(step: Step, parts: Sequence[pa.Table], batch_rows: int = 1000) -> dict[str, Drop]:
    """The dropped rows by name, for example "a:0"; the worker and its decisions travel as to another process."""
    made = step.prepare(StepSources(Home(Path("/nonexistent")), cast(Store, None), KINDS))
    worker = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own
    assert isinstance(worker, SurveyedWorker)
    decision: Any = None
    for number in range(worker.survey_count):
        surveys = [_travel(worker.survey_rows(number, _batches(part, batch_rows), decision)) for part in parts]
        decision = _travel(worker.decide(number, iter(surveys), decision))
    columns = [[value for part in parts for value in part.column(name).to_pylist()] for name in list(KINDS)[:3]]
    names = {record: f"{file}:{row}" for record, file, row in zip(*columns, strict=True)}
    notes = DropList(decision, names)
    left = 0
    for part in parts:
        left += sum(batch.num_rows for batch in worker.process_rows(_batches(part, batch_rows), notes))
    assert left + len(notes.drops) == len(names)
    assert all(drop.kept not in notes.drops for drop in notes.drops.values())
    return notes.drops


def _batches(part: pa.Table, rows: int) -> Iterator[Any]:
    return iter(part.to_batches(max_chunksize=rows))


def _travel(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_file(sink.getvalue()).read_all()
