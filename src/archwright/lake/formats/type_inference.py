"""Counts the kinds of a chunk's values and converts the values to Arrow columns.

A column gets the kind of at least DOMINANT_SHARE of its values, and rows with other values are quarantined: three
"n/a" among a million readings do not make a sensor's column text. Without such a kind the column is text. Rows of the
previous version count with the kind of their column.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from archwright.lake.formats.column_kinds import arrow_schema, arrow_type, find_widest_kind
from archwright.lake.formats.row_chunks import RowChunk
from archwright.lake.lazy_modules import pa, pc

DOMINANT_SHARE = 0.99
CANDIDATES = (("boolean",), ("integer", "number"), ("timestamp",), ("timestamp-utc",), ("date",), ("bytes",))
# Patterns with the same meaning in Arrow and in `re`. 007 and integers above 18 digits are text, since numbers would
# lose digits.
_WHOLE = "(0|[1-9][0-9]{0,17})"
INTEGER = f"^-?{_WHOLE}$"
NUMBER = rf"^[-+]?({_WHOLE}|(0|[1-9][0-9]*)?\.[0-9]+|(0|[1-9][0-9]*)\.)([eE][-+]?[0-9]+)?$"
NOT_FINITE = "^[-+]?(?i:nan|inf|infinity)$"
BOOLEAN = "^(?i:true|false)$"
_integer, _number, _not_finite, _boolean = map(re.compile, (INTEGER, NUMBER, NOT_FINITE, BOOLEAN))
INT64 = range(-(2**63), 2**63)
Converter = Callable[[Any], object]
KindCounts = dict[str, Counter[str]]
"""Column -> number of values of each kind."""


class ValueConversionError(ValueError):
    """A value does not have the column's kind; the message is the reason in the quarantine."""


def count_kinds(chunk: RowChunk, votes: KindCounts) -> None:
    for name, values in chunk.columns.items():
        found = _count_text_kinds(values) if chunk.untyped else _count_value_kinds(values)
        votes.setdefault(name, Counter()).update(found)


def _count_value_kinds(values: Sequence[object]) -> Counter[str]:
    found: Counter[str] = Counter()
    for kind, count in Counter(map(type, values)).items():
        if kind is int:
            large = sum(1 for value in values if type(value) is int and value not in INT64)
            found.update(integer=count - large, text=large)
        elif kind is not type(None):
            found["boolean" if kind is bool else "number" if kind is float else "text"] += count
    return +found


def _count_text_kinds(values: Sequence[str]) -> Counter[str]:
    array = pc.utf8_trim_whitespace(pa.array(values, pa.large_string()))

    def count(pattern: str) -> int:
        return int(pc.sum(pc.match_substring_regex(array, pattern)).as_py() or 0)

    there = count("(?s).")
    integers, booleans = count(INTEGER), count(BOOLEAN)
    numbers = count(NUMBER) - integers + count(NOT_FINITE)
    return +Counter(integer=integers, number=numbers, boolean=booleans, text=there - integers - numbers - booleans)


def choose_kind(counted: Mapping[str, int]) -> str:
    total = sum(counted.values())
    for kinds in CANDIDATES:
        if total and sum(counted.get(kind, 0) for kind in kinds) >= DOMINANT_SHARE * total:
            return find_widest_kind(kind for kind in kinds if counted.get(kind))
    return find_widest_kind(kind for kind in counted if counted[kind])


def convert_column(values: Any, kind: str, untyped: bool) -> tuple[Any, dict[int, str]]:
    """Returns (Arrow array of `kind`, place -> reason of each value of another kind, null in the array)."""
    wanted = arrow_type(kind)
    if isinstance(values, pa.Array):
        if values.type == wanted:
            return values, {}
        values = values.to_pylist()
    made = _convert_untyped(values, kind) if untyped else _convert_typed(values, kind)
    if made is not None:
        return made, {}
    bad: dict[int, str] = {}
    convert = (UNTYPED_CONVERTERS if untyped else TYPED_CONVERTERS).get(kind, _reject_value)
    singles: list[object] = []
    for place, given in enumerate(values):
        value = (given.strip() or None) if untyped else given  # an empty field of a text file is null
        try:
            singles.append(None if value is None else convert(value))
        except ValueConversionError as error:
            bad[place] = str(error)
            singles.append(None)
    return pa.array(singles, wanted), bad


def _convert_typed(values: Sequence[object], kind: str) -> Any | None:
    """The array if every value has exactly the type; None if each value must be converted on its own."""
    plain: dict[str, set[type]] = {"text": {str}, "boolean": {bool}, "integer": {int}, "number": {float, int}}
    if not set(map(type, values)) <= {*plain.get(kind, ()), type(None)}:
        return None
    try:
        return pa.array(values, arrow_type(kind))
    except (OverflowError, pa.ArrowInvalid):  # an integer of more bits than the kind has
        return None


def _convert_untyped(values: Sequence[str], kind: str) -> Any | None:
    """The array if every text is empty or of the kind; None if each value must be converted on its own."""
    array = pa.array(values, pa.large_string())
    if kind == "text":
        return pc.if_else(pc.equal(array, ""), None, array)
    array = pc.utf8_trim_whitespace(array)
    array = pc.if_else(pc.equal(array, ""), None, array)
    pattern = {"boolean": BOOLEAN, "integer": INTEGER, "number": NUMBER}.get(kind)
    if pattern is None or pc.all(pc.match_substring_regex(array, pattern)).as_py() is False:
        return None
    made = array.cast(arrow_type(kind))
    return made if kind != "number" or pc.all(pc.is_finite(made)).as_py() is not False else None


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
    """Times, dates and bytes come from Parquet only, where a whole column has the type."""
    raise ValueConversionError(f"a {type(value).__name__} among times, dates or bytes")


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


TYPED_CONVERTERS: dict[str, Converter] = {
    "text": _typed_text,
    "integer": _convert_if(lambda value: type(value) is int and value in INT64, int, "not an integer"),
    "number": _typed_number,
    "boolean": _convert_if(lambda value: isinstance(value, bool), bool, "not true or false"),
}
UNTYPED_CONVERTERS: dict[str, Converter] = {
    "integer": _convert_if(_integer.fullmatch, int, "not an integer"),
    "number": _untyped_number,
    "boolean": _convert_if(_boolean.fullmatch, lambda text: text.lower() == "true", "not true or false"),
}
