"""The master process: it owns the ports, starts the workers, restarts dead ones and replaces them on a reload.

Design: the workers share the master's listening sockets, so no connection is refused between an old and a new worker.
On SIGHUP the master reads the configuration again and starts new workers. When all new workers take requests, the old
workers finish their requests and exit. SIGUSR2 does the same with new code (upgrade.py). SIGTERM ends all workers in
order. A renewed certificate needs no signal (settings/tls.py). Reservations of a dead worker are freed at
the next refusal (access/accounts.py). The master has no thread and opens no table, since workers are forks of it.
"""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import NamedTuple

import msgspec

from archwright.engines.process_restrictions import disable_core_dumps, restrict_process
from archwright.engines.service_notification import ServiceNotifier
from archwright.errors import ArchwrightError, OperateError, boundary
from archwright.home import Home, write_atomic
from archwright.journal import Journal
from archwright.python_process import build_module_command
from archwright.serving.process.config_reload import ServedRevision, served_revision_file
from archwright.serving.process.upgrade import execute_new_code, keep_private, start_trial
from archwright.serving.process.worker import HAND_OVER_SIGNAL, WorkerContext, run_worker
from archwright.serving.settings.config import GatewayConfig, bind_listener, read_config, split_among_workers
from archwright.serving.settings.tls import ServedCertificate

READY_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.2
UPGRADE_LIMIT_S = 120.0  # a busy machine needs longer than a watchdog period to load new code
EXIT_FAILED = 70
BACKOFF_S, BACKOFF_LIMIT_S, HEALTHY_S = 0.1, 5.0, 30.0
ALERT_MODULE = "archwright.serving.process.alert_process"
KILL_GRACE_S = 1.5  # beyond the time a worker may take to end
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


@dataclass
class WorkerProcess:
    """A worker as the master sees it. `reports`: the pipe of its reports; `note`: the last report, None before the
    worker takes requests."""

    pid: int
    reports: int
    started_at: float
    generation: int
    note: ServedRevision | None = None
    leaving: bool = False
    received: bytes = b""

    def read_reports(self) -> None:
        """Read the newest report that is complete."""
        self.received += os.read(self.reports, 65_536)
        complete, _, self.received = self.received.rpartition(b"\n")
        if complete:
            self.note = msgspec.json.decode(complete.rpartition(b"\n")[2], type=ServedRevision)


class MasterParts(NamedTuple):
    """The file descriptors and workers that the old code of a master passes to the new code.

    `main` and `admin`: listening sockets. `life` and `life_end`: the pipe that tells workers of the master's end.
    `parent`: the pipe of the master's parent.
    """

    main: int
    admin: int | None
    life: int
    life_end: int
    parent: int | None
    since: float
    generation: int
    workers: list[WorkerProcess]

    @property
    def ports(self) -> tuple[int, ...]:
        return (self.main,) if self.admin is None else (self.main, self.admin)

    @property
    def descriptors(self) -> list[int]:
        found = (self.main, self.admin, self.life, self.life_end, self.parent, *(one.reports for one in self.workers))
        return [one for one in found if one is not None]


class ListeningSockets:
    """The bound ports, or the descriptors of those that another process has bound. Raises OperateError AW-OPS-03."""

    def __init__(self, config: GatewayConfig, inherited: Sequence[int] = ()) -> None:
        self.admin: socket.socket | None = None
        if inherited:
            keep_private(inherited)
            self.main, *others = (_open_socket(descriptor) for descriptor in inherited)
            self.admin = others[0] if others else None
            return
        self.main = bind_listener(config.host, config.port)
        if config.admin_port is not None:
            try:
                self.admin = bind_listener(config.host, config.admin_port)
            except OperateError:
                self.main.close()
                raise

    def close(self) -> None:
        self.main.close()
        if self.admin is not None:
            self.admin.close()


def open_certificate(config: GatewayConfig) -> ServedCertificate | None:
    """Return the certificate of the ports, None without TLS. Raises OperateError AW-OPS-12."""
    if config.tls_certificate and config.tls_key:
        return ServedCertificate(config.tls_certificate, config.tls_key)
    return None


def _open_socket(descriptor: int) -> socket.socket:
    found = socket.socket(fileno=descriptor)
    found.setblocking(False)
    return found


