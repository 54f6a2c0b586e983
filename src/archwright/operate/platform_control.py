"""Start, stop and inspect the platform of a home from outside its supervisor."""

import os
import signal
import socket
import time
from collections.abc import Callable
from subprocess import DEVNULL, Popen
from typing import BinaryIO

from archwright.contract.plan import Bundle, Plan
from archwright.contract.record import Record
from archwright.engines import model_files
from archwright.errors import ErrorLocation, OperateError
from archwright.home import Home, write_json
from archwright.operate import platform_state, readiness_probe
from archwright.operate.gateway_record import ServedGateway, list_upstream_problems
from archwright.operate.platform_state import ProcessState
from archwright.python_process import build_module_command
from archwright.settings import child_environment

WAIT_TICK_S = 0.02
PORT_TIMEOUT_S = 3.0
LOCK_RELEASE_TIMEOUT_S, LOCK_TIMEOUT_S = 0.5, 1.0
DOWN_TIMEOUT_S, STATE_TIMEOUT_S = 30.0, 10.0
SUPERVISOR_MODULE = "archwright.operate"


class PlatformStatus(Record):
    """`state` is running, starting, degraded (a serving process is not ready) or stopped.

    `gateways`: of `serve`. `notes` name versions in production that are not served, pools that do not serve them, and
    upstreams with a wrong key, model name or address.
    """

    state: str
    url: str | None = None
    plan_digest: str | None = None
    ready_s: float | None = None
    up_s: float | None = None
    processes: tuple[ProcessState, ...] = ()
    gateways: tuple[ServedGateway, ...] = ()
    notes: tuple[str, ...] = ()


def check_startable(plan: Plan, home: Home, host: str, port: int) -> None:
    """Raises OperateError AW-OPS-30 (running), AW-OPS-03 (port in use), MissingError (no model file)."""
    check_stopped(home)
    for pool in plan.pools:
        if pool.artefact is not None:
            model_files.locate_model(pool.artefact, home)
    # Processes of a killed platform need a moment to end.
    deadline = time.monotonic() + PORT_TIMEOUT_S
    while not readiness_probe.is_port_free(host, port):
        if time.monotonic() > deadline:
            message = f"port {port} is already in use"
            hint = "stop the program that uses the port, or let the system choose a port: archwright up --port 0"
            raise OperateError("AW-OPS-03", message, where=ErrorLocation(None, None, f"{host}:{port}"), hint=hint)
        time.sleep(0.1)


def check_stopped(home: Home) -> None:
    """Raises OperateError AW-OPS-30 if a platform of this home runs."""
    current = _read_settled_state(home)
    if current is not None:
        message = f"a platform of this home is already running at {current.url}"
        hint = "archwright status shows it, archwright down stops it"
        raise OperateError("AW-OPS-30", message, where=ErrorLocation(str(home.root)), hint=hint)


def _read_settled_state(home: Home) -> platform_state.PlatformState | None:
    """Return the running state; a killed supervisor may hold the lock for a moment."""
    deadline = time.monotonic() + LOCK_RELEASE_TIMEOUT_S
    while (current := platform_state.read_running_state(home)) is not None and time.monotonic() < deadline:
        time.sleep(WAIT_TICK_S)
    return current


def start_platform(
    plan: Plan, bundle: Bundle, home: Home, up_called_at: float, *, attached: bool
) -> socket.socket | None:
    """Start the supervisor and wait until everything is ready. Raises the supervisor's error.

    `attached`: the platform ends with the returned socket, and the socket ends with the platform; else returns None.
    Raises OperateError AW-OPS-30 if a platform runs.
    """
    lock = _acquire_lock(home)
    write_json(home.plan, plan)
    write_json(home.config("bundle"), bundle)
    home.state.unlink(missing_ok=True)
    argv = build_module_command(SUPERVISOR_MODULE, str(home.root), repr(up_called_at), str(lock.fileno()))
    env = child_environment({"PYTHONUNBUFFERED": "1", "ARCHWRIGHT_HOME": str(home.root)})
    line, supervisors_end = socket.socketpair()
    with lock, supervisors_end, home.open_log("supervisor") as log:
        process = Popen(
            argv,
            stdin=supervisors_end.fileno() if attached else DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
            umask=0o077,
        )
    try:
        _wait_ready(home, process)
    except BaseException:
        process.terminate()
        process.wait()
        line.close()
        raise
    # The supervisor may outlive this process, or a standby the supervisor: this suppresses Python's ResourceWarning.
    process.returncode = 0
    if attached:
        return line
    line.close()
    return None


