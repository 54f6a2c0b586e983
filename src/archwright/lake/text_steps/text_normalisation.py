"""The step that unifies the spelling of texts: Unicode form, white space, control characters."""

from typing import Any, Literal
from unicodedata import is_normalized, normalize

import msgspec

from archwright.lake.lazy_modules import pa, pc
from archwright.lake.steps.step import Rows, StepContext
from archwright.lake.steps.text_columns import TextStep

# Patterns of RE2. Tabulator, line feed and carriage return are white space; the marks of direction and joiners stay.
CONTROL_CHARACTERS = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\x{ad}\x{200b}\x{2060}\x{feff}\x{fff9}-\x{fffb}]"
WHITE_SPACE = (
    (r"\r\n?|[\x{85}\x{2028}\x{2029}]", "\n"),
    (r"[ \t\x{a0}\x{1680}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}]+", " "),
    (r" ?\n ?", "\n"),
    (r"\n{3,}", "\n\n"),
)
# Unicode's Stream-Safe Text Format (UAX 15) allows 30 marks on a letter; ordering more takes quadratic time.
TOO_MANY_MARKS = (r"(\pM{30})\pM+", r"\1")


class NormaliseText(TextStep):
    """Unify texts: Unicode form (`unicode`), runs of white space and blank lines, control and invisible characters.

    The changes count the values that each of the three altered.
    """

    unicode: Literal["NFC", "NFKC", "keep"] = "NFC"
    whitespace: bool = True
    control_characters: Literal["remove", "keep"] = msgspec.field(name="control-characters", default="remove")

    def process_rows(self, rows: Rows, context: StepContext) -> Rows:
        for batch in rows:
            for name in self.columns:
                place = batch.schema.get_field_index(name)
                batch = batch.set_column(place, name, self._normalise(batch.column(name), context))
            yield batch

    def _normalise(self, column: Any, context: StepContext) -> Any:
        if self.control_characters == "remove":
            column = _count_changes(column, _replace(column, (CONTROL_CHARACTERS, "")), "control characters", context)
        if self.unicode != "keep":
            column = _count_changes(column, _unify_unicode(column, self.unicode), "unicode form", context)
        if self.whitespace:
            new = pc.utf8_trim_whitespace(_replace(column, *WHITE_SPACE))
            column = _count_changes(column, new, "white space", context)
        return column


def _unify_unicode(column: Any, form: Literal["NFC", "NFKC"]) -> Any:
    """Design: Python's normalisation, since `utf8_normalize` of pyarrow 25 decomposes letters for NFC as for NFD."""
    column = _replace(column, TOO_MANY_MARKS)
    other = pc.fill_null(pc.invert(pc.string_is_ascii(column)), False)
    texts = column.filter(other).to_pylist()
    new = [text if is_normalized(form, text) else normalize(form, text) for text in texts]
    return pc.replace_with_mask(column, other, pa.array(new, column.type))


def _replace(column: Any, *replacements: tuple[str, str]) -> Any:
    for pattern, replacement in replacements:
        column = pc.replace_substring_regex(column, pattern, replacement)
    return column


def _count_changes(old: Any, new: Any, kind: str, context: StepContext) -> Any:
    changed = pc.sum(pc.not_equal(old, new)).as_py()
    if changed:
        context.count_changes(kind, changed)
    return new