class Master:
    """Starts, replaces and ends the workers. The master ends when `life` closes: a pipe of its parent, or None."""

    def __init__(
        self,
        config: GatewayConfig,
        file: Path,
        home: Home,
        bound: ListeningSockets,
        *,
        life: int | None,
        is_restart: bool = False,
    ) -> None:
        self.workers: list[WorkerProcess] = []
        self._config = self._before = config
        self._file = file
        self._home = home
        self._bound = bound
        self._journal = Journal("gateway")
        self._parent_life = life
        self._since = time.time()
        self._life, self._life_end = os.pipe()
        self._signals: list[int] = []
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._generation = 0
        self._ready_by: float | None = None  # deadline of a new generation that is starting
        self._again = False
        self._restarts = ["master"] if is_restart else []  # processes that started again
        self._counted_restarts = 0  # the first ones, which workers have counted
        self._failures = 0
        self._start_at = 0.0
        self._written: ServedRevision | None = None
        self._failed_calls: dict[str, int | None] = {}
        self._notifier = ServiceNotifier()
        self._is_upgrade_wanted = False
        self._alerts: Popen[bytes] | None = None
        self._alerts_start_at = 0.0
        self._trial: Popen[bytes] | None = None
        self._certificate = self._certificate_before = open_certificate(config)
        self._certificate_due_at = 0.0

    def adopt(self, parts: MasterParts) -> None:
        """Take over the workers of this process's older program; `start` then starts workers of this program."""
        for descriptor in (self._life, self._life_end):
            os.close(descriptor)
        keep_private(parts.descriptors)
        self._life, self._life_end, self._since, self.workers = parts.life, parts.life_end, parts.since, parts.workers
        self._generation, self._ready_by = parts.generation + 1, time.monotonic() + READY_TIMEOUT_S

    def start(self) -> None:
        disable_core_dumps()
        self._wakeup.setblocking(False)
        self._wakeup_end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # a parent that restarts this process blocks them
        self._start_missing_workers()

    def wait_until_ready(self) -> int:
        """Return 0 when all workers take requests or a signal ends the gateway, which `run` then does.

        Else return the exit status of the worker that failed and logged why.
        """
        until = time.monotonic() + READY_TIMEOUT_S
        while not all(worker.note for worker in self.workers) and not self._is_stop_requested():
            self._wait_for_events(POLL_INTERVAL_S)
            ended = self._reap()
            if (ended or time.monotonic() > until) and not self._is_stop_requested():
                self.stop()
                return ended[0][1] if ended else EXIT_FAILED
        return 0

    def run(self) -> None:
        """Run until SIGTERM, SIGINT, or the end of the supervisor."""
        self._notifier.report_ready()
        try:
            while not self._is_stop_requested():
                self._step()
                self._notifier.keep_alive()
                self._wait_for_events(POLL_INTERVAL_S)
        finally:
            self.stop()
            self._journal.info("master stopped")

    def _is_stop_requested(self) -> bool:
        return signal.SIGTERM in self._signals or signal.SIGINT in self._signals

    def _step(self) -> None:
        if signal.SIGHUP in self._signals or self._again:
            self._again = self._ready_by is not None
            if not self._again:
                self._reload()
        self._is_upgrade_wanted |= signal.SIGUSR2 in self._signals
        self._signals.clear()
        self._upgrade()
        self._follow_certificate()
        for worker, status in self._reap():
            self._handle_lost_worker(worker, status)
        if self._ready_by is not None:
            self._replace_workers()
        if time.monotonic() >= self._start_at and not self._try_system_call(self._start_missing_workers):
            self._start_at = time.monotonic() + BACKOFF_LIMIT_S
        self._try_system_call(self._write_served_revision)
        self._try_system_call(self._keep_alerts)

    def _follow_certificate(self) -> None:
        """Report a renewed certificate, which workers read by themselves, and keep it for workers that start later."""
        if self._certificate is None or time.monotonic() < self._certificate_due_at:
            return
        self._certificate_due_at = time.monotonic() + self._config.limits.health_s
        try:
            if self._certificate.refresh():
                self._journal.info("certificate renewed", file=self._certificate.certificate)
        except OperateError as error:
            self._journal.error("certificate not renewed", **error.as_dict())

    def _keep_alerts(self) -> None:
        """Start the process that sends alerts, if alerts are set up and it does not run."""
        ended = self._alerts is None or self._alerts.poll() is not None
        if self._config.alerts is None or not ended or time.monotonic() < self._alerts_start_at:
            return
        self._alerts_start_at = time.monotonic() + BACKOFF_LIMIT_S
        command = build_module_command(ALERT_MODULE, str(self._home.root), str(self._file))
        self._alerts = Popen(command, stdin=PIPE, start_new_session=True)

    def _end_alerts(self) -> None:
        """End the process that sends alerts; `_keep_alerts` starts it with the present configuration."""
        if self._alerts is not None:
            self._alerts.terminate()
            self._alerts.wait()
            assert self._alerts.stdin is not None, "it has a pipe"
            self._alerts.stdin.close()
            self._alerts, self._alerts_start_at = None, 0.0

    def _try_system_call(self, act: Callable[[], None]) -> bool:
        """Return False if the system had no process, file descriptor or disk space left for `act`; logged once."""
        try:
            act()
        except OSError as error:
            if self._failed_calls.get(act.__name__) != error.errno:
                self._journal.error("system call failed", act=act.__name__.strip("_"), message=str(error))
            self._failed_calls[act.__name__] = error.errno
            return False
        self._failed_calls.pop(act.__name__, None)
        return True

    def _start_missing_workers(self) -> None:
        missing = self._config.workers - sum(w.generation == self._generation and not w.leaving for w in self.workers)
        for _ in range(missing):
            self._spawn()

    def _spawn(self) -> None:
        read_end, write_end = os.pipe()
        master = os.getpid()
        # Else the worker loses a SIGTERM that arrives before it replaces the master's handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(read_end)
            os.close(write_end)
            raise
        if pid == 0:
            status = EXIT_FAILED
            try:
                status = self._run_worker(read_end, write_end, master)
            finally:
                os._exit(status)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._counted_restarts = len(self._restarts)
        os.close(write_end)
        os.set_blocking(read_end, False)
        self.workers.append(WorkerProcess(pid, read_end, time.monotonic(), self._generation))

    def _run_worker(self, read_end: int, write_end: int, master: int) -> int:
        """In the child: close all of the master's descriptors except the ports and pipes, and serve."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._wakeup.close()
        self._wakeup_end.close()
        if self._alerts is not None and self._alerts.stdin is not None:
            self._alerts.stdin.close()  # its end tells of the master's end
        for descriptor in (read_end, self._life_end, *(worker.reports for worker in self.workers)):
            os.close(descriptor)
        journal = Journal("gateway")
        # Counts of ended workers are lost unless another worker lives, so the first worker counts all.
        first_uncounted = self._counted_restarts if self.workers else 0
        try:
            with boundary("gateway"):
                restrict_process()  # here too: `serve` runs the master in its caller's process
                context = WorkerContext(
                    bound=self._bound.main,
                    admin=self._bound.admin,
                    life=self._life,
                    parent=self._parent_life,
                    reports=write_end,
                    since=self._since,
                    master=master,
                    restarts=tuple(self._restarts[first_uncounted:]),
                    certificate=self._certificate,
                )
                run_worker(split_among_workers(self._config), self._file, self._home, context, journal)
        except ArchwrightError as error:
            journal.error("stopped", **error.as_dict())
            print(error.lines(), file=sys.stderr, flush=True)
            return error.exit_status
        return 0

    def _wait_for_events(self, limit_s: float) -> None:
        """Wait for a signal, a worker's report, or the end of the supervisor."""
        poll = select.poll()
        life = self._parent_life
        pipes = [worker.reports for worker in self.workers] + ([] if life is None else [life])
        for source in (self._wakeup.fileno(), *pipes):
            poll.register(source, select.POLLIN)
        readable = {descriptor for descriptor, _event in poll.poll(limit_s * 1000)}
        if self._wakeup.fileno() in readable:
            self._signals += self._wakeup.recv(4096)
        if life in readable and life is not None and not os.read(life, 4096):
            self._parent_life = None
            self._signals.append(signal.SIGTERM)
        for worker in self.workers:
            if worker.reports in readable:
                worker.read_reports()

    def _reap(self) -> list[tuple[WorkerProcess, int]]:
        ended = []
        for worker in tuple(self.workers):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                os.close(worker.reports)
                self.workers.remove(worker)
                ended.append((worker, os.waitstatus_to_exitcode(status)))
        return ended

    def _handle_lost_worker(self, worker: WorkerProcess, status: int) -> None:
        if worker.leaving:
            return
        self._restarts.append("worker")
        lived_s = time.monotonic() - worker.started_at
        self._failures = 0 if lived_s > HEALTHY_S else self._failures + 1
        wait_s = min(BACKOFF_LIMIT_S, BACKOFF_S * 2.0 ** (self._failures - 1)) if self._failures > 1 else 0.0
        self._start_at = time.monotonic() + wait_s
        self._journal.error("worker died", pid=worker.pid, status=status, wait_s=wait_s)
        if self._ready_by is not None and worker.generation == self._generation and worker.note is None:
            self._ready_by = 0.0  # the new generation cannot start, so the old generation stays

    def _reload(self) -> None:
        try:
            with boundary("reload"):
                config = read_config(self._file)
                certificate = open_certificate(config)
        except ArchwrightError as error:
            self._journal.error("reload failed", **error.as_dict())
            return
        self._end_alerts()
        self._before, self._config = self._config, config
        self._certificate_before, self._certificate = self._certificate, certificate
        self._generation += 1
        self._ready_by = time.monotonic() + READY_TIMEOUT_S
        self._journal.info("reloading", workers=config.workers)

    def _upgrade(self) -> None:
        """Try the new code, then execute it. A reload that runs ends first."""
        if self._is_upgrade_wanted and self._trial is None and self._ready_by is None:
            self._is_upgrade_wanted = False
            self._trial = start_trial(self._home, self._file, self._encode_parts())
        if self._trial is None or self._trial.poll() is None or self._ready_by is not None:
            return
        status, self._trial = self._trial.returncode, None
        if status:
            self._journal.error("upgrade failed", message="the new code does not start; the old code stays")
            return
        self._end_alerts()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the new code unblocks them in `start`
        self._notifier.allow_silence(UPGRADE_LIMIT_S)
        try:
            execute_new_code(self._home, self._file, self._encode_parts(), self._list_parts().descriptors)
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._notifier.report_ready()
            self._journal.error("upgrade failed", message=str(error))

    def _encode_parts(self) -> str:
        return msgspec.json.encode(self._list_parts()).decode()

    def _list_parts(self) -> MasterParts:
        main, admin, found = self._bound.main.fileno(), self._bound.admin, self.workers
        other = None if admin is None else admin.fileno()
        pipes = self._life, self._life_end, self._parent_life
        return MasterParts(main, other, *pipes, self._since, self._generation, found)

    def _replace_workers(self) -> None:
        """End the old workers when all new workers take requests, or the new workers if they do not in time."""
        assert self._ready_by is not None, "nothing is replaced"
        new = [worker for worker in self.workers if worker.generation == self._generation and not worker.leaving]
        if len(new) == self._config.workers and all(worker.note for worker in new):
            self._signal_workers([worker for worker in self.workers if worker not in new], HAND_OVER_SIGNAL)
            self._ready_by, self._failures = None, 0
            self._journal.info("reloaded", workers=len(new))
        elif time.monotonic() > self._ready_by:
            self._signal_workers(new, signal.SIGKILL)
            self._ready_by = None
            self._config, self._generation = self._before, self._generation - 1
            self._certificate = self._certificate_before
            self._journal.error("reload failed", message="the new workers did not start; the old workers stay")

    def _signal_workers(self, workers: list[WorkerProcess], how: signal.Signals) -> None:
        for worker in workers:
            if not worker.leaving:
                worker.leaving = True
                os.kill(worker.pid, how)

    def _write_served_revision(self) -> None:
        """Write the oldest revision that a worker serves, and every address that a worker still needs."""
        notes = [worker.note for worker in self.workers if worker.note]
        if not notes or len(notes) < len(self.workers):
            return  # a worker is starting
        leaving = sorted({address for note in notes for address in note.leaving})
        problems = tuple(sorted({problem for note in notes for problem in note.problems}))
        revision = min(note.revision for note in notes)
        note = ServedRevision(pid=os.getpid(), revision=revision, leaving=tuple(leaving), problems=problems)
        if note != self._written:
            before = () if self._written is None else self._written.problems
            for problem in sorted({*problems} - {*before}):
                self._journal.warning("upstream misconfigured", message=problem)
            for problem in sorted({*before} - {*problems}):
                self._journal.info("upstream problem ended", message=problem)
            write_atomic(served_revision_file(self._home, self._file.stem), msgspec.json.encode(note))
            self._written = note

    def stop(self) -> None:
        """End every worker; a worker that does not end in time is killed."""
        self._bound.close()
        self._end_alerts()
        if self._trial is not None:
            self._trial.kill()
            self._trial.wait()
        for worker in self.workers:
            os.kill(worker.pid, signal.SIGTERM)
        until = time.monotonic() + self._config.limits.drain_s + KILL_GRACE_S
        while self.workers:
            if time.monotonic() > until:
                for worker in self.workers:
                    os.kill(worker.pid, signal.SIGKILL)
            self._reap()
            if self.workers:
                self._wait_for_events(0.05)
        signal.set_wakeup_fd(-1)
        for descriptor in (self._life, self._life_end):
            os.close(descriptor)
        self._wakeup.close()
        self._wakeup_end.close()
