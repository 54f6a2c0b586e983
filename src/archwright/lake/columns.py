"""From a chunk's values to Arrow columns: counting what kinds there are, then converting, row by row where it matters.

How a column's kind is decided: of all values seen, by count. When at least TRUE_SHARE of them fit one kind, that is
the column's, and the rows of the others are quarantined: three "n/a" among a million readings do not turn a sensor
into text. Otherwise the column is text and holds them all. What a table already holds counts with its rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from archwright.lake.chunks import Chunk
from archwright.lake.kinds import arrow_type, schema_of, widest

TRUE_SHARE = 0.99
INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})", re.ASCII)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "-infinity"}
BOOLEANS = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}
CANDIDATES = (("boolean",), ("integer", "number"), ("timestamp",), ("timestamp-utc",), ("date",), ("bytes",))
Votes = dict[str, Counter[str]]
"""Column -> how many values of each kind."""


class Unfit(ValueError):
    """The value is none of the column's kind; says why in words that are counted."""


def vote(chunk: Chunk, votes: Votes) -> None:
    """Count the kinds of a chunk's values."""
    for name, values in chunk.columns.items():
        counted = votes.setdefault(name, Counter())
        for value in values:
            kind = kind_of(value, chunk.untyped)
            if kind is not None:
                counted[kind] += 1


def kind_of(value: object, untyped: bool) -> str | None:
    """The kind a single value is of; None for no value."""
    if value is None:
        return None
    if untyped:
        return _kind_of_text(str(value))
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if -(2**63) <= value < 2**63 else "text"
    return "number" if isinstance(value, float) else "text"


def _kind_of_text(value: str) -> str | None:
    if not value:
        return None
    if INTEGER.fullmatch(value):
        return "integer"
    if NUMBER.fullmatch(value) or value.lower() in NOT_FINITE:
        return "number"
    return "boolean" if value in BOOLEANS else "text"


def decide(counted: Mapping[str, int]) -> str:
    """The kind of a column."""
    total = sum(counted.values())
    for kinds in CANDIDATES:
        if total and sum(counted.get(kind, 0) for kind in kinds) >= TRUE_SHARE * total:
            return widest(kind for kind in kinds if counted.get(kind))
    return widest(kind for kind in counted if counted[kind])


def convert(values: Sequence[object], kind: str, untyped: bool) -> tuple[Any, dict[int, str]]:
    """An Arrow array of `kind`, and the rows (by place) whose value does not fit, with the reason; null there."""
    import pyarrow as pa  # noqa: PLC0415

    bad: dict[int, str] = {}
    plain = {"text": str, "boolean": bool, "integer": int, "number": float}.get(kind)
    if not untyped and set(map(type, values)) <= {plain, type(None)} and kind != "integer":
        return pa.array(values, arrow_type(kind)), bad
    one: Callable[[Any], object] = (UNTYPED if untyped else TYPED)[kind]
    made: list[object] = []
    for place, value in enumerate(values):
        try:
            made.append(None if value is None else one(value))
        except Unfit as error:
            bad[place] = str(error)
            made.append(None)
    return pa.array(made, arrow_type(kind)), bad


def widened(batch: Any, columns: Mapping[str, str]) -> Any:
    """A batch of an older version with the columns of the new one."""
    import pyarrow as pa  # noqa: PLC0415

    schema = schema_of(columns)
    arrays = [
        batch.column(field.name).cast(field.type, safe=False)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _typed_text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _typed_integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    raise Unfit("not an integer")


def _typed_number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise Unfit("not a number")


def _typed_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise Unfit("not true or false")


def _untyped_integer(value: str) -> int | None:
    if not value:
        return None
    if INTEGER.fullmatch(value):
        return int(value)
    raise Unfit("not an integer")


def _untyped_number(value: str) -> float | None:
    if not value:
        return None
    if NUMBER.fullmatch(value) and abs(found := float(value)) != float("inf"):
        return found
    raise Unfit("number not finite" if value.lower() in NOT_FINITE else "not a number")


def _untyped_boolean(value: str) -> bool | None:
    if not value:
        return None
    if value in BOOLEANS:
        return BOOLEANS[value]
    raise Unfit("not true or false")


def _untyped_text(value: str) -> str | None:
    return value or None


TYPED = {"text": _typed_text, "integer": _typed_integer, "number": _typed_number, "boolean": _typed_boolean}
UNTYPED = {"text": _untyped_text, "integer": _untyped_integer, "number": _untyped_number, "boolean": _untyped_boolean}
