"""Aliases of models that were loaded at run time: an append-only table, and the wait for a change.

An alias means its newest change. Changes have unique numbers within an alias ("fast~3"), so one of two concurrent
changes is refused. The supervisor follows the table, so a crash at any moment loses nothing.
"""

import time
from collections.abc import Mapping, Sequence

from archwright.contract.model_alias import AliasChange
from archwright.contract.plan import ProcessSpec
from archwright.errors import ErrorLocation, OperateError
from archwright.home import Home
from archwright.operate.platform_state import PlatformState, read_running_state
from archwright.store import ConflictError, RecordTable, Store

ALIASES = RecordTable("model_aliases", AliasChange, unique=("id",), index=("alias",))
SUPERVISOR = "supervisor"
WAIT_S, TICK_S = 90.0, 0.05  # beyond the engine's own deadline: an idle model may have to leave the memory first


def read_aliases(store: Store) -> dict[str, AliasChange]:
    """Return the newest change of each alias, also of the free ones."""
    return {change.alias: change for change in store.rows(ALIASES)}


def append_changes(
    store: Store,
    seen: Mapping[str, AliasChange],
    aliases: Sequence[str],
    launch: ProcessSpec | None,
    by: str,
    reason: str = "",
) -> tuple[AliasChange, ...]:
    """Let all `aliases` mean the model of `launch`, or free them; `seen`: the newest change of each alias.

    Raises OperateError AW-OPS-50 if an alias changed after `seen` was read; nothing is appended then.
    """
    made = tuple(
        AliasChange(
            id=f"{alias}~{int(seen[alias].id.rpartition('~')[2]) + 1 if alias in seen else 1}",
            at=time.time(),
            alias=alias,
            model=None if launch is None else str(launch.config["alias"]),
            launch=launch,
            by=by,
            reason=reason,
        )
        for alias in aliases
    )
    try:
        store.append(ALIASES, made)
    except ConflictError as error:
        message, where = "an alias of this model was changed at the same time", ErrorLocation(field=aliases[0])
        hint = "run `archwright models list --running`, then repeat the change if it is still right"
        raise OperateError("AW-OPS-50", message, where=where, hint=hint) from error
    return made


def wait_until_applied(
    home: Home, store: Store, made: Sequence[AliasChange], timeout_s: float = WAIT_S
) -> PlatformState | None:
    """Wait until the running platform applied all changes, and return its state; None without a running platform.

    Raises OperateError AW-OPS-50 (another change followed), AW-OPS-51 (the engine did not start, the alias means what
    it meant before), AW-OPS-52 (not applied in time).
    """
    deadline = time.monotonic() + timeout_s + max((c.launch.startup_deadline_s for c in made if c.launch), default=0.0)
    while (current := read_running_state(home)) is not None and current.failure is None:
        applied, newest = {one.promotion for one in current.endpoints}, read_aliases(store)
        waiting = [change for change in made if change.id not in applied]
        if not waiting:
            return current
        for change in waiting:
            _check_newest(change, newest[change.alias])
        if time.monotonic() > deadline:
            message = f"the change of {waiting[0].alias} was not applied in {timeout_s:g} s"
            hint = "the change continues: see archwright status, and logs/supervisor.log in the home"
            raise OperateError("AW-OPS-52", message, where=ErrorLocation(field=waiting[0].alias), hint=hint)
        time.sleep(TICK_S)
    return None


def _check_newest(change: AliasChange, newest: AliasChange) -> None:
    if newest.id == change.id:
        return
    if newest.by == SUPERVISOR:
        message = f"{change.model} cannot be served as {change.alias}: {newest.reason}"
        hint = "correct the cause, then load the model again; the alias means what it meant before"
        raise OperateError("AW-OPS-51", message, where=ErrorLocation(field=change.alias), hint=hint)
    message = f"a later change of {change.alias} replaced this one: it means {newest.model or 'no model'} now"
    raise OperateError(
        "AW-OPS-50", message, where=ErrorLocation(field=change.alias), hint="archwright models list --running"
    )
