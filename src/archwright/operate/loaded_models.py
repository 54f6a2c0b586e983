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
from archwright.operate import platform_state
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
    to: tuple[str, ProcessSpec] | None,
    by: str,
    reason: str = "",
) -> tuple[AliasChange, ...]:
    """Let all `aliases` mean the model and engine `to`, or free them; `seen`: the newest change of each alias.

    Raises OperateError AW-OPS-50 if an alias changed after `seen` was read; nothing is appended then.
    """
    made = tuple(
        AliasChange(
            id=f"{alias}~{_number(seen.get(alias)) + 1}",
            at=time.time(),
            alias=alias,
            model=None if to is None else to[0],
            launch=None if to is None else to[1],
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


def _number(change: AliasChange | None) -> int:
    return 0 if change is None else int(change.id.rpartition("~")[2])


def wait_until_applied(home: Home, store: Store, made: Sequence[AliasChange], timeout_s: float = WAIT_S) -> None:
    """Wait until the running platform applied all changes; no wait without a platform.

    Raises OperateError AW-OPS-50 (another change followed), AW-OPS-51 (the engine did not start, the alias means what
    it meant before), AW-OPS-52 (not applied in time).
    """
    deadline = time.monotonic() + timeout_s + max((c.launch.startup_deadline_s for c in made if c.launch), default=0.0)
    for change in made:
        while not _is_applied(home, change):
            later = read_aliases(store)[change.alias]
            if later.by == SUPERVISOR and later.id != change.id:
                message = f"{change.model} cannot be served as {change.alias}: {later.reason}"
                hint = "correct the cause, then load the model again; the alias means what it meant before"
                raise OperateError("AW-OPS-51", message, where=ErrorLocation(change.id), hint=hint)
            if later.id != change.id:
                message = (
                    f"a later change of {change.alias} replaced this one: it means {later.model or 'no model'} now"
                )
                hint = "archwright models list --running"
                raise OperateError("AW-OPS-50", message, where=ErrorLocation(later.id), hint=hint)
            if time.monotonic() > deadline:
                message = f"the change of {change.alias} was not applied in {timeout_s:g} s"
                hint = "the change continues: see archwright status, and logs/supervisor.log in the home"
                raise OperateError("AW-OPS-52", message, where=ErrorLocation(change.id), hint=hint)
            time.sleep(TICK_S)


def _is_applied(home: Home, change: AliasChange) -> bool:
    """True if the running platform applied the change, or no platform runs."""
    current = platform_state.read_running_state(home)
    if current is None or current.failure is not None:
        return True
    return any((one.name, one.promotion) == (change.alias, change.id) for one in current.endpoints)
