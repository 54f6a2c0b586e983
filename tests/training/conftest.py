"""The tiny language model, converted once; torch on one thread, since two wait for each other on a busy machine."""

from __future__ import annotations

import pytest
import torch

from .tiny_model import Tiny, made


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return made()
