"""Counts the kinds of a chunk's values and converts the values to Arrow columns.

A column gets the kind of at least DOMINANT_SHARE of its values, and rows with other values are quarantined: three
"n/a" among a million readings do not make a sensor's column text. Without such a kind the column is text. Rows of the
previous version count with the kind of their column.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec

from archwright.lake.formats.column_kinds import arrow_schema, arrow_type, find_widest_kind, kind_of_arrow_type
from archwright.lake.lazy_modules import np, pa, pc

DOMINANT_SHARE = 0.99
CANDIDATES = (("boolean",), ("integer", "number"), ("timestamp",), ("timestamp-utc",), ("date",), ("bytes",))
# Patterns with the same meaning in Arrow and in `re`. 007 and integers above 18 digits are text, since numbers would
# lose digits.
_WHOLE = "(0|[1-9][0-9]{0,17})"
INTEGER = f"^-?{_WHOLE}$"
NUMBER = rf"^[-+]?({_WHOLE}|(0|[1-9][0-9]*)?\.[0-9]+|(0|[1-9][0-9]*)\.)([eE][-+]?[0-9]+)?$"
NOT_FINITE = "^[-+]?(?i:nan|inf|infinity)$"
BOOLEAN = "^(?i:true|false)$"
LONGEST_WORD = len("infinity")  # of the patterns above that begin with a letter
# Numbers and Booleans are values of text files; a JSON string is text or a time.
TIME_PATTERNS = {
    "date": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    "timestamp": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?$",
    "timestamp-utc": (
        r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})$"
    ),
}
UNTYPED_PATTERNS = {"integer": INTEGER, "number": f"{NUMBER}|{NOT_FINITE}", "boolean": BOOLEAN, **TIME_PATTERNS}
_integer, _number, _not_finite, _boolean = map(re.compile, (INTEGER, NUMBER, NOT_FINITE, BOOLEAN))
INT64 = range(-(2**63), 2**63)
Converter = Callable[[Any], object]
KindCounts = dict[str, Counter[str]]
"""Column -> number of values of each kind."""


class ValueConversionError(ValueError):
    """A value does not have the column's kind; the message is the reason in the quarantine."""


def count_column(values: Any, untyped: bool) -> Counter[str]:
    """The number of values of each kind; empty `untyped` texts do not count."""
    if not isinstance(values, pa.Array):
        return _count_value_kinds(values)
    kind = kind_of_arrow_type(values.type)
    if kind != "text":
        return +Counter({kind: len(values) - values.null_count})
    return _count_text_kinds(values, UNTYPED_PATTERNS if untyped else TIME_PATTERNS, untyped)


def _count_value_kinds(values: Sequence[object]) -> Counter[str]:
    found: Counter[str] = Counter()
    for kind, count in Counter(map(type, values)).items():
        if kind is int:
            large = sum(1 for value in values if type(value) is int and value not in INT64)
            found.update(integer=count - large, text=large)
        elif kind is not type(None):
            found["boolean" if kind is bool else "number" if kind is float else "text"] += count
    if found["text"]:
        texts = [value for value in values if type(value) is str]
        found["text"] -= len(texts)
        found.update(_count_text_kinds(pa.array(texts, pa.large_string()), TIME_PATTERNS, blank=False))
    return +found


def _count_text_kinds(array: Any, patterns: Mapping[str, str], blank: bool) -> Counter[str]:
    """Count the texts that match a pattern, the first one of several; others are text. `blank` texts do not count."""
    array = array.drop_null()
    if not len(array):
        return Counter()
    first, lengths, last = _read_ends(array)
    total = len(array) - (int((lengths == 0).sum()) if blank else 0)
    found: Counter[str] = Counter()
    word = (lengths > LONGEST_WORD) & (first >= ord("A")) & (first <= ord("z")) & (last > ord(" ")) & (last < 0x7F)
    rest = array.filter(pa.array((lengths > 0) & _possible_starts()[first] & ~word))
    if blank:
        rest = pc.utf8_trim_whitespace(rest)
        empty = pc.equal(rest, "")
        total -= pc.sum(empty).as_py() or 0
    for kind, pattern in patterns.items():
        if not len(rest):
            break
        matches = pc.match_substring_regex(rest, pattern)
        found[kind] += pc.sum(matches).as_py() or 0
        rest = rest.filter(pc.invert(matches))
    found["text"] = total - found.total()
    return +found


