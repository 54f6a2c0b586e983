"""A platform with null engines, artificial model versions in its home, and clients under constant load."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import threading
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.contract.lineage import ModelVersion, Promotion, Task
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.engines.null import ADAPTER_MARK_CHARACTERS
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.lifecycle import model_registry
from archwright.operate import platform_state, rollout
from archwright.plan.plan_file import write_plan
from archwright.store import Store

BASE = "null-model"
ENDPOINT = "assistant"


class Stage:
    """A home whose model versions are files of a few bytes, which the null engine accepts as adapters."""

    def __init__(self, home: Home, plan: Plan) -> None:
        self.home = home
        self.plan = plan
        self.store = Store(home.store_url)
        self.url = ""

    @cached_property
    def key(self) -> str:
        return api.key.create(tenant="acme").key

    def up(self, **settings: Any) -> None:
        """Start the plan with changed settings of its null engine."""
        pool = replace(self.plan.pools[0], slots=64, launch=replace(self.plan.pools[0].launch, settings=settings))
        self.start(replace(self.plan, pools=(pool,)))

    def start(self, plan: Plan) -> None:
        path = self.home.root.parent / "plan.json"
        write_plan(plan, path)
        self.url = api.up(str(path), detach=True, port=0).started.url

    def version(self, name: str = ENDPOINT, *, task: Task = "text-lora", data: bytes | None = None) -> ModelVersion:
        number = len(self.store.rows(model_registry.MODELS, {"name": name})) + 1
        data = f"{name} {number}".encode() if data is None else data
        form = "gguf" if task == "text-lora" else "onnx"
        made = ModelVersion(
            id=f"{name}@v{number}",
            name=name,
            version=number,
            at=time.time(),
            task=task,
            format="gguf" if task == "text-lora" else "onnx",
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            run=f"r-{name}-{number}",
            dataset_version="docs@v1",
            base=BASE,
        )
        self.home.model(made.sha256, form).write_bytes(data)
        self.store.append(model_registry.MODELS, [made])
        return made

    def change(self, version: ModelVersion | None, endpoint: str = ENDPOINT) -> Promotion:
        """Append to the history, like `models promote` and `models rollback`."""
        seen = model_registry.promotion_history(self.store, endpoint)
        to = (endpoint, version.id if version else None)
        return model_registry.append_promotion(self.store, seen, "promote" if version else "rollback", to, "local")

    def switch(self, version: ModelVersion | None, endpoint: str = ENDPOINT) -> None:
        """Change the version, and wait until it is served."""
        rollout.wait_until_served(self.home, self.store, self.change(version, endpoint).id, WAIT_S)

    def state(self) -> platform_state.PlatformState:
        found = platform_state.read_running_state(self.home)
        assert found is not None
        return found

    def pids(self) -> dict[str, int]:
        return {"supervisor": self.state().supervisor_pid, **{p.name: p.pid for p in self.state().processes}}

    def serving(self) -> dict[str, str]:
        """Return the version of each engine that runs, in any phase."""
        return {p.name: p.serves for p in self.state().processes if p.name != "gateway"}

    def running_requests(self, engine: str) -> int:
        """Return how many requests an engine works on, by its own count."""
        page = asyncio.run(_read_metrics(f"unix:{self.home.socket(engine)}"))
        values = [line.split()[1] for line in page.splitlines() if line.startswith("null:requests_processing ")]
        return int(float(values[0]))

    def log(self, name: str) -> str:
        return self.home.log(name).read_text(encoding="utf-8")


async def _read_metrics(address: str) -> str:
    client = EngineClient(address)
    try:
        return await client.get_text("/metrics")
    finally:
        await client.close()


@pytest.fixture
def stage(home: Home, null_plan: Plan) -> Iterator[Stage]:
    made = Stage(home, null_plan)
    yield made
    api.down()
    made.store.close()


class Reply(NamedTuple):
    """An answer; `failure` describes its defect."""

    began: float
    version: str
    failure: str
    request: str


class Clients:
    """`count` concurrent clients, half of them streaming, each with one request after the other.

    The marks in an answer name the engine that wrote it; the header of the reply must name the same version.
    """

    def __init__(self, url: str, key: str, count: int, *, tokens: int = 24, model: str = ENDPOINT) -> None:
        self.replies: list[Reply] = []
        self.marks: dict[str, str] = {}
        self._url = url
        self._key = key
        self._count = count
        self._tokens = tokens
        self._model = model
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number % 2 == 0,)) for number in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.replies) >= self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failures(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.failure]

    @property
    def answered(self) -> list[Reply]:
        return [reply for reply in self.replies if not reply.failure]

    @property
    def versions(self) -> list[str]:
        """Return the versions of the answers, in their order."""
        return list(dict.fromkeys(reply.version for reply in sorted(self.replies, key=lambda r: r.began)))

    def _client(self, stream: bool) -> None:
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=WAIT_S)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                version, request, failure = self._ask(connection, stream)
            except (http.client.HTTPException, OSError, AssertionError) as error:
                version = request = ""
                failure = f"{type(error).__name__} {error}"
                connection.close()
            self.replies.append(Reply(began, version, failure, request))
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, stream: bool) -> tuple[str, str, str]:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": "Go on."}],
            "max_tokens": self._tokens,
            "stream": stream,
        }
        headers = {"authorization": f"Bearer {self._key}"}
        connection.request("POST", "/v1/chat/completions", msgspec.json.encode(body), headers)
        reply = connection.getresponse()
        data = reply.read()
        version = reply.getheader("x-archwright-model", "")
        if reply.status != 200:
            return version, "", f"{reply.status} {data.decode()}"
        return version, reply.getheader("x-request-id", ""), self._wrong(_text(data, stream), version)

    def _wrong(self, text: str, version: str) -> str:
        """Return the contradiction between the answer and the version in the header; empty if there is none."""
        words = text.split()
        if len(words) != self._tokens:
            return f"{len(words)} of {self._tokens} words: {text!r}"
        found = {word for word in words if len(word) == ADAPTER_MARK_CHARACTERS and word in self.marks.values()}
        expected = {self.marks[version]} if self.marks.get(version) else set()
        return "" if found == expected else f"{version} said {text!r}"

    def knows(self, *versions: ModelVersion) -> Clients:
        self.marks |= {version.id: version.sha256[:ADAPTER_MARK_CHARACTERS] for version in versions}
        return self


def _text(data: bytes, stream: bool) -> str:
    if not stream:
        return str(msgspec.json.decode(data)["choices"][0]["message"]["content"])
    lines = [line[6:] for line in data.split(b"\n\n") if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]", "a stream without its end"
    deltas = [choice["delta"] for line in lines for choice in msgspec.json.decode(line)["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)
