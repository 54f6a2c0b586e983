"""`train` and `runs` with real rows and a real training process that is really killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.api import training
from archwright.api.context import open_home
from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Prediction, Query
from archwright.contract.lineage import LineageEdge, TrainingRun, format_node
from archwright.contract.plan import Artefact
from archwright.contract.record import replace
from archwright.errors import ArchwrightError, ModelError, TrainError
from archwright.home import Home
from archwright.lake.tables import version_index
from archwright.lifecycle import model_registry
from archwright.monitor import lineage
from archwright.monitor.metrics.observations import OBSERVATIONS
from archwright.reconcile.training import run_forecast
from archwright.reconcile.training.run_forecast import RunForecast
from archwright.training import atomic_directory, run_execution, training_process, training_runs

from ..command_line import CommandLine, error_of
from ..training import tiny_model_cli
from ..training.conftest import one_thread, tiny  # noqa: F401 - fixtures
from ..training.tiny_model import NAME, SPEC, Tiny, answers

STEPS, EVERY = 40, 5
TABLE = """
name: sensor
task: tabular-classifier
dataset: sensor
steps: {steps}
checkpoint_every_steps: {every}
threads: 1
columns: {{label: kind}}
"""
ENDLESS = 100_000


class Ready(NamedTuple):
    """A home with both data sets and the tiny model, and the catalog's row for it."""

    home: Home
    artefact: Artefact

    def shell(self, *words: str) -> subprocess.Popen[str]:
        """Run the command in its own process."""
        given = [self.artefact.sha256, str(self.artefact.size_bytes)]
        argv = [sys.executable, str(tiny_model_cli.__file__), *given, *words]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def sensor() -> str:
    drawn = random.Random(1)
    rows = [(drawn.random(), drawn.random()) for _ in range(120)]
    return "a,b,kind\n" + "".join(f"{a},{b},{'bad' if a + b > 1.2 else 'good'}\n" for a, b in rows)


def make(folder: Path, tiny: Tiny) -> Ready:  # noqa: F811
    Path("answers.jsonl").write_text(answers())
    Path("sensor.csv").write_text(sensor())
    api.data.ingest("answers.jsonl", name="answers")
    api.data.ingest("sensor.csv", name="sensor")
    home = Home(folder)
    return Ready(home, tiny.into(home))


def known(patch: pytest.MonkeyPatch, artefact: Artefact) -> None:
    patch.setattr(Catalog, "artefacts", property(lambda self: {artefact.model: artefact}))
    patch.setattr(run_forecast, "forecast_run", lambda *_: RunForecast(reason="a test's"))


