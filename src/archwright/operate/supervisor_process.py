"""The supervisor process, a fork of its parent (operate/__main__.py)."""

import os
import signal
import time
from functools import partial
from threading import Event

import msgspec

from archwright import settings
from archwright.contract.plan import Bundle
from archwright.engines.parent_watch import exit_with_parent
from archwright.engines.process_restrictions import disable_core_dumps
from archwright.errors import ArchwrightError
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.metrics.observations import ObservationRecorder
from archwright.operate import platform_state
from archwright.operate.blue_green import EndpointRollouts
from archwright.operate.log_rotation import rotate_in_background
from archwright.operate.platform_state import PlatformState, StartupFailure
from archwright.operate.process_restart import ForkedChild, unblock_signals
from archwright.operate.supervisor import Supervisor
from archwright.store import Store

SURVIVOR_TIMEOUT_S, SURVIVOR_TICK_S = 5.0, 0.01


def run_supervisor(root: str, up_called_at: float, child: ForkedChild, *, attached: bool) -> int:
    """Run until SIGTERM. `attached`: end with standard input, as `up` does. Raises the error of a failed start."""
    disable_core_dumps()
    if attached:
        exit_with_parent()
    home, stop = Home(root), Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    unblock_signals()
    exit_with_parent(partial(os.read, child.life, 1), lambda _status: stop.set())
    if child.restarts:
        _kill_survivors(home)
    chosen = settings.load()
    bundle = msgspec.json.decode(home.config("bundle").read_bytes(), type=Bundle)
    store = Store(chosen.database_url or home.store_url)
    recorder = ObservationRecorder(store)
    journal = Journal("supervisor", level=chosen.log_level)
    rotate_in_background(home.folder("logs"), journal)
    try:
        rollouts = EndpointRollouts(bundle, home, store, journal, chosen.engine_user)
        Supervisor(rollouts, home, recorder, journal, up_called_at=up_called_at, child=child).run(stop)
    except ArchwrightError as error:
        failure = StartupFailure(code=error.code, message=error.message, hint=error.hint, file=error.where.file)
        state = PlatformState(
            supervisor_pid=os.getpid(),
            parent_pid=os.getppid(),
            url=bundle.url,
            plan_digest=bundle.plan_digest,
            started_at=up_called_at,
            failure=failure,
            restarts=child.restarts,
        )
        platform_state.write_state(home, state)
        raise
    finally:
        recorder.close()
        store.close()
    return 0


def _kill_survivors(home: Home) -> None:
    """Kill the processes of the supervisor that died, and wait for their end.

    They end by themselves when its pipes close. An engine that does not would hold its socket and its memory twice. The
    workers of a killed gateway finish their requests.
    """
    before = platform_state.read_state(home)
    pids = [] if before is None else [process.pid for process in before.processes]
    deadline = time.monotonic() + SURVIVOR_TIMEOUT_S
    while (alive := [pid for pid in pids if platform_state.is_process_alive(pid, "archwright.")]) and (
        time.monotonic() < deadline
    ):
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        time.sleep(SURVIVOR_TICK_S)
