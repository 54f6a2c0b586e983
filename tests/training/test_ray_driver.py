"""Several workers without Ray: what is decided before it starts, what the workers say, what ends a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from archwright.errors import TrainError
from archwright.home import Home
from archwright.training import ray_collectives, ray_driver, ray_worker, run_execution, task_registry
from archwright.training.__main__ import choose_driver
from archwright.training.checkpoint import RestoredCheckpoint
from archwright.training.ray_collectives import RayWorkerGroup
from archwright.training.ray_driver import RayTrainTask, WorkerFailure
from archwright.training.ray_worker import WorkerMessage
from archwright.training.training_loop import LoopHooks, TrainingProgress
from archwright.training.training_process import SerialisedError

from ..tools.checks import refuses


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("ray", lambda: choose_driver(2)),
        ("ray", lambda: task_registry.require_packages("image-classifier", 2)),
        ("torch", RayWorkerGroup),
    ],
)
def test_one_worker_needs_no_ray_and_several_say_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, package: str, use: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert choose_driver(1) is run_execution.drive_run
    if package == "ray":
        task_registry.require_packages("image-classifier", 1)
    with refuses("AW-GET-01", f"several workers needs the package {package}", "pip install 'archwright[ray]'"):
        use()


@pytest.mark.parametrize(
    ("cpus", "workers", "threads", "each"),
    [
        ([2], 2, None, 1),
        ([8], 2, None, 4),
        ([8, 8], 2, None, 8),
        ([8, 4], 2, None, 4),
        ([8, 3], 3, None, 3),
        ([1, 1], 2, 1, 1),
        ([4, 4], 2, 3, 3),
    ],
)
def test_cpus_go_round(cpus: list[int], workers: int, threads: int | None, each: int) -> None:
    assert ray_driver.allocate_threads(cpus, workers, threads) == each


@pytest.mark.parametrize(("cpus", "workers", "threads"), [([1, 1], 3, None), ([2, 2], 2, 3), ([], 2, None)])
def test_what_does_not_fit_is_refused(cpus: list[int], workers: int, threads: int | None) -> None:
    with refuses("AW-TRN-63", "do not fit on machines with"):
        ray_driver.allocate_threads(cpus, workers, threads)


def test_a_ray_of_our_own_has_a_secret_and_a_cluster_its_own_rules(home: Home) -> None:
    first = ray_collectives.ray_environment(home, "")
    token = Path(first["RAY_AUTH_TOKEN_PATH"])
    assert first["RAY_AUTH_MODE"] == "token" and token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    before = token.read_text()
    assert ray_collectives.ray_environment(home, "") == first and token.read_text() == before
    joined = ray_collectives.ray_environment(home, "10.0.0.1:6379")
    assert joined["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not [name for name in joined if "AUTH" in name]


class Fit(RayTrainTask):
    """Ray Train as a script: an action for each call of `running`, and the error at its end."""

    def __init__(self, *looks: Callable[[], None], error: str = "") -> None:
        self.error = error
        self._looks = list(looks)

    def running(self) -> bool:
        if not self._looks:
            return False
        self._looks.pop(0)()
        return True


class Scene:
    """The folder of the workers, and the progress that was reported from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[TrainingProgress] = []
        self.stop = False
        self.at = 0.0

    def worker(
        self, rank: int, progress: TrainingProgress | None = None, failure: SerialisedError | None = None
    ) -> None:
        said = WorkerMessage(
            at=1.0, rank=rank, pid=os.getpid(), host="here", node=f"n{rank}", progress=progress, failure=failure
        )
        self.write(f"worker-{rank}.jsonl", msgspec.json.encode(said) + b"\n")

    def death(self, *ranks: int) -> None:
        death = WorkerFailure(at=2.0, ranks=list(ranks), reason="the process is gone")
        self.write("deaths.jsonl", msgspec.json.encode(death) + b"\n")

    def write(self, name: str, data: bytes) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(data)

    def follow(self, fit: Fit) -> None:
        ray_driver.follow_workers(fit, LoopHooks(self.told.append, lambda: self.stop, lambda: self.at), self.folder, 9)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def step(number: int) -> TrainingProgress:
    return TrainingProgress(step=number, steps=9, loss=1.0)


