"""The tasks by name. Each stands in a module of its own with a `make(setup)`, loaded when a run needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from archwright.contract.lineage import Task
from archwright.training.task import Setup, Trainer

MODULES: dict[Task, str] = {
    "text-lora": "archwright.training.text",
    "image-classifier": "archwright.training.image",
    "tabular-classifier": "archwright.training.tabular",
}


def _make(module: str, setup: Setup) -> Trainer:
    made: Trainer = import_module(module).make(setup)
    return made


MAKERS: dict[Task, Callable[[Setup], Trainer]] = {task: partial(_make, module) for task, module in MODULES.items()}
