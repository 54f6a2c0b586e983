"""Drop exact duplicates: rows with equal values in the chosen columns, if wanted without regard to case and space."""

import unicodedata
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, NamedTuple, cast

import msgspec

from archwright.contract.record import replace
from archwright.lake.lazy_modules import np, pa, pc
from archwright.lake.steps.row_decisions import (
    drop_decided,
    identify_rows,
    join_surveys,
    make_decision,
    make_survey,
    mark_first,
    rank_rows,
    view_ids,
)
from archwright.lake.steps.step import Rows, Step, StepContext, StepSources, StepWorker
from archwright.lake.steps.text_columns import resolve_columns

KEY_BYTES = 16  # of SHA-256


class DropDuplicates(Step):
    """Keep the first row (source file, source row) of those with equal values; no `columns` means all columns.

    With `ignore-case` or `ignore-space`, texts are compared in the Unicode form NFKC. Memory of `decide`: 100 bytes per
    row.
    """

    columns: tuple[str, ...] = ()
    ignore_case: bool = msgspec.field(name="ignore-case", default=False)
    ignore_space: bool = msgspec.field(name="ignore-space", default=False)

    def output_columns(self, columns: dict[str, str]) -> dict[str, str]:
        resolve_columns(self.columns, columns, texts=False)
        return columns

    def prepare(self, sources: StepSources) -> StepWorker:
        columns = resolve_columns(self.columns, sources.columns, texts=False)
        ignored = [name for name, on in (("case", self.ignore_case), ("white space", self.ignore_space)) if on]
        but = f" but for {' and '.join(ignored)}" if ignored else ""
        reason = f"the same {', '.join(self.columns) or 'content'} as another row{but}"
        return cast(StepWorker, DuplicatesWorker(replace(self, columns=columns), reason))


class DuplicatesWorker(NamedTuple):
    """Finds rows with equal values in the columns that the `step` names."""

    step: DropDuplicates
    reason: str
    survey_count: int = 1

    def survey_rows(self, number: int, rows: Rows, decision: Any) -> Any:
        return make_survey({**identify_rows(batch), "key": self._compute_keys(batch)} for batch in rows)

    def decide(self, number: int, surveys: Iterator[Any], decision: Any) -> Any:
        survey = join_surveys(surveys)
        if not len(survey):
            return survey
        keys, ranks = view_ids(survey.column("key")), rank_rows(survey)
        order = np.lexsort((ranks, keys))
        new, firsts = mark_first(order, keys)
        dropped, kept = order[~new], firsts[~new]
        return make_decision(view_ids(survey.column("record_id")), dropped, kept, np.ones(len(dropped)))

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        return drop_decided(rows, context, lambda _: self.reason)

    def _compute_keys(self, batch: Any) -> Any:
        """SHA-256, shortened, of the values of each row; each value has its length before it."""
        parts = []
        for name in self.step.columns:
            values = self._encode_values(batch.column(name))
            lengths = pc.fill_null(pc.binary_length(values).cast(pa.large_string()), "-").cast(pa.large_binary())
            parts += [lengths, pc.fill_null(values, b"")]
        rows = pc.binary_join_element_wise(*parts, pa.scalar(b":", pa.large_binary())).to_pylist()
        return pa.array([sha256(row).digest()[:KEY_BYTES] for row in rows], pa.binary(KEY_BYTES))

    def _encode_values(self, column: Any) -> Any:
        kind = column.type
        if pa.types.is_large_string(kind) and (self.step.ignore_case or self.step.ignore_space):
            texts = [None if text is None else self._normalise_text(text) for text in column.to_pylist()]
            column = pa.array(texts, pa.large_string())
        elif pa.types.is_list(kind):
            lists = [None if value is None else msgspec.json.encode(value) for value in column.to_pylist()]
            column = pa.array(lists, pa.large_binary())
        elif not pa.types.is_large_binary(kind) and not pa.types.is_fixed_size_binary(kind):
            column = column.cast(pa.large_string())
        return column.cast(pa.large_binary())

    def _normalise_text(self, text: str) -> str:
        text = unicodedata.normalize("NFKC", text)
        if self.step.ignore_case:
            text = text.casefold()
        return " ".join(text.split()) if self.step.ignore_space else text
