"""What each worker of a crew does: the same loop as a process alone, on its share of every step's rows.

All workers read the rows and the newest checkpoint from the home; the first one alone writes: checkpoints, result,
outcome. What a worker has to say goes to a file of its own in the run's `crew` folder, which the launcher follows.

A worker whose peer is gone fails, and Ray Train starts the whole crew again. An error of ours ends the run instead:
the worker that met it says so, and the launcher ends them all, since the others may wait for it in a sum.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from archwright.contract.record import Record
from archwright.errors import ArchwrightError, ErrorLocation, TrainError, boundary
from archwright.home import Home
from archwright.training import run_execution, training_loop
from archwright.training.checkpoint import CheckpointManager, RestoredCheckpoint
from archwright.training.ray_collectives import PEER_LOST, RayWorkerGroup
from archwright.training.task_registry import TRAINER_FACTORIES
from archwright.training.training_loop import LoopHooks, TrainingProgress
from archwright.training.training_process import SerialisedError

# A shared folder may show another machine's checkpoint late.
CHECKPOINT_TRIES, CHECKPOINT_RETRY_S = 60, 1.0
# A file in the crew's folder that asks them to keep a checkpoint and end.
STOP_FILE = "stop"


class WorkerMessage(Record):
    """One line of a worker's file; the first of each start has neither progress nor failure."""

    at: float
    rank: int
    pid: int
    host: str
    node: str
    progress: TrainingProgress | None = None
    failure: SerialisedError | None = None


class WorkerSpec(Record):
    """What a worker is given: where to work, with how many threads."""

    home: str
    run: str
    threads: int


class WorkerLog:
    """A worker's file in the crew's folder."""

    def __init__(self, folder: Path, rank: int, node: str) -> None:
        self._folder = folder
        self._rank = rank
        self._node = node

    def write(self, progress: TrainingProgress | None = None, failure: SerialisedError | None = None) -> None:
        line = WorkerMessage(
            at=round(time.time(), 3),
            rank=self._rank,
            pid=os.getpid(),
            host=socket.gethostname(),
            node=self._node,
            progress=progress,
            failure=failure,
        )
        with (self._folder / f"worker-{self._rank}.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


class Rank0Broadcast(Protocol):
    """A crew whose workers can ask what the first one says."""

    rank: int

    def broadcast(self, value: float) -> float: ...


class SharedCheckpointManager:
    """The keeper of a crew: every worker goes on from the checkpoint the first one chose, and only that one writes."""

    def __init__(
        self, crew: Rank0Broadcast, keeper: CheckpointManager, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._crew = crew
        self._keeper = keeper
        self._wait = wait

    def newest(self) -> RestoredCheckpoint | None:
        """Raises TrainError AW-TRN-62 when this worker does not find what the first one chose."""
        kept = self._keeper.newest()
        chosen = int(self._crew.broadcast(float(kept.step if kept else 0)))
        for _ in range(CHECKPOINT_TRIES):
            if (kept.step if kept else 0) == chosen:
                return kept
            self._wait(CHECKPOINT_RETRY_S)
            kept = self._keeper.newest()
        raise TrainError(
            "AW-TRN-62",
            f"worker {self._crew.rank} does not see the checkpoint of step {chosen} that the first worker goes on from",
            where=ErrorLocation(field="checkpoints"),
            hint="the home must be one shared folder for all machines of the cluster",
        )

    def save(self, step: int, files: Callable[[], Mapping[str, bytes]]) -> None:
        if self._crew.rank == 0:
            self._keeper.save(step, files)


def main(given: Mapping[str, str | int]) -> None:
    """Called by Ray Train in each worker, with a process group around it."""
    import ray  # noqa: PLC0415

    task = msgspec.convert(given, WorkerSpec)
    home, crew = Home(task.home), RayWorkerGroup()
    folder = home.worker_group(task.run)
    voice = WorkerLog(folder, crew.rank, ray.get_runtime_context().get_node_id())
    voice.write()
    try:
        with boundary("training worker"):
            _train_worker(home, task, crew, voice)
    except ArchwrightError as error:
        if error.code == PEER_LOST:
            raise ConnectionResetError(error.message) from None
        voice.write(failure=msgspec.convert(error.as_dict(), SerialisedError))


def _train_worker(home: Home, task: WorkerSpec, crew: RayWorkerGroup, voice: WorkerLog) -> None:
    setup = run_execution.build_setup(home, task.run, crew)._replace(threads=task.threads)
    steps, first = setup.spec.steps, crew.rank == 0

    def tell(progress: TrainingProgress) -> None:
        if first:
            voice.write(progress)

    def warn(text: str) -> None:
        tell(TrainingProgress(step=0, steps=steps, note=text))

    def stop() -> bool:
        return crew.broadcast(float(first and home.worker_group(task.run).joinpath(STOP_FILE).exists())) > 0

    trainer = TRAINER_FACTORIES[setup.spec.task](setup)
    keeper = SharedCheckpointManager(crew, run_execution.open_checkpoints(home, task.run, warn))
    state = training_loop.run_loop(trainer, setup, keeper, LoopHooks(tell, stop))
    if state.step == steps and first:
        run_execution.save_result(home, task.run, trainer, state)
