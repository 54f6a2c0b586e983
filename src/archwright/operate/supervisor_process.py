"""The supervisor process: a fork of its parent (operate/__main__.py), or a process of the service manager."""

import os
import signal
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Event

import msgspec

from archwright import settings
from archwright.access.api_keys import load_pepper
from archwright.contract.plan import Bundle, Plan
from archwright.contract.record import replace
from archwright.engines.parent_watch import exit_with_parent
from archwright.engines.process_restrictions import disable_core_dumps
from archwright.errors import ArchwrightError, ErrorLocation, OperateError
from archwright.home import Home, locate_home, write_json
from archwright.journal import Journal
from archwright.monitor.metrics.observations import ObservationRecorder
from archwright.monitor.trace_exporter import TraceSpec
from archwright.operate import platform_state
from archwright.operate.blue_green import EndpointRollouts
from archwright.operate.log_rotation import rotate_in_background
from archwright.operate.platform_state import PlatformState, StartupFailure
from archwright.operate.process_restart import ForkedChild, unblock_signals
from archwright.operate.supervisor import Supervisor
from archwright.serving.settings.config import GatewayConfig, check_config
from archwright.settings import Settings
from archwright.store import Store

SURVIVOR_TIMEOUT_S, SURVIVOR_TICK_S = 5.0, 0.01


def run_supervisor(root: str, up_called_at: float, child: ForkedChild, *, attached: bool) -> int:
    """Run until SIGTERM. `attached`: end with standard input, as `up` does. Raises the error of a failed start."""
    disable_core_dumps()
    if attached:
        exit_with_parent()
    home, stop = Home(root), _stop_on_signals()
    unblock_signals()
    exit_with_parent(partial(os.read, child.life, 1), lambda _status: stop.set())
    if child.restarts:
        _kill_survivors(home)
    bundle = msgspec.json.decode(home.config("bundle").read_bytes(), type=Bundle)
    return _supervise(bundle, home, settings.load(), child, stop, up_called_at)


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
        child = ForkedChild(life=-1, ready=os.open(os.devnull, os.O_WRONLY), restarts=0)
        return _supervise(_apply_settings(bundle, chosen), home, chosen, child, stop, time.time())


def _apply_settings(bundle: Bundle, chosen: Settings) -> Bundle:
    """Return the bundle whose gateway listens as the settings say."""
    *engines, gateway = bundle.processes
    spec = msgspec.convert(gateway.config, GatewayConfig)
    built = replace(
        spec,
        **{name: getattr(chosen, name) for name in ("host", "port", "audit_checkpoints")},
        **{name: getattr(chosen, name) or None for name in ("admin_port", "tls_certificate", "tls_key")},
        endpoints=tuple(replace(one, cache=chosen.cache) for one in spec.endpoints),
        store_url=chosen.database_url,
        traces=TraceSpec(url=chosen.otlp_url) if chosen.otlp_url else None,
        trusted_proxies=chosen.proxy_networks,
        image_hosts=chosen.image_host_list,
        cors_origins=chosen.cors_origin_list,
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


def _supervise(
    bundle: Bundle, home: Home, chosen: Settings, child: ForkedChild, stop: Event, up_called_at: float
) -> int:
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
            managed=bool(bundle.engine_home),
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
