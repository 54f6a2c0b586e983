"""Model files and versions: `models fetch`, `list`, `show`, `evaluate`, `promote`, `rollback`, `history`."""

import difflib
import os
import pwd
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from archwright import settings
from archwright.api.argument_errors import argument_error
from archwright.api.context import open_home, write_audit_record
from archwright.api.lineage_chain import build_chain
from archwright.api.model_files import ModelFile, list_model_files
from archwright.catalog.load import load_catalog
from archwright.contract.lineage import Evaluation, Gate, ModelVersion, Promotion, Score, SourceFile, format_node
from archwright.contract.record import Record, as_dict
from archwright.engines import model_files
from archwright.errors import ErrorLocation, ModelError
from archwright.home import Home, locate_home
from archwright.journal import report_step
from archwright.lifecycle import evaluation, model_formats, model_registry
from archwright.lifecycle import promotion as promotions
from archwright.operate import platform_control, rollout
from archwright.store import Store
from archwright.training.training_spec import PICKLE_SUFFIXES


class ListedVersion(ModelVersion):
    """A trained version. `here`: its file is in the home. `evaluated`: the result of its newest evaluation."""

    kind: Literal["version"] = "version"
    here: bool
    evaluated: Literal["never", "passed", "failed"]
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


class PromotionOutcome(Promotion):
    """A promotion or rollback. `served`: the running platform serves it now; without a running platform the next `up`
    serves it. With `dry_run` nothing was changed."""

    dry_run: bool
    served: bool


def fetch(name: str) -> ModelFile:
    """Fetch a model's file into the home under its digest, unless it is there already."""
    home = locate_home(settings.load())
    rows = load_catalog(home).artefacts
    if name not in rows:
        if Path(name).suffix.lower() in PICKLE_SUFFIXES:
            model_formats.refuse_pickle(Path(name))
        near = tuple(difflib.get_close_matches(name, rows, 3, 0.3))
        hint = f"use one of {', '.join(sorted(rows))}"
        raise argument_error("AW-USE-03", f"the catalog has no model file called {name!r}", "name", hint, near)
    if Path(rows[name].member).suffix.lower() in PICKLE_SUFFIXES:
        model_formats.refuse_pickle(Path(rows[name].member))
    here = home.model(rows[name].sha256).is_file()
    model_files.fetch_model(rows[name], home)
    if not here:
        with open_home() as (_settings, _home, store):
            write_audit_record(store, "models.fetch", rows[name].sha256)
    return next(model for model in list_model_files(home) if model.model == name)


def list() -> tuple[ModelFile | ListedVersion, ...]:  # noqa: A001 - the verb's name
    """Return every model file of the catalog, then every trained version, oldest first."""
    with open_home() as (_settings, home, store):
        served, versions = model_registry.production_versions(store), model_registry.list_models(store)
        listed = [_build_listed(store, home, version, served) for version in versions]
        return (*list_model_files(home), *listed)


def show(id: str) -> ModelCard | ModelFile:  # noqa: A002 - the argument's name
    """Return a version ("assistant@v2"; "assistant" for the newest) or a model file. Raises ModelError AW-MOD-10."""
    with open_home() as (_settings, home, store):
        for file in list_model_files(home):
            if id in (file.id, file.model):
                return file
        return _build_card(store, home, model_registry.find_model(store, id))


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

    Raises ModelError: AW-MOD-10 unknown, -27 never evaluated, -22 a gate failed, -23 its file is missing or damaged,
    -24 in production already, -25 the plan has no place for it, -20 the endpoint was changed meanwhile; OperateError
    AW-OPS-4x if the platform could not serve it and rolled back.
    """
    with open_home() as (_settings, home, store):
        model = model_registry.find_model(store, id)
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
        here=home.model(version.sha256, version.format).is_file(),
        evaluated="never" if found is None else "passed" if found.passed else "failed",
        in_production=served.get(version.name) == version,
    )


def _build_card(store: Store, home: Home, version: ModelVersion) -> ModelCard:
    model_registry.complete_edges(store, version)
    found = model_registry.newest_evaluation(store, version.id)
    listed = _build_listed(store, home, version, model_registry.production_versions(store))
    changes = model_registry.promotion_history(store, version.name)
    files = build_chain(store, format_node("model", version.id)).files
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
