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
from archwright.training.checkpoint import Keeper, Kept
from archwright.training.ray_collectives import PEER_LOST, RayCrew
from archwright.training.task_registry import MAKERS
from archwright.training.training_loop import Hooks, Progress
from archwright.training.training_process import Failure

# A shared folder may show another machine's checkpoint late.
TRIES, TRY_S = 60, 1.0
# A file in the crew's folder that asks them to keep a checkpoint and end.
STOP = "stop"


class Said(Record):
    """One line of a worker's file; the first of each start has neither progress nor failure."""

    at: float
    rank: int
    pid: int
    host: str
    node: str
    progress: Progress | None = None
    failure: Failure | None = None


class Crewed(Record):
    """What a worker is given: where to work, with how many threads."""

    home: str
    run: str
    threads: int


class Voice:
    """A worker's file in the crew's folder."""

    def __init__(self, folder: Path, rank: int, node: str) -> None:
        self._folder = folder
        self._rank = rank
        self._node = node

    def say(self, progress: Progress | None = None, failure: Failure | None = None) -> None:
        line = Said(
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


class First(Protocol):
    """A crew whose workers can ask what the first one says."""

    rank: int

    def first(self, value: float) -> float: ...


class Shared:
    """The keeper of a crew: every worker goes on from the checkpoint the first one chose, and only that one writes."""

    def __init__(self, crew: First, keeper: Keeper, wait: Callable[[float], None] = time.sleep) -> None:
        self._crew = crew
        self._keeper = keeper
        self._wait = wait

    def newest(self) -> Kept | None:
        """Raises TrainError AW-TRN-62 when this worker does not find what the first one chose."""
        kept = self._keeper.newest()
        chosen = int(self._crew.first(float(kept.step if kept else 0)))
        for _ in range(TRIES):
            if (kept.step if kept else 0) == chosen:
                return kept
            self._wait(TRY_S)
            kept = self._keeper.newest()
        raise TrainError(
            "AW-TRN-62",
            f"worker {self._crew.rank} does not see the checkpoint of step {chosen} that the first worker goes on from",
            where=ErrorLocation(field="checkpoints"),
            hint="the home must be one shared folder for all machines of the cluster",
        )

    def keep(self, step: int, files: Callable[[], Mapping[str, bytes]]) -> None:
        if self._crew.rank == 0:
            self._keeper.keep(step, files)


def main(given: Mapping[str, str | int]) -> None:
    """Called by Ray Train in each worker, with a process group around it."""
    import ray  # noqa: PLC0415

    task = msgspec.convert(given, Crewed)
    home, crew = Home(task.home), RayCrew()
    folder = home.crew(task.run)
    voice = Voice(folder, crew.rank, ray.get_runtime_context().get_node_id())
    voice.say()
    try:
        with boundary("training worker"):
            _train(home, task, crew, voice)
    except ArchwrightError as error:
        if error.code == PEER_LOST:
            raise ConnectionResetError(error.message) from None
        voice.say(failure=msgspec.convert(error.as_dict(), Failure))


def _train(home: Home, task: Crewed, crew: RayCrew, voice: Voice) -> None:
    setup = run_execution.setup_of(home, task.run, crew)._replace(threads=task.threads)
    steps, first = setup.spec.steps, crew.rank == 0

    def tell(progress: Progress) -> None:
        if first:
            voice.say(progress)

    def warn(text: str) -> None:
        tell(Progress(step=0, steps=steps, note=text))

    def stop() -> bool:
        return crew.first(float(first and home.crew(task.run).joinpath(STOP).exists())) > 0

    trainer = MAKERS[setup.spec.task](setup)
    keeper = Shared(crew, run_execution.checkpoints(home, task.run, warn))
    state = training_loop.run(trainer, setup, keeper, Hooks(tell, stop))
    if state.step == steps and first:
        run_execution.conclude(home, task.run, trainer, state)