@cache
def _possible_starts() -> Any:
    """The first bytes of texts that may match a pattern after white space, which may be any of Unicode."""
    found = np.zeros(256, bool)
    found[[*b"0123456789+-.nNiItTfF \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f", 0xC2, 0xE1, 0xE2, 0xE3]] = True
    return found


def _read_ends(array: Any) -> tuple[Any, Any, Any]:
    """The first byte (0 if empty), length in bytes and last byte of each text of a large_string array without nulls."""
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    lengths = np.diff(offsets)
    if not lengths.any():
        return np.zeros(len(array), np.uint8), lengths, np.zeros(len(array), np.uint8)
    data = np.frombuffer(array.buffers()[2], np.uint8)
    first, last = data[np.minimum(offsets[:-1], len(data) - 1)], data[offsets[1:] - 1]
    return np.where(lengths > 0, first, 0), lengths, last


def choose_kind(counted: Mapping[str, int]) -> str:
    total = sum(counted.values())
    for kinds in CANDIDATES:
        if total and sum(counted.get(kind, 0) for kind in kinds) >= DOMINANT_SHARE * total:
            return find_widest_kind(kind for kind in kinds if counted.get(kind))
    return find_widest_kind(kind for kind in counted if counted[kind])


def convert_column(values: Any, kind: str, untyped: bool) -> tuple[Any, dict[int, str]]:
    """Returns (Arrow array of `kind`, place -> reason of each value of another kind, null in the array)."""
    wanted = arrow_type(kind)
    made = _convert_untyped(values, kind) if untyped else _convert_typed(values, kind)
    if made is not None:
        return made, {}
    if isinstance(values, pa.Array):
        values = values.to_pylist()
    bad: dict[int, str] = {}
    convert = (UNTYPED_CONVERTERS if untyped else TYPED_CONVERTERS).get(kind, _reject_value)
    singles: list[object] = []
    for place, given in enumerate(values):
        # An empty field of a text file is null; so is an empty time.
        value = (given.strip() or None) if untyped or (kind in TIME_PATTERNS and isinstance(given, str)) else given
        try:
            singles.append(None if value is None else convert(value))
        except ValueConversionError as error:
            bad[place] = str(error)
            singles.append(None)
    return pa.array(singles, wanted), bad


def _convert_typed(values: Any, kind: str) -> Any | None:
    """The array if every value has exactly the type; None if each value must be converted on its own."""
    wanted = arrow_type(kind)
    if isinstance(values, pa.Array):
        if values.type == wanted:
            return values
        if kind in TIME_PATTERNS and pa.types.is_large_string(values.type):
            return _cast_texts(values, kind)
        return values.cast(wanted, safe=False) if kind == "number" and pa.types.is_integer(values.type) else None
    plain: dict[str, set[type]] = {"text": {str}, "boolean": {bool}, "integer": {int}, "number": {float, int}}
    types = set(map(type, values)) - {type(None)}
    if kind in TIME_PATTERNS and types == {str}:
        return _cast_texts(pa.array(values, pa.large_string()), kind)
    if not types <= plain.get(kind, set()):
        return None
    try:
        return pa.array(values, wanted)
    except (OverflowError, pa.ArrowInvalid):  # an integer of more bits than the kind has
        return None


def _convert_untyped(values: Any, kind: str) -> Any | None:
    """The array if every text is empty or of the kind; None if each value must be converted on its own."""
    array = values if isinstance(values, pa.Array) else pa.array(values, pa.large_string())
    if kind == "text":
        return _empty_to_null(array)
    if kind == "boolean":
        made = _cast_plain_words(array)
    else:
        made = _cast_plain_numbers(array, kind) if kind in ("integer", "number") else _cast_texts(array, kind)
    if made is not None:
        return made
    array = _empty_to_null(pc.utf8_trim_whitespace(array))
    pattern = {"boolean": BOOLEAN, "integer": INTEGER, "number": NUMBER}.get(kind)
    if pattern is None or pc.all(pc.match_substring_regex(array, pattern)).as_py() is False:
        return None
    made = array.cast(arrow_type(kind))
    return made if kind != "number" or pc.all(pc.is_finite(made)).as_py() is not False else None


def _empty_to_null(array: Any) -> Any:
    empty = pc.equal(array, "")
    return pc.if_else(empty, None, array) if pc.any(empty).as_py() else array


