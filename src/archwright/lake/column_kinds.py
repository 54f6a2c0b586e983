"""What a column may hold, and which kind holds values of several.

Eight kinds: a table is for people and for training, not a mirror of every type a file format knows. Whole numbers
become numbers beside numbers; anything beside anything else becomes text. Objects and lists are kept as their JSON
text. Decimals and times of day become text, since no kind holds them exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

KINDS = ("boolean", "integer", "number", "timestamp", "timestamp-utc", "date", "bytes", "text")
# Ours in every table, before the source's columns.
SYSTEM_COLUMNS = {"record_id": "text", "source_file": "text", "source_row": "integer"}


def find_widest_kind(kinds: Iterable[str]) -> str:
    """The kind that holds values of all `kinds`; a column without any value is text."""
    found = set(kinds)
    if len(found) == 1:
        return found.pop()
    return "number" if found == {"integer", "number"} else "text"


def arrow_type(kind: str) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    made = {
        "boolean": pa.bool_,
        "integer": pa.int64,
        "number": pa.float64,
        "timestamp": lambda: pa.timestamp("us"),
        "timestamp-utc": lambda: pa.timestamp("us", "UTC"),
        "date": pa.date32,
        "bytes": pa.large_binary,
        "text": pa.large_string,
    }
    return made[kind]()


def arrow_schema(columns: Mapping[str, str]) -> Any:
    """The Arrow schema of a table or batch of ours."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.schema([pa.field(name, arrow_type(kind)) for name, kind in columns.items()])


def kind_of_arrow_type(kind: Any) -> str:
    """The kind that takes up an Arrow type."""
    import pyarrow as pa  # noqa: PLC0415

    if pa.types.is_dictionary(kind):
        return kind_of_arrow_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return "timestamp-utc" if kind.tz else "timestamp"
    tests = {
        "boolean": (pa.types.is_boolean,),
        "integer": (pa.types.is_integer,),
        "number": (pa.types.is_floating,),
        "date": (pa.types.is_date,),
        "bytes": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view),
    }
    return next((name for name, checks in tests.items() if any(check(kind) for check in checks)), "text")


def iceberg_type(kind: str) -> Any:
    """The table format's type of a kind."""
    from pyiceberg import types  # noqa: PLC0415

    made = {
        "boolean": types.BooleanType,
        "integer": types.LongType,
        "number": types.DoubleType,
        "timestamp": types.TimestampType,
        "timestamp-utc": types.TimestamptzType,
        "date": types.DateType,
        "bytes": types.BinaryType,
        "text": types.StringType,
    }
    return made[kind]()


def kind_of_iceberg_type(found: Any) -> str:
    return next(kind for kind in KINDS if iceberg_type(kind) == found)
