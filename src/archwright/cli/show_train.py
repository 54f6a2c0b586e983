"""The terminal output of training: predictions, a line of progress, plan versus actual."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.markup import escape

from archwright.api.training import TrainingProgress, TrainingSession
from archwright.cli import show
from archwright.cli.table_layout import TableColumn, make_table, print_fields
from archwright.contract.lineage import TrainingRun
from archwright.contract.number_format import format_duration, format_number, format_quantity

# A terminal's line is rewritten often; a file gets few lines.
TERMINAL_INTERVAL_S = 0.25
FILE_INTERVAL_S = 5.0
INTERRUPTED = 130


def as_json(result: object) -> int:
    if not isinstance(result, TrainingSession):
        return show.as_json(result)
    run = result.result()
    show.as_json(run)
    if run.status == "interrupted":
        return INTERRUPTED
    return 0


def print_training(result: TrainingSession) -> int:
    began = result.run
    out = show.make_console()
    if began.status == "finished":
        out.print(f"run {began.id} is finished: nothing to do")
        return _print_outcome(began)

    subject = f"{escape(began.name)} ({began.task}) on {escape(began.dataset_version)}"
    steps = f"{began.steps} steps{_format_resumed(began)}"
    out.print(f"run [bold]{began.id}[/]: {subject}, {steps}", soft_wrap=True)
    if not began.resumed:
        _print_predictions(began)

    line = ProgressLine(sys.stdout, began.task == "text-lora")
    for progress in result:
        line.update(progress)
    line.end()

    ended = result.run
    if ended.status == "interrupted":
        # Not through the console, which would wrap the command.
        steps = f"interrupted at step {ended.step} of {ended.steps}"
        show.print_text(f"{steps}; continue with: archwright runs resume {ended.id}")
        return INTERRUPTED
    return _print_outcome(ended)


def _format_resumed(run: TrainingRun) -> str:
    if not run.resumed:
        return ""
    times = {1: "once", 2: "twice"}.get(run.resumed, f"{run.resumed} times")
    return f", resumed {times}"


class ProgressLine:
    """One line that is rewritten on a terminal; elsewhere a line every few seconds, and always the last step's."""

    def __init__(self, out: TextIO, text: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._unit = "tokens" if text else "rows"
        self._now = now
        self._terminal = out.isatty()
        self._interval_s = TERMINAL_INTERVAL_S if self._terminal else FILE_INTERVAL_S
        self._shown_at: float | None = None
        self._open = False

    def update(self, progress: TrainingProgress) -> None:
        if progress.note:
            self.end()
            self._out.write(f"{progress.note}\n")
            self._out.flush()
            return

        now = self._now()
        if self._is_recent(now) and progress.step < progress.steps:
            return
        self._shown_at = now
        text = self._format(progress)
        if self._terminal:
            self._out.write(f"\r\x1b[K{text}")
        else:
            self._out.write(f"{text}\n")
        self._out.flush()
        self._open = self._terminal

    def _is_recent(self, now: float) -> bool:
        """Return whether the last line is younger than the interval."""
        return self._shown_at is not None and now - self._shown_at < self._interval_s

    def _format(self, progress: TrainingProgress) -> str:
        width = len(str(progress.steps))
        text = f"step {progress.step:>{width}} of {progress.steps}"
        if progress.loss is not None:
            text += f"  loss {progress.loss:.4f}"
        if progress.units_per_s is not None:
            speed = format_number(progress.units_per_s)
            text += f"  {speed} {self._unit}/s"
        if progress.left_s is not None and progress.step < progress.steps:
            text += f"  {_format_time_left(progress.left_s)}"
        return text

    def end(self) -> None:
        if self._open:
            self._out.write("\n")
            self._open = False


def _format_time_left(left_s: float) -> str:
    if left_s < 1:
        return "less than 1 s left"
    return f"{format_duration(round(left_s))} left"


def _format_loss(run: TrainingRun) -> str | None:
    if run.loss_last is None:
        return None
    return f"{run.loss_last:.4f}"


RUN_COLUMNS = (
    TableColumn("run", "id"),
    TableColumn("name", "name"),
    TableColumn("task", "task"),
    TableColumn("status", "status"),
    TableColumn("step", lambda row: f"{row.step} of {row.steps}", number=True),
    TableColumn("loss", _format_loss, number=True),
    TableColumn("dataset", "dataset_version"),
    TableColumn("model", "model"),
)


def print_runs(result: tuple[TrainingRun, ...]) -> int:
    return show.print_rows(RUN_COLUMNS, result, "no run yet; train a model: archwright train spec.yaml")


def print_run(result: TrainingRun) -> int:
    _print_outcome(result)
    out = show.make_console()
    facts: dict[str, None] = {}
    for basis in result.bases:
        _, _, name = basis.id.rpartition(".")
        out.print(f"[bold]{name}[/]: {escape(basis.definition)}")
        out.print(f"  {escape(basis.formula)}")
        facts.update(dict.fromkeys(basis.facts))
    if facts:
        out.print("[bold]facts behind them[/]")
    for fact in facts:
        out.print(f"  {escape(fact)}")
    return 0


def _print_outcome(result: TrainingRun) -> int:
    out = show.make_console()
    print_fields(out, _describe_run(result))
    if result.deviations:
        out.print(show.make_deviations_table(result.deviations, samples=False))
    else:
        _print_predictions(result)
    if result.status in ("interrupted", "failed"):
        show.print_text(f"continue with: archwright runs resume {result.id}")
    return 0


def _describe_run(result: TrainingRun) -> dict[str, str]:
    """Return the lines to print by name; an empty line is not printed."""
    fields = {
        "run": f"{result.id}  {result.status}{_format_resumed(result)}",
        "model": result.model or "-",
        "name": f"{result.name} ({result.task})",
        "dataset": result.dataset_version,
    }
    if result.base:
        fields["base"] = f"{result.base} ({result.base_sha256[:12]})"
    fields["steps"] = f"{result.step} of {result.steps}"
    if result.loss_last is not None and result.loss_first is not None:
        fields["loss"] = f"{result.loss_first:.4f} at first, {result.loss_last:.4f} at last"
    if result.tokens_per_s:
        duration = format_quantity(result.train_s, "s")
        speed = format_number(result.tokens_per_s)
        unit = "tokens" if result.task == "text-lora" else "rows"
        fields["time"] = f"{duration}, {speed} {unit}/s"
    if result.weights_sha256:
        order = result.order_sha256[:12]
        fields["weights"] = f"{result.weights_sha256[:12]}, order of rows {order}"
    fields["error"] = result.error
    return fields


def _print_predictions(run: TrainingRun) -> None:
    if run.predictions:
        show.make_console().print(make_table(show.PREDICTION_COLUMNS, run.predictions, "Predictions", boxed=True))
    elif run.not_predicted:
        show.make_console().print(f"no prediction: {escape(run.not_predicted)}")
