"""The steps of a recipe: picklable functions from an Arrow batch to an Arrow batch with as many rows."""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from archwright.lake.lazy_modules import pa, pc
from archwright.lake.steps import pii_redaction, row_status
from archwright.lake.steps.row_status import (
    CHANGES,
    DROP_STEP,
    DUPLICATE_KEY,
    DUPLICATE_OF,
    FIRST_POSITION,
    ROW_POSITION,
)


@dataclass(frozen=True)
class DropEmptyRows:
    """Drop rows where one of the columns is empty or white space."""

    columns: tuple[str, ...]

    def __call__(self, batch: Any) -> Any:
        for name in self.columns:
            empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(batch.column(name))), 0)
            batch = row_status.mark_dropped(batch, pc.fill_null(empty, True), "drop-empty", f"{name} is empty")
        return batch


@dataclass(frozen=True)
class DropShortRows:
    """Drop rows whose columns have fewer `characters` in total."""

    columns: tuple[str, ...]
    characters: int

    def __call__(self, batch: Any) -> Any:
        length = pc.fill_null(pc.utf8_length(batch.column(self.columns[0])), 0)
        for name in self.columns[1:]:
            length = pc.add(length, pc.fill_null(pc.utf8_length(batch.column(name)), 0))
        short = pc.less(length, self.characters)
        return row_status.mark_dropped(batch, short, "drop-short", f"shorter than {self.characters} characters")


@dataclass(frozen=True)
class RedactPersonalData:
    """Replace personal data with the name of its kind (`pii_redaction`)."""

    columns: tuple[str, ...]
    kinds: tuple[str, ...]

    def __call__(self, batch: Any) -> Any:
        changes: dict[int, list[str]] = {}
        made: dict[str, Any] = {}
        for name in self.columns:
            texts: dict[int, str] = {}
            for place, suspected in self._find_candidates(batch, name).items():
                text, found = pii_redaction.redact_text(batch.column(name)[place].as_py(), self.kinds, suspected)
                if found:
                    texts[place] = text
                    changes.setdefault(place, []).extend(found)
            if texts:
                hit = pa.array([place in texts for place in range(batch.num_rows)])
                new = pa.array([texts[place] for place in sorted(texts)], pa.large_string())
                made[name] = pc.replace_with_mask(batch.column(name), hit, new)
        if not made:
            return batch
        before = batch.column(CHANGES).to_pylist()
        noted = [[*(old or ()), *changes.get(place, ())] or None for place, old in enumerate(before)]
        return row_status.replace_columns(batch, {**made, CHANGES: pa.array(noted, pa.large_list(pa.large_string()))})

    def _find_candidates(self, batch: Any, name: str) -> dict[int, list[str]]:
        """Row -> kinds to search; only for rows that are not dropped and may hold one of `self.kinds`."""
        still = pc.is_null(batch.column(DROP_STEP))
        found: dict[int, list[str]] = {}
        for kind, pattern in pii_redaction.CANDIDATE_PATTERNS.items():
            hits = pc.and_(still, pc.fill_null(pc.match_substring_regex(batch.column(name), pattern), False))
            for place in pc.indices_nonzero(hits).to_pylist():
                found.setdefault(place, []).append(kind)
        return {place: kinds for place, kinds in found.items() if not set(kinds).isdisjoint(self.kinds)}


@dataclass(frozen=True)
class AddDuplicateKeys:
    """For drop-duplicates: add the digest of the columns' values and the row's position."""

    columns: tuple[str, ...]

    def __call__(self, batch: Any) -> Any:
        lists = [batch.column(name).to_pylist() for name in self.columns]
        out = batch.column(DROP_STEP).is_valid().to_pylist()
        keys = [
            None if dropped else hashlib.sha256(msgspec.json.encode(values)).digest()
            for dropped, values in zip(out, zip(*lists, strict=True), strict=True)
        ]
        own = (batch.column(name).to_pylist() for name in ("source_file", "source_row", "record_id"))
        places = [f"{file}\0{row:020d}\0{record}" for file, row, record in zip(*own, strict=True)]
        names = [*batch.schema.names, DUPLICATE_KEY, ROW_POSITION]
        arrays = [*batch.columns, pa.array(keys, pa.large_binary()), pa.array(places, pa.large_string())]
        return pa.RecordBatch.from_arrays(arrays, names=names)


@dataclass(frozen=True)
class FlagDuplicates:
    """For drop-duplicates: drop every row whose FIRST_POSITION is another row, and record the other row."""

    reason: str

    def __call__(self, batch: Any) -> Any:
        first = batch.column(FIRST_POSITION)
        twins = pc.fill_null(pc.not_equal(first, batch.column(ROW_POSITION)), False)
        kept = pc.utf8_slice_codeunits(first, -64)
        marked = {DUPLICATE_OF: pc.if_else(twins, kept, batch.column(DUPLICATE_OF))}
        batch = row_status.replace_columns(batch, marked)
        batch = row_status.mark_dropped(batch, twins, "drop-duplicates", self.reason)
        return batch.drop_columns([DUPLICATE_KEY, ROW_POSITION, FIRST_POSITION])
