"""The steps of the real engine with the real small model, within a stated time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from archwright.catalog.load import load_catalog
from archwright.catalog.probe.engine_report import read_engine_report
from archwright.errors import EngineError, ModelError
from archwright.home import Home
from archwright.lifecycle import step_measurement
from archwright.lifecycle.step_measurement import (
    ANSWER_TOKENS,
    LEAST_QUESTIONS,
    QUESTIONS,
    SHORT_PROMPT,
    WARM_UP,
    MeasuredFile,
    find_busiest_s,
    measure_steps,
    read_thread_seconds,
)

CATALOG = load_catalog()
FILE = CATALOG.artefacts["SmolLM2-135M-Instruct"]
MODEL = CATALOG.models[FILE.model]
SUBJECT = MeasuredFile(
    model=MODEL.id,
    parameters=MODEL.parameters,
    quantisation=FILE.quantisation,
    sha256=FILE.sha256,
    layers=MODEL.layers,
    vocabulary=MODEL.vocabulary,
)


def test_the_first_questions_are_a_block_of_a_prompt_and_eight_steps_of_an_answer() -> None:
    block, answer = QUESTIONS[:LEAST_QUESTIONS]
    assert block.prompt_tokens >= 64 and block.together == 1
    assert answer.answer_tokens == ANSWER_TOKENS == 9 and answer.prompt_tokens == SHORT_PROMPT


def test_the_processor_time_of_the_busiest_thread_counts() -> None:
    assert find_busiest_s({"1": 5.0, "2": 1.0}, {"1": 5.5, "2": 3.0, "3": 0.25}) == 2.0
    assert find_busiest_s({}, {}) == 0.0
    before = read_thread_seconds(os.getpid())
    begun_at = time.process_time()
    while time.process_time() - begun_at < 0.05:
        sum(range(1000))
    assert find_busiest_s(before, read_thread_seconds(os.getpid())) >= 0.04


@pytest.mark.nightly
def test_the_real_engine_is_measured_and_leaves_nothing_behind(model_home: Home) -> None:
    report = read_engine_report()
    assert report is not None
    run_files = set(model_home.folder("run").iterdir())
    found = measure_steps(model_home, report, SUBJECT, 1, budget_s=120.0, rounds=1)
    kinds = {(step.prompt_tokens, step.answering) for step in found.steps}
    assert kinds == {(64, 0), (16, 0), (256, 0), (0, 1), (0, 2), (0, 4)}
    seconds = {step.kind: step.step_s for step in found.steps}
    assert 0 < seconds[16, 0, 0] < seconds[64, 0, 0] < seconds[256, 0, 0]
    answers = [step for step in found.steps if step.answering == 1]
    assert len(answers) == 2, "at two depths"
    assert (found.model_sha256, found.threads, found.report) == (FILE.sha256, 1, report)
    assert found.startup_s > 0 and found.slowdown >= 1 and found.rounds == 1
    assert set(model_home.folder("run").iterdir()) == run_files


@pytest.mark.model
def test_little_time_still_gives_a_block_and_eight_steps(model_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    report = read_engine_report()
    assert report is not None
    # The start may last as long as it takes; then no time is left.
    monkeypatch.setattr("archwright.lifecycle.step_measurement.SAFE_SHARE", 0.0)
    found = measure_steps(model_home, report, SUBJECT, 1, budget_s=120.0, rounds=1)
    assert sorted((step.prompt_tokens, step.answering) for step in found.steps) == [(0, 1), (64, 0)]


@pytest.mark.model
def test_an_engine_that_hangs_ends_the_measurement_and_is_ended(
    model_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = read_engine_report()
    assert report is not None
    pids = list[int]()

    async def stop_engine(self: step_measurement._StepBenchmark) -> None:
        pids.append(self._pid)
        os.kill(self._pid, signal.SIGSTOP)
        await self._ask(WARM_UP)

    monkeypatch.setattr(step_measurement._StepBenchmark, "_run_round", stop_engine)
    monkeypatch.setattr(step_measurement, "_find_deadline_s", lambda _ends_at: 0.5)
    with pytest.raises(EngineError) as caught:
        measure_steps(model_home, report, SUBJECT, 1, budget_s=120.0)
    assert caught.value.code == "AW-ENG-03" and "did not answer" in caught.value.message
    assert not Path(f"/proc/{pids[0]}").exists()


def test_a_system_that_counts_no_processor_time_gives_wall_time() -> None:
    assert read_thread_seconds(2**30) == {} and find_busiest_s({}, {}) == 0.0


@pytest.mark.model
def test_a_file_that_the_engine_cannot_load_is_an_error(home: Home, tmp_path: Path) -> None:
    report = read_engine_report()
    assert report is not None
    broken = SUBJECT._replace(sha256="d" * 64)
    home.model(broken.sha256).write_bytes(b"GGUF, but no more")
    with pytest.raises(ModelError) as caught:
        measure_steps(home, report, broken, 1, budget_s=60.0)
    assert caught.value.code == "AW-MOD-30"
