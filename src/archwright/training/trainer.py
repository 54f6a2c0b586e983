"""The interface between a task and the training loop.

The loop chooses rows, checkpoints and the end; a task defines a step. After `restore` of a `state` the same steps must
give the same bytes as without the interruption.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from archwright.contract.lineage import ModelFormat
from archwright.contract.record import Record
from archwright.home import Home
from archwright.training.training_data import TrainingData
from archwright.training.training_spec import TrainSpec


class StepResult(NamedTuple):
    """The mean `loss` over all workers' supervised units, and this worker's `units`: tokens or rows."""

    loss: float
    units: int


class TrainedArtefact(Record):
    """`file` is in the run's `result` folder; `labels` name a classifier's outputs in order."""

    format: ModelFormat
    file: str
    labels: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()


class WorkerGroup(Protocol):
    """The workers of a step; each holds the whole model and a share of the step's rows."""

    rank: int
    size: int

    def mean(self, tensors: list[Any], weight: float) -> None:
        """Replace each tensor in place by the mean over all workers, weighted with each worker's `weight`."""


class SingleWorker:
    """The worker group of a single process."""

    rank = 0
    size = 1

    def mean(self, tensors: list[Any], weight: float) -> None:
        """Do nothing: the mean over one worker is its value."""


class TrainerSetup(NamedTuple):
    """The input of a task. `base_sha256` is the digest of the base model's file, empty without a base."""

    spec: TrainSpec
    data: TrainingData
    home: Home
    group: WorkerGroup
    threads: int
    base_sha256: str = ""


class TaskTrainer(Protocol):
    def lengths(self) -> Sequence[int]:
        """The size of each training row in the step's unit: tokens, or 1 for a classifier's row."""

    def budget(self) -> int:
        """Units per step: `tokens_per_step`, `rows_per_step`, or all rows at once."""

    def step(self, rows: Sequence[int]) -> StepResult:
        """One optimiser step on these rows (indices into the training split); without rows with weight 0."""

    def state(self) -> dict[str, bytes]:
        """Named files for `restore`: safetensors, JSON or text."""

    def restore(self, state: Mapping[str, bytes]) -> None: ...

    def weights_sha256(self) -> str:
        """The digest of the trained weights' values, independent of file layout."""

    def save(self, folder: Path) -> TrainedArtefact:
        """Write the artefact into the existing folder."""