@pytest.fixture
def ready(home: Home, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Ready:  # noqa: F811
    made = make(home.root, tiny)
    known(monkeypatch, made.artefact)
    return made


def written(text: str, **fields: object) -> str:
    path = Path("spec.yaml")
    path.write_text(text.format(**{"steps": STEPS, "every": EVERY, **fields}))
    return str(path)


def run_folder(home: Home) -> Path:
    """The folder of the only run."""
    (found,) = (home.root / "runs").iterdir()
    return found


def until_step(home: Home, step: int, process: subprocess.Popen[str] | None = None) -> str:
    """Wait until the process of a run reached a step; return the run's id."""

    def find_run() -> str:
        for path in (home.root / "runs").glob("*/progress.jsonl"):
            lines = path.read_bytes().splitlines()
            if lines and json.loads(lines[-1])["step"] >= step:
                return path.parent.name
        return ""

    until(lambda: find_run() or (process is not None and process.poll() is not None))
    assert process is None or process.poll() is None, process.communicate()
    return find_run()


def left(home: Home, run: str) -> None:
    """Wait until no process holds the run."""
    until(lambda: not training_runs.is_locked(home, run))


# --- a language model


class Unbroken(NamedTuple):
    ready: Ready
    run: TrainingRun
    told: list[training.TrainingProgress]


@pytest.fixture(scope="module")
def made_once(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:  # noqa: F811
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHWRIGHT_HOME", str(folder / "home"))
        patch.chdir(folder)
        made = make(folder / "home", tiny)
        known(patch, made.artefact)
        patch.setattr(run_forecast, "forecast_run", lambda *_: RunForecast(predictions=PROMISES))
        begun = api.train(written(SPEC))
        told = list(begun)
        return Unbroken(made, begun.result(), told)


@pytest.fixture
def unbroken(made_once: Unbroken, monkeypatch: pytest.MonkeyPatch) -> Unbroken:
    """Use the home and the catalog of the uninterrupted run in one test."""
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(made_once.ready.home.root))
    monkeypatch.chdir(made_once.ready.home.root.parent)
    known(monkeypatch, made_once.ready.artefact)
    return made_once


def promise(metric: str, low: float, high: float) -> Prediction:
    unit = {"train_s": "s", "train_tokens_per_s": "tokens/s", "train_memory_bytes": "bytes"}.get(metric, "s")
    return Prediction(
        id=f"assistant.{metric}.last",
        metric=metric,
        workload="assistant",
        estimate=Estimate(value=low, low=low, high=high, unit=unit, basis="test"),
        query=Query(metric=metric, labels={"name": "assistant"}, statistic="last", window_s=60.0),
    )


PROMISES = (
    promise("train_s", 1e-3, 1e6),
    promise("train_tokens_per_s", 1e9, 1e10),
    promise("train_memory_bytes", 1.0, 2.0),
    promise("startup_s", 1.0, 2.0),
)


def test_a_run_learns_and_is_on_record(unbroken: Unbroken) -> None:
    run = unbroken.run
    assert (run.status, run.step, run.steps, run.resumed, run.error) == ("finished", STEPS, STEPS, 0, "")
    assert (run.name, run.task, run.dataset_version, run.base) == ("assistant", "text-lora", "answers@v1", NAME)
    assert run.base_sha256 == unbroken.ready.artefact.sha256
    assert run.loss_first is not None and run.loss_last is not None and run.tokens_per_s is not None
    assert run.loss_last < 0.8 * run.loss_first
    assert run.train_s > 0 and run.tokens_per_s > 0
    assert len(run.order_sha256) == len(run.weights_sha256) == 64
    steps = [one for one in unbroken.told if one.loss is not None]
    assert [one.step for one in steps] == list(range(1, STEPS + 1))
    assert steps[-1].left_s == 0.0


def test_it_became_a_model_version_that_knows_where_it_comes_from(unbroken: Unbroken) -> None:
    run = unbroken.run
    assert run.model == "assistant@v1"
    with open_home() as (_settings, home, store):
        version = model_registry.find_model(store, run.model)
        edges = lineage.trace_ancestry(store, format_node("model", run.model))
    assert (version.run, version.dataset_version, version.base) == (run.id, "answers@v1", NAME)
    assert home.model(version.sha256, version.format).is_file()
    assert {(edge.child, edge.relation, edge.parent.partition(":")[0]) for edge in edges} >= {
        (format_node("model", run.model), "produced-by", "run"),
        (format_node("run", run.id), "trained-on", "dataset"),
        (format_node("dataset", "answers@v1"), "ingested", "file"),
    }
    assert all(isinstance(edge, LineageEdge) for edge in edges)


def test_what_was_predicted_is_held_against_what_was_measured(unbroken: Unbroken) -> None:
    run = unbroken.run
    assert run.predictions == PROMISES
    verdicts = {one.metric: one.verdict for one in run.deviations}
    slower = {"train_tokens_per_s": "worse", "train_memory_bytes": "worse"}
    assert verdicts == {"train_s": "within", **slower, "startup_s": "unknown"}
    measured = {one.metric: one.measured for one in run.deviations}
    assert measured["train_s"] is not None
    assert measured["train_s"].value == run.train_s
    assert measured["train_memory_bytes"] is not None
    assert 5e7 < measured["train_memory_bytes"].value < 3e9
    with open_home() as (_settings, _home, store):
        kept = {row.quantity: row for row in store.rows(OBSERVATIONS)}
    assert kept["train_tokens_per_s"].value == run.tokens_per_s
    assert {row.labels["run"] for row in kept.values()} == {run.id}


def test_the_runs_folder_has_two_checkpoints_and_a_whole_result(unbroken: Unbroken) -> None:
    folder = unbroken.ready.home.run(unbroken.run.id)
    kept = sorted((folder / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step-00000035", "step-00000040"]
    assert [atomic_directory.find_damage(path) for path in (*kept, folder / "result")] == ["", "", ""]
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in found} <= {".json", ".jsonl", ".safetensors", ""}  # no pickle among them
    assert run_execution.read_result(unbroken.ready.home, unbroken.run.id).file == "adapter_model.safetensors"


def test_list_and_show_agree_with_train(unbroken: Unbroken, capsys: pytest.CaptureFixture[str]) -> None:
    cli = CommandLine(capsys)
    assert api.runs.list() == (unbroken.run,)
    assert api.runs.show(unbroken.run.id) == api.runs.show("assistant") == unbroken.run
    (listed,) = cli.json("runs list")
    assert listed["id"] == unbroken.run.id
    assert {"status", "resumed", "model", "weights_sha256"} <= set(listed)
    shown = cli.text(f"runs show {unbroken.run.id}")
    assert "Plan versus actual" in shown and "assistant@v1" in shown
    # a finished run is left as it is
    again = api.runs.resume(unbroken.run.id)
    assert list(again) == []
    assert again.result() == unbroken.run
    assert "nothing to do" in cli.text(f"runs resume {unbroken.run.id}")
    assert api.runs.list() == (unbroken.run,)


@pytest.mark.nightly
def test_killed_twice_and_resumed_it_ends_as_the_unbroken_run_did(ready: Ready, made_once: Unbroken) -> None:
    """Kill `archwright train` between two checkpoints, resume, kill the training process too, and resume to the end:
    the rows, their order and the bytes equal those of the uninterrupted run."""
    first, second = random.Random(20261124).sample([n for n in range(7, 30) if n % EVERY not in (0, 1)], 2)
    first, second = min(first, second), max(first, second)
    began = ready.shell("train", written(SPEC))
    run = until_step(ready.home, first, began)
    began.kill()
    began.communicate()
    left(ready.home, run)
    assert [(one.id, one.status) for one in api.runs.list()] == [(run, "interrupted")]
    assert training_runs.load_outcome(ready.home, run) is None
    again = api.runs.resume(run)
    with pytest.raises(TrainError) as caught:
        for progress in again:
            assert progress.step >= first - EVERY or progress.note
            if progress.step >= second:
                os.kill(again._launched._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    assert caught.value.code == training_process.KILLED_CODE
    broken = api.runs.show(run)
    assert (broken.status, broken.resumed) == ("interrupted", 1)
    assert training_process.KILLED_CODE in broken.error
    told = list(last := api.runs.resume(run))
    ended = last.result()
    assert [one.step for one in told][-1] == STEPS
    assert told[0].step > second - EVERY - 1  # it went on from a checkpoint, not from the beginning
    assert (ended.status, ended.resumed, ended.error) == ("finished", 2, "")
    assert ended.order_sha256 == made_once.run.order_sha256
    assert ended.weights_sha256 == made_once.run.weights_sha256
    assert (ended.loss_first, ended.loss_last) == (made_once.run.loss_first, made_once.run.loss_last)
    assert ended.model == "assistant@v1"


# --- a classifier, which starts faster: what goes for one goes for all


def begun(ready: Ready, step: int = 3, every: int = ENDLESS) -> tuple[subprocess.Popen[str], str]:
    process = ready.shell("train", written(TABLE, steps=ENDLESS, every=every))
    return process, until_step(ready.home, step, process)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_asked_to_end_it_keeps_a_checkpoint_and_says_how_to_go_on(ready: Ready, number: signal.Signals) -> None:
    process, run = begun(ready)
    assert process.stdout is not None
    # The training process is ahead of the command on a busy machine: only who follows the run can end it in order.
    while not (line := process.stdout.readline()).startswith("step "):
        assert line, process.communicate()
    process.send_signal(number)
    out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert f"archwright runs resume {run}" in out
    stood = api.runs.show(run)
    assert stood.status == "interrupted"
    assert stood.step >= 3
    kept = [path.name for path in (ready.home.run(run) / "checkpoints").iterdir()]
    assert kept == [f"step-{stood.step:08d}"]
    again = api.runs.resume(run)
    first = next(iter(again))
    again.stop()
    assert first.step == stood.step + 1
    left(ready.home, run)
    assert api.runs.show(run).resumed == 1


def test_a_running_run_is_not_taken_up_a_second_time(ready: Ready) -> None:
    process, run = begun(ready)
    try:
        assert api.runs.show(run).status == "running"
        error_of("AW-TRN-23", api.runs.resume, run)
        assert api.runs.show(run).resumed == 0
    finally:
        process.kill()
        process.communicate()
    left(ready.home, run)


def test_killed_after_its_last_step_it_is_registered_by_resume(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.TrainingSession, "_record_end", lambda self: None)  # as a process that is gone does
    dead = api.train(written(TABLE, steps=4))
    dead.result()
    monkeypatch.undo()
    known(monkeypatch, ready.artefact)
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(ready.home.root))
    stood = api.runs.show(dead.run.id)
    assert (stood.status, stood.model) == ("interrupted", None)
    assert training_runs.load_outcome(ready.home, stood.id) is not None
    again = api.runs.resume(stood.id)
    assert list(again) == []  # no step is made again
    assert (again.run.status, again.run.model, again.run.resumed) == ("finished", "sensor@v1", 1)
    assert len(again.run.weights_sha256) == 64


def test_a_registration_that_fails_is_made_up_for(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("AW-MOD-03", "not now")

    with monkeypatch.context() as patch:
        patch.setattr(model_registry, "register_model", refuse)
        failing = api.train(written(TABLE, steps=4))
        error_of("AW-MOD-03", failing.result)
    stood = api.runs.show(failing.run.id)
    assert (stood.status, stood.model, stood.error) == ("finished", None, "AW-MOD-03 not now")
    ended = api.runs.resume(stood.id).result()
    assert (ended.status, ended.model, ended.error) == ("finished", "sensor@v1", "")
    assert ended.weights_sha256 == stood.weights_sha256


def test_a_run_that_fails_says_why(ready: Ready) -> None:
    Path("one.csv").write_text("a,kind\n1,x\n2,x\n3,x\n")
    api.data.ingest("one.csv", name="one")
    failing = api.train(written(TABLE.replace("dataset: sensor", "dataset: one")))
    with pytest.raises(TrainError) as caught:
        failing.result()
    stood = api.runs.show(failing.run.id)
    assert (stood.status, stood.error) == ("failed", f"{caught.value.code} {caught.value.message}")


def test_a_run_whose_dataset_version_is_gone_or_changed_is_refused(ready: Ready) -> None:
    stopped = api.train(written(TABLE, steps=ENDLESS))
    next(iter(stopped))
    stopped.stop()
    run = stopped.run.id
    left(ready.home, run)
    job = training_runs.load_job(ready.home, run)
    for changed in (replace(job.version, content_sha256="0" * 64), replace(job.version, id="sensor@v9", version=9)):
        path = ready.home.run(run) / "job.json"
        path.write_bytes(msgspec.json.encode(replace(job, version=changed)))
        error_of("AW-TRN-25", api.runs.resume, run)
    stood = api.runs.show(run)
    assert (stood.status, stood.resumed) == ("interrupted", 0)


def test_json_prints_the_run_and_nothing_else(ready: Ready, cli: CommandLine) -> None:
    out, err = cli.run(f"train {written(TABLE, steps=4)} --json")
    printed = json.loads(out)
    assert (printed["status"], printed["model"], err) == ("finished", "sensor@v1", "")
    assert msgspec.convert(printed, TrainingRun) == api.runs.show("sensor")


# --- refused before anything begins


def refused(code: str, spec: str) -> ArchwrightError:
    error = error_of(code, api.train, spec)
    assert api.runs.list() == ()
    return error


def test_unknown_names_are_refused_with_the_nearest(ready: Ready) -> None:
    error = refused("AW-DATA-10", written(SPEC.replace("dataset: answers", "dataset: answer")))
    assert error.nearest[0] == "answers"
    error = refused("AW-TRN-04", written(SPEC.replace("tiny-llama", "tiny-lama")))
    assert (error.where.field, error.nearest) == ("base", (NAME,))
    error = refused("AW-TRN-10", written(SPEC + "columns: {{completion: compleiton}}\n"))
    assert error.nearest == ("completion",)


def test_a_base_that_was_not_fetched(ready: Ready) -> None:
    ready.home.model(ready.artefact.sha256).unlink()
    assert refused("AW-GET-02", written(SPEC)).hint == f"archwright models fetch {NAME}"


def test_an_empty_dataset(ready: Ready) -> None:
    with open_home() as (_settings, _home, store):
        version = version_index.find_version(store, "sensor")
        store.append(version_index.VERSIONS, [replace(version, id="none@v1", dataset="none", rows=0)])
    assert refused("AW-TRN-12", written(TABLE.replace("dataset: sensor", "dataset: none"))).where.field == "dataset"


@pytest.mark.parametrize(
    ("text", "package", "extra"),
    [(SPEC, "peft", "train"), (TABLE, "lightgbm", "train"), (SPEC + "workers: 2\n", "ray", "ray")],
)
def test_missing_extras(ready: Ready, monkeypatch: pytest.MonkeyPatch, text: str, package: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    error = refused("AW-GET-01", written(text))
    assert error.hint == f"pip install 'archwright[{extra}]'" and package in error.message


def test_an_unknown_run(ready: Ready) -> None:
    for call in (api.runs.show, api.runs.resume):
        error_of("AW-TRN-20", call, "r-none")


# --- the real small model

REAL = SPEC.replace("tiny-llama", "SmolLM2-135M-Instruct").replace("tokens_per_step: 64", "tokens_per_step: 128")


@pytest.mark.nightly
def test_the_real_model_killed_and_resumed_ends_as_without(home: Home, model_home: Home) -> None:
    for path in model_home.folder("models").glob("*.gguf"):
        home.model(path.stem).symlink_to(path.resolve())
    Path("answers.jsonl").write_text(answers())
    api.data.ingest("answers.jsonl", name="answers")
    whole = api.train(written(REAL, steps=12, every=5)).result()
    spec = written(REAL, steps=12, every=5)
    argv: Sequence[Any] = [sys.executable, "-P", "-m", "archwright", "train", spec]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until(lambda: process.poll() is not None or has_second_run(home), 10 * WAIT_S)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    run = api.runs.list()[-1].id
    left(home, run)
    ended = api.runs.resume(run).result()
    assert ended.resumed == 1
    assert ended.order_sha256 == whole.order_sha256
    assert ended.weights_sha256 == whole.weights_sha256


def has_second_run(home: Home) -> bool:
    """True if the second run has done eight steps."""
    runs = api.runs.list()
    return len(runs) > 1 and len(steps_of(home, runs[-1].id)) >= 8


def steps_of(home: Home, run: str) -> list[bytes]:
    path = home.run(run) / "progress.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []
