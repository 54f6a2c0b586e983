"""The supervisor: starts a Bundle, restarts dead processes, drives rollouts, measures usage, stops.

Design: a process that fails before it was ready fails `up` with its own error. After that, a dead process is restarted
without limit, after 0.2 s doubling to 5 s, reset after 30 s of life. A process that answers no probe for 10 s is killed
and restarted; a starting one at its deadline. Any answer counts: a gateway that reports a missing engine is alive.
A supervisor that dies leaves its processes to its standby, which adopts them. Only an ordered stop, and a start that
fails, end them.
"""

import os
import time
from threading import Event
from typing import NamedTuple

from archwright.engines.service_notification import ServiceNotifier
from archwright.errors import ErrorLocation, OperateError
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.metrics.observations import ObservationRecorder
from archwright.operate import resource_usage
from archwright.operate.blue_green import EndpointRollouts
from archwright.operate.child_process import ChildProcess
from archwright.operate.platform_state import PlatformState, ProcessState, read_state, write_state
from archwright.operate.standby import PlatformHandles, Standby
from archwright.operate.surviving_processes import end_holders

TICK_S = 0.1
START_TICK_S = 0.02
PROBE_EVERY_S = 2.0
SILENT_LIMIT = 5
BACKOFF_S, BACKOFF_LIMIT_S, HEALTHY_S = 0.2, 5.0, 30.0
SAMPLE_EVERY_S, SLOW_SAMPLE_EVERY_S = 1.0, 15.0
# Memory is sampled every second and recorded if it grew by this factor, else with the slow samples.
MEMORY_GROWTH = 1.005
PRUNE_EVERY_S, RETENTION_S = 3600.0, 7 * 86400.0
GRACE_S = 12.0
PLATFORM_LABELS = {"process": "platform"}


class SupervisorStart(NamedTuple):
    """How a supervisor begins. `handles` is None below a service manager.

    `standby` and `before` (the last state) are those of a supervisor that died.
    """

    up_called_at: float
    handles: PlatformHandles | None = None
    standby: Standby | None = None
    before: PlatformState | None = None


