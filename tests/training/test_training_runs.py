from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from archwright.contract.lineage import TrainingRun
from archwright.contract.record import replace
from archwright.errors import ArchwrightError, DataError, ErrorLocation, InternalError, MissingError, TrainError
from archwright.home import Home
from archwright.store import Store
from archwright.training import run_execution, training_process, training_runs
from archwright.training.training_loop import TrainingProgress
from archwright.training.training_process import SerialisedError, TrainingProcess

from ..tools.checks import WAIT_S, refuses
from .counting_trainer import SPEC, setup

RUN = TrainingRun(
    id="r-1", at=1.0, name="a", task="text-lora", status="running", created_at=1.0, dataset_version="d@v1", steps=4
)


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    store = Store(home.store_url)
    yield store
    store.close()


def test_the_newest_record_is_the_runs_state_and_ids_differ(store: Store) -> None:
    assert len({training_runs.new_id() for _ in range(100)}) == 100
    training_runs.append_run(store, RUN)
    training_runs.append_run(store, replace(RUN, id="r-2", name="b"))
    training_runs.append_run(store, replace(RUN, at=2.0, status="finished", step=4))
    assert [(run.id, run.status) for run in training_runs.list_runs(store)] == [("r-1", "finished"), ("r-2", "running")]
    assert training_runs.find_run(store, "r-1").step == 4
    assert training_runs.find_run(store, "b").id == "r-2"


def test_an_unknown_run_names_the_nearest(store: Store) -> None:
    with refuses("AW-TRN-20", hint="start a run: archwright train SPEC"):
        training_runs.find_run(store, "r-1")
    training_runs.append_run(store, replace(RUN, id="r-12345678"))
    with refuses("AW-TRN-20") as caught:
        training_runs.find_run(store, "r-12345679")
    assert caught.value.nearest == ("r-12345678",)


def test_a_run_that_has_not_ended_is_as_far_as_its_last_whole_line(home: Home, store: Store) -> None:
    training_runs.append_run(store, RUN)
    told = home.run(RUN.id) / "progress.jsonl"
    step = b'{"at":1.0,"step":%d,"steps":4,"loss":2.5,"units_per_s":9.0,"left_s":1.0,"note":"","resumed":false}\n'
    told.write_bytes(
        step % 1 + step % 2 + b'{"at":1.0,"step":2,"steps":4,"loss":null,"note":"kept"}\n' + (step % 3)[:20]
    )
    found = training_runs.find_run(store, RUN.id, home)
    assert (found.status, found.step, found.loss_last, found.tokens_per_s) == ("interrupted", 2, 2.5, 9.0)
    told.write_bytes(b"{")
    assert training_runs.find_run(store, RUN.id, home).step == 0
    told.write_bytes(step % 3)
    training_runs.append_run(store, replace(RUN, at=2.0, status="finished", step=4, loss_last=1.0))
    assert training_runs.find_run(store, RUN.id, home).loss_last == 1.0


def test_a_run_nobody_works_on_is_interrupted(home: Home, store: Store) -> None:
    training_runs.append_run(store, RUN)
    assert [run.status for run in training_runs.list_runs(store, home)] == ["interrupted"]
    assert not (home.root / "runs").exists()  # a look makes no folder
    lock = training_runs.acquire_lock(home, RUN.id)
    assert training_runs.find_run(store, RUN.id, home).status == "running"
    lock.close()
    assert training_runs.find_run(store, RUN.id, home).status == "interrupted"
    training_runs.append_run(store, replace(RUN, status="failed"))
    assert training_runs.find_run(store, RUN.id, home).status == "failed"


def test_two_do_not_work_on_one_run(home: Home) -> None:
    with training_runs.acquire_lock(home, RUN.id), refuses("AW-TRN-23"):
        training_runs.acquire_lock(home, RUN.id)
    training_runs.acquire_lock(home, RUN.id).close()


