"""Rows of a data set version for training: ordered by `record_id`, split by content.

The split depends on the hash of a row's content, not on its place: a held-out row stays held out in every version,
together with all equal rows.
"""

import difflib
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from archwright.contract.lineage import DatasetVersion
from archwright.errors import ErrorLocation, TrainError
from archwright.home import Home
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS
from archwright.lake.lazy_modules import pa, pc
from archwright.lake.tables import iceberg_tables
from archwright.training.training_spec import TrainSpec

SPLIT_KEY = "archwright:key"  # the lake refuses this name in sources


class DataSplit(NamedTuple):
    """`ids[i]` is the record_id of row i of `table` (a pyarrow.Table) in hex, `keys[i]` its split key."""

    ids: list[str]
    table: Any
    keys: Sequence[str] = ()


class TrainingData(NamedTuple):
    """`left_out` counts rows without a text or a label."""

    train: DataSplit
    held_out: DataSplit
    version: DatasetVersion
    left_out: int


def load_version(home: Home, version: DatasetVersion, spec: TrainSpec) -> TrainingData:
    """Raises TrainError AW-TRN-10 (no such column), AW-TRN-11 (not text), AW-TRN-12 (no row to train on)."""
    check_columns(version, spec)
    # All columns are read, since the split depends on whole rows.
    batches = list(iceberg_tables.read_batches(home, version))
    if not any(batch.num_rows for batch in batches):
        raise _no_rows_error(version, "it has no rows")
    table = pa.Table.from_batches(batches).sort_by("record_id")
    rows = table.num_rows
    for name in required_columns(spec):
        column = table.column(name)
        if spec.task == "text-lora" and not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            message = f"the column {name} of {version.id} contains {column.type}, not text"
            hint = "name a column that contains texts"
            raise TrainError("AW-TRN-11", message, where=ErrorLocation(field=f"columns: {name}"), hint=hint)
        table = table.filter(pc.is_valid(table.column(name)))
    table = table.append_column(SPLIT_KEY, pa.array(content_keys(table), pa.string()))
    side = [is_held_out(key, spec.held_out) for key in table.column(SPLIT_KEY).to_pylist()]
    kept = selected_columns(spec) or [name for name in table.column_names if name != SPLIT_KEY]
    held, train = (table.filter(pa.array([out is part for out in side], pa.bool_())) for part in (True, False))
    if not train.num_rows:
        raise _no_rows_error(version, f"none of its {rows} rows can be used for training")
    return TrainingData(_build_split(train, kept), _build_split(held, kept), version, rows - table.num_rows)


def content_keys(table: Any) -> list[str]:
    """A digest of each row's content. Null values do not count, so a new column changes no split."""
    names = [name for name in table.column_names if name not in SYSTEM_COLUMNS]
    contents = ({name: row[name] for name in names if row[name] is not None} for row in table.select(names).to_pylist())
    texts = (json.dumps(row, sort_keys=True, default=str) for row in contents)
    return [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]


def is_held_out(key: str, share: float) -> bool:
    drawn = int.from_bytes(hashlib.sha256(f"held-out {key}".encode()).digest()[:8], "big")
    return drawn < share * float(1 << 64)


def required_columns(spec: TrainSpec) -> tuple[str, ...]:
    """The columns that must have a value in every row."""
    if spec.task != "text-lora":
        return (spec.columns.label,)
    return (spec.columns.text,) if spec.columns.text else (spec.columns.prompt, spec.columns.completion)


def selected_columns(spec: TrainSpec) -> list[str] | None:
    """The columns to keep; None means all."""
    if spec.task != "text-lora" and not spec.columns.features:
        return None
    return ["record_id", *required_columns(spec), *(name for name in spec.columns.features if spec.task != "text-lora")]


def feature_columns(table: Any, spec: TrainSpec) -> list[str]:
    """Columns of the spec, else numeric ones that are not empty. Raises TrainError AW-TRN-13 without any."""
    if spec.columns.features:
        return list(spec.columns.features)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    empty = {name for name in table.column_names if table.column(name).null_count == table.num_rows}
    other = {*SYSTEM_COLUMNS, spec.columns.label, *empty}
    numeric = [field.name for field in table.schema if any(test(field.type) for test in tests)]
    found = [name for name in numeric if name not in other]
    if not found:
        message = f"the dataset {spec.dataset} has no numeric column besides the label"
        hint = "name the feature columns in the spec, or ingest numeric columns"
        raise TrainError("AW-TRN-13", message, where=ErrorLocation(field="columns: features"), hint=hint)
    return found


def check_columns(version: DatasetVersion, spec: TrainSpec) -> None:
    """Raises TrainError AW-TRN-10 for a column that the version does not have."""
    columns = [name for name in version.columns if name not in SYSTEM_COLUMNS]
    fields = ("text", "prompt", "completion") if spec.task == "text-lora" else ("label",)
    for name in (*required_columns(spec), *spec.columns.features):
        if name not in version.columns:
            near = tuple(difflib.get_close_matches(name, columns, 3, 0.6))
            field = next((field for field in fields if getattr(spec.columns, field) == name), "features")
            where = ErrorLocation(field=f"columns: {field}")
            message, hint = f"the dataset {version.id} has no column {name!r}", f"choose one of: {', '.join(columns)}"
            raise TrainError("AW-TRN-10", message, where=where, hint=hint, nearest=near)


def _build_split(table: Any, kept: list[str]) -> DataSplit:
    ids = [record.hex() for record in table.column("record_id").to_pylist()]
    return DataSplit(ids, table.select(kept), table.column(SPLIT_KEY).to_pylist())


def _no_rows_error(version: DatasetVersion, reason: str) -> TrainError:
    hint = "ingest more rows, or lower held_out"
    return TrainError("AW-TRN-12", f"{version.id} has no training rows: {reason}", hint=hint)
