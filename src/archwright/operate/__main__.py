"""The supervisor process: `python -m archwright.operate HOME UP_CALLED_AT [--attached]`."""

import os
import signal
import sys
import time
from threading import Event
from typing import TextIO

import msgspec

from archwright import settings
from archwright.contract.plan import Bundle
from archwright.engines.parent_watch import exit_with_parent
from archwright.engines.process_restrictions import disable_core_dumps
from archwright.errors import ArchwrightError, ErrorLocation, OperateError, boundary
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.metrics.observations import ObservationRecorder
from archwright.operate import platform_state
from archwright.operate.blue_green import EndpointRollouts
from archwright.operate.platform_state import PlatformState, StartupFailure
from archwright.operate.supervisor import Supervisor
from archwright.store import Store


def run_supervisor(home: Home, up_called_at: float) -> None:
    lock = _acquire_lock(home)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    chosen = settings.load()
    bundle = msgspec.json.decode(home.config("bundle").read_bytes(), type=Bundle)
    store = Store(chosen.database_url or home.store_url)
    recorder = ObservationRecorder(store)
    journal = Journal("supervisor", level=chosen.log_level)
    try:
        rollouts = EndpointRollouts(bundle, home, store, journal, chosen.engine_user)
        Supervisor(rollouts, home, recorder, journal, up_called_at=up_called_at).run(stop)
    except ArchwrightError as error:
        failure = StartupFailure(code=error.code, message=error.message, hint=error.hint, file=error.where.file)
        state = PlatformState(
            supervisor_pid=os.getpid(),
            url=bundle.url,
            plan_digest=bundle.plan_digest,
            started_at=up_called_at,
            failure=failure,
        )
        platform_state.write_state(home, state)
        raise
    finally:
        recorder.close()
        store.close()
        lock.close()


def _acquire_lock(home: Home) -> TextIO:
    """Take the home's lock. Retries for a second, because `status` takes the lock for a moment."""
    for _ in range(20):
        lock = platform_state.acquire_lock(home)
        if lock is not None:
            return lock
        time.sleep(0.05)
    where = ErrorLocation(str(home.root))
    raise OperateError("AW-OPS-30", "a platform of this home is already running", where=where, hint="archwright down")


def main(argv: list[str]) -> int:
    if "--attached" in argv:
        exit_with_parent()
    try:
        with boundary("supervisor"):
            disable_core_dumps()
            run_supervisor(Home(argv[0]), float(argv[1]) if len(argv) > 1 else time.time())
    except ArchwrightError as error:
        sys.stderr.write(error.lines() + "\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
