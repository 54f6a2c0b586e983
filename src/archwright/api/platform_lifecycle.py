"""The running platform: `up`, `status`, `down`, `ask`."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from http import HTTPStatus
from types import FrameType, TracebackType

import msgspec

from archwright import settings
from archwright.access.api_keys import load_pepper
from archwright.api.context import open_home, open_keys, store_url, write_audit_record
from archwright.api.external_engines import (
    NO_EXTERNAL_ENGINES,
    ExternalEngines,
    parse_external_engines,
)
from archwright.api.model_launch import find_memory_limit
from archwright.api.planning import list_missed_limits, load_or_make_plan
from archwright.api.upstream_check import warn_of_upstreams
from archwright.catalog.probe.engine_report import read_engine_report
from archwright.contract.listener import read_listener
from archwright.contract.plan import LimitProbability, ModelProposal
from archwright.contract.record import Record, replace
from archwright.deploy.single_machine import build_bundle
from archwright.errors import ErrorLocation, OperateError
from archwright.home import Home, locate_home
from archwright.http_client.blocking_client import BlockingClient, NoReply, StreamedReply
from archwright.journal import report_step
from archwright.operate import gateway_record, owner_keys, platform_control, platform_state, readiness_probe, rollout
from archwright.operate.platform_control import PlatformStatus
from archwright.operate.platform_state import is_serving
from archwright.reconcile.calibration.engine_measurement import EngineMeasurer, Purpose, list_local_files
from archwright.serving.settings.config import GatewayConfig
from archwright.serving.settings.config import check_config as check_gateway

ANSWER_TIMEOUT_S = 120.0


class UpResult(Record, omit_defaults=True):
    """The result of `up`. `key` is set by a start that makes the owner's key; `console` is not built yet.

    `missed_limits`: limits that the plan is predicted to miss; if there are any, or if the machine was busy,
    `busy_share` is the share of CPU time that other processes used during the probe. `proposals`: better models that a
    download would give.
    """

    url: str
    key: str | None
    console: str | None
    missed_limits: tuple[LimitProbability, ...] = ()
    busy_share: float | None = None
    proposals: tuple[ModelProposal, ...] = ()


class PlatformHandle(AbstractContextManager["PlatformHandle"]):
    """A running platform. Without `detach` it ends with this process: call `wait()`, or use `with`."""

    def __init__(self, started: UpResult, home: Home, line: socket.socket | None) -> None:
        self.started = started
        self._home = home
        self._line = line

    @property
    def detached(self) -> bool:
        return self._line is None

    def wait(self) -> int:
        """Wait until an attached platform ends; SIGTERM or SIGINT to this process stops the platform in order.

        Returns 0 if it stopped in order, else 1."""
        line = self._line
        if line is None:
            return 0

        def stop(_number: int, _frame: FrameType | None) -> None:
            with suppress(OSError):  # the platform has ended
                line.shutdown(socket.SHUT_WR)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        return platform_control.wait_for_end(line)

    def stop(self) -> None:
        platform_control.stop_platform(self._home)
        if self._line is not None and self._line.fileno() >= 0:
            platform_control.wait_for_end(self._line)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def up(
    source: str | None = None,
    *,
    detach: bool = False,
    port: int | None = None,
    download: bool = False,
    elsewhere: ExternalEngines = NO_EXTERNAL_ENGINES,
) -> PlatformHandle:
    """Start a plan and return when every process is ready.

    `source`: a plan.json or a needs file; default: plan.json or needs.yaml of the folder, else the built-in desk
    example. `download`: serve the best model that fits this machine, and fetch its file. `elsewhere`: engines that run
    already.
    Raises PlanError (a pool has neither this machine nor a URL), UsageError (malformed texts), MissingError (no model
    file), OperateError (port taken, platform running, version not servable, a process that does not start).
    """
    chosen = settings.load({"port": port})
    home = locate_home(chosen)
    platform_control.check_stopped(home)  # before a plan that may download files
    if chosen.port == 0:
        chosen = settings.load({"port": readiness_probe.find_free_port(chosen.host)})
    made = load_or_make_plan(source, download=download)
    report_step("starting the platform")
    called_at = time.time()
    external = parse_external_engines(made, elsewhere)
    limit = find_memory_limit(chosen.model_memory_bytes, made)
    listener = read_listener(chosen)
    built = build_bundle(made, listener, store_url(chosen), external, cache=chosen.cache)
    built = replace(built, model_memory_bytes=limit, model_idle_s=chosen.model_idle_s)
    config = msgspec.convert(built.processes[-1].config, GatewayConfig)
    check_gateway(config)
    warn_of_upstreams(config.pools, home)
    here = replace(made, pools=tuple(pool for pool in made.pools if pool.name not in external))
    platform_control.check_startable(here, home, chosen.host, chosen.port)
    with open_home() as (_chosen, _home, store):
        rollout.check_servable(built, home, store)
        load_pepper(home, store)  # the gateway's workers only read its file
        write_audit_record(store, "up", made.digest)
    if chosen.engine_measurement_s and made.machine is not None:
        machine_now = replace(made.machine, engine=read_engine_report())
        measurer = EngineMeasurer(home, chosen.engine_measurement_s, Purpose.START, is_serving=is_serving)
        measurer.measure(list_local_files(here), machine_now)
        called_at = time.time()
    missed, machine = list_missed_limits(made), made.machine
    busy_share = machine.busy_share if machine is not None and (missed or machine.is_busy) else None
    line = platform_control.start_platform(made, built, home, called_at, attached=not detach)
    with open_keys() as (keys, _home, _store):  # after the start, because a failed start would not show the key
        key = owner_keys.create_owner_key(keys)
    started = UpResult(
        url=built.url,
        key=key,
        console=None,
        missed_limits=missed,
        busy_share=busy_share,
        proposals=made.proposals,
    )
    return PlatformHandle(started, home, line)


def status() -> PlatformStatus:
    """Return the state of the platform of this home, and of the gateways that `serve` started."""
    home = locate_home(settings.load())
    found, served = platform_control.read_status(home), gateway_record.list_gateways(home)
    if not served:
        return found
    notes = (*found.notes, *gateway_record.list_upstream_problems(home, *(one.name for one in served)))
    state, url = ("running", served[0].url) if found.url is None else (found.state, found.url)
    return replace(found, state=state, url=url, gateways=served, notes=notes)


class DownResult(Record):
    stopped: bool
    dry_run: bool
    processes: tuple[str, ...]


def down(*, dry_run: bool = False) -> DownResult:
    """Stop the platform of this home and the gateways that `serve` started; running requests are finished first."""
    home = locate_home(settings.load())
    current = platform_control.read_status(home)
    names = tuple(process.name for process in current.processes)
    names += tuple(f"serve {one.url}" for one in gateway_record.list_gateways(home))
    stopped = not dry_run and bool(gateway_record.stop_gateways(home))
    stopped = (not dry_run and platform_control.stop_platform(home)) or stopped
    if stopped:
        with open_home() as (_settings, _home, store):
            write_audit_record(store, "down", current.plan_digest or "")
    return DownResult(stopped=stopped, dry_run=dry_run, processes=names)


def running_url(home: Home, model: str | None = None) -> str:
    """Return the URL of the running platform, else of the gateway of `serve` that has the model, else of the first.

    Raises OperateError AW-OPS-31 if none runs.
    """
    current = platform_control.read_status(home)
    if current.url is not None:
        return current.url
    served = gateway_record.list_gateways(home)
    if not served:
        where = ErrorLocation(str(home.root))
        raise OperateError("AW-OPS-31", "no platform is running", where=where, hint="archwright up --detach")
    return next((one for one in served if model in one.models), served[0]).url


class AnswerStream(Iterator[str]):
    """The pieces of an answer as they are generated.

    From the first piece on, `model` is the version that answers, and `request` the answer's id for `lineage`.
    """

    def __init__(self, pieces: Callable[[AnswerStream], Iterator[str]]) -> None:
        self.model = self.request = ""
        self._pieces = pieces(self)

    def __next__(self) -> str:
        return next(self._pieces)


def ask(question: str, *, model: str | None = None, max_tokens: int | None = None) -> AnswerStream:
    """Ask the running platform with the owner's key; return the answer as a stream."""

    def pieces(answer: AnswerStream) -> Iterator[str]:
        with open_keys() as (keys, home, _store):
            url, key = running_url(home, model), owner_keys.get_local_key(keys, home)
        messages = [{"role": "user", "content": question}]
        body: dict[str, object] = {"model": model or _first_endpoint(home), "stream": True, "messages": messages}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        with _post_request(f"{url}/v1/chat/completions", key, json.dumps(body).encode()) as reply:
            answer.model, answer.request = reply.headers["x-archwright-model"], reply.headers["x-request-id"]
            yield from _read_contents(reply, url)

    return AnswerStream(pieces)


