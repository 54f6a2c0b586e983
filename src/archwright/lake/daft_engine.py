"""Adapter of the data-frame engine: Daft, on this machine's cores or on a Ray cluster.

Batches enter and leave as Arrow, so the engine can be replaced. Steps (`recipe_steps`) are mapped over batches; only
finding the first row of each key needs all batches and is done by the engine.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from archwright import settings
from archwright.contract.lineage import DatasetVersion
from archwright.errors import missing_extra
from archwright.home import Home
from archwright.lake import ray_cluster
from archwright.lake.formats.column_names import RESERVED_PREFIX
from archwright.lake.lazy_modules import pa
from archwright.lake.steps.row_status import CHANGES, DUPLICATE_KEY, FIRST_POSITION, ROW_POSITION, TEXT_COLUMNS
from archwright.lake.tables import iceberg_tables

Runner = Literal["native", "ray"]
BatchStep = Callable[[Any], Any]
"""Maps an Arrow batch to an Arrow batch with as many rows; picklable."""
BATCH_ROWS = 8192
BATCH_BYTES = 8 * 1024 * 1024


def load_daft(runner: Runner = "native") -> Any:
    """The engine without telemetry; a process chooses its runner once."""
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
    """The rows of a version with empty status columns, valid within the block.

    Batches hold at most BATCH_BYTES and files are read one by one; the engine's defaults are 131,072 rows and eight
    files. Raises DataError AW-DATA-11 (not in the lake), OperateError AW-OPS-60 or -61 (cluster unusable).
    """
    engine = load_daft(runner)
    if runner == "ray":
        ray_cluster.check_home(ray_cluster.import_ray("work on a cluster"), home)
    table, snapshot = iceberg_tables.find_snapshot(home, version)
    made = engine.read_iceberg(table, snapshot_id=snapshot).select(*version.columns)
    text = engine.DataType.string()
    unset = {name: engine.lit(None).cast(text) for name in TEXT_COLUMNS}
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, iceberg_tables.mean_row_bytes(home, version))))
    with engine.execution_config_ctx(default_morsel_size=rows, scantask_max_parallel=1, maintain_order=False):
        yield made.with_columns({**unset, CHANGES: engine.lit(None).cast(engine.DataType.list(text))})


def map_batches(rows: Any, step: BatchStep, adds: Mapping[str, str] | None = None, drops: tuple[str, ...] = ()) -> Any:
    """Apply `step`, which `adds` columns (name to "string" or "binary") and `drops` columns, to every batch."""
    import daft as engine  # noqa: PLC0415

    names = rows.column_names
    types = {field.name: field.dtype for field in rows.schema()}
    types |= {name: getattr(engine.DataType, kind)() for name, kind in (adds or {}).items()}
    struct = engine.DataType.struct({name: kind for name, kind in types.items() if name not in drops})
    over = engine.func.batch(return_dtype=struct, unnest=True)(_BatchFunction(step, names))
    return rows.select(over(*(engine.col(name) for name in names)))


@dataclass
class _BatchFunction:
    """A step in the form that the engine calls: columns in, a struct of columns out."""

    step: BatchStep
    names: list[str]
    __name__ = "step"

    def __call__(self, *columns: Any) -> Any:
        batch = pa.RecordBatch.from_arrays([column.to_arrow() for column in columns], names=self.names)
        made = self.step(batch)
        return pa.StructArray.from_arrays(made.columns, names=made.schema.names)


def add_first_position(rows: Any) -> Any:
    """Add FIRST_POSITION: the least ROW_POSITION of rows with the same key, null for a unique key."""
    import daft as engine  # noqa: PLC0415

    key, place, count = engine.col(DUPLICATE_KEY), engine.col(ROW_POSITION), RESERVED_PREFIX + "count"
    keyed = rows.where(key.not_null()).select(DUPLICATE_KEY, ROW_POSITION)
    groups = keyed.groupby(DUPLICATE_KEY).agg(place.min().alias(FIRST_POSITION), place.count().alias(count))
    # Collected: only keys that occur twice are held in memory, and the small side of the join is ready.
    twice = groups.where(engine.col(count) > 1).select(DUPLICATE_KEY, FIRST_POSITION).collect()
    return rows.join(twice, on=DUPLICATE_KEY, how="left")


def stream_batches(rows: Any) -> Iterator[Any]:
    """Yield batches of the rows in any order; the engine computes at most one batch ahead."""
    yield from rows.to_arrow_iter(results_buffer_size=1)