def _cast_texts(array: Any, kind: str) -> Any | None:
    """The array if Arrow reads every text that is not empty as the kind, else None."""
    try:
        return _empty_to_null(array).cast(arrow_type(kind)) if kind in TIME_PATTERNS else None
    except pa.ArrowInvalid:
        return None


def _cast_plain_words(array: Any) -> Any | None:
    """The array if every text is empty, true or false; None if that is not certain."""
    if array.null_count:
        return None
    first, lengths, _ = _read_ends(array)
    if ((lengths > 0) & ~np.isin(first, np.frombuffer(b"tTfF", np.uint8))).any():  # Arrow also reads 0 and 1
        return None
    try:
        return _empty_to_null(array).cast(pa.bool_())
    except pa.ArrowInvalid:
        return None


def _cast_plain_numbers(array: Any, kind: str) -> Any | None:
    """The array if Arrow's cast certainly means the same as the patterns INTEGER and NUMBER, else None."""
    if array.null_count:
        return None
    first, lengths, _ = _read_ends(array)
    signed = (first == 43) | (first == 45)
    if (signed | ((first == 48) & (lengths > 1))).any():
        # A zero before other digits; the point of 0.5 is none.
        digits = pc.utf8_ltrim(array, "+-") if signed.any() else array
        plain = pc.starts_with(digits, "0.") if kind == "number" else pa.scalar(False)
        if pc.any(
            pc.and_not(pc.and_(pc.starts_with(digits, "0"), pc.greater(pc.binary_length(digits), 1)), plain)
        ).as_py():
            return None
    try:
        made = _empty_to_null(array).cast(arrow_type(kind))
    except pa.ArrowInvalid:
        return None
    long = array.filter(pa.array(lengths > 18))  # perhaps with more digits than the kind holds
    if len(long) and not pc.all(pc.match_substring_regex(long, INTEGER if kind == "integer" else NUMBER)).as_py():
        return None
    return made if kind == "integer" or pc.all(pc.is_finite(made)).as_py() is not False else None


def widen_batch(batch: Any, columns: Mapping[str, str]) -> Any:
    schema = arrow_schema(columns)
    arrays = [
        batch.column(field.name).cast(field.type, safe=False)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _typed_text(value: object) -> str:
    if isinstance(value, bytes):
        raise ValueConversionError("bytes")
    try:
        return value if isinstance(value, str) else msgspec.json.encode(value).decode().strip('"')
    except RecursionError as error:
        raise ValueConversionError("nested too deep") from error


def _typed_number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueConversionError("not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueConversionError("number not finite") from error


def _reject_value(value: object) -> object:
    """Bytes come from Parquet only, where a whole column has the type."""
    raise ValueConversionError(f"a {type(value).__name__} among bytes")


def _untyped_number(text: str) -> float:
    if _number.fullmatch(text) and math.isfinite(found := float(text)):
        return found
    infinite = _not_finite.fullmatch(text) or _number.fullmatch(text)
    raise ValueConversionError("number not finite" if infinite else "not a number")


def _convert_if(accepts: Callable[[Any], object], convert: Converter, reason: str) -> Converter:
    """A converter of the values that `accepts` is true for; it refuses other values for the `reason`."""

    def convert_value(value: Any) -> object:
        if accepts(value):
            return convert(value)
        raise ValueConversionError(reason)

    return convert_value


def _convert_time(kind: str) -> Converter:
    def convert_value(value: Any) -> object:
        if isinstance(value, str):
            with suppress(pa.ArrowInvalid):
                return pa.array([value], pa.large_string()).cast(arrow_type(kind))[0]
        raise ValueConversionError(f"not a {kind.partition('-')[0]}")

    return convert_value


_times = {kind: _convert_time(kind) for kind in TIME_PATTERNS}
TYPED_CONVERTERS: dict[str, Converter] = {
    "text": _typed_text,
    "integer": _convert_if(lambda value: type(value) is int and value in INT64, int, "not an integer"),
    "number": _typed_number,
    "boolean": _convert_if(lambda value: isinstance(value, bool), bool, "not true or false"),
    **_times,
}
UNTYPED_CONVERTERS: dict[str, Converter] = {
    "integer": _convert_if(_integer.fullmatch, int, "not an integer"),
    "number": _untyped_number,
    "boolean": _convert_if(_boolean.fullmatch, lambda text: text.lower() == "true", "not true or false"),
    **_times,
}
