"""A task without a library: its weights are the digest of its rows, which shows every skip, repetition or reordering.

As a program it trains in a folder and kills itself at the n-th sync or rename.

usage: counting_trainer.py FOLDER KILL_AT
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from archwright.contract.lineage import DatasetVersion
from archwright.home import Home
from archwright.training import training_loop
from archwright.training.checkpoint import LocalCheckpointManager
from archwright.training.trainer import SingleWorker, StepResult, TrainedArtefact, TrainerSetup, WorkerGroup
from archwright.training.training_data import DataSplit, TrainingData
from archwright.training.training_loop import LoopHooks, LoopState
from archwright.training.training_spec import TrainSpec

SPEC = TrainSpec(
    name="count", task="tabular-classifier", dataset="d", steps=12, rows_per_step=7, checkpoint_every_steps=3
)
IDS = sorted(hashlib.sha256(str(n).encode()).hexdigest() for n in range(40))


def version_of(columns: Iterable[str], rows: int, name: str = "tiny") -> DatasetVersion:
    return DatasetVersion(
        id=f"{name}@v1",
        dataset=name,
        version=1,
        at=0.0,
        action="ingest",
        parent=None,
        rows=rows,
        size_bytes=1,
        columns=dict.fromkeys(columns, "number"),
        drops={},
        changes={},
        content_sha256="0" * 64,
    )


class Counter:
    def __init__(self, ids: Sequence[str] = IDS, losses: Mapping[int, float] | None = None) -> None:
        self._ids = ids
        self._losses = losses or {}
        self.digest = ""
        self.steps = 0

    def lengths(self) -> Sequence[int]:
        return [1] * len(self._ids)

    def budget(self) -> int:
        return SPEC.rows_per_step

    def step(self, rows: Sequence[int]) -> StepResult:
        self.steps += 1
        self.digest = hashlib.sha256(f"{self.digest} {[self._ids[row] for row in rows]}".encode()).hexdigest()
        return StepResult(self._losses.get(self.steps, 1.0 / self.steps), len(rows))

    def state(self) -> dict[str, bytes]:
        return {"digest": self.digest.encode(), "steps": str(self.steps).encode()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        self.digest, self.steps = state["digest"].decode(), int(state["steps"])

    def weights_sha256(self) -> str:
        return self.digest

    def save(self, folder: Path) -> TrainedArtefact:
        (folder / "digest").write_text(self.digest)
        return TrainedArtefact(format="onnx", file="digest")


def setup(spec: TrainSpec = SPEC, ids: Sequence[str] = IDS, group: WorkerGroup | None = None) -> TrainerSetup:
    data = TrainingData(DataSplit(list(ids), None), DataSplit([], None), version_of(("label",), len(ids), "d"), 0)
    return TrainerSetup(spec, data, Home("nowhere"), group or SingleWorker(), 1)


def train(folder: Path, warn: Callable[[str], None] = print) -> tuple[LoopState, Counter]:
    trainer = Counter()
    checkpoints = LocalCheckpointManager(folder, warn)
    state = training_loop.run_loop(trainer, setup(), checkpoints, LoopHooks(lambda _progress: None))
    return state, trainer


def killed_at(number: int) -> None:
    """From now on, the `number`-th sync or rename is the last thing this process does."""
    left = [number]

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return counted

    os.fsync, os.rename = deadly(os.fsync), deadly(os.rename)


if __name__ == "__main__":
    killed_at(int(sys.argv[2]))
    train(Path(sys.argv[1]))
