from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from archwright.training import atomic_directory, training_loop
from archwright.training.checkpoint import LocalCheckpointManager
from archwright.training.training_loop import LoopHooks

from ..tools.checks import refuses
from . import counting_trainer
from .counting_trainer import Counter, setup, train

# A checkpoint of `counting_trainer` syncs three files, the manifest and the folder, is renamed, and its parent is
# synced; the run has four. Killed at the very last, there is nothing left to do.
TOUCHES = 28


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_counts_and_two_are_kept(tmp_path: Path) -> None:
    kept = LocalCheckpointManager(tmp_path, print)
    assert kept.newest() is None
    for step in (5, 10, 15):
        kept.save(step, lambda step=step: {"s": str(step).encode()})  # type: ignore[misc]
    assert kept.newest() == (15, {"s": b"15"})
    assert names(tmp_path) == ["step-00000010", "step-00000015"]


def test_a_damaged_one_is_named_and_skipped_and_without_a_whole_one_the_run_starts_again(tmp_path: Path) -> None:
    warned: list[str] = []
    kept = LocalCheckpointManager(tmp_path, warned.append)
    kept.save(1, lambda: {"s": b"1"})
    kept.save(2, lambda: {"s": b"2"})
    (tmp_path / "step-00000002" / "s").write_bytes(b"3")
    assert kept.newest() == (1, {"s": b"1"})
    assert warned == ["the checkpoint of step 2 is skipped: s is damaged"]
    (tmp_path / "step-00000001" / "s").write_bytes(b"3")
    assert kept.newest() is None
    assert warned[-1] == "all checkpoints are damaged: the run starts again from its first step"
    kept.save(2, lambda: {"s": b"again"})
    assert kept.newest() == (2, {"s": b"again"})


def test_nothing_else_in_the_folder_is_taken_for_one(tmp_path: Path) -> None:
    for name in (f"{atomic_directory.LEFTOVER_PREFIX}x", "step-1", "notes"):
        (tmp_path / name).mkdir()
    assert LocalCheckpointManager(tmp_path, print).newest() is None


def test_a_full_disk_while_keeping_costs_the_new_one_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with the reason; what it had is whole, and it goes on to the same end once there is room."""
    unbroken, _ = train(tmp_path / "unbroken")
    real, calls = os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with refuses("AW-OPS-01"):
        train(tmp_path / "run")
    monkeypatch.setattr(os, "fsync", real)
    assert names(tmp_path / "run") == ["step-00000006", "step-00000009"]
    assert [atomic_directory.find_damage(tmp_path / "run" / name) for name in names(tmp_path / "run")] == ["", ""]
    state, trainer = train(tmp_path / "run")
    assert (state.cursor, trainer.steps) == (unbroken.cursor, 12)


@pytest.mark.process
@pytest.mark.parametrize("point", sorted(random.Random(20261124).sample(range(1, TOUCHES), 4)))
def test_killed_while_a_checkpoint_is_written_nothing_is_lost_or_repeated(tmp_path: Path, point: int) -> None:
    """SIGKILL at a sync or rename, a second one soon after the restart, then on to the end."""
    unbroken, trained = train(tmp_path / "unbroken")
    for at in (point, 7):
        argv = [sys.executable, counting_trainer.__file__, str(tmp_path / "run"), str(at)]
        dead = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert dead.returncode == -signal.SIGKILL, dead.stderr
    warned: list[str] = []
    state, trainer = train(tmp_path / "run", warned.append)
    assert trainer.digest == trained.digest
    assert (state.step, state.cursor, state.units) == (12, unbroken.cursor, unbroken.units)
    assert warned == []  # what a kill leaves is no damaged checkpoint
    assert names(tmp_path / "run")[-2:] == ["step-00000009", "step-00000012"]
    assert not list((tmp_path / "run").glob(f"{atomic_directory.LEFTOVER_PREFIX}*"))


def test_a_damaged_checkpoint_costs_its_steps_and_not_the_run(tmp_path: Path) -> None:
    unbroken, trained = train(tmp_path / "unbroken")
    train(tmp_path / "run")
    (tmp_path / "run" / "step-00000012" / "digest").write_bytes(b"")
    warned: list[str] = []
    state, trainer = train(tmp_path / "run", warned.append)
    assert (trainer.digest, state.cursor) == (trained.digest, unbroken.cursor)
    assert len(warned) == 1


def test_a_finished_run_makes_no_step(tmp_path: Path) -> None:
    train(tmp_path)
    told: list[training_loop.TrainingProgress] = []
    trainer = Counter()
    state = training_loop.run_loop(trainer, setup(), LocalCheckpointManager(tmp_path, print), LoopHooks(told.append))
    assert (state.step, told) == (12, [])
