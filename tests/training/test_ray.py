"""Several workers for real: Ray Train on a cluster of two nodes, the small model, one worker killed in the middle."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from archwright import api
from archwright.contract.lineage import TrainingRun
from archwright.home import Home
from archwright.training.text import WEIGHTS

if TYPE_CHECKING:
    from tests.conftest import RayCluster

SPEC = """
name: assistant-{workers}
task: text-lora
dataset: answers
base: SmolLM2-135M-Instruct
steps: 8
tokens_per_step: 128
checkpoint_every_steps: 2
held_out: 0.0
threads: 1
workers: {workers}
"""
KILL_AFTER_STEP = 5


class Made(NamedTuple):
    """The same spec on one worker, on two, and on two of which one was killed."""

    home: Home
    alone: TrainingRun
    crew: TrainingRun
    broken: TrainingRun
    notes: list[str]


def answers() -> str:
    topics = ("lists", "dicts", "sets", "files", "threads", "sockets", "decorators", "generators")
    return "".join(
        json.dumps({"prompt": f"What is number {n} about {topic}?", "completion": f"About {topic}: {n} is {n * n}."})
        + "\n"
        for n in range(12)
        for topic in topics
    )


@pytest.fixture(scope="module")
def made(ray_cluster: RayCluster, model_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("ray")
    home = Home(folder / "home")
    for model in model_home.folder("models").glob("*.gguf"):
        (home.folder("models") / model.name).symlink_to(model.resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHWRIGHT_HOME", str(home.root))
        patch.chdir(folder)
        for name, value in ray_cluster.environment.items():
            patch.setenv(name, value)
        (folder / "answers.jsonl").write_text(answers())
        api.data.ingest("answers.jsonl", name="answers")
        alone = api.train(spec(folder, 1)).result()
        crew = api.train(spec(folder, 2)).result()
        notes: list[str] = []
        training = api.train(spec(folder, 2))
        for progress in training:
            notes += [progress.note] if progress.note else []
            if progress.step == KILL_AFTER_STEP and not any("gone" in note for note in notes):
                os.kill(started(home, training.run.id)[1], signal.SIGKILL)
        yield Made(home, alone, crew, training.run, notes)


def spec(folder: Path, workers: int) -> str:
    path = folder / f"train-{workers}.yaml"
    path.write_text(SPEC.format(workers=workers))
    return str(path)


def started(home: Home, run: str) -> dict[int, int]:
    """Rank to process id, as the run's log tells of the last start."""
    return {entry["rank"]: entry["pid"] for entry in events(home, run) if entry["event"] == "worker started"}


def events(home: Home, run: str) -> list[dict[str, Any]]:
    lines = (home.run(run) / "log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def adapter(made: Made, run: TrainingRun) -> dict[str, Any]:
    found: dict[str, Any] = load_file(made.home.run(run.id) / "result" / WEIGHTS)
    return found


def told(home: Home, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home.run(run) / "progress.jsonl").read_text().splitlines()]


@pytest.mark.nightly
def test_two_workers_train_as_one_does(made: Made) -> None:
    assert [run.status for run in (made.alone, made.crew)] == ["finished", "finished"]
    assert made.crew.order_sha256 == made.alone.order_sha256
    assert made.crew.resumed == 0
    starts = [entry for entry in events(made.home, made.crew.id) if entry["event"] == "worker started"]
    assert [entry["rank"] for entry in starts] == [0, 1]
    assert len({entry["node"] for entry in starts}) == 2
    # The base computes in bfloat16 on other groups of rows, so the bytes differ; what was learned does not.
    assert made.alone.loss_last is not None
    assert made.crew.loss_last == pytest.approx(made.alone.loss_last, rel=0.02)
    alone, crew = adapter(made, made.alone), adapter(made, made.crew)
    moved = np.concatenate([alone[name].ravel() for name in sorted(alone) if "lora_B" in name])  # zero at first
    also = np.concatenate([crew[name].ravel() for name in sorted(crew) if "lora_B" in name])
    print("DISTANCE", np.linalg.norm(moved - also) / np.linalg.norm(moved), made.alone.loss_last, made.crew.loss_last)
    assert np.linalg.norm(moved - also) <= 0.2 * np.linalg.norm(moved)


@pytest.mark.nightly
def test_a_killed_worker_costs_time_and_nothing_else(made: Made) -> None:
    assert made.broken.status == "finished"
    assert made.broken.resumed == 1
    assert made.broken.order_sha256 == made.alone.order_sha256
    assert made.broken.weights_sha256 == made.crew.weights_sha256
    assert made.broken.loss_last == made.crew.loss_last

    assert [note for note in made.notes if "worker 1 is gone" in note]
    log = events(made.home, made.broken.id)
    died = [entry for entry in log if entry["event"] == "worker died"]
    assert len(died) == 1 and died[0]["ranks"] == [1]
    assert [entry["rank"] for entry in log if entry["event"] == "worker started"] == [0, 1, 0, 1]
    steps = [line["step"] for line in told(made.home, made.broken.id) if not line["note"]]
    broken_at = next(place for place, step in enumerate(steps[1:], 1) if step <= steps[place - 1])
    assert steps[:broken_at] == list(range(1, broken_at + 1))
    assert broken_at >= KILL_AFTER_STEP
    # From the newest checkpoint on: no step is made twice but those after it.
    assert steps[broken_at:] == list(range(broken_at - broken_at % 2 + 1, 9))
