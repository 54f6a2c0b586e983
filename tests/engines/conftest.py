"""Real engines for the tests of this room: child processes in a temporary home, with the real small model."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest

from archwright.catalog.load import load_catalog
from archwright.engines.embedded_engine import EmbeddedEngine
from archwright.engines.engine_config import EngineConfig
from archwright.engines.engine_protocol import wait_until_ready
from archwright.home import Home
from archwright.settings import child_environment

SMALL_MODEL = load_catalog().artefacts["SmolLM2-135M-Instruct"]
READY_WITHIN_S = 30.0


class Child:
    """An engine process, and what a supervisor does with it."""

    def __init__(self, home: Home, config: EngineConfig) -> None:
        self.home = home
        self.config = config
        self.engine = EmbeddedEngine(home, config)
        self.log = home.log(config.socket)
        self.started_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds from the start of the process to its first healthy answer."""
        path = self.home.config(self.config.socket)
        path.write_bytes(msgspec.json.encode(self.config))
        begin = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "archwright.engines", str(self.home.root), str(path)],
                stdin=subprocess.PIPE,
                stderr=log,
                env=child_environment({"GOMP_SPINCOUNT": "1000"}),
            )
        asyncio.run(wait_until_ready(self.engine, READY_WITHIN_S))
        return time.monotonic() - begin

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def orphan(self) -> int:
        """What the death of the supervisor looks like to the engine."""
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.close()
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        status = self.process.wait(timeout=10)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return status


@pytest.fixture
def terminate_handler() -> Iterator[None]:
    """Puts back what an in-process `serve` does to SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