def _acquire_lock(home: Home) -> BinaryIO:
    """Take the home's lock. Retries for a second, because `status` takes the lock for a moment."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while (lock := platform_state.acquire_lock(home)) is None:
        if time.monotonic() > deadline:
            where = ErrorLocation(str(home.root))
            message = "a platform of this home is already running"
            raise OperateError("AW-OPS-30", message, where=where, hint="archwright down")
        time.sleep(WAIT_TICK_S)
    return lock


def wait_for_end(line: socket.socket) -> int:
    """Wait until an attached platform has ended; return 0 if it stopped in order, else 1."""
    with line:
        return 0 if line.recv(64) else 1


def _wait_ready(home: Home, process: Popen[bytes]) -> None:
    while True:
        exited = process.poll() is not None
        current = platform_state.read_state(home)
        if current is not None and current.failure is not None:
            failure = current.failure
            raise OperateError(failure.code, failure.message, where=ErrorLocation(failure.file), hint=failure.hint)
        if current is not None and current.ready_s is not None and not exited:
            return
        if exited:
            message, log = "the supervisor ended before the platform was ready", home.log("supervisor")
            raise OperateError("AW-OPS-20", message, where=ErrorLocation(str(log)), hint=f"read {log}")
        time.sleep(WAIT_TICK_S)


def read_status(home: Home, clock: Callable[[], float] = time.time) -> PlatformStatus:
    current = platform_state.read_running_state(home)
    if current is None:
        return PlatformStatus(state="stopped")
    ready = all(p.ready for p in current.processes if p.phase == "serving")
    ready = ready and platform_state.is_process_alive(current.supervisor_pid, SUPERVISOR_MODULE)
    word = "starting" if current.ready_s is None else "running" if ready else "degraded"
    notes = list(current.notes)
    if current.restarts:
        notes.insert(0, f"the supervisor died and was restarted: {current.restarts} times; see logs/supervisor.log")
    if current.failure is not None:
        notes.append(f"the last start failed: {current.failure.code} {current.failure.message}")
    return PlatformStatus(
        state=word,
        url=current.url,
        plan_digest=current.plan_digest,
        ready_s=current.ready_s,
        up_s=round(clock() - current.started_at, 1),
        processes=current.processes,
        notes=(
            *notes,
            *filter(None, map(_describe_excluded_pools, current.endpoints)),
            *list_upstream_problems(home, "gateway"),
        ),
    )


def find_excluded_pools(home: Home, endpoint: str) -> tuple[str, ...]:
    """Return the pools that get no requests of the endpoint, because they cannot serve its version."""
    current = platform_state.read_running_state(home)
    found = () if current is None else current.endpoints
    return next((one.left_out for one in found if one.name == endpoint), ())


def _describe_excluded_pools(endpoint: platform_state.EndpointState) -> str:
    if not endpoint.left_out:
        return ""
    pools = ", ".join(endpoint.left_out)
    return f"only {endpoint.version} serves {endpoint.name}: {pools} cannot serve it and get none of its requests"


def stop_platform(home: Home) -> bool:
    """Stop the platform; True if one ran. The gateway lets running requests finish within its grace.

    Raises OperateError AW-OPS-34 if a service manager runs the platform.
    """
    current = _await_state(home)
    if current is None:
        return False
    if current.managed:
        message, hint = "the service manager runs this platform", "systemctl stop archwright.target"
        raise OperateError("AW-OPS-34", message, where=ErrorLocation(str(home.root)), hint=hint)
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while current is not None:
        if time.monotonic() > deadline:
            for pid in (current.standby_pid, current.supervisor_pid):  # their processes end with them
                _send_signal(pid, signal.SIGKILL, SUPERVISOR_MODULE)
        _send_signal(current.supervisor_pid, signal.SIGTERM, SUPERVISOR_MODULE)  # soon another one if this one is dead
        time.sleep(WAIT_TICK_S)
        current = platform_state.read_running_state(home)
    return True


def _await_state(home: Home) -> platform_state.PlatformState | None:
    """Return the running state; None if nothing runs. A supervisor that finds no readable state writes one.

    Raises OperateError AW-OPS-20 if none does.
    """
    deadline = time.monotonic() + STATE_TIMEOUT_S
    while (lock := platform_state.acquire_lock(home)) is None:
        current = platform_state.read_state(home)
        if current is not None:
            return current
        if time.monotonic() > deadline:
            message = "the supervisor of this home does not write its state"
            hint = f"end the processes with {SUPERVISOR_MODULE} and this home in their command line"
            raise OperateError("AW-OPS-20", message, where=ErrorLocation(str(home.state)), hint=hint)
        time.sleep(WAIT_TICK_S)
    lock.close()
    return None


def _send_signal(pid: int, number: signal.Signals, module: str) -> None:
    if platform_state.is_process_alive(pid, module):
        os.kill(pid, number)
