"""What a training process does with a run: open what it needs, go through the loop, save the result."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from archwright.home import Home
from archwright.training import atomic_directory, base_model, training_data, training_loop, training_runs
from archwright.training.checkpoint import Checkpoints
from archwright.training.task_registry import MAKERS
from archwright.training.trainer import Crew, Result, Setup, Solo, Trainer
from archwright.training.training_loop import Hooks, Progress, State

RESULT = "result.json"
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.M)


def setup_of(home: Home, run: str, crew: Crew) -> Setup:
    """Everything a task is made from, the same for whoever goes on with the run."""
    spec, job = training_runs.spec(home, run), training_runs.job(home, run)
    return Setup(spec, training_data.of_version(home, job.version, spec), home, crew, job.threads, job.base_sha256)


def checkpoints(home: Home, run: str, warn: Callable[[str], None]) -> Checkpoints:
    return Checkpoints(home.run(run) / "checkpoints", warn)


def drive(home: Home, run: str, hooks: Hooks) -> None:
    """One process does it all. Afterwards there is an outcome, or `hooks.stop` ended it."""
    spec, job = training_runs.spec(home, run), training_runs.job(home, run)

    def note(text: str) -> None:
        hooks.tell(Progress(step=0, steps=spec.steps, note=text))

    if job.base_sha256 and not base_model.ready(home, job.base_sha256):
        note(f"dequantising {spec.base}, once for all runs")
    setup = setup_of(home, run, Solo())
    trainer = MAKERS[spec.task](setup)
    state = training_loop.run(trainer, setup, checkpoints(home, run, note), hooks)
    if state.step == spec.steps:
        conclude(home, run, trainer, state)


def conclude(home: Home, run: str, trainer: Trainer, state: State) -> None:
    """Save the result, then the outcome: who finds an outcome finds a whole result."""

    def fill(folder: Path) -> None:
        (folder / RESULT).write_bytes(msgspec.json.format(msgspec.json.encode(trainer.save(folder))))

    atomic_directory.write(home.run(run) / "result", fill)
    made = training_runs.Outcome(
        step=state.step,
        order_sha256=state.cursor.order_sha256,
        weights_sha256=trainer.weights_sha256(),
        loss_first=state.loss_first,
        loss_last=state.loss_last,
        units=state.units,
        stepping_s=state.stepping_s,
        memory_bytes=peak_memory_bytes(),
    )
    training_runs.conclude(home, run, made)


def result(home: Home, run: str) -> Result:
    """What a run whose steps are made left in its `result` folder. Raises TrainError AW-TRN-22."""
    return training_runs.read(home.run(run) / "result" / RESULT, Result, run)


def peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int:
    """The largest resident set this process had. Where the system tells it of the program alone, that is taken: the
    usual figure begins with what the parent held when it started us."""
    try:
        return int(PEAK.findall(status.read_text())[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
