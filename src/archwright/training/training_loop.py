"""The loop: takes rows in their order, lets the task make steps, keeps checkpoints, stops when asked to.

Ours and not a trainer class's because of what it promises: a run that was broken off anywhere and goes on makes the
same steps over the same rows, and ends with the same bytes. All that follows from the spec, the rows and the newest
checkpoint; nothing else is carried over. One loop serves a single process and every worker of a crew.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from archwright.contract.record import Record, replace
from archwright.errors import ErrorLocation, TrainError
from archwright.training.checkpoint import CheckpointManager
from archwright.training.data_order import Cursor, DataOrder
from archwright.training.trainer import TaskTrainer, TrainerSetup

STATE_FILE = "loop.json"
# Steps the tokens/s and the time left are taken from.
RECENT_STEPS = 10


class TrainingProgress(Record):
    """One step made, or (`note`) something worth telling before or between; `resumed` tells that the run goes on after
    a break without having ended."""

    step: int
    steps: int
    loss: float | None = None
    units_per_s: float | None = None
    left_s: float | None = None
    note: str = ""
    resumed: bool = False


class LoopState(Record):
    """Where a run stands after `step` steps. `units` and `stepping_s` are sums over the steps that counted; `rows`
    digests the ids of all training rows."""

    rows: str
    step: int = 0
    cursor: Cursor = Cursor()
    loss_first: float | None = None
    loss_last: float | None = None
    units: int = 0
    stepping_s: float = 0.0


class LoopHooks(NamedTuple):
    """`tell` is called after each step; `stop` is asked before each (of a crew: all workers must answer alike)."""

    tell: Callable[[TrainingProgress], None]
    stop: Callable[[], bool] = lambda: False
    now: Callable[[], float] = time.monotonic


def run_loop(trainer: TaskTrainer, setup: TrainerSetup, keeper: CheckpointManager, hooks: LoopHooks) -> LoopState:
    """From the newest checkpoint to the last step, or to where `stop` ended it: there is a checkpoint of that state.

    Raises TrainError AW-TRN-21 (the checkpoint belongs to other rows), AW-TRN-30 (the loss is no number); the last
    good checkpoint is kept then, as after any error of the keeper's.
    """
    spec, ids = setup.spec, setup.data.train.ids
    state, kept_at = _restore_state(trainer, setup, keeper)
    order = DataOrder(ids, trainer.lengths(), spec.seed, state.cursor)
    lengths, budget = trainer.lengths(), trainer.budget()
    whole = sum(lengths)
    recent: deque[tuple[float, int]] = deque(maxlen=RECENT_STEPS)

    def keep() -> None:
        keeper.save(state.step, lambda: {**trainer.state(), STATE_FILE: msgspec.json.encode(state)})

    while state.step < spec.steps and not hooks.stop():
        began = hooks.now()
        rows = order.next_rows(budget)
        result = trainer.step(rows[setup.crew.rank :: setup.crew.size])
        if not math.isfinite(result.loss):
            raise _nonfinite_loss_error(setup, state, kept_at)
        spent, units = hooks.now() - began, whole if len(rows) == len(ids) else sum(lengths[row] for row in rows)
        recent.append((spent, units))
        state = replace(
            state,
            step=state.step + 1,
            cursor=order.cursor,
            loss_first=result.loss if state.loss_first is None else state.loss_first,
            loss_last=result.loss,
            units=state.units + units,
            stepping_s=state.stepping_s + spent,
        )
        hooks.tell(_build_progress(state, spec.steps, recent))
        if state.step % spec.checkpoint_every_steps == 0 or state.step == spec.steps:
            keep()
            kept_at = state.step
    if kept_at != state.step:
        keep()
    return state


def rows_sha256(ids: list[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _restore_state(trainer: TaskTrainer, setup: TrainerSetup, keeper: CheckpointManager) -> tuple[LoopState, int]:
    """The state to go on from, and the step of the checkpoint it is from."""
    rows = rows_sha256(setup.data.train.ids)
    kept = keeper.newest()
    if kept is None:
        return LoopState(rows=rows), 0
    state = msgspec.json.decode(kept.files[STATE_FILE], type=LoopState)
    if state.rows != rows:
        raise TrainError(
            "AW-TRN-21",
            f"the rows of {setup.data.version.id} are not those this run was trained on",
            where=ErrorLocation(field=f"checkpoint of step {state.step}"),
            hint="start a new run: archwright train SPEC",
        )
    files: Mapping[str, bytes] = {name: data for name, data in kept.files.items() if name != STATE_FILE}
    trainer.restore(files)
    return state, state.step


def _build_progress(state: LoopState, steps: int, recent: deque[tuple[float, int]]) -> TrainingProgress:
    spent = math.fsum(seconds for seconds, _ in recent)
    speed = sum(units for _, units in recent) / spent if spent > 0 else None
    left = spent / len(recent) * (steps - state.step)
    return TrainingProgress(step=state.step, steps=steps, loss=state.loss_last, units_per_s=speed, left_s=left)


def _nonfinite_loss_error(setup: TrainerSetup, state: LoopState, kept_at: int) -> TrainError:
    kept = f"the checkpoint of step {kept_at} is kept" if kept_at else "there is no checkpoint yet"
    return TrainError(
        "AW-TRN-30",
        f"the loss of step {state.step + 1} is not a number; {kept}",
        where=ErrorLocation(field=f"learning_rate: {setup.spec.learning_rate or 'the default'}"),
        hint="lower learning_rate in the spec and train again; look for broken rows in the data set",
    )
