"""What is in production changes here and nowhere else: promote a version, or roll an endpoint back.

A version is promoted when its newest evaluation passed every gate, its file is whole, and the plan of this home has a
place for it. Going back needs none of that: what was served before has been promoted before, or is the plan's own
model; a file that is gone is refused all the same, since nothing could be served from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from archwright.contract.lineage import Evaluation, ModelVersion, Promotion
from archwright.errors import ErrorLocation, ModelError
from archwright.home import Home
from archwright.lifecycle import file_integrity, model_placement, model_registry
from archwright.store import Store


def check_promotable(store: Store, home: Home, model: ModelVersion) -> list[Promotion]:
    """The endpoint's history, if the version may be promoted on it. Raises ModelError: AW-MOD-24 it is in production,
    -27 never evaluated, -22 a gate failed, -23 its file is not whole, -25 the plan has no place for it."""
    seen = model_registry.promotion_history(store, model.name)
    if seen and seen[-1].model == model.id:
        raise ModelError(
            "AW-MOD-24",
            f"{model.id} is in production already",
            where=ErrorLocation(field=seen[-1].id),
            hint=f"archwright models history {model.name}",
        )
    _check_gates(model_registry.newest_evaluation(store, model.id), model)
    _check_servable(home, model)
    return seen


def promote_version(store: Store, home: Home, model: ModelVersion, by: str) -> Promotion:
    """Append the promotion; what `check_promotable` raises, or AW-MOD-20 when the endpoint changed meanwhile."""
    seen = check_promotable(store, home, model)
    model_registry.complete_edges(store, model)
    return model_registry.append_promotion(store, seen, "promote", (model.name, model.id), by)


def _check_gates(found: Evaluation | None, model: ModelVersion) -> None:
    again = f"archwright models evaluate {model.id}"
    if found is None:
        raise ModelError(
            "AW-MOD-27",
            f"{model.id} was never evaluated: nobody knows whether it is any good",
            where=ErrorLocation(field=model.id),
            hint=again,
        )
    failed = [gate for gate in found.gates if not gate.passed]
    if failed or not found.gates:
        reasons = "; ".join(f"gate {gate.name}: {gate.detail}" for gate in failed) or "its evaluation has no gate"
        raise ModelError(
            "AW-MOD-22",
            f"{model.id} may not be promoted: {reasons}",
            where=ErrorLocation(field=f"evaluation {found.id}"),
            hint=f"train a better version, or look again: {again}",
        )


def _check_servable(home: Home, model: ModelVersion) -> None:
    file_integrity.check_file(home, model)
    reason = model_placement.find_misfit(model_placement.read_plan(home), model)
    if reason:
        raise ModelError(
            "AW-MOD-25",
            f"{model.id} has no place in the plan of this home: {reason}",
            where=ErrorLocation(str(home.plan)),
            hint="bring up a plan that serves it (archwright up), or train under another name or base",
        )


def find_rollback_target(store: Store, home: Home, endpoint: str) -> tuple[list[Promotion], str | None]:
    """The endpoint's history and what a rollback would go back to: the version promoted before the one in production,
    None for the plan's own model. Raises ModelError AW-MOD-26 when there is nothing to go back from, AW-MOD-23."""
    seen = model_registry.promotion_history(store, endpoint)
    if not seen or seen[-1].model is None:
        state = "no version of ours is in production" if seen else "nothing was ever promoted on it"
        served = sorted(model_registry.production_versions(store))
        raise ModelError(
            "AW-MOD-26",
            f"nothing to roll back on {endpoint}: {state}",
            where=ErrorLocation(field=endpoint),
            hint=f"in production: {', '.join(served)}" if served else "archwright models promote ID comes before it",
            nearest=tuple(name for name in served if name != endpoint),
        )
    before = find_previous_model(seen)
    if before is not None:
        file_integrity.check_file(home, model_registry.find_model(store, before))
    return seen, before


def find_previous_model(seen: Sequence[Promotion]) -> str | None:
    """What stood before what stands now. Changes are undone like steps of an editor: after promote A, promote B and
    a rollback, A stands, and the next rollback goes to what stood before A, not to B again."""
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
    """Append the rollback; what `find_rollback_target` raises, or AW-MOD-20 when the endpoint changed meanwhile."""
    seen, before = find_rollback_target(store, home, endpoint)
    return model_registry.append_promotion(store, seen, "rollback", (endpoint, before), by, reason)