class Supervisor:
    def __init__(
        self,
        rollouts: EndpointRollouts,
        home: Home,
        recorder: ObservationRecorder,
        journal: Journal,
        *,
        start: SupervisorStart,
    ) -> None:
        self._rollouts = rollouts
        self._bundle = rollouts.bundle
        self._home = home
        self._recorder = recorder
        self._journal = journal
        self._up_called_at = start.up_called_at
        self._handles = start.handles
        self._standby = start.standby
        self._restarts = 0 if start.before is None else start.before.restarts + 1
        self._ready_s = None if start.before is None else start.before.ready_s
        self._is_started = False
        self._standby_problem = ""
        self._next_probe = self._next_sample = self._next_slow_sample = self._next_prune = 0.0
        self._memory = 0.0
        self._notifier = ServiceNotifier()

    def run(self, stop: Event) -> None:
        """Run until `stop` is set. Raises OperateError with a process's own error if it does not become ready."""
        try:
            self._start_all(stop)
            while not stop.wait(TICK_S):
                self._watch()
                self._notifier.keep_alive()
        finally:
            if stop.is_set() or self._standby is None:
                self._end_all()

    def _end_all(self) -> None:
        """End the standby first, else it would take the place of this process; then gateway, workers, engines."""
        if self._standby is not None:
            self._standby.end()
        if self._handles is not None:
            for port in self._handles.ports:
                os.close(port)  # connections are refused, not kept waiting
            *engines, gateway = self._list_children()
            gateway.stop(GRACE_S)
            # Workers whose master died work on engines too.
            end_holders(self._handles.life, GRACE_S, spared={engine.pid for engine in engines})
            for engine in engines:
                engine.stop(GRACE_S)
        self._journal.info("platform.stopped")

    def _start_all(self, stop: Event) -> None:
        self._rollouts.begin()
        if self._restarts:
            self._launch(self._rollouts.gateway)  # it serves while engines that died are loaded
        self._start_engines(stop)
        if not self._rollouts.gateway.started_at:
            self._launch(self._rollouts.gateway)
        self._await_ready(self._rollouts.gateway, stop)
        if not stop.is_set():
            self._report_ready()

    def _start_engines(self, stop: Event) -> None:
        while (key := self._rollouts.next_unstarted()) is not None and not stop.is_set():
            try:
                for child in self._rollouts.engines[key].children:
                    self._start_child(child, stop)
            except OperateError as error:
                if not self._rollouts.handle_start_failure(key, f"{error.code} {error.message}"):
                    raise

    def _report_ready(self) -> None:
        self._notifier.send("READY=1")
        self._ready_s = self._ready_s or time.time() - self._up_called_at
        self._is_started = True
        if self._standby is None and self._handles is not None:
            self._standby = Standby(str(self._home.root), self._handles)
            self._keep_standby()
        if self._restarts:
            self._record_restart("supervisor", time.time())
        elif not self._rollouts.managed:
            self._recorder.observe("startup_s", PLATFORM_LABELS, self._ready_s, at=time.time())
        self._sample_usage(time.time())
        self._write_state()
        self._journal.info("platform.ready", url=self._bundle.url, ready_s=round(self._ready_s, 3))

    def _list_children(self) -> list[ChildProcess]:
        return [child for child, _, _ in self._rollouts.processes()]

    def _start_child(self, child: ChildProcess, stop: Event) -> None:
        if not stop.is_set():
            self._launch(child)
            self._await_ready(child, stop)

    def _launch(self, child: ChildProcess) -> None:
        child.start(time.time())
        event = "process.adopted" if child.adopted else "process.started"
        self._journal.info(event, name=child.spec.name, pid=child.pid)
        self._write_state()

    def _await_ready(self, child: ChildProcess, stop: Event) -> None:
        if self._rollouts.managed:
            return  # the service manager waits
        deadline = time.time() + child.spec.startup_deadline_s
        while not child.probe():
            late = time.time() > deadline
            if child.exit_status() is not None or late:
                code, message, hint = child.read_last_error()
                if late:
                    message = f"{child.spec.name} was not ready in {child.spec.startup_deadline_s:.0f} s: {message}"
                raise OperateError(code, message, where=ErrorLocation(str(child.log)), hint=hint)
            self._keep_standby()
            if self._restarts:
                self._restart_others(child)
            if stop.wait(START_TICK_S):
                return

    def _restart_others(self, loading: ChildProcess) -> None:
        """A platform that was ready goes on while one of its processes starts, which may take minutes."""
        for child in self._rollouts.serving_processes():
            if child is not loading:
                self._restart_if_dead(child, time.time())

    def _keep_standby(self) -> None:
        if self._standby is None:
            return
        was_started = self._standby.pid
        try:
            is_new = self._standby.keep()
        except OSError as error:
            if str(error) != self._standby_problem:
                self._journal.error("standby not started", message=str(error))
            self._standby_problem = str(error)
            return
        if is_new and was_started:
            self._journal.error("process.died", name="standby")
            self._record_restart("standby", time.time())
            self._write_state()

    def _watch(self) -> None:
        now = time.time()
        self._keep_standby()
        for child in self._rollouts.serving_processes():
            self._restart_if_dead(child, now)
        self._rollouts.step(now)
        if self._rollouts.changed:
            self._rollouts.changed = False
            self._write_state()
        if now >= self._next_probe:
            self._next_probe = now + PROBE_EVERY_S
            self._probe_all()
            if read_state(self._home) is None:  # somebody removed or damaged the file
                self._write_state()
        if now >= self._next_sample:
            self._sample_usage(now)

    def _restart_if_dead(self, child: ChildProcess, now: float) -> None:
        if not child.started_at or child.spec.on_demand or child.exit_status() is None:
            return
        if child.next_start_at <= child.started_at:
            lived = now - child.started_at
            wait = BACKOFF_S if lived > HEALTHY_S else min(BACKOFF_LIMIT_S, BACKOFF_S * 2 ** min(child.restarts, 6))
            child.ready, child.next_start_at = False, now + wait
            name, status, reason = child.spec.name, child.exit_status(), child.read_last_error()[1]
            self._journal.error("process.died", name=name, status=status, reason=reason, wait_s=wait)
            self._write_state()
        if now < child.next_start_at:
            return
        child.stop(0.0)
        child.restarts += 1
        child.start(now)
        self._next_probe = now + TICK_S
        self._record_restart(child.spec.name, now)
        self._journal.warning("process.restarted", name=child.spec.name, pid=child.pid, restarts=child.restarts)
        self._write_state()

    def _probe_all(self) -> None:
        for child in self._rollouts.serving_processes():
            if child.exit_status() is not None:
                continue
            was_ready, restarts = child.ready, child.restarts
            child.probe()
            if child.restarts > restarts:
                self._record_restart(child.spec.name, time.time())
            # A large model takes minutes to load; until then the engine answers no probe.
            grace_s = GRACE_S if child.answered else max(GRACE_S, child.spec.startup_deadline_s)
            if child.silent_probes >= SILENT_LIMIT and child.started_at + grace_s < time.time():
                self._journal.error("process.silent", name=child.spec.name, pid=child.pid)
                child.stop(0.0)
            if child.ready != was_ready:
                self._write_state()
            if not child.ready:
                self._next_probe = min(self._next_probe, time.time() + TICK_S)

    def _record_restart(self, process: str, at: float) -> None:
        self._recorder.observe("restarts", {"process": process}, 1.0, at=at)

    def _sample_usage(self, now: float) -> None:
        self._next_sample = now + SAMPLE_EVERY_S
        slow = now >= self._next_slow_sample
        own = [os.getpid()] if self._standby is None else [self._standby.pid, os.getpid()]
        used = resource_usage.memory_bytes([*own, *(child.pid for child in self._list_children())])
        if used is not None and (slow or used > self._memory * MEMORY_GROWTH):
            self._memory = float(used)
            self._recorder.observe("peak_memory_bytes", PLATFORM_LABELS, self._memory, at=now)
        if slow:
            self._next_slow_sample = now + SLOW_SAMPLE_EVERY_S
            specs, models = [child.spec for child in self._list_children()], self._bundle.engine_home
            disk = resource_usage.disk_bytes(self._home, specs, Home(models) if models else self._home)
            self._recorder.observe("disk_bytes", PLATFORM_LABELS, float(disk), at=now)
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_EVERY_S
            self._recorder.prune(now - RETENTION_S)

    def _write_state(self) -> None:
        rollouts = self._rollouts
        endpoints = rollouts.endpoints() if self._is_started else ()
        processes = tuple(
            ProcessState(
                name=child.spec.name,
                pid=child.pid,
                ready=child.ready,
                restarts=child.restarts,
                serves=serves,
                phase=phase,
            )
            for child, serves, phase in rollouts.processes()
        )
        state = PlatformState(
            supervisor_pid=os.getpid(),
            url=self._bundle.url,
            plan_digest=self._bundle.plan_digest,
            started_at=self._up_called_at,
            ready_s=self._ready_s,
            processes=processes,
            launched=rollouts.list_launched(),
            endpoints=endpoints,
            seen={name: to.promotion for name, to in rollouts.desired.items()} if endpoints else {},
            notes=rollouts.notes,
            used_at=rollouts.on_demand.used_at,
            restarts=self._restarts,
            managed=self._rollouts.managed,
            standby_pid=0 if self._standby is None else self._standby.pid,
        )
        write_state(self._home, state)
