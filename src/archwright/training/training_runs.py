"""Training runs: records in the store, folder in the home, lock.

A run's folder has `spec.json`, `job.json` (resolved at the start), `checkpoints/`, `progress.jsonl`, `log`, `result/`
and `outcome.json` (after the last step). The processes of a run hold a lock on `lock`, which the kernel releases when
the last process ends: a run with the status "running" and a free lock was interrupted.
"""

import difflib
import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from archwright.contract.lineage import DatasetVersion, TrainingRun
from archwright.contract.record import Record, replace
from archwright.errors import ErrorLocation, TrainError, from_os_error
from archwright.home import Home, write_json
from archwright.store import RecordTable, Store
from archwright.training.training_spec import TrainSpec

R = TypeVar("R", bound=Record)

RUNS = RecordTable("training_runs", TrainingRun, index=("id",))

# `is_locked` takes the lock for a moment, so `acquire_lock` retries.
LOCK_TRIES, LOCK_RETRY_S = 10, 0.02
TAIL_BYTES = 4096


class ResolvedJob(Record):
    """Input of a run resolved at its start, so that resuming needs neither the store nor the catalog."""

    id: str
    version: DatasetVersion
    threads: int
    base_sha256: str = ""


class RunOutcome(Record):
    """Outcome of a run whose result is saved. `units` are tokens, or a classifier's rows."""

    step: int
    order_sha256: str
    weights_sha256: str
    loss_first: float | None
    loss_last: float | None
    units: int
    stepping_s: float
    memory_bytes: int


def append_run(store: Store, run: TrainingRun) -> None:
    store.append(RUNS, [run])


def list_runs(store: Store, home: Home | None = None) -> list[TrainingRun]:
    """The newest record of every run, oldest run first; with `home` the status accounts for the lock."""
    newest = {run.id: run for run in store.rows(RUNS)}
    return [run if home is None else resolve_status(home, run) for run in newest.values()]


def find_run(store: Store, id: str, home: Home | None = None) -> TrainingRun:  # noqa: A002 - the verb's word
    """A run by its id, or the newest run of a name. Raises TrainError AW-TRN-20."""
    found = store.rows(RUNS, {"id": id}, newest_first=True, limit=1)
    found = found or store.rows(RUNS, {"name": id}, newest_first=True, limit=1)
    if found:
        return found[0] if home is None else resolve_status(home, found[0])
    known = [run.id for run in list_runs(store)]
    near = tuple(difflib.get_close_matches(id, known, 3, 0.3))
    hint = "start a run: archwright train SPEC"
    if known:
        hint = f"newest runs: {', '.join(known[-3:])}; list all: archwright runs list"
    message = f"there is no training run {id!r}"
    raise TrainError("AW-TRN-20", message, where=ErrorLocation(field=id), hint=hint, nearest=near)


def resolve_status(home: Home, run: TrainingRun) -> TrainingRun:
    """The run, "interrupted" if its lock is free, with the last step's figures before its end."""
    if run.status == "running" and not is_locked(home, run.id):
        run = replace(run, status="interrupted")
    last = None if run.status == "finished" else _read_last_step(home.root / "runs" / run.id / "progress.jsonl")
    if last is None:
        return run
    return replace(run, step=last.step, loss_last=last.loss, tokens_per_s=last.units_per_s)


class _StepLine(msgspec.Struct):
    step: int
    loss: float
    units_per_s: float


def _read_last_step(path: Path) -> _StepLine | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            return msgspec.json.decode(line, type=_StepLine)
        except msgspec.DecodeError:
            continue
    return None


def new_id() -> str:
    return f"r-{secrets.token_hex(4)}"


def create_run(home: Home, job: ResolvedJob, spec: TrainSpec) -> None:
    folder = home.run(job.id)
    write_json(folder / "spec.json", spec)
    write_json(folder / "job.json", job)


def load_spec(home: Home, run: str) -> TrainSpec:
    """Raises TrainError AW-TRN-22 if the run's folder is missing or damaged."""
    return read_record(home.run(run) / "spec.json", TrainSpec, run)


def load_job(home: Home, run: str) -> ResolvedJob:
    return read_record(home.run(run) / "job.json", ResolvedJob, run)


def load_outcome(home: Home, run: str) -> RunOutcome | None:
    """None before the last step."""
    path = home.run(run) / "outcome.json"
    return read_record(path, RunOutcome, run) if path.exists() else None


def acquire_lock(home: Home, run: str) -> IO[bytes]:
    """The run's lock, which child processes inherit. Raises TrainError AW-TRN-23."""
    lock = open(home.run(run) / "lock", "ab")  # noqa: SIM115 - held until the run ends
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_RETRY_S)
        else:
            return lock
    lock.close()
    message = f"another process is running the run {run}"
    hint = "wait until it ends, or press Ctrl-C in its terminal"
    raise TrainError("AW-TRN-23", message, where=ErrorLocation(str(home.run(run))), hint=hint)


def is_locked(home: Home, run: str) -> bool:
    path = home.root / "runs" / run / "lock"  # home.run would create the folder
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def read_record(path: Path, kind: type[R], run: str) -> R:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        message = f"the folder of run {run} is missing or damaged: {error}"
        hint = "start a new run: archwright train SPEC"
        raise TrainError("AW-TRN-22", message, where=ErrorLocation(str(path)), hint=hint) from error
    except OSError as error:
        raise from_os_error(error) from error
