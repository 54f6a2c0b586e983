"""Execute a run: build the trainer, run the loop, save the result."""

import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from archwright.home import Home, write_json
from archwright.training import atomic_directory, base_model, training_data, training_loop, training_runs
from archwright.training.checkpoint import LocalCheckpointManager
from archwright.training.task_registry import make_trainer
from archwright.training.trainer import SingleWorker, TaskTrainer, TrainedArtefact, TrainerSetup, WorkerGroup
from archwright.training.training_loop import LoopHooks, LoopState, TrainingProgress
from archwright.training.training_runs import ResolvedJob
from archwright.training.training_spec import TrainSpec

RESULT_FILE = "result.json"
PEAK_MEMORY = re.compile(r"^VmHWM:\s+(\d+) kB$", re.M)


def build_setup(home: Home, run: str, group: WorkerGroup) -> TrainerSetup:
    spec, job = training_runs.load_spec(home, run), training_runs.load_job(home, run)
    data = training_data.load_version(home, job.version, spec)
    return TrainerSetup(spec, data, home, group, job.threads, job.base_sha256)


def announce_run(home: Home, run: str, hooks: LoopHooks) -> tuple[TrainSpec, ResolvedJob, Callable[[str], None]]:
    """Returns spec, job and a function that reports notes; notes if the base must be dequantised first."""
    spec, job = training_runs.load_spec(home, run), training_runs.load_job(home, run)

    def note(text: str) -> None:
        hooks.tell(TrainingProgress(step=0, steps=spec.steps, note=text))

    if job.base_sha256 and not base_model.is_prepared(home, job.base_sha256):
        note(f"dequantising {spec.base}, once for all runs")
    return spec, job, note


def drive_run(home: Home, run: str, hooks: LoopHooks) -> None:
    """Run all steps in this process and save the result, or end early if `hooks.stop` returns True."""
    spec, _, note = announce_run(home, run, hooks)
    setup = build_setup(home, run, SingleWorker())
    trainer = make_trainer(setup)
    checkpoints = LocalCheckpointManager(home.run(run) / "checkpoints", note)
    state = training_loop.run_loop(trainer, setup, checkpoints, hooks)
    if state.step == spec.steps:
        save_result(home, run, trainer, state)


def save_result(home: Home, run: str, trainer: TaskTrainer, state: LoopState) -> None:
    """Save the result, then the outcome, so that an outcome implies a complete result."""

    def fill(folder: Path) -> None:
        (folder / RESULT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(trainer.save(folder))))

    atomic_directory.write_directory(home.run(run) / "result", fill)
    outcome = training_runs.RunOutcome(
        step=state.step,
        order_sha256=state.cursor.order_sha256,
        weights_sha256=trainer.weights_sha256(),
        loss_first=state.loss_first,
        loss_last=state.loss_last,
        units=state.units,
        stepping_s=state.stepping_s,
        memory_bytes=peak_memory_bytes(),
    )
    write_json(home.run(run) / "outcome.json", outcome)


def read_result(home: Home, run: str) -> TrainedArtefact:
    """The artefact of a run with an outcome. Raises TrainError AW-TRN-22."""
    return training_runs.read_record(home.run(run) / "result" / RESULT_FILE, TrainedArtefact, run)


def peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Peak resident set. VmHWM is preferred, since ru_maxrss includes the parent's memory."""
    try:
        return int(PEAK_MEMORY.findall(status.read_text())[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
