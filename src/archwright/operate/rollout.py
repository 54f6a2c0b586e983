"""Rollouts as seen from outside the supervisor: check versions before `up`, wait for a promotion.

Design: `up` refuses to start if a version in production cannot be served; it never serves another model instead.
"""

import time

from archwright.contract.lineage import ModelVersion, Promotion
from archwright.contract.plan import Bundle
from archwright.errors import ErrorLocation, ModelError, OperateError
from archwright.home import Home
from archwright.lifecycle import file_integrity, model_registry
from archwright.operate import platform_state
from archwright.operate.desired_state import PlatformLayout, promotion_number, read_desired_versions
from archwright.operate.loaded_models import SUPERVISOR
from archwright.store import Store

TICK_S = 0.05


def check_servable(bundle: Bundle, home: Home, store: Store) -> None:
    """Raises OperateError AW-OPS-44 if this plan and home cannot serve a version in production or a loaded model."""
    layout = PlatformLayout(bundle)
    for endpoint, to in read_desired_versions(store).items():
        if to.launch is not None and (reason := layout.find_launch_obstacle(endpoint, to.launch, home)):
            message, hint = f"a loaded model cannot be served: {reason}", f"archwright models unload {endpoint}"
            raise OperateError("AW-OPS-44", message, where=ErrorLocation(to.promotion), hint=hint)
        if to.version is None or layout.has_no_workload(endpoint, to.version):
            continue
        reason = layout.find_obstacle(endpoint, to.version, home) or _find_damage(home, to.version)
        if reason:
            message = f"a version in production cannot be served: {reason}"
            hint = f"restore the file, or roll back: archwright models rollback {endpoint}"
            raise OperateError("AW-OPS-44", message, where=ErrorLocation(to.promotion), hint=hint)


def _find_damage(home: Home, version: ModelVersion) -> str:
    """Return the defect of the version's file, empty if it is the registered file. Reads the whole file."""
    try:
        file_integrity.check_files(home, version)
    except ModelError as error:
        return error.message
    return ""


def wait_until_served(home: Home, store: Store, promotion_id: str, timeout_s: float = 60.0) -> None:
    """Wait until the running platform serves the promotion or rollback; no wait without a platform.

    Raises OperateError AW-OPS-40 (cannot be served, the supervisor rolled back), AW-OPS-41 (not served in time),
    AW-OPS-42 (another change followed), AW-OPS-43 (no such workload); ModelError AW-MOD-21 (no such promotion).
    """
    endpoint = promotion_id.rpartition("#")[0]
    history = model_registry.promotion_history(store, endpoint)
    made = next((change for change in history if change.id == promotion_id), None)
    if made is None:
        message, hint = f"no promotion called {promotion_id!r}", f"archwright models history {endpoint}"
        raise ModelError("AW-MOD-21", message, where=ErrorLocation(field=promotion_id), hint=hint)
    deadline = time.monotonic() + timeout_s
    while (current := platform_state.read_running_state(home)) is not None and not _is_served(current, made):
        _check_history(store, made)
        if time.monotonic() > deadline:
            message = f"{made.model or 'the plan'} was not served at {endpoint} in {timeout_s:g} s"
            hint = "the rollout continues: see archwright status, and logs/supervisor.log in the home"
            raise OperateError("AW-OPS-41", message, where=ErrorLocation(promotion_id), hint=hint)
        time.sleep(TICK_S)


def _is_served(current: platform_state.PlatformState, made: Promotion) -> bool:
    """Raises OperateError AW-OPS-43 if the running plan has no such workload."""
    if current.failure is not None:
        return True
    endpoint = next((found for found in current.endpoints if found.name == made.endpoint), None)
    if endpoint is not None:
        return endpoint.promotion == made.id
    if promotion_number(current.seen.get(made.endpoint, "")) < promotion_number(made.id):
        return False
    if made.model is not None:
        message = f"the running plan has no workload {made.endpoint}: {made.model} is in production but not served"
        raise OperateError(
            "AW-OPS-43",
            message,
            where=ErrorLocation(made.id),
            hint=f"start a plan with the workload {made.endpoint}: archwright up plan.json",
        )
    return True


def _check_history(store: Store, made: Promotion) -> None:
    """Raises OperateError AW-OPS-40 or AW-OPS-42 if a change followed `made`."""
    history = model_registry.promotion_history(store, made.endpoint)
    later = [change for change in history if promotion_number(change.id) > promotion_number(made.id)]
    if not later:
        return
    if later[0].by == SUPERVISOR:
        message = f"{made.model} cannot be served at {made.endpoint}: {later[0].reason}"
        hint = f"{later[0].model or 'the plan'} is still served; correct the cause, then promote again"
        raise OperateError("AW-OPS-40", message, where=ErrorLocation(made.id), hint=hint)
    message = f"a later change replaced {made.id}: {later[-1].action} to {later[-1].model or 'the plan'}"
    hint = f"archwright models history {made.endpoint}"
    raise OperateError("AW-OPS-42", message, where=ErrorLocation(later[-1].id), hint=hint)
