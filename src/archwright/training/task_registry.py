"""The tasks: task `a-b` is the module `archwright.training.a_b`, imported when a run needs it."""

from importlib import import_module
from importlib.util import find_spec

from archwright.contract.lineage import Task
from archwright.errors import missing_extra
from archwright.training.trainer import TaskTrainer, TrainerSetup

REQUIRED_PACKAGES: dict[Task, tuple[str, ...]] = {
    "text-lora": ("pyarrow", "torch", "transformers", "peft", "safetensors", "gguf"),
    "image-classifier": ("pyarrow", "torch", "safetensors", "onnx"),
    "tabular-classifier": ("pyarrow", "lightgbm", "onnxmltools"),
}


def make_trainer(setup: TrainerSetup) -> TaskTrainer:
    module = import_module(f"archwright.training.{setup.spec.task.replace('-', '_')}")
    made: TaskTrainer = module.make_trainer(setup)
    return made


def require_packages(task: Task, workers: int = 1) -> None:
    """Raises MissingError AW-GET-01 if a package of the task or its workers is missing; imports none."""
    for package in REQUIRED_PACKAGES[task]:
        if find_spec(package) is None:
            raise missing_extra("train", package, f"training a {task}")
    if workers > 1 and find_spec("ray") is None:
        raise missing_extra("ray", "ray", "training with several workers")
