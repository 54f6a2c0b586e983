"""Models at run time: aliases of stored models, and the engines that are in memory."""

import difflib
import time
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from archwright import settings
from archwright.api.context import open_home, write_audit_record
from archwright.api.model_files import find_stored
from archwright.api.model_launch import build_launch, find_memory_limit
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.engine_report import read_engine_report
from archwright.catalog.probe.machine_probe import cached_machine, probe_machine
from archwright.contract.plan import Bundle, ProcessSpec
from archwright.contract.record import Record, replace
from archwright.contract.stored_model import StoredModel, find_commercial_use
from archwright.engines.model_store import NAME, check_stored_files, list_stored_models
from archwright.errors import ErrorLocation, OperateError, argument_error
from archwright.home import Home
from archwright.journal import report_step
from archwright.lifecycle import model_placement, model_registry
from archwright.operate import platform_state
from archwright.operate.loaded_models import append_changes, read_aliases, wait_until_applied
from archwright.operate.platform_state import ProcessState
from archwright.operate.readiness_probe import read_activity
from archwright.operate.resource_usage import memory_bytes
from archwright.store import Store

ModelState = Literal["loaded", "loading", "unloading", "unloaded"]
STATES: dict[str, ModelState] = {"serving": "loaded", "starting": "loading", "leaving": "unloading"}


class LoadOutcome(Record):
    """A load or unload of a model. `served`: the running platform applied it; without a platform the next `up` does.

    `in_memory`: the engine of a loaded model runs; else the next request starts it. `aliases`: the names that clients
    use; after `unload`, the names that mean the model no longer. A loaded model has `slots` of `context_tokens`, and
    `predicted_bytes` of the `limit_bytes` of memory for all loaded models.
    """

    action: Literal["load", "unload"]
    model: str
    aliases: tuple[str, ...]
    dry_run: bool = True
    served: bool = False
    in_memory: bool = False
    took_s: float = 0.0
    slots: int = 0
    context_tokens: int = 0
    predicted_bytes: int = 0
    limit_bytes: int = 0


class RunningModel(Record):
    """A model of the running platform. `pinned`: its engine belongs to the plan and always runs.

    An `unloaded` model starts with the next request. `memory_bytes` is measured, `predicted_bytes` its prediction.
    """

    model: str
    kind: Literal["running"] = "running"
    aliases: tuple[str, ...]
    state: ModelState = "unloaded"
    pinned: bool = False
    memory_bytes: int | None = None
    predicted_bytes: int | None
    requests_running: int | None = None
    idle_s: float | None = None
    pid: int | None = None


def load_model(name: str, aliases: Sequence[str], slots: int, context: int | None, *, dry_run: bool) -> LoadOutcome:
    """Serve a stored model under its own name and `aliases`; see `api.models.load`."""
    with open_home() as (chosen, home, store):
        catalog = load_catalog(home)
        stored = find_stored(name, home)
        bundle = _read_bundle(home)
        wanted = _check_aliases(home, store, stored, aliases, bundle)
        _check_licence(home, stored, wanted)
        running = platform_state.read_running_state(home) is not None
        limit = bundle.model_memory_bytes if bundle is not None and running else 0
        limit = limit or find_memory_limit(chosen.model_memory_bytes)
        probed = cached_machine(home) or probe_machine(home, None, now=time.time)
        machine = replace(probed, engine=read_engine_report())
        launch = build_launch(stored, slots, context, machine, catalog, limit)
        outcome = LoadOutcome(
            action="load",
            model=stored.name,
            aliases=wanted,
            slots=slots,
            context_tokens=int(str(launch.config["context_tokens"])),
            predicted_bytes=launch.memory_bytes,
            limit_bytes=limit,
        )
        if dry_run:
            return outcome
        if not any(change.launch == launch for change in read_aliases(store).values()):
            report_step(f"checking the files of {stored.name}")
            check_stored_files(stored, home)
        return _apply_change(home, store, outcome, launch)


def unload_model(name: str, *, dry_run: bool) -> LoadOutcome:
    """Free an alias, or all aliases of a model; see `api.models.unload`."""
    with open_home() as (_chosen, home, store):
        loaded = {one.alias: one.model for one in read_aliases(store).values() if one.model is not None}
        freed = tuple(sorted(a for a, model in loaded.items() if model == name)) or (name,) * (name in loaded)
        if not freed:
            near = tuple(difflib.get_close_matches(name, {*loaded, *loaded.values()}, 3, 0.3))
            hint = f"use one of {', '.join(sorted(loaded))}" if loaded else "archwright models list --running"
            message = f"no model is loaded as {name!r}"
            raise OperateError("AW-OPS-54", message, where=ErrorLocation(field=name), hint=hint, nearest=near)
        outcome = LoadOutcome(action="unload", model=loaded[freed[0]], aliases=freed)
        return outcome if dry_run else _apply_change(home, store, outcome, None)


def _apply_change(home: Home, store: Store, outcome: LoadOutcome, launch: ProcessSpec | None) -> LoadOutcome:
    began = time.monotonic()
    made = append_changes(store, read_aliases(store), outcome.aliases, launch, settings.read_os_user())
    write_audit_record(store, f"models.{outcome.action}", f"{outcome.model} as {', '.join(outcome.aliases)}")
    current = wait_until_applied(home, store, made)
    # A supervisor that was restarted meanwhile knows the aliases, but has started no engine for them.
    serving = {one.name for one in current.processes if one.phase == "serving"} if current is not None else set[str]()
    in_memory, took_s = launch is not None and launch.name in serving, round(time.monotonic() - began, 3)
    return replace(outcome, dry_run=False, served=current is not None, in_memory=in_memory, took_s=took_s)


