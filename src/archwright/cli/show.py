"""Results as tables for people and as JSON for programs. Each function returns the exit status."""

import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from archwright.cli.table_layout import TableColumn, format_time, format_value, make_table, print_fields, print_indented
from archwright.contract.contention import Contention
from archwright.contract.evidence import Deviation, Reconciliation
from archwright.contract.number_format import (
    format_duration,
    format_interval,
    format_number,
    format_quantity,
    format_share,
)
from archwright.contract.plan import LimitProbability, ModelProposal

MINIMUM_WIDTH = 100
# The links of the audit chain: `audit verify` reads these fields, and --json has them.
CHAIN_FIELDS = ("chain", "number", "prev", "hash")
# A share of the CPU time above which the machine counts as busy during the probe.
BUSY_SHARE = 0.1


def make_console() -> Console:
    """Make a console that keeps tables whole when the output is no terminal."""
    width = None if sys.stdout.isatty() else MINIMUM_WIDTH + 20
    return Console(width=width, highlight=False, soft_wrap=False)


def as_json(result: object) -> int:
    """Print the one JSON form: records as objects, a text as {"text": ...}."""
    if isinstance(result, Path):
        result = {"path": str(result)}
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


def print_record(result: object) -> int:
    fields: dict[str, object] = msgspec.to_builtins(result)
    print_fields(make_console(), {name: _format_field(name, value) for name, value in fields.items()})
    return 0


def print_table(result: Iterable[object]) -> int:
    """Print records as rows. Fields that are empty in all rows and the links of a chain are left out."""
    rows: list[dict[str, object]] = [msgspec.to_builtins(row) for row in result]
    filled = [name for name in (rows[0] if rows else ()) if any(row[name] not in (None, "") for row in rows)]
    return print_rows([_make_field_column(name) for name in filled if name not in CHAIN_FIELDS], rows, "none")


def _make_field_column(name: str) -> TableColumn:
    """Ids stay on one line, because other verbs take them; so do times."""
    whole = name in ("id", "request_id") or _is_time(name)
    return TableColumn(name.replace("_", " "), lambda row: _format_field(name, row[name]), whole=whole)


def print_rows(columns: Iterable[TableColumn], rows: Collection[object], empty: str) -> int:
    """Print records by their columns; `empty`: the text for no records."""
    if not rows:
        return print_text(empty)
    make_console().print(make_table(columns, rows))
    return 0


def _is_time(name: str) -> bool:
    return name == "at" or name.endswith("_at")


def _format_field(name: str, value: object) -> str:
    if isinstance(value, float) and _is_time(name):
        return format_time(value)
    if isinstance(value, float):
        # Money to the millionth: a request to a small model costs a few millionths.
        return f"{value:.{6 if name.endswith('_usd') else 3}f}".rstrip("0").rstrip(".")
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else format_value(value)


def format_proposal(proposal: ModelProposal, command: str) -> str:
    """Format the model that a download would give, and the command."""
    kind = "A better model" if proposal.instead else "A model"
    named = proposal.artefact.download_label
    return f"{kind} fits this machine for {proposal.workload}: {named}.\n({proposal.reason})\nTo download it: {command}"


MISSED_COLUMNS = (
    TableColumn("limit", "limit", whole=True),
    TableColumn("value", lambda row: format_quantity(row.stated, row.predicted.unit), number=True),
    TableColumn("predicted", lambda row: format_quantity(row.predicted.value, row.predicted.unit), number=True),
    TableColumn("90 % interval", lambda row: format_interval(row.predicted), number=True),
)


def print_missed_limits(out: Console, missed: Iterable[LimitProbability]) -> None:
    out.print()
    out.print(make_table(MISSED_COLUMNS, missed, "[yellow]The plan may miss these limits[/]"))


def print_probe_load(out: Console, busy_share: float | None) -> None:
    """Print whether the machine was busy during its probe, and how to probe it again."""
    load = "The load of the machine during the probe is unknown."
    if busy_share is not None:
        state = "busy" if busy_share > BUSY_SHARE else "not busy"
        used = f"other programs used {format_share(busy_share)} of its CPU time during the probe"
        load = f"The machine was {state}: {used}."
    print_indented(out, load)
    print_indented(
        out, "To probe again, stop other programs and repeat `archwright plan`, or `archwright up` without a plan."
    )


