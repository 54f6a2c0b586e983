"""The registry: model versions, evaluations, and promotions per endpoint, in append-only tables.

An endpoint serves its newest promotion; earlier rows say what was in production at a time. Promotions have unique
numbers within an endpoint ("assistant#3"), so one of two concurrent changes is refused. A model file is stored before
its record and the record before its edges; `complete_edges` adds edges that are missing after a crash. An adapter is
stored twice: as GGUF for our own engine, and in its own format (PEFT) for engines on accelerators.
"""

import difflib
import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

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
from archwright.engines.model_files import compute_digest, copy_synced, missing_model_error, open_scratch
from archwright.errors import ErrorLocation, ModelError, from_os_error
from archwright.home import Home
from archwright.lake.tables import version_index
from archwright.lifecycle import adapter_export, model_formats
from archwright.monitor import lineage
from archwright.store import ConflictError, RecordTable, Store
from archwright.training.trainer import TrainedArtefact

MODELS = RecordTable("model_versions", ModelVersion, unique=("name", "version"), index=("id", "run"))
EVALUATIONS = RecordTable("evaluations", Evaluation, unique=("id",), index=("model",))
PROMOTIONS = RecordTable("promotions", Promotion, unique=("id",), index=("endpoint",))

NOT_STATED = "not stated"
Relation = Literal["produced-by", "trained-on"]


class StoredArtefact(NamedTuple):
    """The stored files of a trained artefact, by their digests; `peft_sha256` is empty for a classifier."""

    trained: TrainedArtefact
    form: ModelFormat
    sha256: str
    size_bytes: int
    peft_sha256: str = ""


def list_models(store: Store) -> list[ModelVersion]:
    """All versions, oldest first."""
    return store.rows(MODELS)


def find_model(store: Store, name: str) -> ModelVersion:
    """A version by its id ("assistant@v2"), or the newest version of a name. Raises ModelError AW-MOD-10."""
    versions = store.rows(MODELS, {"name": name.partition("@")[0]})
    for version in reversed(versions):
        if name in (version.id, version.name):
            return version
    known = [version.id for version in (versions or list_models(store))]
    hint = f"use one of: {', '.join(known[-5:])}" if known else "train a model: archwright train SPEC"
    near = tuple(difflib.get_close_matches(name, known, 3, 0.3))
    message = f"no model version called {name!r}"
    raise ModelError("AW-MOD-10", message, where=ErrorLocation(field=name), hint=hint, nearest=near)


def newest_evaluation(store: Store, model: str) -> Evaluation | None:
    """The newest evaluation of the version with the id `model`, None without an evaluation."""
    found = store.rows(EVALUATIONS, {"model": model}, newest_first=True, limit=1)
    return found[0] if found else None


def promotion_history(store: Store, endpoint: str | None = None) -> list[Promotion]:
    """All promotions and rollbacks, oldest first, of one endpoint or of all."""
    return store.rows(PROMOTIONS, None if endpoint is None else {"endpoint": endpoint})


def production_versions(store: Store, at: float | None = None) -> dict[str, ModelVersion]:
    """Endpoint -> version in production at `at` (default: now); without the plan's own models."""
    standing: dict[str, str | None] = {}
    for change in promotion_history(store):
        if at is None or change.at <= at:
            standing[change.endpoint] = change.model
    served = {version.id: version for version in list_models(store)}
    return {endpoint: served[model] for endpoint, model in standing.items() if model is not None}


def find_rival(store: Store, model: ModelVersion) -> ModelVersion | None:
    """The version in production that `model` would replace; None if there is none, or if it is `model` itself."""
    production = production_versions(store).get(model.name)
    if production is None or production.id == model.id:
        return None
    return production


def get_id(version: ModelVersion | None) -> str:
    """The version's id; empty for none."""
    if version is None:
        return ""
    return version.id


