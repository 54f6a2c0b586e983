"""Records what the steps decide about the rows of one part: dropped rows with reasons, altered values."""

from collections import Counter
from collections.abc import Sequence
from typing import IO, Any

import msgspec

from archwright.contract.record import Record


class DroppedRow(Record, omit_defaults=True):
    """A dropped row; `kept` is the record that a duplicate repeats, `similarity` (0 to 1) how much of it."""

    record_id: str
    step: str
    reason: str
    kept: str | None = None
    similarity: float | None = None


class PartNotes:
    """The context of one step on one part (`step.StepContext`); dropped rows go to `file` as JSON lines."""

    def __init__(self, step: str, decision: Any, file: IO[bytes], drops: Counter[str], changes: Counter[str]) -> None:
        self.decision = decision
        self._step, self._file = step, file
        self._drops, self._changes = drops, changes

    def drop_rows(
        self,
        rows: Any,
        reason: str | Sequence[str],
        kept: Sequence[bytes | None] | None = None,
        similarity: Sequence[float | None] | None = None,
    ) -> None:
        ids = rows.column("record_id").to_pylist()
        reasons = [reason] * len(ids) if isinstance(reason, str) else reason
        none = [None] * len(ids)
        for record, why, twin, share in zip(ids, reasons, kept or none, similarity or none, strict=True):
            one = DroppedRow(
                record_id=record.hex(),
                step=self._step,
                reason=why,
                kept=twin.hex() if twin else None,
                similarity=None if share is None else round(share, 4),
            )
            self._file.write(msgspec.json.encode(one) + b"\n")
        self._drops.update(f"{self._step}: {why}" for why in reasons)

    def count_changes(self, kind: str, number: int) -> None:
        if number:
            self._changes[kind] += number
