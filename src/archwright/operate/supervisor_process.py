"""The supervisor process: the first of a platform, the standby of a dead one, or a process of the service manager."""

import os
import signal
import time
from contextlib import closing, suppress
from pathlib import Path
from threading import Event

import msgspec

from archwright import settings
from archwright.access.api_keys import load_pepper
from archwright.contract.listener import read_listener
from archwright.contract.plan import Bundle, Plan
from archwright.contract.record import as_dict, replace
from archwright.engines.parent_watch import exit_with_parent, has_supervising_parent
from archwright.engines.process_restrictions import disable_core_dumps
from archwright.errors import ArchwrightError, ErrorLocation, OperateError, boundary
from archwright.home import Home, locate_home, write_json
from archwright.journal import Journal
from archwright.monitor.metrics.observations import ObservationRecorder
from archwright.operate import platform_state
from archwright.operate.blue_green import EndpointRollouts
from archwright.operate.child_process import LaunchContext
from archwright.operate.log_rotation import rotate_in_background
from archwright.operate.platform_state import PlatformState, StartupFailure
from archwright.operate.standby import PlatformHandles, Standby
from archwright.operate.supervisor import Supervisor, SupervisorStart
from archwright.operate.surviving_processes import find_survivors
from archwright.serving.settings.config import GatewayConfig, bind_listener, check_config
from archwright.settings import Settings
from archwright.store import Store

STOPPED = b"stopped"


def run_first_supervisor(root: str, up_called_at: float, lock: int) -> int:
    """Run until SIGTERM or the end of an attached `up`. Raises the error of a failed start.

    `lock`: the descriptor of the home's lock."""
    home, stop = Home(root), _begin()
    bundle = _read_bundle(home)
    try:
        with boundary("supervisor"):
            life, life_end = os.pipe()
            os.fchmod(life, 0o400)  # an engine could open it for writing, and so end all others
            handles = PlatformHandles(lock, life, life_end, _bind_ports(bundle))
    except ArchwrightError as error:
        _record_failure(bundle, home, error, up_called_at)
        raise
    return _supervise(bundle, home, settings.load(), stop, SupervisorStart(up_called_at, handles))


def run_next_supervisor(root: str, handles: PlatformHandles, standby: Standby) -> int:
    """Take the place of a supervisor that died: adopt its processes, and run until SIGTERM.

    Without a readable state it replaces all processes. Raises the error of a process that does not start; then the
    standby tries again."""
    home, stop = Home(root), _begin()
    bundle = _read_bundle(home)
    before = platform_state.read_state(home)
    if before is None:
        before = replace(_describe_start(bundle, time.time()), ready_s=0.0)
    # `archwright down` must find these two even if the rest of the start fails.
    before = replace(before, supervisor_pid=os.getpid(), standby_pid=standby.pid, failure=None)
    with suppress(OSError):
        platform_state.write_state(home, before)
    start = SupervisorStart(before.started_at, handles, standby, before)
    return _supervise(bundle, home, settings.load(), stop, start)


def _describe_start(bundle: Bundle, started_at: float) -> PlatformState:
    """Return the state of a platform without processes."""
    return PlatformState(
        supervisor_pid=os.getpid(),
        url=bundle.url,
        plan_digest=bundle.plan_digest,
        started_at=started_at,
        managed=bool(bundle.engine_home),
    )


def _begin() -> Event:
    """Return the event that SIGTERM, SIGINT or the end of an attached `up` sets."""
    disable_core_dumps()
    stop = _stop_on_signals()
    exit_with_parent(leave=lambda _status: stop.set())
    return stop


def _read_bundle(home: Home) -> Bundle:
    return msgspec.json.decode(home.config("bundle").read_bytes(), type=Bundle)


def _bind_ports(bundle: Bundle) -> tuple[int, ...]:
    """Open the gateway's listening sockets; they stay open while it is restarted. Raises OperateError AW-OPS-03."""
    config = msgspec.convert(bundle.processes[-1].config, GatewayConfig)
    numbers = [config.port] if config.admin_port is None else [config.port, config.admin_port]
    return tuple(bind_listener(config.host, number).detach() for number in numbers)


