"""A version of a data set into a version of another, by a recipe: every drop and every change accounted for.

The same recipe on the same version gives the version there is already. A record keeps its id, so that a row can be
followed from the file to the training set; what it holds now is in the version's content digest.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archwright.contract.lineage import DatasetVersion
from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home
from archwright.lake import daft_engine, iceberg_tables, recipe, row_status, version_index
from archwright.lake.column_kinds import SYSTEM_COLUMNS, arrow_schema
from archwright.lake.content_digest import ContentDigest
from archwright.lake.dataset_lock import lock_dataset
from archwright.lake.ingestion import check_dataset_name
from archwright.lake.rejects_file import RejectsWriter, open_rejects_file
from archwright.store import Store


class DroppedRow(Record):
    """A row that did not come along; `kept` is the record that stands for it, of a duplicate."""

    record_id: str
    step: str
    reason: str
    kept: str | None = None


class RefineResult(NamedTuple):
    """`new` is False when this recipe had been applied to this version before."""

    version: DatasetVersion
    new: bool


class RefineRequest(NamedTuple):
    """What to do, where the engine runs; `now` is the clock."""

    recipe: recipe.Recipe
    runner: daft_engine.Runner = "native"
    now: Callable[[], float] = time.time


def drops_path(home: Home, dataset: str, version: int) -> Path:
    return home.folder("lake", "drops", dataset) / f"v{version}.jsonl"


def refine_dataset(home: Home, store: Store, order: RefineRequest) -> RefineResult:
    """Apply the recipe. Raises DataError: AW-DATA-10 (no such source), 23 (into itself or an ingested data set), 24
    (nothing left)."""
    wanted = order.recipe
    check_dataset_name(wanted.into)
    source = version_index.find_version(store, wanted.source)
    if source.dataset == wanted.into:
        raise _target_conflict_error(wanted.into, "a recipe cannot refine a data set into itself")
    with lock_dataset(home, wanted.into):
        version_index.repair_index(home, store, wanted.into)
        previous = version_index.newest_version(store, wanted.into)
        if previous is not None and previous.action != "refine":
            raise _target_conflict_error(
                wanted.into, f"{previous.id} was ingested from files, a recipe does not write over it"
            )
        text = recipe.encode_steps(wanted)
        for version in store.rows(version_index.VERSIONS, {"dataset": wanted.into}):
            if version.parent == source.id and version.recipe == text:
                return RefineResult(version, False)
        version = _write_version(home, order, source, previous)
        version_index.register_version(home, store, version)
        return RefineResult(version, True)


def _target_conflict_error(name: str, message: str) -> DataError:
    return DataError(
        "AW-DATA-23", message, where=ErrorLocation(None, None, name), hint="choose another name for `into`"
    )


def _write_version(
    home: Home, order: RefineRequest, source: DatasetVersion, previous: DatasetVersion | None
) -> DatasetVersion:
    change = iceberg_tables.TableChange(
        dataset=order.recipe.into,
        version=previous.version + 1 if previous else 1,
        columns=source.columns,
        rewrite=True,
    )
    path = drops_path(home, change.dataset, change.version)
    with open_rejects_file(path) as aside, iceberg_tables.draft_version(home, change) as draft:
        sink = _RowSink(aside, source.columns, draft.writer)
        with daft_engine.open_frame(home, source, order.runner) as rows:
            for batch in daft_engine.stream_batches(recipe.apply_recipe(order.recipe, source.columns, rows)):
                sink.write_batch(batch)
        if not sink.content.rows:
            raise _empty_result_error(source, sink)
        aside.commit()
        version = DatasetVersion(
            id=f"{change.dataset}@v{change.version}",
            dataset=change.dataset,
            version=change.version,
            at=order.now(),
            action="refine",
            parent=source.id,
            rows=sink.content.rows,
            size_bytes=draft.stage(sink.content.hexdigest()),
            columns=source.columns,
            drops=dict(sorted(sink.drops.items())),
            changes=dict(sorted(sink.changes.items())),
            files=source.files,
            content_sha256=sink.content.hexdigest(),
            licence=source.licence,
            recipe=recipe.encode_steps(order.recipe),
        )
        version_index.write_version_record(home, version)
        draft.commit()
    return version


def _empty_result_error(source: DatasetVersion, sink: _RowSink) -> DataError:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sink.drops.items())
    hint = "loosen the recipe; nothing was changed"
    return DataError("AW-DATA-24", f"no row is left: {reasons}", where=ErrorLocation(None, None, source.id), hint=hint)


class _RowSink:
    """Takes the engine's rows: those that are in to the table, those that are out to the list of drops."""

    def __init__(self, aside: RejectsWriter, columns: dict[str, str], writer: iceberg_tables.DataFileWriter) -> None:
        self._aside = aside
        self._schema = arrow_schema(columns)
        self._texts = [name for name, kind in columns.items() if kind == "text" and name not in SYSTEM_COLUMNS]
        self._writer = writer
        self.content = ContentDigest()
        self.drops: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()

    def write_batch(self, batch: Any) -> None:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.compute as pc  # noqa: PLC0415

        out = pc.is_valid(batch.column(row_status.DROP_STEP))
        self._record_drops(batch.filter(out))
        kept = batch.filter(pc.invert(out))
        self.changes.update(pc.list_flatten(kept.column(row_status.CHANGES)).to_pylist())
        self.content.add(self._content_ids(kept))
        fields = list(self._schema)
        arrays = [kept.column(field.name).cast(field.type) for field in fields]
        self._writer.write(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def _record_drops(self, out: Any) -> None:
        names = ("record_id", row_status.DROP_STEP, row_status.DROP_REASON, row_status.DUPLICATE_OF)
        for record, step, reason, twin in zip(*(out.column(name).to_pylist() for name in names), strict=True):
            drop = DroppedRow(record_id=record, step=step, reason=reason, kept=twin)
            self._aside.write(drop)
            self.drops[f"{step}: {reason}"] += 1

    def _content_ids(self, kept: Any) -> Any:
        """What a row counts as in the content digest: its id, and with it what it holds now where it was altered."""
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.compute as pc  # noqa: PLC0415

        altered = pc.is_valid(kept.column(row_status.CHANGES))
        if not pc.any(altered).as_py():
            return kept.column("record_id")
        rows = kept.filter(altered).select(["record_id", *self._texts]).to_pylist()
        new = [hashlib.sha256(msgspec.json.encode(list(row.values()))).hexdigest() for row in rows]
        return pc.replace_with_mask(kept.column("record_id"), altered, pa.array(new, kept.column("record_id").type))
