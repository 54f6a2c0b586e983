"""Runs one step on batches, and records what it decides."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from archwright.home import Home
from archwright.lake.steps.step import Step, StepSources
from archwright.store import Store


class RecordingContext:
    """`dropped` is (row number, reason) of each dropped row; `changes` is the altered values by kind."""

    def __init__(self) -> None:
        self.decision: Any = None
        self.dropped: list[tuple[int, str]] = []
        self.changes: Counter[str] = Counter()

    def drop_rows(
        self,
        rows: Any,
        reason: str | Sequence[str],
        kept: Sequence[bytes | None] | None = None,
        similarity: Sequence[float | None] | None = None,
    ) -> None:
        reasons = [reason] * rows.num_rows if isinstance(reason, str) else reason
        self.dropped += zip(rows["source_row"].to_pylist(), reasons, strict=True)

    def count_changes(self, kind: str, number: int) -> None:
        self.changes[kind] += number


class StepRun:
    """The rows that stay, by column, with the drops and changes."""

    def __init__(self, rows: pa.Table, context: RecordingContext) -> None:
        self.rows, self.dropped, self.changes = rows, sorted(context.dropped), dict(context.changes)

    def __getitem__(self, column: str) -> list[Any]:
        values: list[Any] = self.rows[column].to_pylist()
        return values


KINDS = {pa.large_string(): "text", pa.int64(): "integer", pa.list_(pa.float32()): "vector"}


def run_step(step: Step, root: Path | None = None, tenant: str = "", **columns: list[Any]) -> StepRun:
    """Apply the step to columns of texts or integers. The worker travels as to another process; `root` is the home."""
    table = pa.table(
        {
            name: pa.array(values, pa.int64() if {type(v) for v in values} <= {int, type(None)} else pa.large_string())
            for name, values in {"source_row": list(range(len(next(iter(columns.values()))))), **columns}.items()
        }
    )
    kinds = {field.name: KINDS[field.type] for field in table.schema}
    home = Home(root or Path("/nonexistent"))
    store = cast(Store, None)  # no step of texts reads it
    output = step.output_columns(kinds)
    worker = pickle.loads(pickle.dumps(step.prepare(StepSources(home, store, kinds, tenant))))  # noqa: S301 - our own
    context = RecordingContext()
    batches = list(worker.process_rows(iter(table.to_batches(max_chunksize=3)), context))
    made = pa.Table.from_batches(batches)
    assert list(output) == made.schema.names
    assert made.num_rows + len(context.dropped) == table.num_rows
    return StepRun(made, context)
