"""The application called as a server calls it, for what no process can be brought to: bugs, a broken health check."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from archwright.access.audit import AuditLog
from archwright.access.identity import Keys
from archwright.contract.lineage import Edge
from archwright.engines.client import EngineClient
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor import lineage
from archwright.monitor.commit import GroupCommit
from archwright.monitor.exposition import Exposition
from archwright.monitor.ring import Recorder
from archwright.serving.app import App
from archwright.serving.config import EndpointSpec, GatewayConfig, Limits
from archwright.serving.gateway import Books, Gateway
from archwright.serving.guard import Guard
from archwright.store import Store


class Stand:
    """A gateway without a socket; `journal` collects what it writes."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.store = Store(f"sqlite:///{folder}/a.db")
        keys = Keys(self.store, b"p" * 32)
        keys.create_tenant("acme")
        self.key = keys.create("acme")[0]
        self.exposition = Exposition()
        self.audit, self.recorder = AuditLog(self.store), Recorder(self.store, self.exposition)
        self.answers: GroupCommit[Edge] = GroupCommit("lineage of answers", partial(lineage.append, self.store))
        self.journal = io.StringIO()
        spec = EndpointSpec(
            model="m",
            workload="w",
            pool="p",
            addresses=("unix:none",),
            default_max_tokens=1,
            context_tokens=9,
            slots=1,
        )
        self.gateway = Gateway(
            GatewayConfig(endpoints=(spec,), limits=Limits(**limits)),
            Home(folder),
            Guard(keys, self.audit, self.exposition),
            Books(self.recorder, self.exposition, self.answers),
            Journal("gateway", self.journal),
        )
        self.app = App(self.gateway)

    async def call(self, path: str, body: bytes | None = None) -> tuple[int, Any]:
        sent: list[Any] = []
        messages: list[Any] = [{"type": "http.request", "body": body or b"", "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {self.key}".encode())]
        if body is not None:
            headers.append((b"content-length", str(len(body)).encode()))
        method = "GET" if body is None else "POST"
        scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": headers}
        await self.app(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])

    def close(self) -> None:
        self.audit.close()
        self.answers.close()
        self.recorder.close()
        self.store.close()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.close()


def test_a_bug_is_an_internal_error_that_says_nothing(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find(self, *_asked: object) -> None:
            raise KeyError("the secret prompt")

    monkeypatch.setattr(stand.gateway, "directory", Broken())
    status, body = asyncio.run(stand.call("/v1/chat/completions", b'{"model": "m"}'))
    assert (status, body["error"]["code"]) == (500, "bug")
    entry = json.loads(stand.journal.getvalue())
    assert entry["code"] == "AW-INT-01"
    assert entry["bug"].startswith("KeyError at find:")
    assert entry["request"].startswith("aw-")
    assert "secret" not in stand.journal.getvalue()


def test_too_many_at_once(tmp_path: Path) -> None:
    stand = Stand(tmp_path, connections=0)
    try:
        status, body = asyncio.run(stand.call("/healthz"))
        assert (status, body["error"]["code"]) == (503, "overloaded")
    finally:
        stand.close()


def test_a_broken_health_check_is_noted_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(tmp_path, health_s=0.01, sweep_s=0.01)
    asked = 0

    async def healthy(_client: EngineClient, _path: str = "", _timeout_s: float = 2.0) -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("unforeseen")
        return True

    monkeypatch.setattr(EngineClient, "healthy", healthy)

    async def scenario() -> None:
        inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        said: list[str] = []

        async def send(message: Any) -> None:
            said.append(message["type"])

        server = asyncio.create_task(stand.app({"type": "lifespan"}, inbox.get, send))
        await inbox.put({"type": "lifespan.startup"})
        async with asyncio.timeout(5):
            while not stand.gateway.ready:
                await asyncio.sleep(0.01)
        assert await stand.call("/readyz") == (200, {"ready": True, "pools": {"ready": 1, "total": 1}})
        await inbox.put({"type": "lifespan.shutdown"})
        await server
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    try:
        asyncio.run(scenario())
        assert "health check failed" in stand.journal.getvalue()
    finally:
        stand.close()


def test_other_protocols_are_not_served(stand: Stand) -> None:
    async def nothing(*_args: Any) -> Any:
        raise AssertionError("spoke")

    asyncio.run(stand.app({"type": "websocket"}, nothing, nothing))
