"""Drop rows that share a run of words with an evaluation set, so that the set measures what a model has not seen.

By default 13 words, as for GPT-3 (Brown et al., "Language Models are Few-Shot Learners", 2020, appendix C). A row of an
evaluation set with fewer words matches only rows with exactly its words.
"""

import re
from typing import Annotated, Any, NamedTuple, cast

import msgspec

from archwright.errors import DataError, ErrorLocation
from archwright.lake.lazy_modules import np, pa
from archwright.lake.steps.row_decisions import find_ids
from archwright.lake.steps.shingles import hash_shingles, join_texts, sort_unique
from archwright.lake.steps.step import Rows, StepContext, StepSources, StepWorker
from archwright.lake.steps.text_columns import TextStep, resolve_columns
from archwright.lake.tables import iceberg_tables, version_index


class Decontaminate(TextStep):
    """Drop rows that share `words` words in a row with a version in `against`; with `report-only`, count them."""

    against: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    words: Annotated[int, msgspec.Meta(ge=2, le=100)] = 13
    report_only: bool = msgspec.field(name="report-only", default=False)

    def prepare(self, sources: StepSources) -> StepWorker:
        """Raises DataError AW-DATA-10 (no such version), -67 (no exact version), -22."""
        found = [self._hash_evaluation_set(sources, name) for name in self.against]
        hashes, places = np.unique(np.concatenate(found), return_index=True)
        sets = np.repeat(np.arange(len(found)), [len(one) for one in found])[places]
        columns = resolve_columns(self.columns, sources.columns)
        return cast(StepWorker, DecontaminationWorker(self, columns, hashes, sets))

    def _hash_evaluation_set(self, sources: StepSources, name: str) -> Any:
        """Each text column is hashed by itself: a corpus may have the questions without the answers."""
        if not re.search(r"@v\d+$", name):
            message = f"{name!r} is not a version, so the recipe would change its meaning with the next ingest"
            hint = f"write {name}@vN; a file becomes a version by: archwright data ingest FILE --name NAME"
            raise DataError("AW-DATA-67", message, where=ErrorLocation(field="against"), hint=hint)
        version = version_index.find_version(sources.store, name)
        columns = resolve_columns((), version.columns)
        made = [np.zeros(0, np.uint64)]
        for batch in iceberg_tables.read_batches(sources.home, version, columns):
            for column in columns:
                made += [part.hashes for part in hash_shingles(join_texts(batch, (column,)), self.words)]
        return sort_unique(np.concatenate(made))


class DecontaminationWorker(NamedTuple):
    """The sorted hashes of all evaluation sets; sets[n] is the first set of hashes[n]."""

    step: Decontaminate
    columns: tuple[str, ...]
    hashes: Any
    sets: Any

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        for batch in rows:
            first = np.full(batch.num_rows, len(self.step.against), np.int64)
            for part in hash_shingles(join_texts(batch, self.columns), self.step.words):
                found, places = find_ids(self.hashes, part.hashes)
                owners = np.searchsorted(part.offsets, np.flatnonzero(found), "right") - 1
                np.minimum.at(first, part.first + owners, self.sets[places])
            shared = first < len(self.step.against)
            names = [self.step.against[place] for place in first[shared].tolist()]
            if self.step.report_only:
                for name in names:
                    context.count_changes(f"rows that share {self.step.words} words with {name}", 1)
            elif names:
                reasons = [f"shares {self.step.words} words in a row with {name}" for name in names]
                context.drop_rows(batch.filter(pa.array(shared)), reasons)
                batch = batch.filter(pa.array(~shared))
            yield batch
