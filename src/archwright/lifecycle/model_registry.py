"""The registry: model versions, their evaluations, and what each endpoint serves; every table only grows.

What an endpoint serves is the newest of its promotions, so "what was in production at T" is a question to the same
rows. A promotion is numbered within its endpoint ("assistant#3") and the number is unique: of two changes decided on
the same state one is refused, and the history has no forks. A model file is in the home before its record is; the
record is there before its edges, which every later look completes.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from archwright.contract.lineage import (
    Evaluation,
    LineageEdge,
    ModelFormat,
    ModelVersion,
    Promotion,
    TrainingRun,
    format_node,
)
from archwright.engines.gguf import read_gguf
from archwright.engines.model_files import missing_model_error
from archwright.errors import ErrorLocation, ModelError, from_os_error
from archwright.home import Home
from archwright.lake import version_index
from archwright.lifecycle import adapter_export, model_formats
from archwright.monitor import lineage
from archwright.store import ConflictError, RecordTable, Store
from archwright.training.trainer import TrainedArtefact

MODELS = RecordTable("model_versions", ModelVersion, unique=("name", "version"), index=("id", "run"))
EVALUATIONS = RecordTable("evaluations", Evaluation, unique=("id",), index=("model",))
PROMOTIONS = RecordTable("promotions", Promotion, unique=("id",), index=("endpoint",))

PIECE_BYTES = 1 << 20
LEFTOVER_PREFIX = ".model-"
ABANDONED_AFTER_S = 24 * 3600.0
NOT_STATED = "not stated"
Relation = Literal["produced-by", "trained-on"]


def list_models(store: Store) -> list[ModelVersion]:
    """Every version, oldest first."""
    return store.rows(MODELS)


def find_model(store: Store, name: str) -> ModelVersion:
    """A version by its id ("assistant@v2"), or the newest of a name. Raises ModelError AW-MOD-10."""
    base, _, _ = name.partition("@")
    versions = store.rows(MODELS, {"name": base})
    for version in reversed(versions):
        if name in (version.id, version.name):
            return version
    known = [version.id for version in (versions or list_models(store))]
    hint = f"known: {', '.join(known[-5:])}" if known else "train one: archwright train SPEC"
    raise ModelError(
        "AW-MOD-10",
        f"no model version called {name!r}",
        where=ErrorLocation(field=name),
        hint=hint,
        nearest=tuple(difflib.get_close_matches(name, known, 3, 0.3)),
    )


def find_by_run(store: Store, run: str) -> ModelVersion | None:
    """The version a training run became, if it did."""
    found = store.rows(MODELS, {"run": run}, limit=1)
    return found[0] if found else None


def newest_evaluation(store: Store, model: str) -> Evaluation | None:
    """The newest evaluation of a version, by its id; None when it was never evaluated."""
    found = store.rows(EVALUATIONS, {"model": model}, newest_first=True, limit=1)
    return found[0] if found else None


def promotion_history(store: Store, endpoint: str | None = None) -> list[Promotion]:
    """Every change of what is served, oldest first: of one endpoint, or of all."""
    return store.rows(PROMOTIONS, None if endpoint is None else {"endpoint": endpoint})


def production_versions(store: Store, at: float | None = None) -> dict[str, ModelVersion]:
    """Endpoint -> the version in production at that time, now by default. An endpoint that was rolled back to the
    plan's own model is not among them."""
    standing: dict[str, str | None] = {}
    for change in promotion_history(store):
        if at is None or change.at <= at:
            standing[change.endpoint] = change.model
    served = {version.id: version for version in list_models(store)}
    return {endpoint: served[model] for endpoint, model in standing.items() if model is not None}


def append_promotion(
    store: Store,
    seen: Sequence[Promotion],
    action: Literal["promote", "rollback"],
    change_to: tuple[str, str | None],
    by: str,
    reason: str = "",
) -> Promotion:
    """Append what is decided for `change_to` = (endpoint, version's id or None), given `seen`, its whole history.

    Raises ModelError AW-MOD-20 when the endpoint changed since `seen` was read: then nothing was appended.
    """
    endpoint, model = change_to
    before = seen[-1] if seen else None
    made = Promotion(
        id=next_promotion_id(endpoint, seen),
        # A clock that was set back must not reorder the history.
        at=max(time.time(), before.at if before else 0.0),
        action=action,
        endpoint=endpoint,
        model=model,
        previous=before.model if before else None,
        by=by,
        reason=reason,
    )
    try:
        store.append(PROMOTIONS, [made])
    except ConflictError as error:
        newest = promotion_history(store, endpoint)[-1]
        raise ModelError(
            "AW-MOD-20",
            f"what {endpoint} serves was changed at the same moment by {newest.by} (to {newest.model or 'the plan'})",
            where=ErrorLocation(field=newest.id),
            hint=f"look at `archwright models history {endpoint}`, then decide again",
        ) from error
    return made


