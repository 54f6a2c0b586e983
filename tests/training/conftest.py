"""The tiny language model, converted once; torch on one thread, since two wait for each other on a busy machine."""

from __future__ import annotations

import pytest
import torch

from archwright.home import Home
from archwright.training import base

from .tiny import Tiny, write_model


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    home = Home(folder / "home")
    file = folder / "tiny.gguf"
    sha256 = write_model(file)
    home.model(sha256).write_bytes(file.read_bytes())
    return Tiny(file, base.prepare(home, sha256), sha256)
