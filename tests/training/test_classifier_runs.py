"""Both classifiers through the lake, the loop and a process that is killed: the end is the same as without the kill."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from archwright.contract.record import replace
from archwright.errors import TrainError
from archwright.home import Home
from archwright.training import image_classifier, run_execution, tabular_classifier, training_process, training_runs
from archwright.training.training_runs import RunOutcome
from archwright.training.training_spec import TrainSpec

from ..tools.checks import refuses
from .classifier_rows import CANCER, DIGITS, begun, brought_in, cancer, digits, setup_of, steps, trained_run

CASES = {
    "digits": (replace(DIGITS, steps=250, checkpoint_every_steps=20), digits()),
    "cancer": (replace(CANCER, steps=300, checkpoint_every_steps=20, learning_rate=0.01), cancer(absent=0.1)),
}


TRAINERS = [(image_classifier, DIGITS, digits(), "torch"), (tabular_classifier, CANCER, cancer(absent=0.1), "lightgbm")]


@pytest.mark.model
@pytest.mark.parametrize(("task", "spec", "columns", "package"), TRAINERS)
def test_from_any_state_on_it_is_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Any, spec: TrainSpec, columns: dict[str, Any], package: str
) -> None:
    def make(given: TrainSpec = spec) -> Any:
        return task.make_trainer(setup_of(columns, given, tmp_path))

    whole, half, rest, late = (make() for _ in range(4))
    late.restore(whole.state())  # before the first step
    losses = steps(whole, 0, 8)
    steps(half, 0, 4)
    rest.restore(half.state())
    assert rest.state() == half.state() and rest.weights_sha256() == half.weights_sha256() != whole.weights_sha256()
    assert steps(rest, 4, 8) == losses[4:] and steps(late, 0, 8) == losses
    assert rest.weights_sha256() == late.weights_sha256() == whole.weights_sha256()
    files = []
    for number, trainer in enumerate((whole, rest)):
        (tmp_path / str(number)).mkdir()
        trainer.save(tmp_path / str(number))
        files.append((tmp_path / str(number) / "model.onnx").read_bytes())
    assert files[0] == files[1]
    if task is image_classifier:  # trees have nothing random to begin with
        other = make(replace(spec, seed=2))
        steps(other, 0, 8)
        assert other.weights_sha256() != whole.weights_sha256()
    monkeypatch.setitem(sys.modules, package, None)
    with refuses("AW-GET-01", hint="pip install 'archwright[train]'"):
        make()


@pytest.mark.process
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["cancer", "digits"])
def test_killed_and_resumed_is_as_if_never_killed(tmp_path: Path, name: str) -> None:
    spec, columns = CASES[name]
    home = Home(tmp_path / "home")
    version = brought_in(home, name, columns, tmp_path)
    whole = trained_run(home, spec, version)
    broken = begun(home, spec, version)
    made = _killed(home, broken, at=25)
    assert made[0] == 1 and training_runs.load_outcome(home, broken) is None
    with training_runs.acquire_lock(home, broken) as lock:
        seen = training_process.start_process(home, broken, lock)
        resumed = [progress.step for progress in seen if progress.loss is not None]
    # It went on from a checkpoint: neither from the beginning nor past what was lost.
    assert 1 < resumed[0] <= made[-1] + 20 and (resumed[0] - 1) % 20 == 0 and resumed[-1] == spec.steps
    outcomes = [_outcome(home, run) for run in (whole, broken)]
    assert len({(found.weights_sha256, found.order_sha256, found.loss_last) for found in outcomes}) == 1
    files = [home.run(run) / "result" / "model.onnx" for run in (whole, broken)]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == 1
    assert run_execution.read_result(home, broken).labels == run_execution.read_result(home, whole).labels


def _killed(home: Home, run: str, at: int) -> list[int]:
    """The steps heard of before SIGKILL."""
    heard: list[int] = []
    with training_runs.acquire_lock(home, run) as lock:
        process = training_process.start_process(home, run, lock)
        with pytest.raises(TrainError, match="signal 9"):
            for progress in process:
                heard.append(progress.step)
                if progress.step == at:
                    os.kill(process._process.pid, signal.SIGKILL)
    return heard


def _outcome(home: Home, run: str) -> RunOutcome:
    found = training_runs.load_outcome(home, run)
    assert found is not None
    return found


def test_a_spec_and_a_version_decide_the_bytes(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    spec = replace(CANCER, steps=5)
    version = brought_in(home, "cancer", cancer(), tmp_path)
    one, again = (_outcome(home, trained_run(home, spec, version)) for _ in range(2))
    other = _outcome(home, trained_run(home, replace(spec, learning_rate=0.2), version))
    assert (again.weights_sha256, again.order_sha256) == (one.weights_sha256, one.order_sha256)
    assert other.weights_sha256 != one.weights_sha256


MANY = {**{name: [*values, *values] for name, values in cancer().items()}, "kind": [f"k{n}" for n in range(1138)]}


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({**cancer(), "kind": ["benign"] * 569}, "AW-TRN-40"),
        (MANY, "AW-TRN-40"),
        ({"m00": ["text"] * 569, "kind": cancer()["kind"]}, "AW-TRN-13"),
    ],
)
def test_rows_that_teach_nothing_end_the_run_at_once(tmp_path: Path, columns: dict[str, Any], code: str) -> None:
    home = Home(tmp_path / "home")
    version = brought_in(home, "cancer", columns, tmp_path)
    with refuses(code):
        trained_run(home, replace(CANCER, steps=3, held_out=0.0), version)
