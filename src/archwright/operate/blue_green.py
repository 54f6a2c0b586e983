"""Blue/green rollouts inside the supervisor.

An EndpointRollout is an endpoint with its current and its next version. New engines start beside the old engines. When
the new engines are ready, the gateway's configuration is rewritten. When the gateway confirms the revision, the rollout
is done. Unneeded engines are stopped after the gateway released them, or when no request can run there any more.

The engines of loaded models start when they are used, and stop when they are idle (`on_demand_engines`).

Design: a step never blocks, so supervision continues while a model loads. If new engines die or are late, the endpoint
keeps its version, and a rollback with their error is appended to the history. The state follows from the history alone,
so a crash at any moment loses nothing.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from archwright.contract.plan import Bundle, ProcessSpec
from archwright.contract.record import replace
from archwright.errors import ArchwrightError, ModelError, OperateError, boundary
from archwright.home import Home, write_json
from archwright.journal import Journal
from archwright.lifecycle import model_registry
from archwright.operate.child_process import ChildProcess, LaunchContext
from archwright.operate.desired_state import (
    NOT_SERVED,
    DesiredVersion,
    PlatformLayout,
    ServedEndpoint,
    format_shortage,
    read_desired_versions,
)
from archwright.operate.loaded_models import ALIASES, SUPERVISOR, append_changes, read_aliases
from archwright.operate.managed_process import EngineUnit, ManagedProcess, end_leftovers
from archwright.operate.on_demand_engines import OnDemandEngines
from archwright.operate.platform_state import EndpointState, LaunchedProcess, ProcessPhase
from archwright.serving.process.config_reload import ServedRevision, read_served_revision, served_revision_file
from archwright.store import Store

PROBE_TIMEOUT_S = 0.25  # short, since a loading engine may not answer and other processes wait for their probe
RETRY_S = 1.0
GRACE_S = 12.0
# A running gateway confirms a revision within a second; it may have to be restarted first.
GATEWAY_TIMEOUT_S = 60.0
# Draining engines per endpoint; the next rollout waits beyond that, to bound memory.
DRAINING_LIMIT = 2


@dataclass
class EngineProcesses:
    """The processes of one key. `unused_since`: the gateway's first revision in which no endpoint needs them."""

    endpoint: str
    version: str
    children: tuple[ChildProcess, ...]
    unused_since: int | None = None
    free_at: float = 0.0
    kill_at: float | None = None

    @property
    def started(self) -> bool:
        return all(child.started_at for child in self.children)


@dataclass
class EndpointRollout:
    """`revision` is the gateway's first revision with `next`; None while the engines of `next` start."""

    name: str
    now: ServedEndpoint
    promotion: str = ""
    next: ServedEndpoint | None = None
    next_promotion: str = ""
    late_at: float = 0.0
    revision: int | None = None

    @property
    def published(self) -> ServedEndpoint:
        """The endpoint in the gateway's newest configuration."""
        return self.now if self.next is None or self.revision is None else self.next


