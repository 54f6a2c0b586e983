"""Results as people read them (rich tables), and as programs do (JSON). Each function returns the exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from archwright.api.platform_lifecycle import AnswerStream, PlatformHandle
from archwright.cli.number_format import format_band, format_quantity
from archwright.cli.table_layout import make_boxed_table, make_plain_table
from archwright.contract.evidence import Deviation, Reconciliation
from archwright.errors import replace_control_characters

MINIMUM_WIDTH = 100
# Of an audit record.
CHAIN_FIELDS = ("chain", "number", "prev", "hash")


def make_console() -> Console:
    """A console that keeps tables whole when the output is no terminal."""
    width = None if sys.stdout.isatty() else MINIMUM_WIDTH + 20
    return Console(width=width, highlight=False, soft_wrap=False)


def as_json(result: object) -> int:
    """The one JSON form: records as objects, a stream of text as {"text": ...}."""
    if isinstance(result, PlatformHandle):
        _print_json(result.started)
        return 0 if result.detached else result.wait()
    if isinstance(result, Path):
        result = {"path": str(result)}
    elif isinstance(result, AnswerStream):
        result = {"text": "".join(result), "model": result.model, "request": result.request}
    elif isinstance(result, Iterator | str):
        result = {"text": "".join(result)}
    _print_json(result)
    return 0


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    sys.stdout.flush()


def print_text(result: str) -> int:
    sys.stdout.write(result.rstrip("\n") + "\n")
    return 0


def print_path(result: Path) -> int:
    return print_text(f"wrote {result}")


def print_stream(result: Iterator[str]) -> int:
    for piece in result:
        sys.stdout.write(replace_control_characters(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    if isinstance(result, AnswerStream) and sys.stderr.isatty():
        sys.stderr.write(f"({result.model}; where it comes from: archwright lineage {result.request})\n")
    return 0


def print_record(result: object) -> int:
    """A record as aligned `name  value` lines."""
    fields: dict[str, object] = msgspec.to_builtins(result)
    width = max(map(len, fields), default=0)
    return print_text("\n".join(f"{name:<{width}}  {_format_cell(name, value)}" for name, value in fields.items()))


def print_table(result: Iterable[object]) -> int:
    """Records as rows; their fields as columns, but for those that are empty in all of them and the links of a chain:
    `audit verify` reads these, and --json has them."""
    rows: list[dict[str, object]] = [msgspec.to_builtins(row) for row in result]
    if not rows:
        return print_text("none")
    told = [name for name in rows[0] if name not in CHAIN_FIELDS and any(row[name] not in (None, "") for row in rows)]
    titles = {name: name.replace("_", " ") for name in told}
    # Other verbs take an id; a date is one word.
    whole = [title for name, title in titles.items() if name in ("id", "request_id") or _is_time(name)]
    drawn = make_plain_table(*titles.values(), whole=whole)
    for row in rows:
        drawn.add_row(*(escape(_format_cell(name, row[name])) for name in told))
    make_console().print(drawn)
    return 0


def _is_time(name: str) -> bool:
    return name == "at" or name.endswith("_at")


def _format_cell(name: str, value: object) -> str:
    if isinstance(value, float) and name.endswith("_usd"):
        return f"{value:.6f}".rstrip("0").rstrip(".")  # to the millionth: a request to a small model costs a few
    if isinstance(value, float) and _is_time(name):
        return datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M")
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return {None: "-", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def print_platform(result: PlatformHandle) -> int:
    """The address, the key (first start only) and three things to try; stays until stopped unless detached."""
    started = result.started
    key = started.key or "(shown on the first start; make another with: archwright key create)"
    print_text(
        f"url  {started.url}/v1\nkey  {key}\n\ntry:\n"
        f'  archwright ask "What is the capital of France?"\n'
        f"  archwright bench\n"
        f"  curl -s {started.url}/v1/models -H 'authorization: Bearer {started.key or 'KEY'}'"
    )
    sys.stdout.flush()
    if result.detached:
        return 0
    print_text("\nrunning; Ctrl-C takes it down")
    sys.stdout.flush()
    return result.wait()


def print_status(result: Any) -> int:
    print_text(f"{result.state} at {result.url}/v1" if result.url else result.state)
    if result.processes:
        print_table(result.processes)
    for note in result.notes:
        print_text(f"note: {note}")
    return 0


def print_stopped(result: Any) -> int:
    if result.dry_run:
        return print_text(f"would stop: {', '.join(result.processes) or 'nothing'}")
    return print_text(f"stopped: {', '.join(result.processes)}" if result.stopped else "nothing was running")


def print_checks(result: Any) -> int:
    for check in result:
        hint = f"  -> {check.hint}" if check.hint else ""
        print_text(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}{hint}")
    return 0 if all(check.ok for check in result) else 1


def print_bench(result: Any) -> int:
    out = make_console()
    for phase in result.phases:
        requests = f"{phase.requests} requests in {phase.seconds:.0f} s, {phase.failed} failed"
        out.print(f"{phase.name}: {requests}, {phase.output_tokens:.0f} tokens out")
    for note in result.notes:
        out.print(f"  note: {escape(note)}")
    return print_reconciliation(result.reconciliation)


VERDICT_COLOURS = {"within": "green", "better": "cyan", "worse": "red", "unknown": "dim"}


def print_reconciliation(result: Reconciliation) -> int:
    out = make_console()
    out.print(make_deviations_table(result.deviations, samples=True))
    measured = sum(d.measured is not None for d in result.deviations)
    inside = sum(d.verdict == "within" for d in result.deviations)
    out.print(f"{inside} of {measured} measured predictions inside their band; plan {result.plan_digest[:12]}")
    return 0


def make_deviations_table(deviations: Iterable[Deviation], *, samples: bool) -> Table:
    """Plan versus actual; `samples`: how many each measurement was made of."""
    numbers = ("predicted", "90 % band", "measured", *(["samples"] if samples else []))
    drawn = make_boxed_table("Plan versus actual", "prediction", numbers=numbers, whole=not samples)
    drawn.add_column("verdict", no_wrap=not samples)
    for one in deviations:
        predicted, measured = one.predicted, one.measured
        figures = [format_quantity(predicted.value, predicted.unit), format_band(predicted)]
        figures.append(format_quantity(measured.value, predicted.unit) if measured else "-")
        if samples:
            figures.append(str(measured.samples) if measured else "-")
        drawn.add_row(escape(one.prediction_id), *figures, f"[{VERDICT_COLOURS[one.verdict]}]{one.verdict}[/]")
    return drawn
