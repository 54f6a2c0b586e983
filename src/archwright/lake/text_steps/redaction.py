"""The step that finds personal data in texts, and replaces, drops or counts it (`lake/personal_data`)."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec

from archwright.contract.record import Record, replace
from archwright.engines.model_store import find_stored_model, locate_stored_model
from archwright.lake.lazy_modules import pa, pc
from archwright.lake.personal_data.name_model import open_name_model
from archwright.lake.personal_data.phone_numbers import format_phone
from archwright.lake.personal_data.span_finder import (
    CANDIDATE_PATTERNS,
    FOUND,
    PERSONAL_KINDS,
    Finder,
    PatternKind,
    PersonalKind,
    PersonalSpan,
    find_spans,
    make_finders,
)
from archwright.lake.steps.pseudonyms import load_pseudonym_key, make_pseudonym
from archwright.lake.steps.step import Rows, StepContext, StepSources, StepWorker
from archwright.lake.steps.text_columns import TextStep, resolve_columns

Spans = dict[int, list[PersonalSpan]]  # by row
Finders = Mapping[PersonalKind, Finder]
NEIGHBOUR_CHARACTERS = 40


class NameOptions(Record):
    """`model`: a folder, or a model of the home (`personal_data.name_model`); `threshold`: probability, 0 to 1."""

    model: str
    threshold: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8


class Redact(TextStep):
    """Find personal data of the `kinds`, and with `names` also names of people.

    The `action` is: replace it with the name of its kind, <EMAIL>; replace it with a pseudonym that is stable for the
    tenant, EMAIL_k5wq3hd27xn4tzpa; drop the row; or report, which only counts. Telephone numbers without a country are
    those of the `regions`, national numbers those of the `countries` (ISO 3166; by default all that are known).
    """

    kinds: tuple[PatternKind, ...] = PERSONAL_KINDS
    action: Literal["replace", "pseudonym", "drop", "report"] = "replace"
    regions: tuple[str, ...] = ("US", "GB", "DE", "FR", "ES")
    countries: tuple[str, ...] = ()
    names: NameOptions | None = None

    def locate(self, folder: Path) -> Self:
        if self.names is None or not (folder / self.names.model).is_dir():
            return self
        return replace(self, names=replace(self.names, model=str(folder / self.names.model)))

    def prepare(self, sources: StepSources) -> StepWorker:
        key = load_pseudonym_key(sources.home, sources.tenant) if self.action == "pseudonym" else b""
        model = self.names.model if self.names else ""
        if model and not Path(model).is_dir():
            model = str(locate_stored_model(find_stored_model(sources.home, model), sources.home))
        if model:
            open_name_model(model)  # before any part is read
        return RedactionWorker(self, resolve_columns(self.columns, sources.columns), key, model)


@dataclass(frozen=True)
class RedactionWorker:
    """`key` is that of the tenant's pseudonyms, `model` the folder of the model for names."""

    options: Redact
    columns: tuple[str, ...]
    key: bytes
    model: str = ""

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        finders = make_finders(self.options.regions, self.options.countries)
        for batch in rows:
            found = {name: self._add_names(batch.column(name), finders) for name in self.columns}
            if self.options.action == "drop":
                yield _drop_found(batch, found, context)
                continue
            counts: Counter[str] = Counter()
            for name, spans in found.items():
                if self.options.action == "report":
                    counts.update(span.kind + FOUND for row in spans.values() for span in row)
                elif spans:
                    column = self._replace_spans(batch.column(name), spans, finders, counts)
                    batch = batch.set_column(batch.schema.get_field_index(name), name, column)
            for kind, number in counts.items():
                context.count_changes(kind, number)
            yield batch

    def _add_names(self, column: Any, finders: Finders) -> Spans:
        """The spans of all kinds; a name that overlaps another span is left out."""
        spans = self._find_spans(column, finders)
        if not self.options.names or not self.model:
            return spans
        texts = [text or "" for text in column.to_pylist()]
        names = open_name_model(self.model).find_names(texts, self.options.names.threshold)
        joined = {place: _join_spans(spans.get(place, []), found) for place, found in enumerate(names)}
        return {place: found for place, found in joined.items() if found}

    def _find_spans(self, column: Any, finders: Finders) -> Spans:
        """Only Arrow reads every row."""
        suspected: dict[int, list[str]] = {}
        for kind, pattern in CANDIDATE_PATTERNS.items():
            hits = pc.fill_null(pc.match_substring_regex(column, pattern), False)
            for place in pc.indices_nonzero(hits).to_pylist():
                suspected.setdefault(place, []).append(kind)
        kinds = set(self.options.kinds)
        rows = {place: found for place, found in suspected.items() if not kinds.isdisjoint(found)}
        spans = {place: self._find_chosen(column[place].as_py(), finders, found) for place, found in rows.items()}
        return {place: found for place, found in spans.items() if found}

    def _find_chosen(
        self, text: str, finders: Finders, suspected: Collection[str] = PERSONAL_KINDS
    ) -> list[PersonalSpan]:
        return [span for span in find_spans(text, suspected, finders) if span.kind in self.options.kinds]

    def _replace_spans(self, column: Any, found: Spans, finders: Finders, counts: Counter[str]) -> Any:
        """A replaced value no longer hides its neighbours, so a text is searched again if they may hold another."""
        while found:
            places = sorted(found)
            counts.update(span.kind for spans in found.values() for span in spans)
            texts, near = zip(
                *(self._replace_row(column[place].as_py(), found[place]) for place in places), strict=True
            )
            hit = pa.array([place in found for place in range(len(column))])
            column = pc.replace_with_mask(column, hit, pa.array(texts, column.type))
            again = [places[row] for row in self._find_spans(pa.array(near, column.type), finders)]
            spans = {place: self._find_chosen(column[place].as_py(), finders) for place in again}
            found = {place: row for place, row in spans.items() if row}
        return column

    def _replace_row(self, text: str, spans: list[PersonalSpan]) -> tuple[str, str]:
        """The new text, and its parts near the replaced values."""
        pieces, near, last = [], [], 0
        for span in spans:
            value = self._replace_value(span.kind, text[span.start : span.end])
            before = text[last : span.start]
            pieces += [before, value]
            near += [before[-NEIGHBOUR_CHARACTERS:], value, text[span.end : span.end + NEIGHBOUR_CHARACTERS], "\n"]
            last = span.end
        return "".join([*pieces, text[last:]]), "".join(near)

    def _replace_value(self, kind: str, value: str) -> str:
        if self.options.action == "replace":
            return f"<{kind.upper()}>"
        return make_pseudonym(self.key, kind, format_phone(value, self.options.regions) if kind == "phone" else value)


def _join_spans(spans: list[PersonalSpan], names: list[PersonalSpan]) -> list[PersonalSpan]:
    """The spans with the names that overlap none of them."""
    free = [name for name in names if all(name.end <= span.start or span.end <= name.start for span in spans)]
    return sorted([*spans, *free])


def _drop_found(batch: Any, found: dict[str, Spans], context: StepContext) -> Any:
    """Drop the rows with personal data; the reason is the kind that is first in the row."""
    kinds = {place: row[0].kind for spans in reversed(found.values()) for place, row in spans.items()}
    if not kinds:
        return batch
    places = sorted(kinds)
    context.drop_rows(batch.take(pa.array(places)), [f"contains personal data: {kinds[place]}" for place in places])
    return batch.filter(pa.array([place not in kinds for place in range(batch.num_rows)]))
