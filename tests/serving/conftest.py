"""Real processes in a temporary home: engines and the gateway before them, on free ports and sockets."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import resource
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.serving.fake_provider import Place, standing_in
from tests.tools.checks import WAIT_S, until

from archwright.access.accounts import open_accounts_table
from archwright.access.api_keys import KeyStore, load_pepper
from archwright.access.audit_log import AuditEntry, name_users, read_entries
from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.contract.served import RequestRecord
from archwright.engines.engine_config import EngineConfig
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.monitor.wal.compaction import read_served
from archwright.policy.usage_limits import UsageLimits as PolicyLimits
from archwright.python_process import build_module_command
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.settings.config import EndpointSpec, EnginePoolSpec, GatewayConfig, WeightedTarget
from archwright.settings import child_environment, read_variable
from archwright.store import Store

ROOT = Path(__file__).parents[2]


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def read(cls, connection: http.client.HTTPConnection) -> Reply:
        answer = connection.getresponse()
        return cls(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The data of a streamed reply, [DONE] included as the text."""
        found = [line[6:] for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [text if text == "[DONE]" else json.loads(text) for text in found]


@dataclass
class Platform:
    """One home with its processes. `key` is the key of a member, `owner` the key of an owner."""

    home: Home
    config: GatewayConfig
    key: str = ""
    owner: str = ""
    context: ssl.SSLContext | None = None
    gateway: subprocess.Popen[bytes] | None = None
    engines: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    opened: list[socket.socket] = field(default_factory=list)
    module: str = "archwright.serving"

    @property
    def url(self) -> str:
        return self.config.url

    @property
    def store(self) -> Store:
        return Store(self.config.store_url or self.home.store_url)

    def start_engine(self, *configs: EngineConfig) -> None:
        """Start engines together and wait until each answers."""
        for config in configs:
            self.engines[config.socket] = self._start("archwright.engines", config.socket, config)
        for config in configs:
            self._until(partial(_answers, self.home.socket(config.socket)), self.engines[config.socket])

    def start_gateway(self, *, ready: bool = True) -> None:
        if not self.key:
            with closing(self.store) as store:
                keys = KeyStore(store, load_pepper(self.home, store))
                keys.create_tenant("acme")
                self.key, self.owner = keys.create("acme")[0], keys.create("acme", "owner")[0]
        self.gateway = self._start(self.module, "gateway", self.config)
        self._until(lambda: self._probe("/readyz" if ready else "/healthz"), self.gateway)

    def made_key(self, tenant: str, role: str = "member", lives_s: float | None = None, **limits: Any) -> str:
        """A key that the running gateway knows at once, whatever it was asked just before."""
        with self.keys() as keys:
            return keys.create(tenant, role, limits=PolicyLimits(**limits), lives_s=lives_s)[0]

    @contextmanager
    def keys(self) -> Iterator[KeyStore]:
        """Open the key store as the command line does: workers notice its changes."""
        with closing(self.store) as store, closing(open_accounts_table(self.home)) as slate:
            yield KeyStore(store, load_pepper(self.home, store), table=slate)

    @property
    def master(self) -> subprocess.Popen[bytes]:
        """The running gateway's master process."""
        assert self.gateway is not None, "the gateway was not started"
        return self.gateway

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the master process."""
        return read_resident_bytes(self.master.pid)

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers."""
        pid = self.master.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _probe(self, path: str) -> bool:
        try:
            return self.get(path, key=None).status == 200
        except OSError:
            return False

    def kill_engine(self, name: str) -> None:
        process = self.engines.pop(name)
        process.kill()
        _reap(process)

    def connection(self, *, admin: bool = False) -> http.client.HTTPConnection:
        """A connection to the gateway, or to its administration."""
        port = self.config.admin_port if admin else self.config.port
        if self.context is not None:
            return http.client.HTTPSConnection("127.0.0.1", port, timeout=WAIT_S, context=self.context)
        return http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = "",
        headers: dict[str, str] | None = None,
        admin: bool = False,
    ) -> Reply:
        """Send a request. `key` "": the member's key, None: no key; `body` bytes are sent as they are."""
        sent = dict(headers or {})
        if key is not None:
            sent.setdefault("authorization", f"Bearer {key or self.key}")
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with closing(self.connection(admin=admin)) as connection:
            connection.request(method, path, data, sent)
            return Reply.read(connection)

    def get(self, path: str, *, key: str | None = "") -> Reply:
        return self.ask("GET", path, key=key)

    def chat(self, key: str | None = "", headers: dict[str, str] | None = None, **fields: Any) -> Reply:
        return self.ask("POST", "/v1/chat/completions", _chat_body(fields), key=key, headers=headers)

    def open_chat(self, **fields: Any) -> socket.socket:
        return self.open_request("/v1/chat/completions", _chat_body(fields))

    def open_request(self, path: str, body: object) -> socket.socket:
        """Send a request and return its socket, to read the response or cut it off."""
        data = json.dumps(body).encode()
        plain = socket.create_connection(("127.0.0.1", self.config.port), timeout=WAIT_S)
        self.opened.append(plain)
        head = f"POST {path} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {self.key}\r\n"
        plain.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data)
        return plain

    def open_get(self, path: str) -> socket.socket:
        """Send a request without a body and return its socket."""
        plain = socket.create_connection(("127.0.0.1", self.config.port), timeout=WAIT_S)
        self.opened.append(plain)
        plain.sendall(f"GET {path} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {self.key}\r\n\r\n".encode())
        return plain

    def engine_metrics(self, name: str = "null") -> dict[str, float]:
        """The engine's own counters, asked past the gateway."""

        async def page() -> str:
            client = EngineClient(f"unix:{self.home.socket(name)}")
            try:
                return await client.get_text("/metrics")
            finally:
                await client.close()

        return _read_series(asyncio.run(page()))

    def in_flight(self, pool: str = "p") -> float:
        return self.metrics().get(f'archwright_requests_in_flight{{pool="{pool}"}}', 0.0)

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for a state of other processes."""
        until(done)

    def raw(self, data: bytes, *, wait_s: float = WAIT_S) -> bytes:
        """Send bytes and return the response until the gateway closes or is silent for `wait_s`."""
        with socket.create_connection(("127.0.0.1", self.config.port), timeout=wait_s) as plain:
            plain.sendall(data)
            said = b""
            with suppress(TimeoutError):
                while piece := plain.recv(65536):
                    said += piece
            return said

    def audited(self, request_id: str) -> list[AuditEntry]:
        return name_users(read_entries(self.store, self.home, {"request_id": request_id}), self.store)

    def served(self, request_id: str) -> list[RequestRecord]:
        return [one for one in read_served(self.store, self.home) if one.request_id == request_id]

    def metrics(self) -> dict[str, float]:
        """Series of the exposition, labels and all, to their values."""
        return _read_series(self.get("/metrics", key=self.owner).body.decode())

    def requests(self, status: str, model: str = "m") -> float:
        """The requests of a model that ended with `status`, of all tenants and HTTP statuses."""
        labels = f'model="{model}"', f'status="{status}"'
        found = {name: value for name, value in self.metrics().items() if name.startswith("archwright_requests_total{")}
        return sum(value for name, value in found.items() if all(label in name for label in labels))

    def close(self) -> None:
        for connection in self.opened:
            connection.close()
        found = [process for process in [self.gateway, *self.engines.values()] if process is not None]
        for process in found:
            process.terminate()
        for process in found:
            _reap(process)

    def _start(self, module: str, name: str, config: object) -> subprocess.Popen[bytes]:
        path = self.home.config(name)
        path.write_bytes(msgspec.json.encode(config))
        # A gateway of a test may be a module of the tests, which the working folder does not lend it.
        search_path = os.pathsep.join(filter(None, (read_variable("PYTHONPATH"), str(ROOT))))
        with self.home.log(name).open("ab") as log:
            return subprocess.Popen(
                build_module_command(module, str(self.home.root), str(path)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=child_environment({"GOMP_SPINCOUNT": "1000", "PYTHONPATH": search_path}),
            )

    def _until(self, done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        until(lambda: done() or process.poll() is not None)
        logs = "\n".join(path.read_text()[-2000:] for path in self.home.folder("logs").glob("*.log"))
        assert process.poll() is None, f"it ended while it started: {logs}"


def _read_series(page: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, value in lines}


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _chat_body(fields: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Say something."}], **fields}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.settimeout(WAIT_S)
            probe.connect(str(path))
            probe.sendall(b"GET /health HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
            return b" 200 " in probe.recv(64)
        except OSError:
            return False


def read_resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def read_process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def check_restricted(pid: int) -> None:
    """The process gains no privileges and writes no core dump, neither to a file nor to a handler."""
    assert read_process_status(pid)["NoNewPrivs"] == "1"
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    assert next(line for line in limits if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
    assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Entry(NamedTuple):
    """An endpoint and the pool that is its one target, unless it names others."""

    pool: EnginePoolSpec
    spec: EndpointSpec


def endpoint(*, pool: str = "p", **changes: Any) -> Entry:
    of_pool: dict[str, Any] = {"name": pool, "addresses": ("unix:null",), "model": changes.get("model", "m")}
    of_pool |= {"slots": 8, "context_tokens": 4096}
    of_pool["adapter"] = bool(changes.get("version")) and changes.get("kind") != "predict"
    of_endpoint: dict[str, Any] = {"model": "m", "workload": "desk", "default_max_tokens": 16}
    of_endpoint["targets"] = (WeightedTarget(pool=pool),)
    for name, value in changes.items():
        (of_pool if name in EnginePoolSpec.__struct_fields__ and name != "model" else of_endpoint)[name] = value
    return Entry(EnginePoolSpec(**of_pool), EndpointSpec(**of_endpoint))


def table(*entries: Entry, more: tuple[EnginePoolSpec, ...] = (), **given: Any) -> GatewayConfig:
    """A configuration of these endpoints and their pools, and of `more` pools that they name."""
    pools = {pool.name: pool for pool in (*more, *(entry.pool for entry in entries))}
    return GatewayConfig(pools=tuple(pools.values()), endpoints=tuple(entry.spec for entry in entries), **given)


def directory(*entries: Entry) -> ModelDirectory:
    return ModelDirectory([entry.pool for entry in entries], [entry.spec for entry in entries])


def null_engine(name: str = "null", slots: int = 8, **settings: Any) -> EngineConfig:
    return EngineConfig(
        engine="null",
        socket=name,
        alias="engine-file-name",
        slots=slots,
        context_tokens=4096,
        default_max_tokens=16,
        settings=settings,
    )


Given = dict[str, Any]
Start = Callable[..., Platform]


@contextmanager
def running(home: Home, config: GatewayConfig, *engines: EngineConfig, ready: bool = True) -> Iterator[Platform]:
    """A platform whose engines and gateway run until the end of the block."""
    platform = Platform(home, config)
    if config.tls_certificate:
        platform.context = ssl.create_default_context(cafile=config.tls_certificate)
    try:
        platform.start_engine(*engines)
        platform.start_gateway(ready=ready)
        yield platform
    finally:
        platform.close()


@contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """A function that starts platforms: start([endpoint changes], [null engine settings], ready=..., **settings)."""
    with ExitStack() as made:
        count = itertools.count()

        def begin(endpoints: list[Given], engines: list[Given], *, ready: bool = True, **given: Any) -> Platform:
            config = table(*(endpoint(**changes) for changes in endpoints), port=free_port(), **given)
            started = [null_engine(**settings) for settings in engines]
            return made.enter_context(running(Home(folder / f"home{next(count)}"), config, *started, ready=ready))

        yield begin


@pytest.fixture
def start(processes: None, tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as begin:
        yield begin


@pytest.fixture(scope="session")
def null(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Fast null engines: model m for two workloads, model e with embeddings, model slow with a slow engine."""
    endpoints = (
        endpoint(),
        endpoint(workload="night", default_max_tokens=4),
        endpoint(model="e", workload="search", pool="e", addresses=("unix:vectors",), embeddings=True, rerank=True),
        endpoint(model="slow", workload="slow", pool="slow", addresses=("unix:slow",), slots=2),
    )
    limits = ClientLimits(body_bytes=200_000)
    config = table(*endpoints, port=free_port(), plan_digest="0123456789abcdef", limits=limits)
    slow, vectors = (
        null_engine("slow", slots=2, ttft_s=0.05, tpot_s=0.05),
        null_engine("vectors", embeddings=True, rerank=True),
    )
    with running(Home(tmp_path_factory.mktemp("null")), config, null_engine(), slow, vectors) as platform:
        yield platform


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory, model_home: Home) -> Iterator[Platform]:
    """llama.cpp with the small model behind a gateway: two slots, one thread."""
    spec = endpoint(addresses=("unix:llama",), context_tokens=1024, slots=2, default_max_tokens=24, model="smol")
    home, digest = Home(tmp_path_factory.mktemp("llama")), load_catalog().artefacts["SmolLM2-135M-Instruct"].sha256
    home.model(digest).symlink_to(model_home.model(digest))
    made = replace(null_engine("llama", slots=2), alias="smol", context_tokens=1024, default_max_tokens=24)
    engine = replace(made, engine="llamacpp", model_sha256=digest)
    with running(home, table(spec, port=free_port()), engine) as platform:
        yield platform


@pytest.fixture(scope="session")
def tls_pair(processes: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    return certified(tmp_path_factory.mktemp("tls"))


def certified(folder: Path, name: str = "IP:127.0.0.1", days: int = 2) -> tuple[str, str]:
    """A new pair in the folder, for this name."""
    pair = str(folder / "cert.pem"), str(folder / "key.pem")
    made = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days {days} -subj /CN=127.0.0.1"
    command = ["openssl", *made.split(), "-addext", f"subjectAltName={name}", "-out", pair[0], "-keyout", pair[1]]
    subprocess.run(command, check=True, capture_output=True)
    return pair


@pytest.fixture
def place(processes: None) -> Iterator[Place]:
    with standing_in() as made:
        yield made
