"""From a chunk's values to Arrow columns: counting what kinds there are, then converting, row by row where it matters.

How a column's kind is decided: of all values seen, by count. When at least TRUE_SHARE of them fit one kind, that is
the column's, and the rows of the others are quarantined: three "n/a" among a million readings do not turn a sensor
into text. Otherwise the column is text and holds them all. What a table already holds counts with its rows.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from archwright.lake.column_kinds import arrow_schema, arrow_type, find_widest_kind
from archwright.lake.row_chunks import RowChunk

DOMINANT_SHARE = 0.99
CANDIDATES = (("boolean",), ("integer", "number"), ("timestamp",), ("timestamp-utc",), ("date",), ("bytes",))
# Patterns that Arrow (a column at once) and we (value by value) read alike. 007 is a name, and so is what has more
# digits than an integer holds: as a number it would lose some.
_WHOLE = "(0|[1-9][0-9]{0,17})"
INTEGER = f"^-?{_WHOLE}$"
NUMBER = rf"^[-+]?({_WHOLE}|(0|[1-9][0-9]*)?\.[0-9]+|(0|[1-9][0-9]*)\.)([eE][-+]?[0-9]+)?$"
NOT_FINITE = "^[-+]?(?i:nan|inf|infinity)$"
BOOLEAN = "^(?i:true|false)$"
_integer, _number, _not_finite, _boolean = map(re.compile, (INTEGER, NUMBER, NOT_FINITE, BOOLEAN))
INT64 = range(-(2**63), 2**63)
KindCounts = dict[str, Counter[str]]
"""Column -> how many values of each kind."""


class ValueConversionError(ValueError):
    """The value is none of the column's kind; says why in words that are counted."""


def count_kinds(chunk: RowChunk, votes: KindCounts) -> None:
    """Count the kinds of a chunk's values."""
    for name, values in chunk.columns.items():
        votes.setdefault(name, Counter()).update(
            _count_text_kinds(values) if chunk.untyped else _count_value_kinds(values)
        )


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
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    array = pc.utf8_trim_whitespace(pa.array(values, pa.large_string()))

    def count(pattern: str) -> int:
        return int(pc.sum(pc.match_substring_regex(array, pattern)).as_py() or 0)

    there = count("(?s).")
    integers, booleans = count(INTEGER), count(BOOLEAN)
    numbers = count(NUMBER) - integers + count(NOT_FINITE)
    return +Counter(integer=integers, number=numbers, boolean=booleans, text=there - integers - numbers - booleans)


def choose_kind(counted: Mapping[str, int]) -> str:
    """The kind of a column."""
    total = sum(counted.values())
    for kinds in CANDIDATES:
        if total and sum(counted.get(kind, 0) for kind in kinds) >= DOMINANT_SHARE * total:
            return find_widest_kind(kind for kind in kinds if counted.get(kind))
    return find_widest_kind(kind for kind in counted if counted[kind])


def convert_column(values: Any, kind: str, untyped: bool) -> tuple[Any, dict[int, str]]:
    """An Arrow array of `kind`, and the rows (by place) whose value does not fit, with the reason; null there."""
    import pyarrow as pa  # noqa: PLC0415

    wanted = arrow_type(kind)
    if isinstance(values, pa.Array):
        if values.type == wanted:
            return values, {}
        values = values.to_pylist()
    made = _convert_untyped(values, kind) if untyped else _convert_typed(values, kind)
    if made is not None:
        return made, {}
    bad: dict[int, str] = {}
    one: Callable[[Any], object] = (UNTYPED_CONVERTERS if untyped else TYPED_CONVERTERS)[kind]
    singles: list[object] = []
    for place, given in enumerate(values):
        value = (given.strip() or None) if untyped else given  # an empty field of a text file is no value
        try:
            singles.append(None if value is None else one(value))
        except ValueConversionError as error:
            bad[place] = str(error)
            singles.append(None)
    return pa.array(singles, wanted), bad


def _convert_typed(values: Sequence[object], kind: str) -> Any | None:
    """All at once when every value is of the very type; None when it has to be done one by one."""
    import pyarrow as pa  # noqa: PLC0415

    plain: dict[str, set[type]] = {"text": {str}, "boolean": {bool}, "integer": {int}, "number": {float, int}}
    if not set(map(type, values)) <= {*plain.get(kind, ()), type(None)}:
        return None
    try:
        return pa.array(values, arrow_type(kind))
    except (OverflowError, pa.ArrowInvalid):  # an integer of more bits than the kind has
        return None


def _convert_untyped(values: Sequence[str], kind: str) -> Any | None:
    """All at once when every text is one of the kind, or empty."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

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
    """A batch of an older version with the columns of the new one."""
    import pyarrow as pa  # noqa: PLC0415

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


def _typed_integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value in INT64:
        return value
    raise ValueConversionError("not an integer")


def _typed_number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueConversionError("not a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueConversionError("number not finite") from error


def _typed_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueConversionError("not true or false")


def _reject_value(value: object) -> object:
    """Only Parquet says that a value is a time, a date or bytes; and then all of its column are."""
    raise ValueConversionError(f"a {type(value).__name__} among times, dates or bytes")


def _untyped_integer(text: str) -> int:
    if _integer.fullmatch(text):
        return int(text)
    raise ValueConversionError("not an integer")


def _untyped_number(text: str) -> float:
    if _number.fullmatch(text) and math.isfinite(found := float(text)):
        return found
    raise ValueConversionError(
        "number not finite" if _not_finite.fullmatch(text) or _number.fullmatch(text) else "not a number"
    )


def _untyped_boolean(text: str) -> bool:
    if _boolean.fullmatch(text):
        return text.lower() == "true"
    raise ValueConversionError("not true or false")


_UNCONVERTIBLE: dict[str, Callable[[Any], object]] = dict.fromkeys(
    ("timestamp", "timestamp-utc", "date", "bytes"), _reject_value
)
TYPED_CONVERTERS: dict[str, Callable[[Any], object]] = {
    "text": _typed_text,
    "integer": _typed_integer,
    "number": _typed_number,
    "boolean": _typed_boolean,
    **_UNCONVERTIBLE,
}
UNTYPED_CONVERTERS: dict[str, Callable[[Any], object]] = {
    "integer": _untyped_integer,
    "number": _untyped_number,
    "boolean": _untyped_boolean,
    **_UNCONVERTIBLE,
}
