"""The step that replaces personal data (`pii_redaction`) in texts."""

from typing import Any

from archwright.lake.lazy_modules import pa, pc
from archwright.lake.steps import pii_redaction
from archwright.lake.steps.step import Rows, StepContext
from archwright.lake.steps.text_columns import TextStep


class Redact(TextStep):
    """Replace personal data with the name of its kind."""

    kinds: tuple[pii_redaction.PiiKind, ...] = pii_redaction.PII_KINDS

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        for batch in rows:
            for name in self.columns:
                batch = batch.set_column(
                    batch.schema.get_field_index(name), name, self._redact_column(batch.column(name), context)
                )
            yield batch

    def _redact_column(self, column: Any, context: StepContext) -> Any:
        texts: dict[int, str] = {}
        for place, suspected in self._find_candidates(column).items():
            text, found = pii_redaction.redact_text(column[place].as_py(), self.kinds, suspected)
            if found:
                texts[place] = text
            for kind in found:
                context.count_changes(kind, 1)
        if not texts:
            return column
        hit = pa.array([place in texts for place in range(len(column))])
        return pc.replace_with_mask(column, hit, pa.array([texts[place] for place in sorted(texts)], column.type))

    def _find_candidates(self, column: Any) -> dict[int, list[str]]:
        """Row -> kinds to search; only for rows that may hold one of `self.kinds`."""
        found: dict[int, list[str]] = {}
        for kind, pattern in pii_redaction.CANDIDATE_PATTERNS.items():
            hits = pc.fill_null(pc.match_substring_regex(column, pattern), False)
            for place in pc.indices_nonzero(hits).to_pylist():
                found.setdefault(place, []).append(kind)
        return {place: kinds for place, kinds in found.items() if not set(kinds).isdisjoint(self.kinds)}
