"""An engine and the gateway in a restored home, as processes that know nothing of the home in force."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from archwright.contract.record import Record
from archwright.engines.engine_config import EngineConfig
from archwright.engines.model_store import find_stored_model
from archwright.errors import ErrorLocation, OperateError
from archwright.home import Home, write_json
from archwright.http_client.blocking_client import BlockingClient, NoReply
from archwright.python_process import build_module_command
from archwright.serving.settings.config import EndpointSpec, EnginePoolSpec, GatewayConfig, WeightedTarget
from archwright.settings import NAMES, PREFIX, child_environment

MODEL, SLOTS, CONTEXT_TOKENS, REPLY_TOKENS = "drill", 2, 1024, 8
# A price, because a key with a budget needs one; a reply costs less than a key may spend.
PRICE_USD = 1e-9
START_TIMEOUT_S, REQUEST_TIMEOUT_S, PROBE_EVERY_S, STOP_TIMEOUT_S = 300.0, 120.0, 0.05, 20.0
LOG_CHARACTERS = 300


def isolate_environment(home: Home, database_url: str) -> dict[str, str]:
    """The environment of a process in a restored home: none of our settings, and no second place of the audit log."""
    variables = tuple(PREFIX + name.upper() for name in NAMES)
    stated = {f"{PREFIX}HOME": str(home.root), f"{PREFIX}AUDIT_SECOND_PLACE": "none"}
    if database_url:
        stated[f"{PREFIX}DATABASE_URL"] = database_url
    return child_environment(stated, without=variables)


class DrillReply(Record):
    status: int
    text: str = ""


class ScratchPlatform:
    """The processes of a restored home, and the port of its gateway."""

    def __init__(self, home: Home, model: str | None, database_url: str) -> None:
        self._home = home
        self._database_url = database_url
        self._engine = _configure_engine(home, model)
        self._gateway = _configure_gateway(database_url)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start engine and gateway, and wait until they are ready. Raises OperateError AW-OPS-87."""
        self._start_process("archwright.engines", "engine", self._engine)
        self._start_process("archwright.serving", "gateway", self._gateway)
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._request("GET", "/readyz", "").status != HTTPStatus.OK:
            ended = any(process.poll() is not None for process in self._processes)
            if ended or time.monotonic() > deadline:
                raise failed_drill("the gateway of the restored home does not start", self._read_logs())
            time.sleep(PROBE_EVERY_S)

    def send_chat(self, key: str) -> DrillReply:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Say a word."}],
            "max_tokens": REPLY_TOKENS,
        }
        return self._request("POST", "/v1/chat/completions", key, json.dumps(body).encode())

    def stop(self) -> None:
        """Stop the gateway first, then the engine."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _start_process(self, module: str, name: str, config: Record) -> None:
        path = self._home.config(f"drill-{name}")
        write_json(path, config)
        with self._home.open_log(name) as log:
            process = subprocess.Popen(
                build_module_command(module, str(self._home.root), str(path)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._home.root,
                env=isolate_environment(self._home, self._database_url),
            )
        self._processes.append(process)

    def _request(self, method: str, path: str, key: str, body: bytes | None = None) -> DrillReply:
        """Send a request; status 0 without an answer."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        client = BlockingClient(REQUEST_TIMEOUT_S)
        try:
            reply = client.send(method, f"http://127.0.0.1:{self._gateway.port}{path}", headers=headers, body=body)
        except NoReply:
            return DrillReply(status=0)
        return DrillReply(status=reply.status, text=reply.body.decode("utf-8", "replace"))

    def _read_logs(self) -> str:
        logs = (self._home.log(name).read_text("utf-8", "replace").strip() for name in ("engine", "gateway"))
        return "; ".join(log[-LOG_CHARACTERS:] for log in logs if log)


@contextmanager
def run_platform(home: Home, model: str | None, database_url: str) -> Iterator[ScratchPlatform]:
    """Run an engine (of a stored model; None: the null engine) and the gateway in a restored home."""
    platform = ScratchPlatform(home, model, database_url)
    try:
        platform.start()
        yield platform
    finally:
        platform.stop()


def failed_drill(message: str, detail: str = "") -> OperateError:
    hint = "look for the cause, make a new backup, and run the drill again; older backups may be sound"
    reason = f"{message}: {detail}" if detail else message
    return OperateError("AW-OPS-87", f"the drill failed: {reason}", where=ErrorLocation("drill"), hint=hint)


def _configure_engine(home: Home, model: str | None) -> EngineConfig:
    digest = None if model is None else find_stored_model(home, model).sha256
    return EngineConfig(
        engine="null" if digest is None else "llamacpp",
        socket="drill",
        alias=MODEL,
        slots=SLOTS,
        context_tokens=CONTEXT_TOKENS,
        default_max_tokens=REPLY_TOKENS,
        model_sha256=digest,
    )


def _configure_gateway(database_url: str) -> GatewayConfig:
    pool = EnginePoolSpec(
        name=MODEL,
        addresses=("unix:drill",),
        model=MODEL,
        slots=SLOTS,
        context_tokens=CONTEXT_TOKENS,
        price_in_usd=PRICE_USD,
        price_out_usd=PRICE_USD,
    )
    targets = (WeightedTarget(pool=MODEL),)
    endpoint = EndpointSpec(model=MODEL, workload=MODEL, targets=targets, default_max_tokens=REPLY_TOKENS)
    return GatewayConfig(pools=(pool,), endpoints=(endpoint,), port=_find_free_port(), store_url=database_url)


def _find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
