"""Results as tables for people and as JSON for programs. Each function returns the exit status."""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from archwright.cli.table_layout import (
    TableColumn,
    format_time,
    format_value,
    make_estimate_columns,
    make_table,
    print_fields,
    print_indented,
)
from archwright.contract.contention import Contention
from archwright.contract.evidence import Deviation, Reconciliation
from archwright.contract.number_format import (
    format_duration,
    format_number,
    format_quantity,
    format_share,
)
from archwright.contract.plan import LimitProbability, ModelProposal

MINIMUM_WIDTH = 100
# The links of the audit chain: `audit verify` reads these fields, and --json has them.
CHAIN_FIELDS = ("chain", "number", "prev", "hash")
EMPTY_VALUES = (None, "")
# A share of the CPU time above which the machine counts as busy during the probe.
BUSY_SHARE = 0.1


def make_console() -> Console:
    """Make a console that keeps tables whole when the output is no terminal."""
    width: int | None = MINIMUM_WIDTH + 20
    if sys.stdout.isatty():
        width = None
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
    values: dict[str, object] = msgspec.to_builtins(result)
    fields = {name: _format_field(name, value) for name, value in values.items()}
    print_fields(make_console(), fields)
    return 0


def print_table(result: Iterable[object]) -> int:
    """Print records as rows. Fields that are empty in all rows and the links of a chain are left out."""
    rows: list[dict[str, object]] = [msgspec.to_builtins(row) for row in result]
    columns = map(_make_field_column, _list_shown_fields(rows))
    return print_rows(columns, rows, "none")


def _list_shown_fields(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    names = rows[0] if rows else ()
    for name in names:
        is_filled = any(row[name] not in EMPTY_VALUES for row in rows)
        if is_filled and name not in CHAIN_FIELDS:
            yield name


def _make_field_column(name: str) -> TableColumn:
    """Ids stay on one line, because other verbs take them; so do times."""

    def format_cell(row: dict[str, object]) -> str:
        return _format_field(name, row[name])

    is_id = name in ("id", "request_id")
    return TableColumn(name.replace("_", " "), format_cell, whole=is_id or _is_time(name))


def print_rows(columns: Iterable[TableColumn], rows: Collection[object], empty: str) -> int:
    """Print records by their columns; `empty`: the text for no records."""
    if not rows:
        return print_text(empty)
    make_console().print(make_table(columns, rows))
    return 0


def _is_time(name: str) -> bool:
    return name == "at" or name.endswith("_at")


def _format_field(name: str, value: object) -> str:
    if isinstance(value, float):
        if _is_time(name):
            return format_time(value)
        return _format_float(name, value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int | str) and not isinstance(value, bool):
        return str(value)
    return format_value(value)


def _format_float(name: str, value: float) -> str:
    # Money to the millionth: a request to a small model costs a few millionths.
    digits = 6 if name.endswith("_usd") else 3
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".")


def format_proposal(proposal: ModelProposal, command: str) -> str:
    """Format the model that a download would give, and the command."""
    kind = "A better model" if proposal.instead else "A model"
    label = proposal.artefact.download_label
    proposed = f"{kind} fits this machine for {proposal.workload}: {label}."
    return f"{proposed}\n({proposal.reason})\nTo download it: {command}"


def _format_limit(row: LimitProbability) -> str:
    return format_quantity(row.stated, row.predicted.unit)


MISSED_COLUMNS = (
    TableColumn("limit", "limit", whole=True),
    TableColumn("value", _format_limit, number=True),
    *make_estimate_columns("predicted", "predicted"),
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
    state = result.state
    if result.url:
        state += f" at {result.url}/v1"
    print_text(state)
    if result.processes:
        print_table(result.processes)
    if result.gateways:
        print_table(result.gateways)
    for note in result.notes:
        print_text(f"note: {note}")
    return 0


def print_stopped(result: Any) -> int:
    names = ", ".join(result.processes)
    if result.dry_run:
        return print_text(f"would stop: {names or 'nothing'}")
    if not result.stopped:
        return print_text("nothing was running")
    return print_text(f"stopped: {names}")


def print_bench(result: Any) -> int:
    out = make_console()
    for phase in result.phases:
        duration = format_duration(phase.seconds)
        requests = f"{phase.requests} requests in {duration}, {phase.failed} failed"
        tokens = format_number(phase.output_tokens)
        out.print(f"{phase.name}: {requests}, {tokens} output tokens")
    for note in result.notes:
        out.print(f"  note: {escape(note)}")
    return print_reconciliation(result.reconciliation)


PREDICTION_COLUMNS = (
    TableColumn("prediction", "id", whole=True),
    *make_estimate_columns("value", "estimate"),
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
    verdicts = Counter(deviation.verdict for deviation in result.deviations)
    judged = verdicts.total() - verdicts["unknown"]
    inside = f"{verdicts['within']} of {judged} measured predictions inside their interval"
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
    programs = _format_share(measured.other_share)
    planned_programs = _format_share(planned.other_share)
    steal = _format_share(measured.steal_share)
    planned_steal = _format_share(planned.steal_share)
    figures = f"other programs {programs} (plan: {planned_programs}), hypervisor {steal} (plan: {planned_steal})"
    if measured.frequency_hz is not None:
        frequency = _format_frequency(measured.frequency_hz)
        planned_frequency = _format_frequency(planned.frequency_hz)
        figures += f", frequency {frequency} (plan: {planned_frequency})"
    out.print(f"  contention during the bench: {figures}")


def _format_share(share: float | None) -> str:
    if share is None:
        return "unknown"
    return format_share(share)


def _format_frequency(frequency_hz: float | None) -> str:
    if frequency_hz is None:
        return "unknown"
    return format_quantity(frequency_hz, "Hz")


def _format_measured(row: Deviation) -> str | None:
    if row.measured is None:
        return None
    return format_quantity(row.measured.value, row.predicted.unit)


def _read_samples(row: Deviation) -> int | None:
    if row.measured is None:
        return None
    return row.measured.samples


def _choose_verdict_colour(row: Any) -> str:
    return VERDICT_COLOURS[row.verdict]


DEVIATION_COLUMNS = (
    TableColumn("prediction", "prediction_id"),
    *make_estimate_columns("predicted", "predicted"),
    TableColumn("measured", _format_measured, number=True),
)
SAMPLES_COLUMN = TableColumn("samples", _read_samples, number=True)
VERDICT_COLUMN = TableColumn("verdict", "verdict", style=_choose_verdict_colour)


def make_deviations_table(deviations: Iterable[Deviation], *, samples: bool) -> Table:
    """Draw predictions against measurements; `samples`: with the number of samples of each measurement."""
    columns = list(DEVIATION_COLUMNS)
    if samples:
        columns.append(SAMPLES_COLUMN)
    columns.append(VERDICT_COLUMN)
    return make_table(columns, deviations, "Plan versus actual", boxed=True)
