"""The one place that knows the data-frame engine: Daft, on this machine's cores or on a Ray cluster.

A frame is made of a version, steps (`recipe_steps`) are mapped over it batch by batch, and the result is streamed out.
Rows come and go as Arrow, so that another engine could stand here. The one thing the engine does by itself is finding
the first row of each key, over all batches and machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from archwright import settings
from archwright.contract.lineage import DatasetVersion
from archwright.errors import missing_extra
from archwright.home import Home
from archwright.lake import iceberg_tables, ray_cluster, row_status
from archwright.lake.column_names import RESERVED_PREFIX

Runner = Literal["native", "ray"]
BatchStep = Callable[[Any], Any]
"""An Arrow batch into an Arrow batch with as many rows; picklable."""
BATCH_ROWS = 8192
BATCH_BYTES = 8 * 1024 * 1024


def load_daft(runner: Runner = "native") -> Any:
    """The engine, quiet and private, with its runner chosen (once in a process)."""
    settings.disable_telemetry()
    try:
        import daft as engine  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra("lake", "daft", "refining a data set") from error
    chosen = engine.get_or_infer_runner_type()
    if chosen != runner and runner == "native":
        engine.set_runner_native()
    elif chosen != runner:
        ray_cluster.join_cluster(ray_cluster.import_ray("work on a cluster"), settings.load().ray_address, {})
        engine.set_runner_ray()
    return engine


@contextmanager
def open_frame(home: Home, version: DatasetVersion, runner: Runner = "native") -> Iterator[Any]:
    """The rows of a version with unset marks, to be worked on within the block. Raises DataError AW-DATA-11 when the
    lake does not hold it, OperateError AW-OPS-60 or AW-OPS-61 when a cluster is not there or does not see the home.

    The engine's own batches have 131,072 rows and it reads eight files at once, however long the rows are: within the
    block it takes as many rows as BATCH_BYTES hold, from one file after the other.
    """
    engine = load_daft(runner)
    if runner == "ray":
        ray_cluster.check_home(ray_cluster.import_ray("work on a cluster"), home)
    table, snapshot = iceberg_tables.find_snapshot(home, version)
    made = engine.read_iceberg(table, snapshot_id=snapshot).select(*version.columns)
    text = engine.DataType.string()
    unset = {name: engine.lit(None).cast(text) for name in row_status.TEXT_COLUMNS}
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, iceberg_tables.mean_row_bytes(home, version))))
    with engine.execution_config_ctx(default_morsel_size=rows, scantask_max_parallel=1, maintain_order=False):
        yield made.with_columns({**unset, row_status.CHANGES: engine.lit(None).cast(engine.DataType.list(text))})


def map_batches(rows: Any, step: BatchStep, adds: Mapping[str, str] | None = None, drops: tuple[str, ...] = ()) -> Any:
    """`step` over every batch; it `adds` columns (name to "string" or "binary") and takes `drops` away."""
    engine = _import_daft()
    names = rows.column_names
    types = {field.name: field.dtype for field in rows.schema()}
    types |= {name: getattr(engine.DataType, kind)() for name, kind in (adds or {}).items()}
    wanted = {name: kind for name, kind in types.items() if name not in drops}
    struct = engine.DataType.struct(wanted)
    over = engine.func.batch(return_dtype=struct, unnest=True)(_BatchFunction(step, names))
    return rows.select(over(*(engine.col(name) for name in names)))


class _BatchFunction:
    """A step as the engine calls it: columns in, a struct of columns out."""

    __name__ = "step"

    def __init__(self, step: BatchStep, names: list[str]) -> None:
        self._step = step
        self._names = names

    def __call__(self, *columns: Any) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        batch = pa.RecordBatch.from_arrays([column.to_arrow() for column in columns], names=self._names)
        made = self._step(batch)
        return pa.StructArray.from_arrays(made.columns, names=made.schema.names)


def add_first_position(rows: Any) -> Any:
    """Add FIRST: of every row whose KEY others have too, the least PLACE among them; null elsewhere."""
    engine = _import_daft()
    key, place, count = (
        engine.col(row_status.DUPLICATE_KEY),
        engine.col(row_status.ROW_POSITION),
        RESERVED_PREFIX + "count",
    )
    keyed = rows.where(key.not_null()).select(row_status.DUPLICATE_KEY, row_status.ROW_POSITION)
    groups = keyed.groupby(row_status.DUPLICATE_KEY).agg(
        place.min().alias(row_status.FIRST_POSITION), place.count().alias(count)
    )
    # Collected: only keys that occur twice are held, and the join has its small side ready.
    twice = groups.where(engine.col(count) > 1).select(row_status.DUPLICATE_KEY, row_status.FIRST_POSITION).collect()
    return rows.join(twice, on=row_status.DUPLICATE_KEY, how="left")


def stream_batches(rows: Any) -> Iterator[Any]:
    """The rows as they come, in any order; the engine never runs far ahead of who reads them."""
    yield from rows.to_arrow_iter(results_buffer_size=1)


def _import_daft() -> Any:
    import daft as engine  # noqa: PLC0415

    return engine
