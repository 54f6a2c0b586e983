from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from archwright.engines.engine_config import EngineConfig
from archwright.errors import EngineError
from archwright.lifecycle import evaluation, evaluation_engine, model_registry
from archwright.settings import child_environment

from ..processes import naming
from ..tools.checks import refuses, until
from .conftest import PASSED, Pupil, Stage


def silent(_text: str) -> None:
    pass


def test_what_was_found_is_kept(pupil: Pupil) -> None:
    made = pupil.register()
    first = evaluation.evaluate_version(pupil.store, pupil.home, made, silent)
    assert first.passed and first.model == made.id
    assert {gate.name for gate in first.gates} == {"quality", "export"}
    assert model_registry.newest_evaluation(pupil.store, made.id) == first
    second = evaluation.evaluate_version(pupil.store, pupil.home, made, silent)
    assert (second.scores, second.gates) == (first.scores, first.gates)  # the same each time
    assert model_registry.newest_evaluation(pupil.store, made.id) == second != first


def test_a_missing_file_is_made_again_from_its_run(pupil: Pupil) -> None:
    made = pupil.register()
    path = pupil.home.model(made.sha256, "gguf")
    path.unlink()
    assert evaluation.evaluate_version(pupil.store, pupil.home, made, silent).passed
    assert path.is_file() and model_registry.list_models(pupil.store) == [made]


def test_an_altered_file_is_not_looked_at(pupil: Pupil) -> None:
    made = pupil.register()
    path = pupil.home.model(made.sha256, "gguf")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with refuses("AW-MOD-23"):
        evaluation.evaluate_version(pupil.store, pupil.home, made, silent)
    assert model_registry.newest_evaluation(pupil.store, made.id) is None


SCRIPT = """
import os, sys
from archwright.home import Home
from archwright.lifecycle import evaluation, evaluation_engine, model_registry
from archwright.store import Store
home = Home(sys.argv[1])
store = Store(home.store_url)
ask = evaluation_engine._send_prompts
async def told(client, query):
    print("querying", flush=True)
    await ask(client, query)
    print("answered", flush=True)
    sys.stdin.read()
evaluation_engine._send_prompts = told
evaluation.evaluate_version(store, home, model_registry.find_model(store, "assistant"), lambda text: None)
"""


@pytest.mark.nightly
def test_an_evaluation_killed_in_the_middle_leaves_nothing_and_can_be_repeated(pupil: Pupil) -> None:
    """kill -9 while its engine runs: no evaluation, and the engine leaves with it."""
    made = pupil.register()
    argv, pipe = [sys.executable, "-c", SCRIPT, str(pupil.home.root)], subprocess.PIPE
    child = subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=child_environment())
    assert child.stdout is not None and child.stdin is not None
    assert [child.stdout.readline() for _ in range(2)] == [b"querying\n", b"answered\n"]
    engines = naming(pupil.home.root, "archwright.engines")
    assert len(engines) == 1
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    until(lambda: not naming(pupil.home.root, "archwright.engines"))
    assert model_registry.newest_evaluation(pupil.store, made.id) is None
    assert list(pupil.home.folder("run").glob("gate-*"))
    assert evaluation.evaluate_version(pupil.store, pupil.home, made, silent).passed
    assert not list(pupil.home.folder("run").iterdir()) and not list(pupil.home.folder("logs").iterdir())


def test_a_classifier_is_examined_by_its_own(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage.version()
    told: list[str] = []
    monkeypatch.setattr(
        "archwright.lifecycle.classifier_evaluation.evaluate_classifier",
        lambda store, home, model, production: ((), PASSED),
    )
    assert evaluation.evaluate_version(stage.store, stage.home, made, told.append).gates == PASSED
    assert told == ["reading the held-out rows of rows@v1"]


def config(**changes: object) -> EngineConfig:
    fields = {"engine": "null", "socket": "gate-1", "alias": "m", "slots": 1, "context_tokens": 64}
    return EngineConfig(**{**fields, "default_max_tokens": 8, **changes})  # type: ignore[arg-type]


@pytest.mark.process
def test_an_engine_that_takes_too_long_is_stopped(stage: Stage) -> None:
    with refuses("AW-MOD-30", "not ready within 0 s"), ExitStack() as stack:
        stack.enter_context(evaluation_engine.run_engine(stage.home, config(), deadline_s=0.0))
    assert not list(stage.home.folder("run").iterdir())


@pytest.mark.process
def test_an_engine_of_another_kind_is_not_taken_at_its_word(stage: Stage) -> None:
    """The null engine answers completions without log-probabilities."""
    query = evaluation_engine.LogProbabilityQuery([[1, 2]], 1, 4)
    with pytest.raises(EngineError):
        evaluation_engine.query_log_probabilities(stage.home, config(), query)
    assert not list(stage.home.folder("run").iterdir())


@pytest.mark.parametrize("reply", [{}, {"completion_probabilities": []}, {"completion_probabilities": [{"top": 1}]}])
def test_a_reply_without_figures_is_no_reply(reply: dict[str, object]) -> None:
    with refuses("AW-ENG-03") as refused:
        evaluation_engine._parse_top_tokens(reply, "unix:/x")
    assert "archwright[local]" in refused.value.hint


def test_last_words_are_the_last_error_else_the_last_line(tmp_path: Path) -> None:
    for text, said in (
        ("loading\nAW-ENG-05  broken file\n          /x\n", "broken file"),
        ("loading\n\nterminate called\n\n", "terminate called"),
        ("x" * 100_000 + "\nthe end\n", "the end"),
        ("", ""),
    ):
        (tmp_path / "log").write_text(text)
        assert evaluation_engine.read_last_error(tmp_path / "log") == said
