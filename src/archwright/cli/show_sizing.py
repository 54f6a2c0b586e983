"""The terminal output of predictions and of their accuracy."""

from typing import Any

from rich.markup import escape

from archwright.cli.show import as_json, make_console
from archwright.cli.table_layout import TableColumn, make_table
from archwright.contract.number_format import format_estimate, format_interval, format_quantity

__all__ = ["print_accuracy", "as_json", "print_inventory", "print_prediction"]


def print_prediction(result: Any) -> int:
    out = make_console()
    out.print(f"\n[bold]{escape(result.model)}[/] on {result.devices} x {escape(result.accelerator)}")
    columns = (
        TableColumn("", lambda row: row[0]),
        TableColumn("value", lambda row: format_quantity(row[1].value, row[1].unit), number=True),
        TableColumn("90 % interval", lambda row: format_interval(row[1]), number=True),
        TableColumn("", lambda row: result.definitions.get(row[0], " ")),
    )
    out.print(make_table(columns, result.estimates.items()))
    lines = [f"layout: {result.layout}"] if result.layout else []
    lines += [f"option: {one.summary}" for one in result.options]
    lines += [f"stratum: {result.stratum}", *(f"weak: {line}" for line in result.weak)]
    for line in (*lines, *(f"assumed: {line}" for line in result.assumed)):
        out.print(escape(line))
    if result.pilot is not None:
        out.print(escape(f"pilot: {result.pilot.summary}"))
        out.print(escape(f"  {result.pilot.command}"))
    for line in (
        result.formula,
        *result.sources,
        *(f"{one.setting}: {one.source}" for one in result.options if one.source),
    ):
        out.print(f"[dim]{escape(line)}[/]")
    return 0


def _format_people(served: Any) -> str:
    if served.people is None:
        return "nobody"
    return format_estimate(served.people)


def _format_time(time_s: Any) -> str:
    if time_s is None:
        return ""
    return format_quantity(time_s.value, time_s.unit)


INVENTORY_FIELDS = ("count", "machine", "model", "format", "engine", "in_flight")


def print_inventory(result: Any) -> int:
    out = make_console()
    columns = []
    for field in INVENTORY_FIELDS:
        title = field.replace("_", " ")
        columns.append(TableColumn(title, field))
    columns.append(TableColumn("TTFT p95", lambda row: _format_time(row.ttft_p95_s), number=True))
    columns.append(TableColumn("TPOT p95", lambda row: _format_time(row.tpot_p95_s), number=True))
    columns.append(TableColumn("serves (90 %)", _format_people, number=True))
    table = make_table(columns, result.assignments)
    out.print(table)

    people = _format_people(result)
    out.print(f"all machines serve: {people}")
    if result.model:
        model = escape(result.model)
        out.print(f"model of all machines: {model}")
    for row in result.assignments:
        if row.reason:
            machine = escape(row.machine)
            reason = escape(row.reason)
            out.print(f"{machine}: {reason}")
    basis = result.limits + result.assumed
    for line in basis:
        text = escape(line)
        out.print(f"[dim]{text}[/]")
    return 0


ACCURACY_COLUMNS = (
    TableColumn("quantity", "metric"),
    TableColumn("stratum", "stratum"),
    TableColumn("rows", lambda row: str(row.rows), number=True),
    TableColumn("median error", lambda row: f"{row.median_error_percent:.1f} %", number=True),
    TableColumn("mean", lambda row: f"{row.mean_error_percent:.1f} %", number=True),
    TableColumn("p90", lambda row: f"{row.p90_error_percent:.1f} %", number=True),
    TableColumn("in the 90 % interval", lambda row: f"{row.covered_percent:.1f} %", number=True),
    TableColumn("half-width", lambda row: f"x{row.median_half_width:.2f}", number=True),
)


def print_accuracy(result: Any) -> int:
    out = make_console()
    answered = f"{result.answered} of {result.rows} rows answered, {result.weak} weak"
    out.print(f"{escape(result.file)}: {result.kind}, {answered}")
    for line in result.not_answered:
        out.print(f"  not answered: {escape(line)}")
    if result.scores:
        out.print(make_table(ACCURACY_COLUMNS, result.scores))
    if result.rows_out:
        out.print(f"wrote {escape(result.rows_out)}")
    return 0
