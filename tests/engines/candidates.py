"""The engines of the conformance suite. Another engine is one more entry: how it is configured and what it can do.

An engine that is not started as `python -P -m archwright.engines HOME CONFIG` brings its own subclass of `Child`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from gguf import PoolingType

from archwright.engines.engine_config import EngineConfig
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.operate.readiness_probe import find_free_port

from ..tools.gguf_models import write_encoder
from ..tools.text_models import EMBEDDER, RERANKER, find_text_models
from ..tools.vllm_server import install_vllm, write_checkpoint
from .conftest import SMALL_MODEL, Child, make_config, wait_until_ready

LLAMA_SERVER = Path(__file__).parents[1] / "tools" / "llama_server.py"
CONTEXT_TOKENS = 1024
DEFAULT_MAX_TOKENS = 24
LIMITS = {"slots": 2, "context_tokens": CONTEXT_TOKENS, "default_max_tokens": DEFAULT_MAX_TOKENS}
# Tasks that one process of the engine is started for, and what it can do beyond the task's own tests.
CHAT, EMBED, RERANK = "chat", "embed", "rerank"
SCHEMA, LIFECYCLE = "schema", "lifecycle"
# It reads a prompt in steps, and ends a cancelled request between two of them.
PROMPT_STEPS = "prompt steps"
# It bounds answers without a length itself; otherwise only the gateway does.
DEFAULT_LENGTH = "default length"
MakeConfig = Callable[[Home, str, str], EngineConfig]


class Candidate(NamedTuple):
    """`config` gets the home (where it may write model files), the task and the name of the socket.

    `series`: of the requests that run, of tokens read and of tokens written. `marks`: of every test with this engine.
    """

    name: str
    config: MakeConfig
    abilities: frozenset[str]
    series: tuple[str, str, str]
    child: type[Child] = Child
    marks: tuple[pytest.MarkDecorator, ...] = ()

    def start(self, home: Home, task: str) -> Child:
        child = self.make(home, task, f"{self.name}-{task}")
        child.start()
        return child

    def make(self, home: Home, task: str, socket: str) -> Child:
        return self.child(home, self.config(home, task, socket))


def _null(home: Home, task: str, socket: str) -> EngineConfig:
    settings = {"embeddings": task == EMBED, "ttft_s": 0.15, "tpot_s": 0.01}
    return make_config("null", socket=socket, settings=settings, **LIMITS)


def _llamacpp(home: Home, task: str, socket: str) -> EngineConfig:
    settings = {"embeddings": task == EMBED, "rerank": task == RERANK, "threads": 1}
    digest = SMALL_MODEL.sha256
    if task == RERANK:
        digest = "e" * 64
        write_encoder(home.model(digest), PoolingType.RANK)
    return make_config("llamacpp", socket=socket, model_sha256=digest, settings=settings, **LIMITS)


def _onnx_text(home: Home, task: str, socket: str) -> EngineConfig:
    find_text_models(home.root.parent).put(home)
    digest = RERANKER if task == RERANK else EMBEDDER
    return make_config("onnx-text", socket=socket, model_sha256=digest, settings={"task": task}, **LIMITS)


def _vllm(home: Home, task: str, socket: str) -> EngineConfig:
    """The server that behaves as vLLM's does, since no GPU is at hand."""
    write_checkpoint(home.model_folder(digest := "5" * 64), {"ttft_s": 0.15, "tpot_s": 0.01})
    program = install_vllm(home.folder("bin")) / "vllm"
    settings = {"program": str(program), "embeddings": task == EMBED}
    return make_config("vllm", socket=socket, model_sha256=digest, settings=settings, **LIMITS)


class InstalledServer(Child):
    """llama.cpp's server at a URL, which is not started by archwright."""

    def __init__(self, home: Home, config: EngineConfig) -> None:
        super().__init__(home, config)
        self.port = find_free_port("127.0.0.1")
        self.address = f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        config = self.config
        model = self.home.model(str(config.model_sha256))
        context = config.slots * config.context_tokens
        options = {"model": model, "alias": config.alias, "port": self.port, "ctx-size": context}
        options |= {"parallel": config.slots, "predict": config.default_max_tokens}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, str(LLAMA_SERVER), *arguments, "--metrics"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log)
        asyncio.run(wait_until_ready(EngineClient(self.address)))


def _name_series(prefix: str) -> tuple[str, str, str]:
    return f"{prefix}:requests_processing", f"{prefix}:prompt_tokens_total", f"{prefix}:tokens_predicted_total"


VLLM_SERIES = ("vllm:num_requests_running", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")
ALL = frozenset({CHAT, SCHEMA, EMBED, LIFECYCLE, DEFAULT_LENGTH})
CANDIDATES = (
    Candidate("null", _null, ALL, _name_series("null")),
    Candidate("llamacpp", _llamacpp, ALL | {RERANK, PROMPT_STEPS}, _name_series("llamacpp")),
    Candidate("onnx-text", _onnx_text, frozenset({EMBED, RERANK}), _name_series("onnx_text")),
    Candidate("vllm", _vllm, frozenset({CHAT, SCHEMA, EMBED}), VLLM_SERIES),
    Candidate(
        "llama-server",
        _llamacpp,
        frozenset({CHAT, SCHEMA, DEFAULT_LENGTH}),
        _name_series("llamacpp"),
        InstalledServer,
        (pytest.mark.nightly, pytest.mark.enable_socket),
    ),
)


def find_candidates(*abilities: str) -> Sequence[object]:
    """Return the parameters of a test or fixture: every candidate with these abilities."""
    return [
        pytest.param(one, id=one.name, marks=one.marks) for one in CANDIDATES if one.abilities.issuperset(abilities)
    ]
