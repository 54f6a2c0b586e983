from __future__ import annotations

import io
import json

import pytest

from archwright.api.training import TrainingProgress, TrainingSession
from archwright.cli import show_train
from archwright.cli.show_train import ProgressLine
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Deviation, MeasuredValue, Prediction, Query
from archwright.contract.lineage import TrainingRun
from archwright.contract.record import replace
from archwright.home import Home

from ..command_line import CommandLine, Terminal

RUN = TrainingRun(
    id="r-1",
    at=1.0,
    name="assistant",
    task="text-lora",
    status="finished",
    created_at=1.0,
    dataset_version="qa@v1",
    base="some-model",
    base_sha256="b" * 64,
    step=40,
    steps=40,
    loss_first=4.0,
    loss_last=2.5,
    train_s=100.0,
    tokens_per_s=200.0,
    order_sha256="a" * 64,
    weights_sha256="c" * 64,
    model="assistant@v1",
)
PROMISE = Prediction(
    id="assistant.train_s.last",
    metric="train_s",
    workload="assistant",
    estimate=Estimate(value=90.0, low=60.0, high=95.0, unit="s", basis="b"),
    query=Query(metric="train_s", labels={}, statistic="last", window_s=1.0),
)
HELD = Deviation(
    prediction_id=PROMISE.id,
    metric="train_s",
    workload="assistant",
    predicted=PROMISE.estimate,
    measured=MeasuredValue(value=100.0, unit="s", statistic="last", samples=1, window_s=100.0),
    verdict="worse",
    evidence="measured",
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int, left_s: float = 30.0) -> TrainingProgress:
    return TrainingProgress(step=number, steps=40, loss=3.25, units_per_s=204.0, left_s=left_s)


def test_a_terminals_line_is_rewritten_a_few_times_a_second() -> None:
    out, clock = Terminal(), Clock()
    line = ProgressLine(out, True, clock)
    for number in range(1, 11):
        line.update(step(number))
        clock.now += 0.1
    line.update(step(40, 0.0))
    line.end()
    shown = [part.removeprefix("\x1b[K") for part in out.getvalue().split("\r")[1:]]
    assert [text.split()[1] for text in shown] == ["1", "4", "7", "10", "40"]
    assert shown[0] == "step  1 of 40  loss 3.2500  204 tokens/s  30 s left"
    assert shown[-1] == "step 40 of 40  loss 3.2500  204 tokens/s\n"


def test_a_file_gets_a_line_every_few_seconds_and_the_last_one_always() -> None:
    out, clock = io.StringIO(), Clock()
    line = ProgressLine(out, False, clock)
    for number in range(1, 41):
        line.update(step(number))
        clock.now += 0.5
    line.end()
    lines = out.getvalue().splitlines()
    assert [text.split()[1] for text in lines] == ["1", "11", "21", "31", "40"]
    assert "rows/s" in lines[0]
    assert "\r" not in out.getvalue()


def test_a_note_stands_on_a_line_of_its_own() -> None:
    out = Terminal()
    line = ProgressLine(out, True, Clock())
    line.update(step(1))
    line.update(TrainingProgress(step=1, steps=40, note="the checkpoint of step 10 is skipped: it is damaged"))
    line.end()
    assert out.getvalue().splitlines()[-1] == "the checkpoint of step 10 is skipped: it is damaged"
    assert out.getvalue().count("\n") == 2


@pytest.mark.parametrize(("left_s", "text"), [(0.4, "less than 1 s left"), (51.6, "52 s left"), (600.0, "10 min left")])
def test_the_time_left_in_words(left_s: float, text: str) -> None:
    out = io.StringIO()
    ProgressLine(out, True, Clock()).update(step(1, left_s))
    assert out.getvalue().strip().endswith(text)


def test_runs_as_a_table(cli: CommandLine) -> None:
    other = replace(RUN, id="r-2", status="interrupted", model=None, loss_last=None)
    head, first, second = cli.printed(show_train.print_runs, (RUN, other)).splitlines()
    assert head.split()[:4] == ["run", "name", "task", "status"]
    assert ("r-1" in first) and ("40 of 40" in first) and ("assistant@v1" in first)
    assert second.split()[-1] == "-"
    assert "archwright train" in cli.printed(show_train.print_runs, ())


def test_a_run_with_predictions_inside_and_outside_their_intervals(cli: CommandLine) -> None:
    kept = replace(RUN, predictions=(PROMISE,), deviations=(HELD,), resumed=1)
    shown = cli.printed(show_train.print_run, kept)
    for part in ("resumed once", "assistant@v1", "4.0000 at first, 2.5000 at last", "Plan versus actual", "worse"):
        assert part in shown
    assert "continue with" not in shown
    failed = replace(RUN, status="failed", error="AW-TRN-30 no number", predictions=(PROMISE,), model=None)
    shown = cli.printed(show_train.print_run, failed)
    for part in ("AW-TRN-30 no number", "Predictions", "archwright runs resume r-1"):
        assert part in shown


def test_a_finished_run_has_nothing_to_follow(home: Home, cli: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    done = TrainingSession(home, RUN, None, steps_to_make=False)
    assert "nothing to do" in cli.printed(show_train.print_training, done)
    assert json.loads(cli.printed(show_train.as_json, done))["id"] == "r-1"
    stopped = TrainingSession(home, replace(RUN, status="interrupted", step=7), None, steps_to_make=False)
    assert show_train.print_training(stopped) == show_train.as_json(stopped) == 130
    assert "interrupted at step 7 of 40; continue with: archwright runs resume r-1" in capsys.readouterr().out
