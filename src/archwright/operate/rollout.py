"""A change of what is served, seen from outside the supervisor: can it be served at all, and is it served yet?

Decides that `up` refuses what is in production and cannot be served: to come up with another model in its place would
be a switch nobody asked for. One command takes it out of production.
"""

from __future__ import annotations

import time

from archwright.contract.lineage import ModelVersion, Promotion
from archwright.contract.plan import Bundle
from archwright.errors import ErrorLocation, ModelError, OperateError
from archwright.home import Home
from archwright.lifecycle import file_integrity, model_registry
from archwright.operate import platform_state
from archwright.operate.blue_green import SUPERVISOR
from archwright.operate.desired_state import PlatformLayout, promotion_number, read_desired_versions
from archwright.store import Store

TICK_S = 0.05


def check_servable(bundle: Bundle, home: Home, store: Store) -> None:
    """Raises OperateError AW-OPS-44 when a version in production cannot be served by this plan from this home."""
    layout = PlatformLayout(bundle)
    for endpoint, to in read_desired_versions(store).items():
        if to.version is None or layout.has_no_workload(endpoint, to.version):
            continue
        reason = layout.find_obstacle(endpoint, to.version, home) or _find_damage(home, to.version)
        if reason:
            raise OperateError(
                "AW-OPS-44",
                f"what is in production cannot be served: {reason}",
                where=ErrorLocation(to.promotion),
                hint=f"bring it back, or take it out of production: archwright models rollback {endpoint}",
            )


def _find_damage(home: Home, version: ModelVersion) -> str:
    """What is wrong with the version's file, read whole; empty when it is the one that was registered."""
    try:
        file_integrity.check_file(home, version)
    except ModelError as error:
        return error.message
    return ""


def wait_until_served(home: Home, store: Store, promotion_id: str, timeout_s: float = 60.0) -> None:
    """Until the running platform serves what the promotion or rollback says; at once when none runs.

    Raises OperateError: AW-OPS-40 it cannot be served, and the supervisor went back; AW-OPS-41 not served in time;
    AW-OPS-42 another change took its place; AW-OPS-43 the running plan has no such workload. ModelError AW-MOD-21
    when there is no such promotion.
    """
    endpoint = promotion_id.rpartition("#")[0]
    made = next(
        (change for change in model_registry.promotion_history(store, endpoint) if change.id == promotion_id), None
    )
    if made is None:
        raise ModelError("AW-MOD-21", f"no promotion called {promotion_id!r}", where=ErrorLocation(field=promotion_id))
    deadline = time.monotonic() + timeout_s
    while (current := platform_state.read_running_state(home)) is not None and not _is_served(current, made):
        _check_history(store, made)
        if time.monotonic() > deadline:
            raise OperateError(
                "AW-OPS-41",
                f"{made.model or 'the plan'} was not served at {endpoint} in {timeout_s:g} s",
                where=ErrorLocation(promotion_id),
                hint="it goes on: see `archwright status`, and the supervisor's log in the home",
            )
        time.sleep(TICK_S)


def _is_served(current: platform_state.PlatformState, made: Promotion) -> bool:
    """Whether it is served. Raises AW-OPS-43 where it never will."""
    if current.failure is not None:
        return True
    endpoint = next((found for found in current.endpoints if found.name == made.endpoint), None)
    if endpoint is not None:
        return endpoint.promotion == made.id
    if promotion_number(current.seen.get(made.endpoint, "")) < promotion_number(made.id):
        return False
    if made.model is not None:
        raise OperateError(
            "AW-OPS-43",
            f"the running plan has no workload {made.endpoint}: {made.model} is in production and not served",
            where=ErrorLocation(made.id),
            hint="bring up a plan that has it",
        )
    return True


def _check_history(store: Store, made: Promotion) -> None:
    """Raises when the history went on after `made`."""
    later = [
        change
        for change in model_registry.promotion_history(store, made.endpoint)
        if promotion_number(change.id) > promotion_number(made.id)
    ]
    if not later:
        return
    if later[0].by == SUPERVISOR:
        raise OperateError(
            "AW-OPS-40",
            f"{made.model} cannot be served at {made.endpoint}: {later[0].reason}",
            where=ErrorLocation(made.id),
            hint=f"{later[0].model or 'the plan'} is served as before; mend it, then promote again",
        )
    raise OperateError(
        "AW-OPS-42",
        f"another change took the place of {made.id}: {later[-1].action} to {later[-1].model or 'the plan'}",
        where=ErrorLocation(later[-1].id),
        hint=f"archwright models history {made.endpoint}",
    )
