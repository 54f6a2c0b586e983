"""The engines of the conformance suite. Another engine is one more entry: how it is configured and what it can do.

An engine that is not started as `python -m archwright.engines HOME CONFIG` brings its own subclass of `Child`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from gguf import PoolingType

from archwright.engines.engine_config import EngineConfig
from archwright.home import Home

from ..tools.gguf_models import write_encoder
from ..tools.text_models import EMBEDDER, RERANKER, find_text_models
from .conftest import SMALL_MODEL, Child, make_config

CONTEXT_TOKENS = 1024
DEFAULT_MAX_TOKENS = 24
LIMITS = {"slots": 2, "context_tokens": CONTEXT_TOKENS, "default_max_tokens": DEFAULT_MAX_TOKENS}
# Tasks that one process of the engine is started for, and what it can do beyond the task's own tests.
CHAT, EMBED, RERANK = "chat", "embed", "rerank"
SCHEMA, LIFECYCLE = "schema", "lifecycle"
MakeConfig = Callable[[Home, str, str], EngineConfig]


class Candidate(NamedTuple):
    """`config` gets the home (where it may write model files), the task and the name of the socket.

    `in_flight`: the engine's series of running requests.
    """

    name: str
    config: MakeConfig
    abilities: frozenset[str]
    in_flight: str
    child: type[Child] = Child

    def start(self, home: Home, task: str) -> Child:
        child = self.make(home, task, f"{self.name}-{task}")
        child.start()
        return child

    def make(self, home: Home, task: str, socket: str) -> Child:
        return self.child(home, self.config(home, task, socket))


def _null(home: Home, task: str, socket: str) -> EngineConfig:
    settings = {"embeddings": task == EMBED, "ttft_s": 0.15, "tpot_s": 0.002}
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


CANDIDATES = (
    Candidate("null", _null, frozenset({CHAT, SCHEMA, EMBED, LIFECYCLE}), "null:requests_processing"),
    Candidate(
        "llamacpp", _llamacpp, frozenset({CHAT, SCHEMA, EMBED, RERANK, LIFECYCLE}), "llamacpp:requests_processing"
    ),
    Candidate("onnx-text", _onnx_text, frozenset({EMBED, RERANK}), "onnx_text:requests_processing"),
)


def find_candidates(*abilities: str) -> Sequence[object]:
    """Return the parameters of a test or fixture: every candidate with these abilities."""
    return [pytest.param(one, id=one.name) for one in CANDIDATES if one.abilities.issuperset(abilities)]
