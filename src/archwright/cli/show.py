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

from archwright.api.platform_lifecycle import Answer, Platform
from archwright.cli.number_format import band, pretty
from archwright.cli.table_layout import plain
from archwright.contract.evidence import Deviation, Reconciliation
from archwright.errors import replace_control_characters

MINIMUM_WIDTH = 100
# Of an audit record.
LINKS = ("chain", "number", "prev", "hash")


def console() -> Console:
    """A console that keeps tables whole when the output is no terminal."""
    width = None if sys.stdout.isatty() else MINIMUM_WIDTH + 20
    return Console(width=width, highlight=False, soft_wrap=False)


def as_json(result: object) -> int:
    """The one JSON form: records as objects, a stream of text as {"text": ...}."""
    if isinstance(result, Platform):
        _print_json(result.started)
        return 0 if result.detached else result.wait()
    if isinstance(result, Path):
        result = {"path": str(result)}
    elif isinstance(result, Answer):
        result = {"text": "".join(result), "model": result.model, "request": result.request}
    elif isinstance(result, Iterator):
        result = {"text": "".join(result)}
    elif isinstance(result, str):
        result = {"text": result}
    _print_json(result)
    return 0


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    sys.stdout.flush()


def text(result: str) -> int:
    sys.stdout.write(result.rstrip("\n") + "\n")
    return 0


def path(result: Path) -> int:
    return text(f"wrote {result}")


def stream(result: Iterator[str]) -> int:
    for piece in result:
        sys.stdout.write(replace_control_characters(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    if isinstance(result, Answer) and sys.stderr.isatty():
        sys.stderr.write(f"({result.model}; where it comes from: archwright lineage {result.request})\n")
    return 0


def record(result: object) -> int:
    """A record as aligned `name  value` lines."""
    fields: dict[str, object] = msgspec.to_builtins(result)
    width = max(map(len, fields), default=0)
    return text("\n".join(f"{name:<{width}}  {_cell(name, value)}" for name, value in fields.items()))


def table(result: Iterable[object]) -> int:
    """Records as rows; their fields as columns, but for those that are empty in all of them and the links of a chain:
    `audit verify` reads these, and --json has them."""
    rows: list[dict[str, object]] = [msgspec.to_builtins(row) for row in result]
    if not rows:
        return text("none")
    told = [name for name in rows[0] if name not in LINKS and any(row[name] not in (None, "") for row in rows)]
    # Other verbs take an id; a date is one word.
    whole = [_title(name) for name in told if name in ("id", "request_id") or _is_time(name)]
    drawn = plain(*map(_title, told), whole=whole)
    for row in rows:
        drawn.add_row(*(escape(_cell(name, row[name])) for name in told))
    console().print(drawn)
    return 0


def _title(name: str) -> str:
    return name.replace("_", " ")


def _is_time(name: str) -> bool:
    return name == "at" or name.endswith("_at")


def _cell(name: str, value: object) -> str:
    if isinstance(value, float) and name.endswith("_usd"):
        return f"{value:.6f}".rstrip("0").rstrip(".")  # to the millionth: a request to a small model costs a few
    if isinstance(value, float) and _is_time(name):
        return datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M")
    return _plain(value)


def _plain(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return str(value)


def platform(result: Platform) -> int:
    """The address, the key (first start only) and three things to try; stays until stopped unless detached."""
    started = result.started
    key = started.key or "(shown on the first start; make another with: archwright key create)"
    text(
        f"url  {started.url}/v1\nkey  {key}\n\ntry:\n"
        f'  archwright ask "What is the capital of France?"\n'
        f"  archwright bench\n"
        f"  curl -s {started.url}/v1/models -H 'authorization: Bearer {started.key or 'KEY'}'"
    )
    sys.stdout.flush()
    if result.detached:
        return 0
    text("\nrunning; Ctrl-C takes it down")
    sys.stdout.flush()
    return result.wait()


def status(result: Any) -> int:
    text(f"{result.state}" + (f" at {result.url}/v1" if result.url else ""))
    if result.processes:
        table(result.processes)
    for note in result.notes:
        text(f"note: {note}")
    return 0


def stopped(result: Any) -> int:
    if result.dry_run:
        return text(f"would stop: {', '.join(result.processes) or 'nothing'}")
    return text(f"stopped: {', '.join(result.processes)}" if result.stopped else "nothing was running")


def checks(result: Any) -> int:
    for check in result:
        text(
            f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}"
            + (f"  -> {check.hint}" if check.hint else "")
        )
    return 0 if all(check.ok for check in result) else 1


def bench(result: Any) -> int:
    out = console()
    for phase in result.phases:
        out.print(
            f"{phase.name}: {phase.requests} requests in {phase.seconds:.0f} s, {phase.failed} failed, "
            f"{phase.output_tokens:.0f} tokens out"
        )
    for note in result.notes:
        out.print(f"  note: {escape(note)}")
    return reconciliation(result.reconciliation)


VERDICTS = {
    "within": "[green]within[/]",
    "better": "[cyan]better[/]",
    "worse": "[red]worse[/]",
    "unknown": "[dim]unknown[/]",
}


def reconciliation(result: Reconciliation) -> int:
    out = console()
    out.print(compared(result.deviations, samples=True))
    measured = sum(1 for d in result.deviations if d.measured)
    inside = sum(1 for d in result.deviations if d.verdict == "within")
    out.print(f"{inside} of {measured} measured predictions inside their band; plan {result.plan_digest[:12]}")
    return 0


def compared(deviations: Iterable[Deviation], *, samples: bool) -> Table:
    """Plan versus actual; `samples`: how many each measurement was made of."""
    drawn = Table(title="Plan versus actual", title_justify="left", header_style="bold")
    for name in ("prediction", "predicted", "90 % band", "measured", *(["samples"] if samples else []), "verdict"):
        left = name in ("prediction", "verdict")
        drawn.add_column(name, justify="left" if left else "right", no_wrap=not samples)
    for one in deviations:
        predicted, measured = one.predicted, one.measured
        counted = [str(measured.samples) if measured else "-"] if samples else []
        drawn.add_row(
            escape(one.prediction_id),
            pretty(predicted.value, predicted.unit),
            band(predicted),
            pretty(measured.value, predicted.unit) if measured else "-",
            *counted,
            VERDICTS[one.verdict],
        )
    return drawn
