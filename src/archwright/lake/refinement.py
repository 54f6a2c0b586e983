"""Refine a version into a version of another data set by a recipe, and record drops and changes.

The same recipe on the same version returns the existing version. A record keeps its id, so a row can be traced from
its file to the training set; altered values are part of the version's content digest.
"""

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
from archwright.lake import daft_engine, recipe
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS, arrow_schema
from archwright.lake.ingestion import check_dataset_name
from archwright.lake.lazy_modules import pa, pc
from archwright.lake.steps import row_status
from archwright.lake.tables import version_index
from archwright.lake.tables.content_digest import ContentDigest
from archwright.lake.tables.dataset_lock import lock_dataset
from archwright.lake.tables.iceberg_tables import DataFileWriter, TableChange, draft_version
from archwright.lake.tables.rejects_file import RejectsWriter, open_rejects_file
from archwright.store import Store


class DroppedRow(Record):
    """A dropped row; `kept` is the record that a duplicate repeats."""

    record_id: str
    step: str
    reason: str
    kept: str | None = None


class RefineResult(NamedTuple):
    """`new` is False if the recipe was applied to this version before."""

    version: DatasetVersion
    new: bool


class RefineRequest(NamedTuple):
    recipe: recipe.Recipe
    runner: daft_engine.Runner = "native"
    now: Callable[[], float] = time.time


def drops_path(home: Home, dataset: str, version: int) -> Path:
    return home.folder("lake", "drops", dataset) / f"v{version}.jsonl"


def refine_dataset(home: Home, store: Store, request: RefineRequest) -> RefineResult:
    """Raises DataError AW-DATA-10 (no such source), -23 (invalid target), -24 (no row left)."""
    wanted = request.recipe
    check_dataset_name(wanted.into)
    source = version_index.find_version(store, wanted.source)
    if source.dataset == wanted.into:
        raise _target_conflict_error(wanted.into, "a recipe cannot refine a data set into itself")
    with lock_dataset(home, wanted.into):
        version_index.repair_index(home, store, wanted.into)
        previous = version_index.newest_version(store, wanted.into)
        if previous is not None and previous.action != "refine":
            message = f"{previous.id} was ingested from files, so a recipe cannot write into it"
            raise _target_conflict_error(wanted.into, message)
        text = recipe.encode_steps(wanted)
        for version in store.rows(version_index.VERSIONS, {"dataset": wanted.into}):
            if version.parent == source.id and version.recipe == text:
                return RefineResult(version, False)
        version = _write_version(home, request, source, previous)
        version_index.register_version(home, store, version)
        return RefineResult(version, True)


def _target_conflict_error(name: str, message: str) -> DataError:
    hint = "choose another name for `into`"
    return DataError("AW-DATA-23", message, where=ErrorLocation(None, None, name), hint=hint)


def _write_version(
    home: Home, request: RefineRequest, source: DatasetVersion, previous: DatasetVersion | None
) -> DatasetVersion:
    number = previous.version + 1 if previous else 1
    change = TableChange(dataset=request.recipe.into, version=number, columns=source.columns, rewrite=True)
    path = drops_path(home, change.dataset, change.version)
    with open_rejects_file(path) as rejects, draft_version(home, change) as draft:
        sink = _RowSink(rejects, source.columns, draft.writer)
        with daft_engine.open_frame(home, source, request.runner) as rows:
            for batch in daft_engine.stream_batches(recipe.apply_recipe(request.recipe, source.columns, rows)):
                sink.write_batch(batch)
        if not sink.content.rows:
            message = f"no row is left: {', '.join(f'{count} {reason}' for reason, count in sink.drops.items())}"
            hint = "relax the steps of the recipe; nothing was changed"
            raise DataError("AW-DATA-24", message, where=ErrorLocation(None, None, source.id), hint=hint)
        rejects.commit()
        digest = sink.content.hexdigest()
        version = DatasetVersion(
            id=f"{change.dataset}@v{change.version}",
            dataset=change.dataset,
            version=change.version,
            at=request.now(),
            action="refine",
            parent=source.id,
            rows=sink.content.rows,
            size_bytes=draft.stage(digest),
            columns=source.columns,
            drops=dict(sorted(sink.drops.items())),
            changes=dict(sorted(sink.changes.items())),
            files=source.files,
            content_sha256=digest,
            licence=source.licence,
            recipe=recipe.encode_steps(request.recipe),
        )
        version_index.commit_version(home, draft, version)
    return version


class _RowSink:
    """Writes the engine's rows: kept rows to the table, dropped rows to the list of drops."""

    def __init__(self, rejects: RejectsWriter, columns: dict[str, str], writer: DataFileWriter) -> None:
        self._rejects = rejects
        self._schema = arrow_schema(columns)
        self._texts = [name for name, kind in columns.items() if kind == "text" and name not in SYSTEM_COLUMNS]
        self._writer = writer
        self.content = ContentDigest()
        self.drops: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()

    def write_batch(self, batch: Any) -> None:
        out = pc.is_valid(batch.column(row_status.DROP_STEP))
        names = ("record_id", row_status.DROP_STEP, row_status.DROP_REASON, row_status.DUPLICATE_OF)
        dropped = batch.filter(out)
        for record, step, reason, twin in zip(*(dropped.column(name).to_pylist() for name in names), strict=True):
            self._rejects.write(DroppedRow(record_id=record, step=step, reason=reason, kept=twin))
            self.drops[f"{step}: {reason}"] += 1
        kept = batch.filter(pc.invert(out))
        self.changes.update(pc.list_flatten(kept.column(row_status.CHANGES)).to_pylist())
        self.content.add(self._content_ids(kept))
        arrays = [kept.column(field.name).cast(field.type) for field in self._schema]
        self._writer.write(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def _content_ids(self, kept: Any) -> Any:
        """The ids for the content digest; the id of an altered row covers its record id and its current texts."""
        altered = pc.is_valid(kept.column(row_status.CHANGES))
        if not pc.any(altered).as_py():
            return kept.column("record_id")
        rows = kept.filter(altered).select(["record_id", *self._texts]).to_pylist()
        new = [hashlib.sha256(msgspec.json.encode(list(row.values()))).hexdigest() for row in rows]
        return pc.replace_with_mask(kept.column("record_id"), altered, pa.array(new, kept.column("record_id").type))