def append_promotion(
    store: Store,
    seen: Sequence[Promotion],
    action: Literal["promote", "rollback"],
    change_to: tuple[str, str | None],
    by: str,
    reason: str = "",
) -> Promotion:
    """Append a change to `change_to` = (endpoint, version's id or None); `seen` is the whole history.

    Raises ModelError AW-MOD-20 if the endpoint changed after `seen` was read; nothing is appended then.
    """
    endpoint, model = change_to
    before = seen[-1] if seen else None
    made = Promotion(
        id=next_promotion_id(endpoint, seen),
        # Setting back the clock must not reorder the history.
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
        other = f"{newest.by} (to {newest.model or 'the plan'})"
        message = f"the model of {endpoint} was changed at the same time by {other}"
        hint = f"run `archwright models history {endpoint}`, then repeat the change if it is still right"
        raise ModelError("AW-MOD-20", message, where=ErrorLocation(field=newest.id), hint=hint) from error
    return made


def next_promotion_id(endpoint: str, seen: Sequence[Promotion]) -> str:
    """The id of the change that follows `seen`, the endpoint's whole history."""
    return f"{endpoint}#{len(seen) + 1}"


def register_model(store: Store, home: Home, run: TrainingRun, result: TrainedArtefact) -> ModelVersion:
    """The model version of a finished run, created or completed after an interrupted call.

    Raises ModelError AW-MOD-01 to -04 (not exportable), MissingError AW-GET-02 (no base file), OperateError AW-OPS-01
    (disk full); nothing is registered then.
    """
    version = next(iter(store.rows(MODELS, {"run": run.id}, limit=1)), None)
    if version is None or find_missing_file(home, version) is not None:
        version = _append_version(store, home, run, _store_artefact(home, run, result))
    complete_edges(store, version)
    return version


def locate_files(home: Home, version: ModelVersion) -> dict[Path, str]:
    """The registered digest of each file and folder of a version, by its path in the home."""
    files = {home.model(version.sha256, version.format): version.sha256}
    if version.peft_sha256:
        files[home.model_folder(version.peft_sha256)] = version.peft_sha256
    return files


def find_missing_file(home: Home, version: ModelVersion) -> Path | None:
    """The first file or folder of a version that is not in the home."""
    for path in locate_files(home, version):
        if not path.exists():
            return path
    return None


def _store_artefact(home: Home, run: TrainingRun, result: TrainedArtefact) -> StoredArtefact:
    folder = home.run(run.id) / "result"
    if run.task != "text-lora":
        model_formats.check_format(folder / result.file)
        return StoredArtefact(result, result.format, *store_file(home, folder / result.file, result.format))
    base = home.model(run.base_sha256)
    if not base.is_file():
        raise missing_model_error(run.base, base)
    try:
        with open_scratch(home, time.time()) as scratch:
            exported = scratch / "adapter.gguf"
            adapter_export.export_adapter(base, folder, exported)
            sha256, size_bytes = store_file(home, exported, "gguf")
            peft_sha256 = _store_adapter(home, folder, scratch / "peft")
    except OSError as error:
        raise from_os_error(error) from error
    return StoredArtefact(result, "gguf", sha256, size_bytes, peft_sha256)


def _store_adapter(home: Home, source: Path, staged: Path) -> str:
    """Copy an adapter in its own format into the home's models under its digest, by the new folder `staged`."""
    staged.mkdir(mode=0o700)
    for name in adapter_export.PEFT_FILES:
        with (source / name).open("rb") as file:
            copy_synced(file, staged / name)
    sha256 = compute_digest(staged)
    target = home.model_folder(sha256)
    try:
        os.replace(staged, target)
    except OSError:
        if not target.is_dir():  # else it was stored before
            raise
    return sha256


def store_file(home: Home, source: Path, form: str) -> tuple[str, int]:
    """Copy a file atomically into the home's models under its digest: (digest, bytes)."""
    try:
        with open_scratch(home, time.time()) as scratch:
            copied = scratch / "model"
            shutil.copyfile(source, copied)
            with copied.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
                size_bytes = file.tell()
            os.replace(copied, home.model(sha256, form))
    except OSError as error:
        raise from_os_error(error) from error
    return sha256, size_bytes


def _append_version(store: Store, home: Home, run: TrainingRun, stored: StoredArtefact) -> ModelVersion:
    """The run's version, else a new version. Retries if another process takes the number."""
    data = version_index.find_version(store, run.dataset_version).licence or NOT_STATED
    parts = [f"data {run.dataset_version}: {data}"]
    if run.base_sha256:
        stated = read_gguf(home.model(run.base_sha256)).values.get("general.license") or NOT_STATED
        parts.append(f"base {run.base}: {stated}")
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
            format=stored.form,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            run=run.id,
            dataset_version=run.dataset_version,
            base=run.base,
            base_sha256=run.base_sha256,
            peft_sha256=stored.peft_sha256,
            licence="; ".join(parts),
            labels=stored.trained.labels,
            input_shape=stored.trained.input_shape,
        )
        try:
            store.append(MODELS, [made])
        except ConflictError:
            continue
        return made


def complete_edges(store: Store, version: ModelVersion) -> None:
    """Append missing edges of a version, for example after a crash between its record and its edges."""
    model, run = format_node("model", version.id), format_node("run", version.run)
    dataset = format_node("dataset", version.dataset_version)
    wanted: tuple[tuple[str, str, Relation], ...] = (
        (model, run, "produced-by"),
        (model, dataset, "trained-on"),
        (run, dataset, "trained-on"),
    )
    present = {(edge.child, edge.parent) for child in (model, run) for edge in lineage.read_parents(store, child)}
    now, missing = time.time(), [edge for edge in wanted if edge[:2] not in present]
    lineage.append_edges(store, [LineageEdge(at=now, child=c, parent=p, relation=r) for c, p, r in missing])
