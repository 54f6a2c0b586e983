"""Promote a version, or roll back an endpoint. No other module changes what is in production.

A promotion requires that the newest evaluation passed every gate and compared the version with what is in production
now, the file is undamaged, and the plan of this home can serve the version. A rollback requires only the file, since
its target was promoted before.
"""

from collections.abc import Sequence
from typing import Literal

from archwright.contract.lineage import Evaluation, ModelVersion, Promotion
from archwright.errors import ErrorLocation, ModelError
from archwright.home import Home
from archwright.lifecycle import file_integrity, model_placement, model_registry
from archwright.store import Store

EvaluationState = Literal["never", "passed", "failed", "outdated"]


def check_promotable(store: Store, home: Home, model: ModelVersion) -> list[Promotion]:
    """The endpoint's history, if the version may be promoted.

    Raises ModelError AW-MOD-24 (in production), -27 (not evaluated), -22 (gate failed), -28 (compared with another
    version than the one in production), -23 (its file), -25 (no place).
    """
    seen = model_registry.promotion_history(store, model.name)
    if seen and seen[-1].model == model.id:
        message = f"{model.id} is already in production"
        hint = f"see its history: archwright models history {model.name}"
        raise ModelError("AW-MOD-24", message, where=ErrorLocation(field=seen[-1].id), hint=hint)
    found = model_registry.newest_evaluation(store, model.id)
    again = f"archwright models evaluate {model.id}"
    if found is None:
        message = f"{model.id} cannot be promoted: it has no evaluation"
        raise ModelError("AW-MOD-27", message, where=ErrorLocation(field=model.id), hint=again)
    failed = [gate for gate in found.gates if not gate.passed]
    if failed or not found.gates:
        reasons = "; ".join(f"gate {gate.name}: {gate.detail}" for gate in failed) or "its evaluation has no gate"
        message = f"{model.id} cannot be promoted: {reasons}"
        hint = f"train a better version, or repeat the evaluation: {again}"
        raise ModelError("AW-MOD-22", message, where=ErrorLocation(field=f"evaluation {found.id}"), hint=hint)
    production = ""
    if seen:
        production = seen[-1].model or ""
    _check_comparison(found, production)
    file_integrity.check_files(home, model)
    reason = model_placement.find_misfit(model_placement.read_plan(home), model)
    if reason:
        message = f"the plan of this home cannot serve {model.id}: {reason}"
        hint = "start a plan that serves it (archwright up), or train it with another name or base"
        raise ModelError("AW-MOD-25", message, where=ErrorLocation(str(home.plan)), hint=hint)
    return seen


def _check_comparison(found: Evaluation, production: str) -> None:
    """Raise ModelError AW-MOD-28 unless the evaluation compared the version with `production`, empty for none.

    The caller read `production` from the history that it hands to `append_promotion`. That refuses a history that has
    changed since, so the comparison holds when the promotion is written.
    """
    if found.production == production:
        return
    compared = "compared it with no version"
    if found.production:
        compared = f"compared it with {found.production}"
    now = "no trained version is"
    if production:
        now = f"{production} is"
    message = f"{found.model} cannot be promoted: its evaluation {compared}, but {now} in production"
    hint = f"evaluate it again: archwright models evaluate {found.model}"
    raise ModelError("AW-MOD-28", message, where=ErrorLocation(field=f"evaluation {found.id}"), hint=hint)


def summarise_evaluation(
    evaluation: Evaluation | None, version: ModelVersion, production: ModelVersion | None
) -> EvaluationState:
    """The state of a version's newest evaluation, given the version in production."""
    if evaluation is None:
        return "never"
    if not evaluation.passed:
        return "failed"
    if production == version:
        return "passed"
    if evaluation.production != model_registry.get_id(production):
        return "outdated"
    return "passed"


def promote_version(store: Store, home: Home, model: ModelVersion, by: str) -> Promotion:
    """Raises what `check_promotable` raises, and ModelError AW-MOD-20 if the endpoint changed meanwhile."""
    seen = check_promotable(store, home, model)
    model_registry.complete_edges(store, model)
    return model_registry.append_promotion(store, seen, "promote", (model.name, model.id), by)


def find_rollback_target(store: Store, home: Home, endpoint: str) -> tuple[list[Promotion], str | None]:
    """The endpoint's history and the id of the previous version, None for the plan's own model.

    Raises ModelError AW-MOD-26 (nothing to roll back), AW-MOD-23 (damaged file).
    """
    seen = model_registry.promotion_history(store, endpoint)
    if not seen or seen[-1].model is None:
        state = "no trained version is in production" if seen else "it has no promotion"
        served = sorted(model_registry.production_versions(store))
        message = f"nothing to roll back on {endpoint}: {state}"
        hint = "promote a version first: archwright models promote ID"
        if served:
            hint = f"choose an endpoint in production: {', '.join(served)}"
        near = tuple(name for name in served if name != endpoint)
        raise ModelError("AW-MOD-26", message, where=ErrorLocation(field=endpoint), hint=hint, nearest=near)
    before = find_previous_model(seen)
    if before is not None:
        file_integrity.check_files(home, model_registry.find_model(store, before))
    return seen, before


def find_previous_model(seen: Sequence[Promotion]) -> str | None:
    """The model before the current one. Rollbacks work like undo.

    After promote A, promote B and a rollback, A is current, and the next rollback goes to the model before A.
    """
    standing: list[str | None] = [None]
    for change in seen:
        if change.action == "promote":
            standing.append(change.model)
            continue
        while len(standing) > 1:
            standing.pop()
            if standing[-1] == change.model:
                break
    return standing[-2] if len(standing) > 1 else None


def roll_back_endpoint(store: Store, home: Home, endpoint: str, by: str, reason: str = "") -> Promotion:
    """Raises what `find_rollback_target` raises, and AW-MOD-20 if the endpoint changed meanwhile."""
    seen, before = find_rollback_target(store, home, endpoint)
    return model_registry.append_promotion(store, seen, "rollback", (endpoint, before), by, reason)
