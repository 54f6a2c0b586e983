"""Digests over the values of rows: equal for equal values in equal order, however the rows are batched.

A unit is digested at once: a source file of an ingested version, a part of a refined one. `combine_digests` makes the
digest of a version from its units, so an unchanged unit is not read again.

Three things of each column are digested: values that are not null, lengths of texts, positions of nulls.
A column without values does not count, so adding a column changes no older unit. All NaN are one value; -0.0 and 0.0
are two. Columns of provenance do not count (`record_id`, `source_file`, `source_row`, any id): the name of the unit
stands for the file, and the same content in another place is the same content.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from archwright.lake.formats.column_kinds import COLUMN_TYPES, SYSTEM_COLUMNS, arrow_type, kind_of_arrow_type
from archwright.lake.lazy_modules import np, pa, pc

ID_KIND, LIST_KIND = "id", "vector"


def combine_digests(units: Iterable[tuple[str, str]]) -> str:
    """The digest of a version: SHA-256 over its units (name, digest), sorted by name."""
    total = hashlib.sha256()
    for unit in sorted(units):
        for text in unit:
            total.update(_frame(text.encode("utf-8", "surrogatepass")))
    return total.hexdigest()


def combine_parts(digests: Iterable[str]) -> str:
    """The digest of a refined version, from those of its parts in order."""
    return combine_digests((f"{number:06d}", digest) for number, digest in enumerate(digests))


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data


class ValueDigest:
    """The digest of a unit; `rows` counts its rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._columns: dict[str, _ColumnDigest] = {}

    def add(self, batch: Any) -> None:
        """Add the rows of an Arrow record batch. Raises ValueError if a column has another kind than before."""
        for field, array in zip(batch.schema, batch.columns, strict=True):
            kind = _name_kind(field.type)
            if field.name in SYSTEM_COLUMNS or kind == ID_KIND or array.null_count == len(array):
                continue
            column = self._columns.setdefault(field.name, _ColumnDigest(kind))
            if column.kind != kind:
                raise ValueError(f"the column {field.name} has the kinds {column.kind} and {kind} in one unit")
            column.add(array, self.rows)
        self.rows += batch.num_rows

    def hexdigest(self) -> str:
        total = hashlib.sha256(self.rows.to_bytes(8, "little"))
        for name, column in sorted(self._columns.items()):
            total.update(_frame(name.encode("utf-8", "surrogatepass")) + column.digest(self.rows))
        return total.hexdigest()


class _ColumnDigest:
    """`_end`: the rows before it are digested; the rows from it to those of the next batch are null."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values, self._lengths, self._nulls = (hashlib.sha256() for _ in range(3))
        self._end = 0

    def add(self, array: Any, start: int) -> None:
        self._nulls.update(np.arange(self._end, start, dtype="<i8"))
        self._end = start + len(array)
        if array.null_count:
            places = pc.indices_nonzero(array.is_null()).to_numpy()
            self._nulls.update((places + start).astype("<i8"))
            array = array.drop_null()
        self._add_values(array)

    def _add_values(self, array: Any) -> None:
        """Digest an array without nulls. Arrow's buffers are little-endian on every machine that we run on."""
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if _is_list(array.type):
            self._lengths.update(pc.list_value_length(array).cast(pa.int64()).to_numpy())
            # A null inside a list counts as NaN: only lists of numbers have values of their own, see column_kinds.
            self._add_values(array.flatten().cast(pa.float32()).fill_null(float("nan")))
        elif self.kind in ("text", "bytes"):
            if array.type not in (pa.large_string(), pa.large_binary()):
                array = array.cast(pa.large_binary())
            offsets = np.frombuffer(array.buffers()[1], "<i8")[array.offset : array.offset + len(array) + 1]
            self._lengths.update(np.diff(offsets))
            if offsets[-1] > offsets[0]:
                self._values.update(array.buffers()[2].slice(offsets[0], offsets[-1] - offsets[0]))
        else:
            self._add_numbers(array)

    def _add_numbers(self, array: Any) -> None:
        if self.kind == "boolean":
            array = array.cast(pa.uint8())
        elif self.kind in COLUMN_TYPES and self.kind != LIST_KIND and array.type != arrow_type(self.kind):
            array = array.cast(arrow_type(self.kind))
        width = array.type.bit_width // 8
        data = array.buffers()[1].slice(array.offset * width, len(array) * width)
        if pa.types.is_floating(array.type):
            numbers = np.frombuffer(data, f"<f{width}")
            with np.errstate(all="ignore"):
                if np.isnan(numbers.sum()):  # quick: infinities of both signs make NaN too
                    data = np.where(np.isnan(numbers), numbers.dtype.type("nan"), numbers)
        self._values.update(data)

    def digest(self, rows: int) -> bytes:
        nulls = self._nulls.copy()
        nulls.update(np.arange(self._end, rows, dtype="<i8"))
        parts = (self._values.digest(), self._lengths.digest(), nulls.digest())
        return _frame(self.kind.encode()) + b"".join(parts)


def _is_list(found: Any) -> bool:
    return any(is_a(found) for is_a in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _name_kind(found: Any) -> str:
    if pa.types.is_fixed_size_binary(found):  # bytes of a source are of variable size
        return ID_KIND
    return LIST_KIND if _is_list(found) else kind_of_arrow_type(found)