@pytest.mark.process
def test_the_lock_falls_with_the_last_process_that_has_it(home: Home) -> None:
    lock = training_runs.acquire_lock(home, RUN.id)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),)
    )
    lock.close()
    assert training_runs.is_locked(home, RUN.id)
    child.kill()
    child.communicate()
    assert not training_runs.is_locked(home, RUN.id)


def test_what_a_run_was_given_is_read_back(home: Home) -> None:
    job = training_runs.ResolvedJob(id="r-1", version=setup().data.version, threads=1, base_sha256="0" * 64)
    training_runs.create_run(home, job, SPEC)
    assert (training_runs.load_job(home, "r-1"), training_runs.load_spec(home, "r-1")) == (job, SPEC)
    assert training_runs.load_outcome(home, "r-1") is None
    (home.run("r-1") / "spec.json").write_text("{")
    for broken in (
        lambda: training_runs.load_spec(home, "r-1"),
        lambda: training_runs.load_job(home, "r-none"),
        lambda: run_execution.read_result(home, "r-1"),
    ):
        with refuses("AW-TRN-22"):
            broken()


@pytest.mark.parametrize(
    "error",
    [
        TrainError("AW-TRN-30", "m", where=ErrorLocation("f", 3, "x"), hint="h", nearest=("a",)),
        DataError("AW-DATA-11", "m"),
        MissingError("AW-GET-01", "m", where=ErrorLocation(field="x")),
        InternalError("AW-INT-01", "m"),
    ],
)
def test_an_error_crosses_from_process_to_process(error: ArchwrightError) -> None:
    crossed = msgspec.convert(error.as_dict(), SerialisedError).to_exception()
    assert type(crossed) is type(error)
    assert crossed.as_dict() == error.as_dict()


def started(code: str, *, ended: bool = True) -> TrainingProcess:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return TrainingProcess(process, "r-1", lambda: ended)


SAYS = 'import sys, time; print(\'{"progress": {"step": 1, "steps": 4, "loss": 2.5}}\', flush=True); '


@pytest.mark.process
def test_progress_is_heard() -> None:
    assert list(started(SAYS)) == [TrainingProgress(step=1, steps=4, loss=2.5)]


@pytest.mark.process
def test_a_process_that_was_killed_or_left_before_its_last_step_says_how_to_go_on() -> None:
    launched, heard = started(SAYS + f"time.sleep({5 * WAIT_S})"), []
    hint = "continue from the newest checkpoint: archwright runs resume r-1"
    with refuses(training_process.KILLED_CODE, "signal 9", hint):
        for progress in launched:
            heard.append(progress.step)
            os.kill(launched._process.pid, signal.SIGKILL)
    assert heard == [1]
    with refuses(training_process.KILLED_CODE, hint=hint):
        list(started("", ended=False))


@pytest.mark.process
def test_asked_to_stop_twice_it_is_killed() -> None:
    launched = started(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SAYS + f"time.sleep({5 * WAIT_S})"
    )
    for _ in launched:
        launched.stop()
        assert launched._process.poll() is None
        launched.stop()
    assert launched._process.returncode == -signal.SIGKILL


@pytest.mark.process
def test_the_process_leaves_when_nobody_holds_it(home: Home) -> None:
    """The other end of its standard input closes when its parent dies, however that was."""
    job = training_runs.ResolvedJob(id="r-1", version=setup().data.version, threads=1)
    training_runs.create_run(home, job, SPEC)
    argv = [sys.executable, "-P", "-m", "archwright.training", str(home.root), "r-1"]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child.communicate(timeout=WAIT_S)
    assert child.returncode in (0, 10)  # left, or had already found that the lake has no such data set


@pytest.mark.process
def test_an_error_of_the_training_process_is_ours_here_and_in_its_log(home: Home) -> None:
    training_runs.create_run(home, training_runs.ResolvedJob(id="r-1", version=setup().data.version, threads=1), SPEC)
    with training_runs.acquire_lock(home, "r-1") as lock, refuses("AW-DATA-11"):
        list(training_process.start_process(home, "r-1", lock))
    assert "AW-DATA-11" in (home.run("r-1") / "log").read_text()
