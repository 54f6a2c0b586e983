"""The kinds of column with their Arrow and Iceberg types, and the widest of several kinds.

Integers beside numbers become numbers; any other mixture becomes text. Objects and lists are stored as JSON text.
Decimals and times of day become text, since no kind holds them exactly. The kind "id" is for the system's columns only.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from archwright.lake.lazy_modules import pa

ID_BYTES = 16
# Kind -> pyarrow's factory and its arguments, pyiceberg's type and its arguments.
COLUMN_TYPES: dict[str, tuple[str, tuple[str | int, ...], str, tuple[int, ...]]] = {
    "boolean": ("bool_", (), "BooleanType", ()),
    "integer": ("int64", (), "LongType", ()),
    "number": ("float64", (), "DoubleType", ()),
    "timestamp": ("timestamp", ("us",), "TimestampType", ()),
    "timestamp-utc": ("timestamp", ("us", "UTC"), "TimestamptzType", ()),
    "date": ("date32", (), "DateType", ()),
    "bytes": ("large_binary", (), "BinaryType", ()),
    "text": ("large_string", (), "StringType", ()),
    "id": ("binary", (ID_BYTES,), "FixedType", (ID_BYTES,)),
    "vector": ("list_", (), "ListType", ()),
}
KINDS = tuple(COLUMN_TYPES)
# The columns that every table has before those of its source.
SYSTEM_COLUMNS = {"record_id": "id", "source_file": "text", "source_row": "integer"}


def find_widest_kind(kinds: Iterable[str]) -> str:
    """The kind that holds values of all `kinds`; text for a column without values."""
    found = set(kinds)
    if len(found) == 1:
        return found.pop()
    return "number" if found == {"integer", "number"} else "text"


def arrow_type(kind: str) -> Any:
    if kind == "vector":
        return pa.list_(pa.float32())
    factory, arguments, *_ = COLUMN_TYPES[kind]
    return getattr(pa, factory)(*arguments)


def arrow_schema(columns: Mapping[str, str]) -> Any:
    return pa.schema([pa.field(name, arrow_type(kind)) for name, kind in columns.items()])


def kind_of_arrow_type(kind: Any) -> str:
    if pa.types.is_dictionary(kind):
        return kind_of_arrow_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return "timestamp-utc" if kind.tz else "timestamp"
    tests = {
        "boolean": (pa.types.is_boolean,),
        "integer": (pa.types.is_integer,),
        "number": (pa.types.is_floating,),
        "vector": (_is_vector,),
        "date": (pa.types.is_date,),
        "bytes": (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view),
    }
    return next((name for name, checks in tests.items() if any(check(kind) for check in checks)), "text")


def _is_vector(kind: Any) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_a(kind) for is_a in lists) and pa.types.is_float32(kind.value_type)


def iceberg_type(kind: str) -> Any:
    from pyiceberg import types  # noqa: PLC0415

    if kind == "vector":
        return types.ListType(element_id=1, element=types.FloatType(), element_required=False)  # the table numbers it
    _, _, name, arguments = COLUMN_TYPES[kind]
    return getattr(types, name)(*arguments)


def kind_of_iceberg_type(found: Any) -> str:
    if found.is_primitive is False:
        return "vector"
    return next(kind for kind in KINDS if iceberg_type(kind) == found)
