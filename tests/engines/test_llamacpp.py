"""The adapter, with the real library and the real model."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from archwright.contract.record import replace
from archwright.engines import llamacpp
from archwright.engines.llamacpp import find_model, load_library
from archwright.home import Home
from archwright.journal import Journal

from ..tools.checks import refuses
from .conftest import SMALL_MODEL, make_config

CONFIG = make_config("llamacpp", socket="inside", context_tokens=128, model_sha256=SMALL_MODEL.sha256)


# In its own process, which ends as engines do: when its server was destroyed within a process, the library once hung.
PROGRAM = """
import asyncio, os, sys
import msgspec
from archwright.engines import llamacpp
from archwright.engines.engine_config import EngineConfig
from archwright.home import Home
from archwright.journal import Journal
from tests.engines.conftest import connect, wait_until_ready
home, config = Home(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=EngineConfig)
def wait():
    asyncio.run(wait_until_ready(connect(home, config)))
    print("seen", flush=True)
    os._exit(0)
llamacpp.serve(config, home, Journal("x", sys.stdout), wait)
"""


@pytest.mark.parametrize("embeddings", [False, True])
def test_serves_the_real_model(model_home: Home, embeddings: bool) -> None:
    config = msgspec.json.encode(replace(CONFIG, settings={"embeddings": embeddings})).decode()
    words = [sys.executable, "-c", PROGRAM, str(model_home.root), config]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, cwd=root)
    assert '"ready"' in done.stdout and done.stdout.endswith("seen\n")


def test_what_the_library_refuses_is_said(model_home: Home) -> None:
    # A whole GGUF file that holds no model at all.
    path = model_home.model("0" * 64)
    path.write_bytes(b"GGUF\x03\0\0\0" + b"\0" * 24)
    try:
        with refuses("AW-ENG-08", "did not start"):
            llamacpp.serve(replace(CONFIG, model_sha256="0" * 64), model_home, Journal("x", io.StringIO()))
    finally:
        path.unlink()


def test_a_missing_truncated_or_unnamed_model_never_reaches_the_library(tmp_path: Path, model_home: Home) -> None:
    home = Home(tmp_path)
    with refuses("AW-GET-02", hint="archwright models fetch small"):
        find_model(CONFIG, home)
    with model_home.model(SMALL_MODEL.sha256).open("rb") as whole:
        home.model(SMALL_MODEL.sha256).write_bytes(whole.read(4 << 20))
    with refuses("AW-ENG-05", "bytes are missing"):
        find_model(CONFIG, home)
    with refuses("AW-ENG-06"):
        find_model(replace(CONFIG, model_sha256=None), home)


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
