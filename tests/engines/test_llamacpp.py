"""The adapter, with the real library and the real model."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from gguf import PoolingType

from archwright.contract.record import replace
from archwright.engines import llamacpp
from archwright.engines.llamacpp import load_library
from archwright.engines.llamacpp_checks import explain_failure, read_available_memory
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.journal import Journal

from ..tools.checks import WAIT_S, refuses
from ..tools.gguf_models import (
    CLASSIFY,
    SEPARATE,
    encode,
    find_tokens,
    score,
    write_adapter,
    write_encoder,
)
from .conftest import SMALL_MODEL, Child, claim_socket_here, make_config

CONFIG = make_config("llamacpp", socket="inside", context_tokens=128, model_sha256=SMALL_MODEL.sha256)


# In its own process, which ends as engines do: when its server was destroyed within a process, the library once hung.
PROGRAM = """
import asyncio, os, sys
import msgspec
from archwright.engines import llamacpp
from archwright.engines.__main__ import start_proxy
from archwright.engines.engine_config import EngineConfig
from archwright.engines.unix_socket import claim_socket
from archwright.home import Home
from archwright.journal import Journal
from tests.engines.conftest import connect, wait_until_ready
home, config = Home(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=EngineConfig)
def wait():
    asyncio.run(wait_until_ready(connect(home, config)))
    print("seen", flush=True)
    os._exit(0)