def test_steps_and_deaths_are_told_and_logged(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    whole = msgspec.json.encode(WorkerMessage(at=1.0, rank=0, pid=1, host="here", node="n0", progress=step(2))) + b"\n"
    scene.follow(
        Fit(
            lambda: scene.worker(0),
            lambda: scene.worker(1),
            lambda: scene.worker(0, step(1)),
            lambda: scene.write("worker-0.jsonl", whole[:20]),
            lambda: scene.write("worker-0.jsonl", whole[20:]),
            lambda: scene.death(1),
            lambda: scene.worker(0, step(2)),
        )
    )
    assert [progress.step for progress in scene.told] == [1, 2, 2, 2]
    gone = scene.told[2]
    assert gone.note == "worker 1 died; all restart from the newest checkpoint" and gone.resumed
    assert [progress.resumed for progress in scene.told] == [False, False, True, False]
    log = [msgspec.json.decode(line) for line in capsys.readouterr().err.splitlines()]
    assert [entry["event"] for entry in log] == ["worker started", "worker started", "worker died"]
    assert log[0]["pid"] == os.getpid() and log[1]["node"] == "n1"
    assert log[2]["ranks"] == [1] and log[2]["reason"] == "the process is gone"


def test_a_stop_reaches_the_workers_once_they_have_started(scene: Scene) -> None:
    scene.stop = True
    seen: list[bool] = []
    look: Callable[[], None] = lambda: seen.append((scene.folder / "stop").exists())  # noqa: E731
    scene.follow(Fit(look, lambda: scene.worker(0), look, look))
    assert seen == [False, False, True]


def test_an_error_of_ours_ends_it_as_reported(scene: Scene) -> None:
    error = TrainError("AW-TRN-30", "the loss is not a number", hint="lower learning_rate")
    failure = msgspec.convert(error.as_dict(), SerialisedError)
    with pytest.raises(TrainError) as caught:
        scene.follow(Fit(lambda: scene.worker(1, failure=failure), error="all gone"))
    assert caught.value.as_dict() == error.as_dict()


def test_workers_that_never_start_are_not_waited_for_without_end(scene: Scene) -> None:
    def late() -> None:
        scene.at += ray_driver.START_TIMEOUT_S

    with refuses("AW-TRN-64", "no worker started within 600 s"):
        scene.follow(Fit(late, late, late))
    scene.follow(Fit(late, lambda: scene.worker(1), late, late))


def test_workers_that_keep_dying_end_it(scene: Scene) -> None:
    deaths = [scene.death] * (ray_driver.MAX_FAILURES + 1)
    with refuses("AW-TRN-61", r"died 4 times; the reason of the last death: the process"):
        scene.follow(Fit(*deaths, error="worn out"))
    assert [progress.resumed for progress in scene.told] == [True, True, True, False]
    assert scene.told[0].note.startswith("a worker died") and "limit of restarts" in scene.told[-1].note


def test_what_ray_train_itself_gets_wrong_is_our_bug(scene: Scene) -> None:
    with pytest.raises(TrainError, match="Ray Train failed: lost"):
        scene.follow(Fit(lambda: None, error="lost"))


class Pair(RayWorkerGroup):
    """One of two workers, and the step from which the first one continues."""

    def __init__(self, rank: int, chosen: int) -> None:
        self.rank = rank
        self._chosen = chosen
        self.given: list[float] = []

    def broadcast(self, value: float) -> float:
        self.given.append(value)
        return float(self._chosen)


class Checkpoints:
    """Returns another checkpoint at each call, and the last one from then on."""

    def __init__(self, *steps: int) -> None:
        self._steps = list(steps)
        self.kept: list[int] = []

    def newest(self) -> RestoredCheckpoint | None:
        now = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        return RestoredCheckpoint(now, {}) if now else None

    def save(self, step: int, files: Callable[[], Mapping[str, bytes]]) -> None:
        self.kept.append(step)


@pytest.mark.parametrize(("steps", "waits"), [((4,), 0), ((0, 2, 4), 2)])
def test_workers_continue_from_the_checkpoint_of_the_first(steps: tuple[int, ...], waits: int) -> None:
    waited: list[float] = []
    group = Pair(1, 4)
    kept = ray_worker.SharedCheckpointManager(group, Checkpoints(*steps), waited.append).newest()
    assert kept is not None and kept.step == 4
    assert len(waited) == waits
    assert group.given == [float(steps[0])]


def test_a_checkpoint_that_never_shows_is_an_error() -> None:
    assert ray_worker.SharedCheckpointManager(Pair(1, 0), Checkpoints(0)).newest() is None
    waited: list[float] = []
    with refuses("AW-TRN-62", "worker 1 does not see the checkpoint of step 4"):
        ray_worker.SharedCheckpointManager(Pair(1, 4), Checkpoints(2), waited.append).newest()
    assert len(waited) == ray_worker.CHECKPOINT_TRIES


def test_the_first_worker_alone_keeps_checkpoints() -> None:
    checkpoints = [Checkpoints(0), Checkpoints(0)]
    for rank, local in enumerate(checkpoints):
        ray_worker.SharedCheckpointManager(Pair(rank, 0), local).save(2, lambda: {})
    assert [local.kept for local in checkpoints] == [[2], []]