class EndpointRollouts:
    """All endpoints with their engines and the gateway; `changed` is set if the state must be written.

    `context` is None if a service manager starts the processes. `resumes`: an earlier supervisor's gateway may run.
    """

    def __init__(
        self,
        bundle: Bundle,
        home: Home,
        store: Store,
        journal: Journal,
        context: LaunchContext | None,
        *,
        resumes: bool = False,
    ) -> None:
        self.bundle = bundle
        self.layout = PlatformLayout(bundle)
        self.tls = bundle.url.startswith("https:")
        self.managed = bool(bundle.engine_home)
        self._engine_home = Home(bundle.engine_home) if self.managed else home
        self.rollouts: dict[str, EndpointRollout] = {}
        self.engines: dict[str, EngineProcesses] = {}
        self.desired: dict[str, DesiredVersion] = {}
        self.notes: tuple[str, ...] = ()
        self.changed = False
        self._home = home
        self._context = context
        self._resumes = resumes
        self.gateway = self._make_child(self.layout.gateway)
        self._store = store
        self._journal = journal
        self.on_demand = OnDemandEngines(bundle, home)
        self._revision = self._written = self._first_revision = 0
        self._is_confirmed = False
        self._seq: tuple[int, ...] = ()
        self._failed: dict[str, str] = {}
        self._next_step = 0.0
        self._last_error = ""

    def begin(self) -> None:
        """Set every endpoint to the version in production, before any process of ours runs. Raises StoreError."""
        if self.managed or self._resumes:  # the gateway may run already, and follows higher revisions only
            self._revision = int(time.time() * 1000)
        else:
            served_revision_file(self._home).unlink(missing_ok=True)
        if not self._resumes:
            self.on_demand.forget_requests()
        for name, spec in self.layout.workloads.items():
            self.rollouts[name] = EndpointRollout(name, self.layout.endpoint_of_plan(spec))
        self._read_history()
        for rollout in list(self.rollouts.values()):
            self._serve_production(rollout)
            self._resume_on_demand(rollout.now)
        self._write_gateway_config()
        self._first_revision = self._revision
        # A gateway that ran before us serves its former endpoints until it has read this configuration.
        self._is_confirmed = not (self.managed or self._resumes)

    def _resume_on_demand(self, served: ServedEndpoint) -> None:
        """Adopt the living engine of a loaded model, as if a request had asked for it."""
        if self._context is not None and served.on_demand and served.engines[0].name in self._context.survivors:
            now = time.time()
            self._start_engines("", served, now)
            self.on_demand.starting[served.key] = now + served.engines[0].startup_deadline_s

    def next_unstarted(self) -> str | None:
        return next((key for key, engines in self.engines.items() if not engines.started), None)

    def handle_start_failure(self, key: str, reason: str) -> bool:
        """Roll back the endpoint of engines that failed to start. Return False for the plan's own engines."""
        tuned = (rollout for rollout in self.rollouts.values() if rollout.now.key == key and rollout.now.version)
        rollout = next(tuned, None)
        if rollout is None:
            return False
        self._failed[rollout.promotion] = reason
        self._remove_engines(key)
        self._serve_production(rollout)
        self._write_gateway_config()
        return True

    def step(self, now: float) -> None:
        """Advance all rollouts. An error is logged once and the step is retried after RETRY_S."""
        if now < self._next_step:
            return
        try:
            with boundary("rollout"):
                self._read_history()
                self._update_on_demand(now)
                if self._written < self._revision:
                    self._write_gateway_config()
                for rollout in self.rollouts.values():
                    self._advance(rollout, now)
                self._stop_unused_engines(now)
                self._confirm_start()
            self._last_error = ""
        except ArchwrightError as error:
            self._next_step = now + RETRY_S
            if error.message != self._last_error:
                self._journal.error("rollout.stuck", **error.as_dict())
            self._last_error = error.message

    def serving_processes(self) -> list[ChildProcess]:
        """Return the processes that serve, engines first; the supervisor restarts all but loaded models."""
        used = self._serving_keys()
        found = [child for key, engines in self.engines.items() if key in used for child in engines.children]
        return [*found, self.gateway]

    def processes(self) -> Iterator[tuple[ChildProcess, str, ProcessPhase]]:
        """Yield all processes with their version and phase; the gateway last."""
        used = self._serving_keys()
        coming = self._coming_keys() | self.on_demand.starting.keys()
        for key, engines in self.engines.items():
            phase: ProcessPhase = "serving" if key in used else "starting" if key in coming else "leaving"
            for child in engines.children:
                alias = str(child.spec.config["alias"])
                yield child, alias if child.spec.on_demand else engines.version or alias, phase
        yield self.gateway, "", "serving"

    def list_launched(self) -> tuple[LaunchedProcess, ...]:
        """Return our processes and those of an earlier supervisor that nobody adopted yet."""
        survivors = {} if self._context is None else self._context.survivors
        unadopted = [survivor.launched for survivor in survivors.values()]
        started = [child.launched for child, _, _ in self.processes() if child.launched is not None]
        return (*unadopted, *started)

    def endpoints(self) -> tuple[EndpointState, ...]:
        """Return the endpoints that the gateway serves; none before it serves those of our start."""
        if not self._is_confirmed:
            return ()
        return tuple(
            EndpointState(
                name=rollout.name,
                kind=rollout.now.spec.kind if rollout.now.spec is not None else "text",
                version=rollout.now.serves,
                promotion=rollout.promotion,
                left_out=rollout.now.left_out,
            )
            for rollout in self.rollouts.values()
        )

    def _read_history(self) -> None:
        """Read the history if it grew. The first promotion of a classifier creates its endpoint."""
        seq = self._store.newest_seq(model_registry.PROMOTIONS, ALIASES)
        if seq == self._seq:
            return
        found = read_desired_versions(self._store)
        notes = []
        for name, to in found.items():
            if to.version is not None and self.layout.has_no_workload(name, to.version):
                notes.append(f"{to.version.id} is in production, but this plan has no workload {name}")
                found[name] = DesiredVersion(to.promotion)
            elif to.identity and name not in self.rollouts:
                self.rollouts[name] = EndpointRollout(name, NOT_SERVED)
        self.desired, self.notes, self._seq, self.changed = found, tuple(notes), seq, True

    def _serve_production(self, rollout: EndpointRollout) -> None:
        """At the start: serve the version in production, or the newest earlier version that can be served."""
        tried: set[str | None] = set()
        while reason := self._find_obstacle(rollout, to := self.desired.get(rollout.name, DesiredVersion())):
            tried.add(to.version.id if to.version else None)
            earlier = (change.model for change in reversed(model_registry.promotion_history(self._store, rollout.name)))
            self._undo_change(rollout, to, next((model for model in earlier if model not in tried), None), reason)
            self._read_history()
        rollout.now, rollout.promotion = self.layout.endpoint_of_version(rollout.name, to), to.promotion
        if not rollout.now.on_demand:
            self._ensure_engines(rollout.name, rollout.now)

    def _advance(self, rollout: EndpointRollout, now: float) -> None:
        to = self.desired.get(rollout.name, DesiredVersion())
        if rollout.next is not None and rollout.revision is None and rollout.next.version != to.identity:
            rollout.next = None  # superseded before it was ready
        if rollout.next is None:
            self._begin_rollout(rollout, to, now)
        elif rollout.revision is None:
            rollout.next_promotion = to.promotion
            self._await_engines(rollout, rollout.next, now)
        else:
            self._await_gateway(rollout, rollout.next, now)

    def _begin_rollout(self, rollout: EndpointRollout, to: DesiredVersion, now: float) -> None:
        asleep = rollout.now.on_demand and rollout.now.key not in self.on_demand.awake
        if rollout.now.version == to.identity and (not asleep or rollout.promotion == to.promotion):
            self.changed |= rollout.promotion != to.promotion
            rollout.promotion = to.promotion
            return
        if reason := self._find_obstacle(rollout, to):
            self._undo_change(rollout, to, rollout.now.version or None, reason)
            return
        serving = self.layout.endpoint_of_version(rollout.name, to)
        if self.on_demand.is_settling(rollout.now.key, now):
            return  # requests that wait for its engine are served first
        if serving.on_demand:
            self.on_demand.failures.pop(serving.key, None)
        elif self._has_capacity(rollout, serving.key):
            self._start_engines(rollout.name, serving, now)
        else:
            return
        rollout.next, rollout.next_promotion = serving, to.promotion
        rollout.late_at = now + max((spec.startup_deadline_s for spec in serving.engines), default=0.0)
        self._journal.info("rollout.began", endpoint=rollout.name, promotion=to.promotion, version=serving.version)
        self.changed = True

    def _await_engines(self, rollout: EndpointRollout, to: ServedEndpoint, now: float) -> None:
        if to.on_demand:
            failure = self.on_demand.failures.get(to.key, "")
            waits = to.key not in self.on_demand.awake
        else:
            failure, waits = self._find_start_failure(to.key, rollout.late_at, now), not self._is_ready(to.key)
        if failure:
            self._abort_rollout(rollout, failure)
        if failure or waits:
            return
        self._revision += 1
        rollout.revision, rollout.late_at = self._revision, now + GATEWAY_TIMEOUT_S
        self.changed = True
        self._write_gateway_config()

    def _start_engines(self, endpoint: str, serving: ServedEndpoint, now: float) -> None:
        engines = self._ensure_engines(endpoint, serving)
        for child in engines.children if engines is not None else ():
            if not child.started_at:
                child.start(now)
                self._journal.info("process.started", name=child.spec.name, pid=child.pid, serves=serving.version)
                self.changed = True

    def _find_start_failure(self, key: str, late_at: float, now: float) -> str:
        """Probe engines that start. Return why they will not serve; empty if they serve or may still get ready."""
        if dead := self._find_dead_engine(key):
            return _format_last_error(dead)
        served = key in self._serving_keys()  # the supervisor probes serving engines
        starting = [child for child in self._children(key) if not child.ready]
        slow = [child for child in starting if served or not child.probe(PROBE_TIMEOUT_S)]
        if not slow or now <= late_at:
            return ""
        late = f"{slow[0].spec.name} was not ready in {slow[0].spec.startup_deadline_s:g} s"
        return f"{late}: {_format_last_error(slow[0])}"

    def _is_ready(self, key: str) -> bool:
        return all(child.ready for child in self._children(key))

    def _children(self, key: str) -> tuple[ChildProcess, ...]:
        return self.engines[key].children if key in self.engines else ()

    def _update_on_demand(self, now: float) -> None:
        """Start the engines of loaded models that are waited for, and stop those that were idle for too long."""
        ends = [end for rollout in self.rollouts.values() for end in (rollout.now, rollout.next) if end is not None]
        loaded = {end.key: end for end in ends if end.on_demand}
        asked = self.on_demand.read_requests(loaded) | (self._coming_keys() & loaded.keys())
        for key in (asked | self.on_demand.starting.keys()) - self.on_demand.awake:
            if key not in self.on_demand.starting:
                self._begin_start(loaded[key], now)
            elif failure := self._find_start_failure(key, self.on_demand.starting[key], now):
                self._journal.error("model.not_loaded", name=key, reason=failure)
                self._remove_engines(key)
                self.on_demand.end_start(key, now, failure)
            elif self._is_ready(key):
                self.on_demand.end_start(key, now)
                self._revision, self.changed = self._revision + 1, True
        for key in [key for key in self.on_demand.awake if self._children(key)[0].exit_status() is not None]:
            reason = _format_last_error(self._children(key)[0])
            self._journal.error("process.died", name=key, reason=reason)
            self._unload([key])  # the next request starts it
            self._remove_engines(key)
        self.changed |= self.on_demand.observe(self._list_on_demand(), now)
        self._unload(self.on_demand.find_idle(now))

    def _begin_start(self, serving: ServedEndpoint, now: float) -> None:
        """Start an engine if its memory is free; else stop idle engines, and try again when they ended."""
        spec, demand = serving.engines[0], self.on_demand
        if self._find_dead_engine(serving.key):
            self._remove_engines(serving.key)
        known = self.engines.get(serving.key)
        if known is not None and known.kill_at is not None:
            return  # it ends first
        if known is None and demand.limit_bytes:
            used = {key: one.memory_bytes for key, one in self._list_on_demand().items()}
            free = demand.limit_bytes - sum(used.values())
            leaving = sum(size for key, size in used.items() if self.engines[key].unused_since is not None)
            if spec.memory_bytes > free + leaving:
                need = spec.memory_bytes - free - leaving
                victims = demand.choose_victims(need, self._list_on_demand(), now)
                self._unload(victims or [])
                if victims is None and serving.key in self._coming_keys():
                    reason = format_shortage(serving.serves, spec.memory_bytes, free, demand.limit_bytes)
                    demand.failures[serving.key] = f"{reason}; the other loaded models have requests"
            if spec.memory_bytes > free:
                return
        self._start_engines("", serving, now)
        demand.starting[serving.key] = now + spec.startup_deadline_s

    def _unload(self, keys: list[str]) -> None:
        """Let the gateway hold back the requests for these engines; they stop when it released them."""
        for key in keys:
            self._journal.info("model.unloaded", name=key, idle_since=self.on_demand.used_at[key])
            self.on_demand.awake.discard(key)
            self._revision += 1

    def _list_on_demand(self) -> dict[str, ProcessSpec]:
        specs = ((key, engines.children[0].spec) for key, engines in self.engines.items())
        return {key: spec for key, spec in specs if spec.on_demand}

    def _await_gateway(self, rollout: EndpointRollout, to: ServedEndpoint, now: float) -> None:
        note = self._read_served_revision()
        if note is not None and note.revision >= (rollout.revision or 0):
            rollout.now, rollout.promotion, rollout.next, rollout.revision = to, rollout.next_promotion, None, None
            self._journal.info("rollout.done", endpoint=rollout.name, promotion=rollout.promotion, version=to.version)
            self.changed = True
        elif dead := self._find_dead_engine(to.key):
            self._abort_rollout(rollout, _format_last_error(dead))
        elif now > rollout.late_at:
            late = f"AW-OPS-46 the gateway did not load the new configuration in {GATEWAY_TIMEOUT_S:g} s"
            self._abort_rollout(rollout, late)

    def _abort_rollout(self, rollout: EndpointRollout, reason: str) -> None:
        """Keep the current version; the next step appends the rollback."""
        self._failed[rollout.next_promotion] = reason
        self._journal.error("rollout.failed", endpoint=rollout.name, promotion=rollout.next_promotion, reason=reason)
        published, rollout.next, rollout.revision = rollout.revision is not None, None, None
        self.changed = True
        if published:
            self._revision += 1
            self._write_gateway_config()

    def _find_obstacle(self, rollout: EndpointRollout, to: DesiredVersion) -> str:
        """Return the reason why the version cannot be served; empty if none is known."""
        found = self._failed.get(to.promotion, "")
        if not found and to.launch is not None:
            return self.layout.find_launch_obstacle(rollout.name, to.launch, self._home)
        return found or (self.layout.find_obstacle(rollout.name, to.version, self._home) if to.version else "")

    def _undo_change(self, rollout: EndpointRollout, to: DesiredVersion, model: str | None, reason: str) -> None:
        """Append the rollback of a promotion to `model`, or let an alias mean again what it means now."""
        name, now = rollout.name, rollout.now
        history, aliases = model_registry.promotion_history(self._store, name), read_aliases(self._store)
        if read_desired_versions(self._store).get(name) != to:
            return
        try:
            if to.launch is None:
                model_registry.append_promotion(self._store, history, "rollback", (name, model), SUPERVISOR, reason)
            else:
                back = now.engines[0] if now.on_demand and now.version != to.identity else None
                append_changes(self._store, aliases, [name], back, SUPERVISOR, reason)
        except (ModelError, OperateError):  # a concurrent change, which the next step reads
            return
        self._journal.error("rollout.undone", endpoint=name, promotion=to.promotion, back_to=model, reason=reason)

    def _ensure_engines(self, endpoint: str, serving: ServedEndpoint) -> EngineProcesses | None:
        if not serving.engines:
            return None
        engines = self.engines.get(serving.key)
        if engines is None:
            children = tuple(self._make_child(s) for s in serving.engines)
            engines = self.engines[serving.key] = EngineProcesses(endpoint, serving.version, children)
        engines.unused_since = None
        return engines

    def _make_child(self, spec: ProcessSpec) -> ChildProcess:
        if not self.managed:
            return ChildProcess(spec, self._home, tls=self.tls, context=self._context)
        kind = ManagedProcess if any(spec.name == one.name for one in self.bundle.processes) else EngineUnit
        return kind(spec, self._home, self._engine_home, tls=self.tls)

    def _has_capacity(self, rollout: EndpointRollout, key: str) -> bool:
        """True if engines of the key can start: they are not ending, and few others of the endpoint are draining."""
        if self._find_dead_engine(key):
            self._remove_engines(key)
        known = self.engines.get(key)
        if known is not None:
            return known.kill_at is None
        mine = [engines for engines in self.engines.values() if engines.endpoint == rollout.name]
        return sum(engines.unused_since is not None for engines in mine) < DRAINING_LIMIT

    def _stop_unused_engines(self, now: float) -> None:
        needed = self._serving_keys() | self._coming_keys() | self.on_demand.starting.keys()
        note = None
        self.on_demand.awake -= self.on_demand.awake - needed
        for key, engines in [(key, engines) for key, engines in self.engines.items() if key not in needed]:
            if engines.unused_since is None:
                engines.unused_since, engines.free_at = self._revision, now + self.layout.request_s + GATEWAY_TIMEOUT_S
                self.changed = True
            note = note or self._read_served_revision()
            if engines.kill_at is None and (now > engines.free_at or _is_released(engines, note)):
                engines.kill_at = now + GRACE_S
                for child in engines.children:
                    child.terminate()
            gone = all(child.exit_status() is not None for child in engines.children)
            if gone or (engines.kill_at is not None and now > engines.kill_at):
                self._remove_engines(key)

    def _confirm_start(self) -> None:
        """When the gateway serves our endpoints, stop engines of an earlier supervisor that it has released."""
        note = self._read_served_revision()
        if note is None or note.revision < self._first_revision:
            return
        self.changed |= not self._is_confirmed
        self._is_confirmed = True
        used = {address.removeprefix("unix:") for address in note.leaving}
        if self._context is None:
            end_leftovers(self._engine_home, used | {child.spec.name for child, _, _ in self.processes()})
            return
        for name in self._context.survivors.keys() - used:
            self._context.survivors.pop(name).end()
            self._home.config(name).unlink(missing_ok=True)
            self._home.remove_socket(name)

    def _remove_engines(self, key: str) -> None:
        engines = self.engines.pop(key)
        for child in engines.children:
            child.stop(0.0)
            if engines.version:
                child.remove_files()
            self._journal.info("process.stopped", name=child.spec.name, served=engines.version)
        self.changed = True

    def _write_gateway_config(self) -> None:
        """Write the gateway's configuration, also for a restarted gateway."""
        awake = self.on_demand.awake
        published = [
            served.without_engine() if served.on_demand and served.key not in awake else served
            for served in (rollout.published for rollout in self.rollouts.values())
        ]
        process = self.layout.build_gateway_process(published, self._revision)
        self.gateway.spec = replace(self.gateway.spec, config=process.config)
        write_json(self._home.config(process.name), process.config)
        self._written = self._revision

    def _serving_keys(self) -> set[str]:
        served = (rollout.now for rollout in self.rollouts.values())
        return {one.key for one in served if not one.on_demand or one.key in self.on_demand.awake}

    def _coming_keys(self) -> set[str]:
        return {rollout.next.key for rollout in self.rollouts.values() if rollout.next is not None}

    def _find_dead_engine(self, key: str) -> ChildProcess | None:
        """Return a dead engine that the supervisor does not restart, because it does not serve."""
        engines = self.engines.get(key)
        if engines is None or key in self._serving_keys():
            return None
        return next((child for child in engines.children if child.exit_status() is not None), None)

    def _read_served_revision(self) -> ServedRevision | None:
        """Return the revision confirmed by the running gateway; a note of an earlier process is ignored."""
        note = read_served_revision(self._home)
        return note if note is not None and note.pid == self.gateway.pid else None


def _format_last_error(child: ChildProcess) -> str:
    code, message, _ = child.read_last_error()
    return f"{code} {message}"


def _is_released(engines: EngineProcesses, note: ServedRevision | None) -> bool:
    if note is None or engines.unused_since is None or note.revision < engines.unused_since:
        return False
    return not any(f"unix:{child.spec.name}" in note.leaving for child in engines.children)