claim_socket(home, config.socket)
start_proxy(config, home, llamacpp)
llamacpp.serve(config, home, Journal("x", sys.stdout), wait)
"""


@pytest.mark.parametrize("embeddings", [False, True])
def test_serves_the_real_model(model_home: Home, embeddings: bool) -> None:
    config = msgspec.json.encode(replace(CONFIG, settings={"embeddings": embeddings})).decode()
    words = [sys.executable, "-c", PROGRAM, str(model_home.root), config]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=WAIT_S, cwd=root)
    assert '"ready"' in done.stdout and done.stdout.endswith("seen\n")


@pytest.mark.parametrize(
    ("architecture", "width", "changes", "code", "said"),
    [
        ("zebra", 0, {}, "AW-ENG-15", "unknown model architecture: 'zebra'"),
        ("bert", 0, {"adapter_sha256": "b" * 64}, "AW-ENG-16", "not an adapter"),
        ("qwen2", 576, {"adapter_sha256": "b" * 64, "model_sha256": None}, "AW-ENG-16", "for the architecture qwen2"),
        ("llama", 64, {"adapter_sha256": "b" * 64, "model_sha256": None}, "AW-ENG-16", "incorrect shape"),
        ("bert", 0, {"settings": {"gpu_layers": -1}}, "AW-ENG-17", "finds no GPU"),
        ("bert", 0, {"settings": {"embeddings": True, "rerank": True}}, "AW-ENG-06", "either embeds or reranks"),
    ],
)
def test_what_cannot_be_loaded_is_reported_and_leaves_no_socket(
    model_home: Home, architecture: str, width: int, changes: dict[str, Any], code: str, said: str
) -> None:
    digest = SMALL_MODEL.sha256 if "model_sha256" in changes else "b" * 64
    path = model_home.model("b" * 64)
    config = replace(CONFIG, **{**changes, "socket": "refused", "model_sha256": digest})
    if width:
        write_adapter(path, architecture, width)
    else:
        write_encoder(path, PoolingType.CLS, architecture)
    claim_socket_here(model_home, config.socket)
    with refuses(code, said):
        llamacpp.serve(config, model_home, Journal("x", io.StringIO()))
    assert not model_home.socket(config.socket).exists()


def test_too_little_memory_is_reported_with_both_figures(model_home: Home) -> None:
    config = replace(CONFIG, slots=1000, context_tokens=1 << 20)
    with refuses("AW-ENG-14", r"24159.\d\d GB are needed .0.10 GB file, 24159.19 GB cache., \d+.\d\d GB are available"):
        llamacpp.serve(config, model_home, Journal("x", io.StringIO()))


@pytest.mark.parametrize(("limit", "expected"), [("1000000\n", 1_000_000), ("max\n", 5_000_192), (None, 5_000_192)])
def test_a_container_has_less_memory(tmp_path: Path, limit: str | None, expected: int) -> None:
    for folder in ("proc", "sys/fs/cgroup"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  9999 kB\nMemAvailable:    4883 kB\n")
    if limit is not None:
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(limit)
    assert read_available_memory(tmp_path) == expected


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        ("0.00.1 E ggml_aligned_malloc: insufficient memory (attempted to allocate 9 MB)\n", "AW-ENG-14", "9 MB"),
        ("0.01.2 I x: fine\n0.02.3 E common_chat_templates_init: error: Expected 'in'\n", "AW-ENG-15", "Expected 'in'"),
        ("0.01.2 E srv          init: init: something else\n", "AW-ENG-08", "something else"),
        ("", "AW-ENG-08", "Failed to init"),
    ],
)
def test_the_first_reason_in_the_log_is_the_error(log: str, code: str, said: str) -> None:
    found = explain_failure(CONFIG, log, "Failed to init")
    assert found.code == code and said in found.message and found.where.field == "model small"


def test_a_missing_truncated_or_unnamed_model_never_reaches_the_library(tmp_path: Path, model_home: Home) -> None:
    home, journal = Home(tmp_path), Journal("x", io.StringIO())
    with refuses("AW-GET-02", hint="archwright models fetch small"):
        llamacpp.serve(CONFIG, home, journal)
    with model_home.model(SMALL_MODEL.sha256).open("rb") as whole:
        home.model(SMALL_MODEL.sha256).write_bytes(whole.read(4 << 20))
    with refuses("AW-ENG-05", "bytes are missing"):
        llamacpp.serve(CONFIG, home, journal)
    with refuses("AW-ENG-06"):
        llamacpp.serve(replace(CONFIG, model_sha256=None), home, journal)


def _post(child: Child, body: dict[str, Any], path: str = "/chat/completions") -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        client = EngineClient(child.address)
        try:
            reply: dict[str, Any] = await client.post(path, {"temperature": 0, **body})
            return reply
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.mark.nightly
def test_an_answer_without_a_limit_ends_with_the_context(model_home: Home) -> None:
    child = Child(model_home, replace(CONFIG, socket="full", context_tokens=256, default_max_tokens=256))
    child.start()
    reply = _post(child, {"messages": [{"role": "user", "content": "sea " * 200}], "ignore_eos": True})
    child.end()
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["total_tokens"]) == ("length", 256)


def test_an_encoder_ranks_and_embeds_as_its_weights_say(model_home: Home) -> None:
    documents = ["the red ship", "tax form", "the sea is blue and red"]
    for pooling in (PoolingType.RANK, PoolingType.CLS):
        ranks = pooling is PoolingType.RANK
        weights = write_encoder(model_home.model("f" * 64), pooling)
        settings = {"rerank": ranks, "embeddings": not ranks}
        changes = {"socket": f"encoder-{pooling.name}", "model_sha256": "f" * 64, "settings": settings}
        child = Child(model_home, replace(CONFIG, context_tokens=64, **changes))
        child.start()
        try:
            if ranks:
                rows = _post(child, {"query": "the sea", "documents": documents}, "/rerank")["results"]
                found = {row["index"]: row["relevance_score"] for row in rows}
                # The engine's activation function is a table of 16-bit numbers.
                expected = [score(weights, "the sea", document) for document in documents]
                assert [found[number] for number in range(3)] == pytest.approx(expected, abs=0.05)
                assert np.ptp(expected) > 0.5
            else:
                rows = _post(child, {"input": documents}, "/embeddings")["data"]
                for row, document in zip(rows, documents, strict=True):
                    state = encode(weights, [CLASSIFY, *find_tokens(document), SEPARATE])
                    assert row["embedding"] == pytest.approx(state / np.linalg.norm(state), abs=0.01)
        finally:
            child.end()


@pytest.mark.model  # the guard of unit tests refuses any import of this name
@pytest.mark.parametrize(
    ("reason", "code", "hint"),
    [
        ("No module named 'xllamacpp'", "AW-GET-01", "pip install 'archwright[local]'"),
        ("libgomp.so.1: cannot open shared object file", "AW-GET-05", "apt-get install libgomp1"),
    ],
)
def test_a_missing_library_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, code: str, hint: str
) -> None:
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({reason!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    with refuses(code, hint=hint):
        load_library()