def run_managed_supervisor(root: str, bundle_file: str, plan_file: str) -> int:
    """Run until SIGTERM beside processes that the service manager starts. Prepares the home that they share.

    The settings in force apply to the gateway. Raises OperateError AW-OPS-30 if a platform of this home runs,
    AW-OPS-35 if the bundle belongs to another plan.
    """
    disable_core_dumps()
    os.umask(0o077)
    stop, chosen = _stop_on_signals(), settings.load({"home": root})
    Home(root).folder("run")
    home = locate_home(chosen)
    plan = msgspec.json.decode(Path(plan_file).read_bytes(), type=Plan)
    bundle = msgspec.json.decode(Path(bundle_file).read_bytes(), type=Bundle)
    if plan.digest != bundle.plan_digest:
        message = f"the bundle belongs to another plan than {plan_file}"
        hint = "render the plan again, then install the plan and the bundle together"
        raise OperateError("AW-OPS-35", message, where=ErrorLocation(bundle_file), hint=hint)
    lock = platform_state.acquire_lock(home)
    if lock is None:
        message, where = "a platform of this home is already running", ErrorLocation(str(home.root))
        raise OperateError("AW-OPS-30", message, where=where, hint="archwright down")
    with lock:
        with closing(Store(chosen.database_url or home.store_url)) as store:
            load_pepper(home, store)
        write_json(home.plan, plan)
        return _supervise(_apply_settings(bundle, chosen), home, chosen, stop, SupervisorStart(time.time()))


def _apply_settings(bundle: Bundle, chosen: Settings) -> Bundle:
    """Return the bundle whose gateway listens as the settings say."""
    *engines, gateway = bundle.processes
    spec = msgspec.convert(gateway.config, GatewayConfig)
    built = replace(
        spec,
        **as_dict(read_listener(chosen)),
        endpoints=tuple(replace(one, cache=chosen.cache) for one in spec.endpoints),
        store_url=chosen.database_url,
    )
    check_config(built)
    url = built.url.removesuffix("/v1")
    gateway = replace(gateway, config=msgspec.to_builtins(built), ready_port=built.port)
    return replace(bundle, processes=(*engines, gateway), url=url, model_idle_s=chosen.model_idle_s)


def _stop_on_signals() -> Event:
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _supervise(bundle: Bundle, home: Home, chosen: Settings, stop: Event, start: SupervisorStart) -> int:
    store = Store(chosen.database_url or home.store_url)
    recorder = ObservationRecorder(store)
    journal = Journal("supervisor", level=chosen.log_level)
    rotate_in_background(home.folder("logs"), journal)
    try:
        context = _build_context(chosen, start)
        rollouts = EndpointRollouts(bundle, home, store, journal, context, resumes=start.before is not None)
        Supervisor(rollouts, home, recorder, journal, start=start).run(stop)
    except ArchwrightError as error:
        _record_failure(bundle, home, error, start.up_called_at)
        raise
    finally:
        recorder.close()
        store.close()
    if has_supervising_parent():
        with suppress(OSError):  # the `up` that started it was killed
            os.write(0, STOPPED)
    return 0


def _build_context(chosen: Settings, start: SupervisorStart) -> LaunchContext | None:
    handles = start.handles
    if handles is None:
        return None
    survivors = {} if start.before is None else find_survivors(start.before, handles.life)
    return LaunchContext(chosen.engine_user, handles, survivors)


def _record_failure(bundle: Bundle, home: Home, error: ArchwrightError, up_called_at: float) -> None:
    """Add the error to the state, whose processes the standby may adopt. A managed one writes its first state."""
    current = None if bundle.engine_home else platform_state.read_state(home)
    failure = StartupFailure(code=error.code, message=error.message, hint=error.hint, file=error.where.file)
    state = current or _describe_start(bundle, up_called_at)
    platform_state.write_state(home, replace(state, failure=failure))
