from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from archwright.contract.record import replace
from archwright.training import training_loop
from archwright.training.checkpoint import LocalCheckpointManager, RestoredCheckpoint
from archwright.training.data_order import Cursor, DataOrder
from archwright.training.trainer import StepResult
from archwright.training.training_loop import LoopHooks, TrainingProgress

from ..tools.checks import refuses
from .counting_trainer import IDS, SPEC, Counter, setup, train


class Clock:
    """Every look at it is a second later."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Memory:
    """Keeps all checkpoints in memory."""

    def __init__(self) -> None:
        self.kept: list[RestoredCheckpoint] = []

    def newest(self) -> RestoredCheckpoint | None:
        return self.kept[-1] if self.kept else None

    def save(self, step: int, files: Callable[[], Mapping[str, bytes]]) -> None:
        self.kept.append(RestoredCheckpoint(step, dict(files())))


def test_steps_follow_the_order_and_their_figures_add_up() -> None:
    told: list[TrainingProgress] = []
    trainer, memory = Counter(), Memory()
    state = training_loop.run_loop(trainer, setup(), memory, LoopHooks(told.append, now=Clock()))
    order = DataOrder(IDS, [1] * 40, SPEC.seed, Cursor())
    steps = [order.next_rows(7) for _ in range(12)]
    assert state.cursor == order.cursor
    assert state.units == sum(map(len, steps)) == 80  # an epoch's last step has what is left of it
    assert (state.step, state.loss_first, state.loss_last) == (12, 1.0, 1.0 / 12)
    assert state.stepping_s == 12.0
    assert [one.step for one in told] == list(range(1, 13))
    assert told[0] == TrainingProgress(step=1, steps=12, loss=1.0, units_per_s=7.0, left_s=11.0)
    assert told[-1].left_s == 0.0
    assert [kept.step for kept in memory.kept] == [3, 6, 9, 12]


def test_asked_to_stop_it_keeps_where_it_stands_and_goes_on_from_there() -> None:
    unbroken = Counter()
    whole = training_loop.run_loop(unbroken, setup(), Memory(), LoopHooks(lambda _: None, now=Clock()))
    memory, told = Memory(), list[TrainingProgress]()
    state = training_loop.run_loop(Counter(), setup(), memory, LoopHooks(told.append, lambda: len(told) == 4, Clock()))
    assert (state.step, [kept.step for kept in memory.kept]) == (4, [3, 4])
    again = Counter()
    assert training_loop.run_loop(again, setup(), memory, LoopHooks(told.append, now=Clock())) == whole
    assert again.digest == unbroken.digest
    assert [one.step for one in told] == list(range(1, 13))
    memory, told = Memory(), list[TrainingProgress]()
    training_loop.run_loop(Counter(), setup(), memory, LoopHooks(told.append, lambda: len(told) == 6))
    assert [kept.step for kept in memory.kept] == [3, 6]  # no second one at a checkpoint


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize(("at", "kept"), [(2, None), (8, 6)])
def test_a_loss_that_is_no_number_ends_it_and_keeps_the_last_checkpoint(loss: float, at: int, kept: int | None) -> None:
    memory = Memory()
    with refuses("AW-TRN-30") as caught:
        training_loop.run_loop(Counter(losses={at: loss}), setup(), memory, LoopHooks(lambda _: None))
    assert f"step {at}" in caught.value.message
    assert "learning_rate" in caught.value.hint
    newest = memory.newest()
    assert (newest.step if newest else None) == kept


def test_a_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    checkpoints = LocalCheckpointManager(tmp_path, print)
    with refuses("AW-TRN-21"):
        training_loop.run_loop(Counter(), setup(ids=IDS[1:]), checkpoints, LoopHooks(lambda _: None))


class Seat:
    """One of several workers; `mean` is the task's affair."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def mean(self, tensors: list[object], weight: float) -> None: ...


class Watched(Counter):
    """Remembers the rows of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def step(self, rows: Sequence[int]) -> StepResult:
        self.seen.append(list(rows))
        return super().step(rows)


def test_workers_share_every_step_and_leaves_no_row_out() -> None:
    """Three workers: together they see the steps of one, in turns, and count all of its rows."""
    order = DataOrder(IDS, [1] * 40, SPEC.seed, Cursor())
    steps = [order.next_rows(7) for _ in range(12)]
    workers = [Watched() for _ in range(3)]
    states = [
        training_loop.run_loop(trainer, setup(group=Seat(rank, 3)), Memory(), LoopHooks(lambda _: None, now=Clock()))
        for rank, trainer in enumerate(workers)
    ]
    for rank, trainer in enumerate(workers):
        assert trainer.seen == [rows[rank::3] for rows in steps]
    assert {state.units for state in states} == {80}
    assert [state.cursor for state in states] == [order.cursor] * 3
    more_than_rows = setup(replace(SPEC, steps=3), IDS[:2], Seat(2, 3))
    assert training_loop.run_loop(Counter(IDS[:2]), more_than_rows, Memory(), LoopHooks(lambda _: None)).step == 3