def next_promotion_id(endpoint: str, seen: Sequence[Promotion]) -> str:
    """The id of the change after `seen`, the endpoint's whole history."""
    return f"{endpoint}#{len(seen) + 1}"


def register_model(store: Store, home: Home, run: TrainingRun, result: TrainedArtefact) -> ModelVersion:
    """The model version of a finished run, made now if it is not there yet; its file and its edges are complete when
    this returns, however often an earlier call was broken off.

    Raises ModelError AW-MOD-01 to -04 for an artefact that cannot be exported, MissingError AW-GET-02 when the base's
    file is gone, OperateError AW-OPS-01 when the disk is full: then nothing is registered.
    """
    version = find_by_run(store, run.id)
    if version is None or not home.model(version.sha256, version.format).is_file():
        version = _append_version(store, home, run, (result, *_store_artefact(home, run, result)))
    complete_edges(store, version)
    return version


def _store_artefact(home: Home, run: TrainingRun, result: TrainedArtefact) -> tuple[ModelFormat, str, int]:
    """Bring what is served into the home's models: (format, digest, bytes)."""
    folder = home.run(run.id) / "result"
    if run.task != "text-lora":
        model_formats.check_format(folder / result.file)
        return result.format, *store_file(home, folder / result.file, result.format)
    base = home.model(run.base_sha256)
    if not base.is_file():
        raise missing_model_error(run.base, base)
    exported = home.folder("models") / f"{LEFTOVER_PREFIX}{run.id}"
    try:
        adapter_export.export_adapter(base, folder, exported)
        return "gguf", *store_file(home, exported, "gguf")
    finally:
        exported.unlink(missing_ok=True)


def store_file(home: Home, source: Path, form: str) -> tuple[str, int]:
    """Copy a file into the home's models under its digest, whole or not at all: (digest, bytes)."""
    folder = home.folder("models")
    _remove_leftovers(folder)
    digest, size_bytes = hashlib.sha256(), 0
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=LEFTOVER_PREFIX)
        try:
            with os.fdopen(handle, "wb") as sink, source.open("rb") as data:
                while piece := data.read(PIECE_BYTES):
                    digest.update(piece)
                    size_bytes += sink.write(piece)
                sink.flush()
                os.fsync(sink.fileno())
            os.replace(name, home.model(digest.hexdigest(), form))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise from_os_error(error) from error
    return digest.hexdigest(), size_bytes


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed registration left; a running one is younger."""
    for left in folder.glob(f"{LEFTOVER_PREFIX}*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > ABANDONED_AFTER_S:
                left.unlink()


def _append_version(
    store: Store, home: Home, run: TrainingRun, artefact: tuple[TrainedArtefact, ModelFormat, str, int]
) -> ModelVersion:
    """The version of this run: the one that is there, else the next number. Whoever loses the race for a number looks
    again, and finds its own run's version if that is what won."""
    result, form, sha256, size_bytes = artefact
    licence = _describe_licence(store, home, run)
    while True:
        versions_of_name = store.rows(MODELS, {"name": run.name})
        for version in versions_of_name:
            if version.run == run.id:
                return version
        number = max((version.version for version in versions_of_name), default=0) + 1
        made = ModelVersion(
            id=f"{run.name}@v{number}",
            name=run.name,
            version=number,
            at=time.time(),
            task=run.task,
            format=form,
            sha256=sha256,
            size_bytes=size_bytes,
            run=run.id,
            dataset_version=run.dataset_version,
            base=run.base,
            base_sha256=run.base_sha256,
            licence=licence,
            labels=result.labels,
            input_shape=result.input_shape,
        )
        try:
            store.append(MODELS, [made])
        except ConflictError:
            continue
        return made


def _describe_licence(store: Store, home: Home, run: TrainingRun) -> str:
    """What the version is bound by: the licence of the data and, for an adapter, of the base as its file states it."""
    data = version_index.find_version(store, run.dataset_version).licence or NOT_STATED
    parts = [f"data {run.dataset_version}: {data}"]
    if run.base_sha256:
        stated = read_gguf(home.model(run.base_sha256)).values.get("general.license") or NOT_STATED
        parts.append(f"base {run.base}: {stated}")
    return "; ".join(parts)


def complete_edges(store: Store, version: ModelVersion) -> None:
    """Append the edges of a version that are missing: its record came first, and a crash may lie between."""
    model, run, dataset = (
        format_node("model", version.id),
        format_node("run", version.run),
        format_node("dataset", version.dataset_version),
    )
    wanted: tuple[tuple[str, str, Relation], ...] = (
        (model, run, "produced-by"),
        (model, dataset, "trained-on"),
        (run, dataset, "trained-on"),
    )
    present = {(edge.child, edge.parent) for child in (model, run) for edge in lineage.read_parents(store, child)}
    now = time.time()
    lineage.append_edges(
        store,
        [LineageEdge(at=now, child=c, parent=p, relation=r) for c, p, r in wanted if (c, p) not in present],
    )