def print_status(result: Any) -> int:
    print_text(f"{result.state} at {result.url}/v1" if result.url else result.state)
    if result.processes:
        print_table(result.processes)
    if result.gateways:
        print_table(result.gateways)
    for note in result.notes:
        print_text(f"note: {note}")
    return 0


def print_stopped(result: Any) -> int:
    if result.dry_run:
        return print_text(f"would stop: {', '.join(result.processes) or 'nothing'}")
    return print_text(f"stopped: {', '.join(result.processes)}" if result.stopped else "nothing was running")


def print_bench(result: Any) -> int:
    out = make_console()
    for phase in result.phases:
        requests = f"{phase.requests} requests in {format_duration(phase.seconds)}, {phase.failed} failed"
        out.print(f"{phase.name}: {requests}, {format_number(phase.output_tokens)} output tokens")
    for note in result.notes:
        out.print(f"  note: {escape(note)}")
    return print_reconciliation(result.reconciliation)


PREDICTION_COLUMNS = (
    TableColumn("prediction", "id", whole=True),
    TableColumn("value", lambda row: format_quantity(row.estimate.value, row.estimate.unit), number=True),
    TableColumn("90 % interval", lambda row: format_interval(row.estimate), number=True),
)
VERDICT_COLOURS = {"within": "green", "better": "cyan", "worse": "red", "unknown": "dim"}


def print_reconciliation(result: Reconciliation) -> int:
    out = make_console()
    out.print(make_deviations_table(result.deviations, samples=True))
    _print_contention(out, result)
    for reason, names in _group_by_reason(result.deviations).items():
        unjudged = escape(", ".join(names))
        out.print(f"  not judged: {unjudged}: {escape(reason)}")
    for note in result.notes:
        out.print(f"  note: {escape(note)}")
    judged = [d.verdict for d in result.deviations if d.verdict != "unknown"]
    inside = f"{judged.count('within')} of {len(judged)} measured predictions inside their interval"
    out.print(f"{inside}; plan {result.plan_digest[:12]}")
    return 0


def _group_by_reason(deviations: Iterable[Deviation]) -> dict[str, list[str]]:
    """Return the measured predictions that are not judged, by the reason at the end of their evidence."""
    names: dict[str, list[str]] = {}
    for deviation in deviations:
        if deviation.measured is None or deviation.verdict != "unknown":
            continue
        reason = deviation.evidence.rpartition("  # ")[2]
        names.setdefault(reason, []).append(deviation.prediction_id)
    return names


def _print_contention(out: Console, result: Reconciliation) -> None:
    """Print what was taken of the machine during the bench, beside what the plan was made for."""
    measured = result.contention
    if measured is None:
        return
    planned = result.planned_contention or Contention()
    figures = [
        f"other programs {_format_share(measured.other_share)} (plan: {_format_share(planned.other_share)})",
        f"hypervisor {_format_share(measured.steal_share)} (plan: {_format_share(planned.steal_share)})",
    ]
    if measured.frequency_hz is not None:
        frequency = _format_frequency(measured.frequency_hz)
        figures.append(f"frequency {frequency} (plan: {_format_frequency(planned.frequency_hz)})")
    out.print(f"  contention during the bench: {', '.join(figures)}")


def _format_share(share: float | None) -> str:
    return "unknown" if share is None else format_share(share)


def _format_frequency(frequency_hz: float | None) -> str:
    return "unknown" if frequency_hz is None else format_quantity(frequency_hz, "Hz")


DEVIATION_COLUMNS = (
    TableColumn("prediction", "prediction_id"),
    TableColumn("predicted", lambda row: format_quantity(row.predicted.value, row.predicted.unit), number=True),
    TableColumn("90 % interval", lambda row: format_interval(row.predicted), number=True),
    TableColumn(
        "measured",
        lambda row: row.measured and format_quantity(row.measured.value, row.predicted.unit),
        number=True,
    ),
)
SAMPLES_COLUMN = TableColumn("samples", lambda row: row.measured and row.measured.samples, number=True)
VERDICT_COLUMN = TableColumn("verdict", "verdict", style=lambda row: VERDICT_COLOURS[row.verdict])


def make_deviations_table(deviations: Iterable[Deviation], *, samples: bool) -> Table:
    """Draw predictions against measurements; `samples`: with the number of samples of each measurement."""
    columns = (*DEVIATION_COLUMNS, *([SAMPLES_COLUMN] if samples else []), VERDICT_COLUMN)
    return make_table(columns, deviations, "Plan versus actual", boxed=True)