def _read_contents(reply: StreamedReply, url: str) -> Iterator[str]:
    with suppress(NoReply):
        for line in reply:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    message, where = str(event["error"].get("message")), ErrorLocation(url)
                    raise OperateError("AW-OPS-32", message, where=where, hint="archwright status")
                for choice in event.get("choices", []):
                    yield choice["delta"].get("content") or ""
            elif line.startswith(b"data: [DONE]"):
                return
    cut = "the stream ended before the answer was complete"
    raise OperateError("AW-OPS-33", cut, where=ErrorLocation(url), hint="archwright status")


def _first_endpoint(home: Home) -> str:
    """Return the first workload's name, whose endpoint serves the version in production, or the first model."""
    current = platform_state.read_running_state(home)
    names = [one.name for one in current.endpoints] if current is not None else []
    names += [model for one in gateway_record.list_gateways(home) for model in one.models]
    return next(iter(names), "")


def _post_request(url: str, key: str, body: bytes) -> StreamedReply:
    chosen = settings.load()
    context = ssl.create_default_context(cafile=chosen.tls_certificate) if chosen.tls_certificate else None
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    # The client uses no proxy: the gateway is on this machine, and no proxy may see its key.
    client = BlockingClient(ANSWER_TIMEOUT_S, tls=context)
    try:
        reply = client.open("POST", url, headers=headers, body=body)
        if reply.status < HTTPStatus.BAD_REQUEST:
            return reply
        with reply:
            refusal = reply.read(4096).decode(errors="replace")
    except NoReply as error:
        message = f"cannot reach the gateway: {error}"
        raise OperateError("AW-OPS-33", message, where=ErrorLocation(url), hint="archwright status") from error
    with suppress(ValueError, KeyError, TypeError):
        refusal = json.loads(refusal)["error"]["message"]
    message = f"the gateway refused the request: {refusal or f'status {reply.status}'}"
    raise OperateError("AW-OPS-32", message, where=ErrorLocation(url), hint="archwright status")
