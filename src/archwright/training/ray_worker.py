"""A Ray Train worker: runs the training loop on its share of every step's rows.

All workers read rows and the newest checkpoint from the home; only rank 0 writes checkpoints, result and outcome. Each
worker writes messages to its own file in the run's folder `crew`, which the driver reads.

If a worker dies, the other workers fail and Ray Train restarts all. An ArchwrightError ends the run: the worker reports
the error and the driver stops all workers, since they may wait in an all-reduce.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from archwright.contract.record import Record
from archwright.errors import ArchwrightError, ErrorLocation, TrainError, boundary
from archwright.home import Home
from archwright.python_process import check_safe_path
from archwright.training import run_execution, training_loop
from archwright.training.checkpoint import CheckpointManager, LocalCheckpointManager, RestoredCheckpoint
from archwright.training.ray_collectives import PEER_LOST, RayWorkerGroup
from archwright.training.task_registry import make_trainer
from archwright.training.training_loop import LoopHooks, TrainingProgress
from archwright.training.training_process import SerialisedError

# In a shared folder a checkpoint of another machine may appear late.
CHECKPOINT_TRIES, CHECKPOINT_RETRY_S = 60, 1.0
# This file in the workers' folder asks them to save a checkpoint and end.
STOP_FILE = "stop"


class WorkerMessage(Record):
    """One line of a worker's file; the first line of each start has neither progress nor failure."""

    at: float
    rank: int
    pid: int
    host: str
    node: str
    progress: TrainingProgress | None = None
    failure: SerialisedError | None = None


class WorkerSpec(Record):
    home: str
    run: str
    threads: int


class WorkerLog(NamedTuple):
    folder: Path
    rank: int
    node: str

    def write(self, progress: TrainingProgress | None = None, failure: SerialisedError | None = None) -> None:
        line = WorkerMessage(
            at=round(time.time(), 3),
            rank=self.rank,
            pid=os.getpid(),
            host=socket.gethostname(),
            node=self.node,
            progress=progress,
            failure=failure,
        )
        with (self.folder / f"worker-{self.rank}.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


class SharedCheckpointManager:
    """Every worker restores the checkpoint that rank 0 chose, and only rank 0 writes."""

    def __init__(
        self, group: RayWorkerGroup, local: CheckpointManager, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._group = group
        self._local = local
        self._wait = wait

    def newest(self) -> RestoredCheckpoint | None:
        """Raises TrainError AW-TRN-62 if this worker does not find the checkpoint that rank 0 chose."""
        kept = self._local.newest()
        chosen = int(self._group.broadcast(float(kept.step if kept else 0)))
        for _ in range(CHECKPOINT_TRIES):
            if (kept.step if kept else 0) == chosen:
                return kept
            self._wait(CHECKPOINT_RETRY_S)
            kept = self._local.newest()
        message = f"worker {self._group.rank} does not see the checkpoint of step {chosen} that the first worker uses"
        hint = "share the home as one folder with all machines of the cluster"
        raise TrainError("AW-TRN-62", message, where=ErrorLocation(field="checkpoints"), hint=hint)

    def save(self, step: int, files: Callable[[], Mapping[str, bytes]]) -> None:
        if self._group.rank == 0:
            self._local.save(step, files)


def main(given: Mapping[str, str | int]) -> None:
    """Entry point that Ray Train calls in each worker after it created the process group."""
    import ray  # noqa: PLC0415

    task = msgspec.convert(given, WorkerSpec)
    home, group = Home(task.home), RayWorkerGroup()
    folder = home.worker_group(task.run)
    log = WorkerLog(folder, group.rank, ray.get_runtime_context().get_node_id())
    log.write()
    try:
        with boundary("training worker"):
            _train_worker(home, task, group, log)
    except ArchwrightError as error:
        if error.code == PEER_LOST:
            raise ConnectionResetError(error.message) from None
        log.write(failure=msgspec.convert(error.as_dict(), SerialisedError))


def _train_worker(home: Home, task: WorkerSpec, group: RayWorkerGroup, log: WorkerLog) -> None:
    check_safe_path()
    setup = run_execution.build_setup(home, task.run, group)._replace(threads=task.threads)
    steps, first = setup.spec.steps, group.rank == 0

    def tell(progress: TrainingProgress) -> None:
        if first:
            log.write(progress)

    def warn(text: str) -> None:
        tell(TrainingProgress(step=0, steps=steps, note=text))

    def stop() -> bool:
        return group.broadcast(float(first and home.worker_group(task.run).joinpath(STOP_FILE).exists())) > 0

    trainer = make_trainer(setup)
    checkpoints = SharedCheckpointManager(group, LocalCheckpointManager(home.run(task.run) / "checkpoints", warn))
    state = training_loop.run_loop(trainer, setup, checkpoints, LoopHooks(tell, stop))
    if state.step == steps and first:
        run_execution.save_result(home, task.run, trainer, state)
