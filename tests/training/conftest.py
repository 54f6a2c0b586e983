"""The tiny language model, converted once; torch on one thread, since two wait for each other on a busy machine."""

from __future__ import annotations

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..kinds import GUARD
from .tiny_model import Tiny, made

register_optimizer_step_pre_hook(GUARD.hear_step)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(learning: None) -> Tiny:
    return made()