def check_not_loaded(store: Store, endpoint: str) -> None:
    """Raise OperateError AW-OPS-53 if the endpoint of a version is the alias of a loaded model."""
    change = read_aliases(store).get(endpoint)
    if change is not None and change.model is not None:
        message, hint = f"{endpoint} is an alias of {change.model}", f"archwright models unload {endpoint}"
        raise OperateError("AW-OPS-53", message, where=ErrorLocation(field=endpoint), hint=hint)


def list_running_models(home: Home, store: Store) -> tuple[RunningModel, ...]:
    """Return the engines of the running platform, the plan's own first, then loaded models without an engine."""
    aliases, launches = dict[str, list[str]](), dict[str, ProcessSpec]()
    for change in read_aliases(store).values():
        if change.launch is not None:
            aliases.setdefault(change.launch.name, []).append(change.alias)
            launches[change.launch.name] = change.launch
    found = []
    if (current := platform_state.read_running_state(home)) is not None:
        for one in (process for process in current.processes if process.name != "gateway"):
            names = aliases.pop(one.name, []) or [e.name for e in current.endpoints if e.version == one.serves]
            found.append(_describe_engine(home, one, names, launches.get(one.name), current.used_at.get(one.name)))
    for name, names in aliases.items():
        model, memory = str(launches[name].config["alias"]), launches[name].memory_bytes
        found.append(RunningModel(model=model, aliases=tuple(sorted(names)), predicted_bytes=memory))
    return tuple(sorted(found, key=lambda one: not one.pinned))


def _describe_engine(
    home: Home, process: ProcessState, names: Iterable[str], launch: ProcessSpec | None, used_at: float | None
) -> RunningModel:
    spec = ProcessSpec(name=process.name, argv=(), config={}, ready_socket=process.name)
    activity = read_activity(spec, home) if process.ready else None
    busy = activity is not None and activity.running > 0
    return RunningModel(
        model=process.serves,
        aliases=tuple(sorted(names)),
        state=STATES[process.phase] if process.pid else "unloaded",
        pinned=launch is None and used_at is None,
        memory_bytes=memory_bytes([process.pid]) if process.pid else None,
        predicted_bytes=None if launch is None else launch.memory_bytes,
        requests_running=None if activity is None else activity.running,
        idle_s=None if used_at is None else 0.0 if busy else round(max(0.0, time.time() - used_at), 1),
        pid=process.pid or None,
    )


def _check_aliases(
    home: Home, store: Store, stored: StoredModel, aliases: Sequence[str], bundle: Bundle | None
) -> tuple[str, ...]:
    """Return the aliases with the model's own name, unless the plan serves a model of this name.

    Raises UsageError AW-USE-63 for an invalid alias, OperateError AW-OPS-53 for one that a version in production has.
    """
    endpoints = [] if bundle is None else bundle.processes[-1].config["endpoints"]
    planned = {str(one["model"]) for one in msgspec.convert(endpoints, list[dict[str, object]])}
    others = {one.name for one in list_stored_models(home)} - {stored.name}
    wanted = tuple(dict.fromkeys([*([] if stored.name in planned else [stored.name]), *aliases]))
    promoted = model_registry.production_versions(store)
    for alias in wanted:
        if not NAME.fullmatch(alias):
            hint = "use letters, digits, dots, dashes and underscores, at most 96: --alias fast"
            raise argument_error("AW-USE-63", f"{alias[:80]!r} is not a valid alias", "alias", hint)
        if alias in others | (planned - {stored.name}):
            hint = "choose a name that no model has: --alias fast"
            raise argument_error("AW-USE-63", f"the alias {alias!r} is the name of another model", "alias", hint)
        if alias in promoted:
            message, hint = f"{promoted[alias].id} is in production as {alias}", f"archwright models rollback {alias}"
            raise OperateError("AW-OPS-53", message, where=ErrorLocation(field=alias), hint=hint)
    if not wanted:
        hint = f"archwright models load {stored.name} --alias fast"
        raise argument_error("AW-USE-63", f"the plan serves {stored.name} already", "alias", hint)
    return wanted


def _check_licence(home: Home, stored: StoredModel, aliases: Sequence[str]) -> None:
    """Raise OperateError AW-OPS-57 if a workload needs a licence for business use, and the model's forbids it."""
    plan = model_placement.read_plan(home) if find_commercial_use(stored.licence) == "no" else None
    for workload in plan.workloads if plan is not None else ():
        if workload.name in aliases and workload.licence == "commercial":
            message = f"the licence {stored.licence} of {stored.name} forbids the commercial use of {workload.name}"
            hint = f"choose another model or alias, or plan {workload.name} with `licence: any`"
            raise OperateError("AW-OPS-57", message, where=ErrorLocation(field=stored.name), hint=hint)


def _read_bundle(home: Home) -> Bundle | None:
    """Return what the newest `up` started; None before the first."""
    try:
        return msgspec.json.decode(home.config("bundle").read_bytes(), type=Bundle)
    except (OSError, msgspec.MsgspecError):
        return None
