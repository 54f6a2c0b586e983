"""The training loop: takes rows in their order, makes steps, saves checkpoints, stops on request.

Design: an own loop instead of a library's trainer, because a resumed run must make the same steps and end with the same
bytes as an uninterrupted run. Its state follows from spec, rows and the newest checkpoint. A single process and every
Ray worker use the same loop.
"""

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from archwright.contract.record import Record, replace
from archwright.errors import ErrorLocation, TrainError
from archwright.training.checkpoint import CheckpointManager
from archwright.training.data_order import Cursor, DataOrder
from archwright.training.trainer import TaskTrainer, TrainerSetup

STATE_FILE = "loop.json"
# Number of steps for the estimates of tokens/s and remaining time.
RECENT_STEPS = 10


class TrainingProgress(Record):
    """One step, or a `note`; `resumed` means that the run continues after workers died."""

    step: int
    steps: int
    loss: float | None = None
    units_per_s: float | None = None
    left_s: float | None = None
    note: str = ""
    resumed: bool = False


class LoopState(Record):
    """A run's state after `step` steps; `units` and `stepping_s` are sums over these steps.

    `rows` is the digest of the training rows' ids.
    """

    rows: str
    step: int = 0
    cursor: Cursor = Cursor()
    loss_first: float | None = None
    loss_last: float | None = None
    units: int = 0
    stepping_s: float = 0.0


class LoopHooks(NamedTuple):
    """`tell` is called after each step, `stop` before each; `stop` must return the same for all workers."""

    tell: Callable[[TrainingProgress], None]
    stop: Callable[[], bool] = lambda: False
    now: Callable[[], float] = time.monotonic


def run_loop(trainer: TaskTrainer, setup: TrainerSetup, checkpoints: CheckpointManager, hooks: LoopHooks) -> LoopState:
    """Run from the newest checkpoint to the last step or until `stop`; save the final state.

    Raises TrainError AW-TRN-21 (the checkpoint belongs to other rows), AW-TRN-30 (non-finite loss); the last checkpoint
    stays in both cases.
    """
    spec, ids = setup.spec, setup.data.train.ids
    state, kept_at = _restore_state(trainer, setup, checkpoints)
    lengths, budget = trainer.lengths(), trainer.budget()
    order, whole = DataOrder(ids, lengths, spec.seed, state.cursor), sum(lengths)
    recent: deque[tuple[float, int]] = deque(maxlen=RECENT_STEPS)

    def keep() -> None:
        checkpoints.save(state.step, lambda: {**trainer.state(), STATE_FILE: msgspec.json.encode(state)})

    while state.step < spec.steps and not hooks.stop():
        began = hooks.now()
        rows = order.next_rows(budget)
        result = trainer.step(rows[setup.group.rank :: setup.group.size])
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
        sum_s = math.fsum(seconds for seconds, _ in recent)
        speed = sum(count for _, count in recent) / sum_s if sum_s > 0 else None
        left_s = sum_s / len(recent) * (spec.steps - state.step)
        step, loss = state.step, state.loss_last
        hooks.tell(TrainingProgress(step=step, steps=spec.steps, loss=loss, units_per_s=speed, left_s=left_s))
        if state.step % spec.checkpoint_every_steps == 0 or state.step == spec.steps:
            keep()
            kept_at = state.step
    if kept_at != state.step:
        keep()
    return state


def _restore_state(trainer: TaskTrainer, setup: TrainerSetup, checkpoints: CheckpointManager) -> tuple[LoopState, int]:
    """The state of the newest checkpoint and its step."""
    rows = hashlib.sha256("\n".join(setup.data.train.ids).encode()).hexdigest()
    kept = checkpoints.newest()
    if kept is None:
        return LoopState(rows=rows), 0
    state = msgspec.json.decode(kept.files[STATE_FILE], type=LoopState)
    if state.rows != rows:
        message = f"the rows of {setup.data.version.id} differ from the training rows of this run"
        hint = "start a new run: archwright train SPEC"
        raise TrainError("AW-TRN-21", message, where=ErrorLocation(field=f"checkpoint of step {state.step}"), hint=hint)
    trainer.restore({name: data for name, data in kept.files.items() if name != STATE_FILE})
    return state, state.step


def _nonfinite_loss_error(setup: TrainerSetup, state: LoopState, kept_at: int) -> TrainError:
    kept = f"the checkpoint of step {kept_at} is kept" if kept_at else "there is no checkpoint yet"
    message = f"the loss of step {state.step + 1} is not a number; {kept}"
    hint = "reduce learning_rate in the spec and train again, or remove invalid rows from the data set"
    where = ErrorLocation(field=f"learning_rate: {setup.spec.learning_rate or 'the default'}")
    return TrainError("AW-TRN-30", message, where=where, hint=hint)
