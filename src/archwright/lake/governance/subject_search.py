"""Find the rows that name a person, by the person's identifiers: the same search serves access export and erasure.

A column of text matches if the identifier stands in it as a whole token; any other column, if its whole value is the
identifier. Letters are compared without case in e-mail addresses and in identifiers of several words, white space by
its presence, telephone numbers by their digits. Composed and decomposed Unicode match each other.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from archwright.contract.lineage import DatasetVersion
from archwright.errors import DataError
from archwright.home import Home
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS
from archwright.lake.lazy_modules import pa, pc
from archwright.lake.tables.iceberg_tables import read_batches

LEAST_CHARACTERS = 3
LEAST_PHONE_DIGITS = 7
_PHONE = re.compile(r"\+?[\d\s()./-]+")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")
_SPACE = r"[\pZ\s\v\x1c-\x1f\x85]+"
# An address that continues is another address: x.anna@example.org, anna@example.org.uk.
_EMAIL_START, _EMAIL_END = r"(?:^|[^\pL\pN_.+%-])", r"(?:$|[^\pL\pN_.-]|\.(?:$|[^\pL\pN]))"
_PHONE_SEPARATORS = r"[\s()./-]{0,3}"


class SubjectRow(NamedTuple):
    """A row that names the subject, in `columns`; `values` has all its columns except the system columns."""

    dataset: str
    version: str
    file: str
    row: int
    record_id: bytes
    columns: tuple[str, ...]
    values: dict[str, Any]


class SubjectMatcher:
    """Searches Arrow data for the identifiers of one person, by kernels."""

    def __init__(self, identifiers: Sequence[str]) -> None:
        """Raises DataError AW-DATA-55 without an identifier, or for one that would match too much."""
        for text in identifiers:
            if len(text.strip()) < LEAST_CHARACTERS:
                hint = f"give an identifier of at least {LEAST_CHARACTERS} characters, such as an e-mail address"
                raise DataError("AW-DATA-55", f"the identifier {text!r} is too short", hint=hint)
        if not identifiers:
            hint = "give an e-mail address, a telephone number, a name or a number"
            raise DataError("AW-DATA-55", "no identifier of a person is given", hint=hint)
        forms = {unicodedata.normalize(form, text.strip()) for text in identifiers for form in ("NFC", "NFD")}
        self._pattern = "|".join(sorted(_build_pattern(form) for form in forms))
        self._values = sorted({*forms, *(digits for form in forms if (digits := _phone_digits(form)))})

    def match_array(self, array: Any) -> Any:
        """True for each value that names the person, False for null."""
        kind = array.type
        if pa.types.is_dictionary(kind):
            return self.match_array(array.cast(kind.value_type))
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found = pc.match_substring_regex(array, self._pattern)
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            found = self._match_bytes(array)
        elif pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
            return pa.nulls(len(array), pa.bool_()).fill_null(False)
        else:
            found = pc.is_in(array.cast(pa.string()), pa.array(self._values, pa.string()))
        return pc.fill_null(found, False)

    def _match_bytes(self, array: Any) -> Any:
        """Bytes match if they contain an identifier as UTF-8: a regular expression would need valid text."""
        found = pc.match_substring(array, self._values[0])
        for text in self._values[1:]:
            found = pc.or_kleene(found, pc.match_substring(array, text))
        return found

    def match_batch(self, batch: Any) -> dict[str, Any]:
        """Column -> mask of its matching rows, for the columns with at least one match."""
        masks = {name: self.match_array(batch.column(name)) for name in batch.schema.names}
        return {name: mask for name, mask in masks.items() if pc.any(mask).as_py()}


def _phone_digits(text: str) -> str:
    """The digits of a telephone number, "" for any other text."""
    digits = re.sub(r"\D", "", text)
    return digits if len(digits) >= LEAST_PHONE_DIGITS and _PHONE.fullmatch(text) else ""


def _build_pattern(text: str) -> str:
    """A pattern in the syntax of RE2, which has no look-around: the characters beside a token are part of a match."""
    if digits := _phone_digits(text):
        return rf"(?:^|[^\pN])\+?{_PHONE_SEPARATORS.join(digits)}(?:$|[^\pN])"
    quoted = _SPACE.join(_quote(part) for part in text.split())
    if _EMAIL.fullmatch(text):
        return rf"(?i:{_EMAIL_START}{quoted}{_EMAIL_END})"
    start = r"(?:^|[^\pL\pN_])" if re.match(r"\w", text) else ""
    end = r"(?:$|[^\pL\pN_])" if re.search(r"\w$", text) else ""
    return rf"(?i:{start}{quoted}{end})" if len(text.split()) > 1 else f"{start}{quoted}{end}"


def _quote(text: str) -> str:
    """Escape punctuation; RE2 refuses an escaped letter outside ASCII."""
    return "".join(one if one.isalnum() or not one.isascii() else f"\\{one}" for one in text)


def find_subject_rows(
    home: Home, identifiers: Sequence[str], versions: Iterable[DatasetVersion]
) -> Iterator[SubjectRow]:
    """Yield the rows of the versions that name the person. Raises as `SubjectMatcher` and `read_batches`."""
    matcher = SubjectMatcher(identifiers)
    for version in versions:
        for batch in read_batches(home, version):
            masks = matcher.match_batch(batch)
            if masks:
                yield from _build_rows(version, batch, masks)


def _build_rows(version: DatasetVersion, batch: Any, masks: dict[str, Any]) -> Iterator[SubjectRow]:
    any_column = next(iter(masks.values()))
    for mask in masks.values():
        any_column = pc.or_(any_column, mask)
    columns = {name: mask.filter(any_column).to_pylist() for name, mask in masks.items()}
    for place, values in enumerate(batch.filter(any_column).to_pylist()):
        yield SubjectRow(
            dataset=version.dataset,
            version=version.id,
            file=values["source_file"],
            row=values["source_row"],
            record_id=values["record_id"],
            columns=tuple(name for name, mask in columns.items() if mask[place]),
            values={name: value for name, value in values.items() if name not in SYSTEM_COLUMNS},
        )
