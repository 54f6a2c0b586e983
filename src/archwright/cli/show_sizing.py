"""The terminal output of predictions and of their accuracy."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.markup import escape

from archwright.cli.show import as_json, make_console
from archwright.cli.table_layout import TableColumn, make_table
from archwright.contract.estimate import Estimate
from archwright.contract.number_format import format_estimate, format_interval, format_quantity

__all__ = ["print_accuracy", "as_json", "print_inventory", "print_prediction"]


def print_prediction(result: Any) -> int:
    out = make_console()
    hardware = f"{result.devices} x {escape(result.accelerator)}"
    out.print(f"\n[bold]{escape(result.model)}[/] on {hardware}")
    columns = _make_figure_columns(result.estimates, result.definitions)
    out.print(make_table(columns, result.estimates))

    for line in _list_remarks(result):
        out.print(escape(line))
    for line in _list_sources(result):
        out.print(f"[dim]{escape(line)}[/]")
    return 0


def _make_figure_columns(estimates: Mapping[str, Estimate], definitions: Mapping[str, str]) -> tuple[TableColumn, ...]:
    """Make the columns of predicted figures; a row is the name of a figure."""

    def format_value(name: str) -> str:
        estimate = estimates[name]
        return format_quantity(estimate.value, estimate.unit)

    def format_band(name: str) -> str:
        return format_interval(estimates[name])

    def define(name: str) -> str:
        return definitions.get(name, " ")

    return (
        TableColumn("", str),
        TableColumn("value", format_value, number=True),
        TableColumn("90 % interval", format_band, number=True),
        TableColumn("", define),
    )


def _list_remarks(result: Any) -> Iterator[str]:
    if result.layout:
        yield f"layout: {result.layout}"
    for option in result.options:
        yield f"option: {option.summary}"
    yield f"stratum: {result.stratum}"
    for reason in result.weak:
        yield f"weak: {reason}"
    for assumption in result.assumed:
        yield f"assumed: {assumption}"
    if result.pilot is not None:
        yield f"pilot: {result.pilot.summary}"
        yield f"  {result.pilot.command}"


def _list_sources(result: Any) -> Iterator[str]:
    yield result.formula
    yield from result.sources
    for option in result.options:
        if option.source:
            yield f"{option.setting}: {option.source}"


def _format_people(served: Any) -> str:
    if served.people is None:
        return "nobody"
    return format_estimate(served.people)


def _format_time(time_s: Any) -> str:
    if time_s is None:
        return ""
    return format_quantity(time_s.value, time_s.unit)


INVENTORY_COLUMNS = (
    TableColumn("count", "count"),
    TableColumn("machine", "machine"),
    TableColumn("model", "model"),
    TableColumn("format", "format"),
    TableColumn("engine", "engine"),
    TableColumn("in flight", "in_flight"),
    TableColumn("TTFT p95", lambda row: _format_time(row.ttft_p95_s), number=True),
    TableColumn("TPOT p95", lambda row: _format_time(row.tpot_p95_s), number=True),
    TableColumn("serves (90 %)", _format_people, number=True),
)


def print_inventory(result: Any) -> int:
    out = make_console()
    out.print(make_table(INVENTORY_COLUMNS, result.assignments))

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


def _make_template_column(heading: str, template: str) -> TableColumn:
    """Make a column of numbers; `template`: a text with a field of the row, such as "{0.mean:.1f} %"."""
    return TableColumn(heading, template.format, number=True)


ACCURACY_COLUMNS = (
    TableColumn("quantity", "metric"),
    TableColumn("stratum", "stratum"),
    _make_template_column("rows", "{0.rows}"),
    _make_template_column("median error", "{0.median_error_percent:.1f} %"),
    _make_template_column("mean", "{0.mean_error_percent:.1f} %"),
    _make_template_column("p90", "{0.p90_error_percent:.1f} %"),
    _make_template_column("in the 90 % interval", "{0.covered_percent:.1f} %"),
    _make_template_column("half-width", "x{0.median_half_width:.2f}"),
)


def _format_percent(name: str) -> Callable[[Any], str]:
    def format_cell(row: Any) -> str:
        percent = getattr(row, name)
        if percent is None:
            return "-"
        return f"{percent:.1f} %"

    return format_cell


SCORED_COLUMNS = (
    TableColumn("quantity", "metric", whole=True),
    TableColumn("predictor", "predictor", whole=True),
    _make_template_column("answered", "{0.answered_rows} of {0.measured_rows}"),
    _make_template_column("common", "{0.common_rows}"),
    _make_template_column("in the fit", "{0.seen_rows}"),
)
ERROR_COLUMNS = (
    TableColumn("median error", _format_percent("median_error_percent"), number=True),
    TableColumn("mean", _format_percent("mean_error_percent"), number=True),
    TableColumn("in interval", _format_percent("covered_percent"), number=True),
)


def print_accuracy(result: Any) -> int:
    out = make_console()
    answered = f"{result.answered} of {result.rows} rows answered, {result.weak} weak"
    out.print(f"{escape(result.file)}: {result.kind}, {answered}")
    for line in result.not_answered:
        out.print(f"  not answered: {escape(line)}")
    if result.scores:
        out.print(make_table(ACCURACY_COLUMNS, result.scores))
    if result.scoreboard:
        out.print("\nPredictors on the rows that all of them answered:")
        out.print(make_table((*SCORED_COLUMNS, *ERROR_COLUMNS), result.scoreboard))
    if result.rows_out:
        out.print(f"wrote {escape(result.rows_out)}")
    return 0
