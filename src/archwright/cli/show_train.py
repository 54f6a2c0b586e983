"""Training as people see it: what was promised, a line of progress, plan versus actual."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.markup import escape

from archwright.api.training import TrainingProgress, TrainingSession
from archwright.cli import show
from archwright.cli.number_format import format_band, format_quantity, format_significant
from archwright.cli.table_layout import make_boxed_table, make_plain_table
from archwright.contract.evidence import Basis
from archwright.contract.lineage import TrainingRun

# A terminal's line is rewritten, a file gets lines: few enough to be read.
TERMINAL_INTERVAL_S, FILE_INTERVAL_S = 0.25, 5.0
INTERRUPTED = 130


def as_json(result: object) -> int:
    if not isinstance(result, TrainingSession):
        return show.as_json(result)
    run = result.result()
    show.as_json(run)
    return INTERRUPTED if run.status == "interrupted" else 0


def print_training(result: TrainingSession) -> int:
    """Follows the run to its end."""
    began = result.run
    out = show.make_console()
    if began.status == "finished":
        out.print(f"run {began.id} is finished: nothing to do")
        return _print_outcome(began)
    subject = f"{escape(began.name)} ({began.task}) on {escape(began.dataset_version)}"
    out.print(f"run [bold]{began.id}[/]: {subject}, {began.steps} steps{_format_resumed(began)}", soft_wrap=True)
    if not began.resumed:
        _print_predictions(began)
    line = ProgressLine(sys.stdout, began.task == "text-lora")
    for progress in result:
        line.update(progress)
    line.end()
    ended = result.run
    if ended.status == "interrupted":
        # Not through the console, which would break the line where somebody copies it.
        steps = f"interrupted at step {ended.step} of {ended.steps}"
        show.print_text(f"{steps}; go on with: archwright runs resume {ended.id}")
        return INTERRUPTED
    return _print_outcome(ended)


def _format_resumed(run: TrainingRun) -> str:
    times = {1: "once", 2: "twice"}.get(run.resumed, f"{run.resumed} times")
    return f", resumed {times}" if run.resumed else ""


class ProgressLine:
    """Progress on one line that a terminal rewrites; elsewhere a line now and then, and always the last step's."""

    def __init__(self, out: TextIO, text: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._unit = "tokens" if text else "rows"
        self._now = now
        self._terminal = out.isatty()
        self._told_at: float | None = None
        self._open = False

    def update(self, progress: TrainingProgress) -> None:
        if progress.note:
            self.end()
            self._out.write(f"{progress.note}\n")
            self._out.flush()
            return
        now, pause = self._now(), TERMINAL_INTERVAL_S if self._terminal else FILE_INTERVAL_S
        if self._told_at is not None and now - self._told_at < pause and progress.step < progress.steps:
            return
        self._told_at = now
        text = self._format_progress(progress)
        self._out.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        self._out.flush()
        self._open = self._terminal

    def end(self) -> None:
        """Leave the rewritten line as it is and go on below it."""
        if self._open:
            self._out.write("\n")
            self._open = False

    def _format_progress(self, progress: TrainingProgress) -> str:
        width = len(str(progress.steps))
        parts = [f"step {progress.step:>{width}} of {progress.steps}"]
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.4f}")
        if progress.units_per_s is not None:
            parts.append(f"{format_significant(progress.units_per_s)} {self._unit}/s")
        if progress.left_s is not None and progress.step < progress.steps:
            parts.append(_format_time_left(progress.left_s))
        return "  ".join(parts)


def _format_time_left(left_s: float) -> str:
    if left_s < 1:
        return "less than 1 s left"
    return f"{left_s:.0f} s left" if left_s < 120 else f"{left_s / 60:.0f} min left"


def print_runs(result: tuple[TrainingRun, ...]) -> int:
    if not result:
        return show.print_text("none; train one: archwright train spec.yaml")
    names = ("run", "name", "task", "status", "step", "loss", "dataset", "model")
    drawn = make_plain_table(*names, right={"step", "loss"})
    for one in result:
        loss = "-" if one.loss_last is None else f"{one.loss_last:.4f}"
        step = f"{one.step} of {one.steps}"
        texts = (one.id, one.name, one.task, one.status, step, loss, one.dataset_version, one.model or "-")
        drawn.add_row(*map(escape, texts))
    show.make_console().print(drawn)
    return 0


def print_run(result: TrainingRun) -> int:
    """One run: what it was, what came of it, how the promises held and what they rested on."""
    _print_outcome(result)
    _print_bases(result.bases)
    return 0


def _print_outcome(result: TrainingRun) -> int:
    out = show.make_console()
    for name, value in _describe_run(result).items():
        if value:
            out.print(f"{name:<10}{escape(value)}")
    if result.deviations:
        out.print(show.make_deviations_table(result.deviations, samples=False))
    else:
        _print_predictions(result)
    if result.status in ("interrupted", "failed"):
        show.print_text(f"go on with: archwright runs resume {result.id}")
    return 0


def _describe_run(result: TrainingRun) -> dict[str, str]:
    """Lines by their names; an empty one is not printed."""
    unit = "tokens" if result.task == "text-lora" else "rows"
    speed = f"{format_significant(result.tokens_per_s)} {unit}/s" if result.tokens_per_s else ""
    loss = ""
    if result.loss_last is not None and result.loss_first is not None:
        loss = f"{result.loss_first:.4f} at first, {result.loss_last:.4f} at last"
    return {
        "run": f"{result.id}  {result.status}{_format_resumed(result)}",
        "model": result.model or "-",
        "name": f"{result.name} ({result.task})",
        "dataset": result.dataset_version,
        "base": result.base and f"{result.base} ({result.base_sha256[:12]})",
        "steps": f"{result.step} of {result.steps}",
        "loss": loss,
        "time": speed and f"{format_quantity(result.train_s, 's')}, {speed}",
        "weights": result.weights_sha256 and f"{result.weights_sha256[:12]}, order of rows {result.order_sha256[:12]}",
        "error": result.error,
    }


def _print_predictions(run: TrainingRun) -> None:
    if run.predictions:
        drawn = make_boxed_table("Promises", "prediction", numbers=("value", "90 % band"), whole=True)
        for promise in run.predictions:
            estimate = promise.estimate
            drawn.add_row(escape(promise.id), format_quantity(estimate.value, estimate.unit), format_band(estimate))
        show.make_console().print(drawn)
    elif run.not_predicted:
        show.make_console().print(f"no prediction: {escape(run.not_predicted)}")


def _print_bases(bases: tuple[Basis, ...]) -> None:
    """What the promised numbers mean and how they were made, then what they rest on, each fact once."""
    out = show.make_console()
    for basis in bases:
        out.print(f"[bold]{basis.id.rpartition('.')[2]}[/]: {escape(basis.definition)}")
        out.print(f"  {escape(basis.formula)}")
    facts = dict.fromkeys(fact for basis in bases for fact in basis.facts)
    if facts:
        out.print("[bold]they rest on[/]")
    for fact in facts:
        out.print(f"  {escape(fact)}")
