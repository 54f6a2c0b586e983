"""What a task is to the loop: something that makes steps over rows, and whose state can be kept and taken back.

The loop decides which rows come when, when to keep a checkpoint and when to stop; a task decides what a step is.
Its `state` must be enough to go on exactly: the same steps after `restore` give the same bytes as without a break.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from archwright.contract.lineage import ModelFormat
from archwright.contract.record import Record
from archwright.home import Home
from archwright.training.training_data import TrainingData
from archwright.training.training_spec import TrainSpec


class StepResult(NamedTuple):
    """`loss` is the mean over what was learned from, of all workers; `units` the tokens (classifiers: rows) that
    this worker went through."""

    loss: float
    units: int


class TrainedArtefact(Record):
    """The trained artefact: `file` inside the run's `result` folder. `labels` name a classifier's outputs in order,
    `input_shape` is one item's."""

    format: ModelFormat
    file: str
    labels: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()


class WorkerGroup(Protocol):
    """The workers that make a step together; each holds the whole model and a share of the step's rows."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def mean(self, tensors: list[Any], weight: float) -> None:
        """Replace each tensor, in place, by the mean over all workers weighted by each worker's `weight`."""


class SingleWorker:
    """A crew of one."""

    rank = 0
    size = 1

    def mean(self, tensors: list[Any], weight: float) -> None:
        """The mean over one worker is what it has."""


class TrainerSetup(NamedTuple):
    """What a task is made from. `base_sha256` is the digest of the base model's file, empty where there is none."""

    spec: TrainSpec
    data: TrainingData
    home: Home
    crew: WorkerGroup
    threads: int
    base_sha256: str = ""


class TaskTrainer(Protocol):
    def lengths(self) -> Sequence[int]:
        """The size of each training row in the step's unit: tokens, or 1 for a classifier's row."""

    def budget(self) -> int:
        """How many units a step should hold: `tokens_per_step`, `rows_per_step`, or every row at once."""

    def step(self, rows: Sequence[int]) -> StepResult:
        """One optimiser step on these rows (indices into the training part). `rows` may be empty where a crew has
        more workers than the step has rows: the worker takes part in the crew's mean with weight 0."""

    def state(self) -> dict[str, bytes]:
        """Named files from which `restore` goes on exactly: safetensors, JSON or text."""

    def restore(self, state: Mapping[str, bytes]) -> None: ...

    def weights_sha256(self) -> str:
        """The digest of the trained weights, of their values and not of a file's layout."""

    def save(self, folder: Path) -> TrainedArtefact:
        """Write the trained artefact into the folder, which exists."""
