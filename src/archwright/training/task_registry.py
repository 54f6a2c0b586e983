"""The tasks by name. Each stands in a module of its own with a `make_trainer(setup)`, loaded when a run needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from archwright.contract.lineage import Task
from archwright.errors import missing_extra
from archwright.training.trainer import TaskTrainer, TrainerSetup

MODULES: dict[Task, str] = {
    "text-lora": "archwright.training.text_lora",
    "image-classifier": "archwright.training.image_classifier",
    "tabular-classifier": "archwright.training.tabular_classifier",
}


def _make_trainer(module: str, setup: TrainerSetup) -> TaskTrainer:
    made: TaskTrainer = import_module(module).make_trainer(setup)
    return made


TRAINER_FACTORIES: dict[Task, Callable[[TrainerSetup], TaskTrainer]] = {
    task: partial(_make_trainer, module) for task, module in MODULES.items()
}

REQUIRED_PACKAGES: dict[Task, tuple[str, ...]] = {
    "text-lora": ("pyarrow", "torch", "transformers", "peft", "safetensors", "gguf"),
    "image-classifier": ("pyarrow", "torch", "safetensors", "onnx"),
    "tabular-classifier": ("pyarrow", "lightgbm", "onnxmltools"),
}


def require_packages(task: Task, workers: int = 1) -> None:
    """Raises MissingError AW-GET-01 when a package the task or its workers need is not installed; loads none."""
    for package in REQUIRED_PACKAGES[task]:
        if find_spec(package) is None:
            raise missing_extra("train", package, f"training a {task}")
    if workers > 1 and find_spec("ray") is None:
        raise missing_extra("ray", "ray", "training with several workers")
