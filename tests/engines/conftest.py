"""Real engines: child processes in a temporary home, with the real small model, or `serve` in this process."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from archwright.catalog.load import load_catalog
from archwright.engines.engine_config import EngineConfig
from archwright.engines.unix_socket import claim_socket
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.journal import Journal
from archwright.settings import child_environment

from ..tools.checks import WAIT_S, until, until_async

SMALL_MODEL = load_catalog().artefacts["SmolLM2-135M-Instruct"]
Act = Callable[[EngineClient], Awaitable[Any]]


def make_config(engine: str, **changes: Any) -> EngineConfig:
    fields = {"engine": engine, "socket": engine, "slots": 1, "context_tokens": 64, "default_max_tokens": 8}
    return EngineConfig(**{**fields, "alias": "small", **changes})


def connect(home: Home, config: EngineConfig) -> EngineClient:
    return EngineClient(f"unix:{home.socket(config.socket)}")


async def wait_until_ready(client: EngineClient) -> None:
    await until_async(client.healthy)
    await client.close()


def claim_socket_here(home: Home, name: str) -> None:
    """Claim an engine's socket in the process of the tests, which keeps its umask."""
    before = os.umask(0o077)
    try:
        claim_socket(home, name)
    finally:
        os.umask(before)


def serve_until_done(serve: Callable[..., None], home: Home, config: EngineConfig, act: Act) -> tuple[Any, list[str]]:
    """Run an engine as its process does, until `act` is through. Returns its result and the events of the journal."""
    journal, result = io.StringIO(), []

    async def wait() -> None:
        client = connect(home, config)
        result.append(await act(client))
        await client.close()

    claim_socket_here(home, config.socket)
    serve(config, home, Journal("engine", journal), wait)
    return result[0], [json.loads(line)["event"] for line in journal.getvalue().splitlines()]


def handles_signal(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """True if the process has a handler for the signal (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


# An engine whose input ends leaves by itself, or the kernel is faster.
ENDED_WITH_INPUT = (0, -signal.SIGKILL)


class Child:
    """An engine process and the actions of its supervisor."""

    def __init__(self, home: Home, config: EngineConfig) -> None:
        self.home = home
        self.config = config
        self.address = connect(home, config).address
        self.log = home.log(config.socket)
        self.started_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, and wait for its first healthy answer."""
        path = self.home.config(self.config.socket)
        path.write_bytes(msgspec.json.encode(self.config))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "archwright.engines", str(self.home.root), str(path)],
                stdin=subprocess.PIPE,
                stderr=log,
                env=child_environment({"GOMP_SPINCOUNT": "1000"}),
            )
        asyncio.run(wait_until_ready(EngineClient(self.address)))
        # An engine of a native library answers a moment before the interpreter runs again and sets its handler.
        until(partial(handles_signal, self.process, signal.SIGTERM))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def orphan(self) -> int:
        """End the engine's input, as the death of the supervisor does."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.close()
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        status = self.process.wait(WAIT_S)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return status


def accepts_connections(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.fixture
def terminate_handler() -> Iterator[None]:
    """Restores the handler of SIGTERM after a `serve` in this process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
