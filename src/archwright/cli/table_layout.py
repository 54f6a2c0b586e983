"""Tables and lists for a terminal, described as data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console, JustifyMethod, OverflowMethod
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from archwright.contract.number_format import format_interval, format_quantity

# Cells that text is given before it wraps; cells between columns.
WRAPPED_WIDTH = 20
GAP = 2


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column: its heading, how to read its cell from a row, its layout.

    `cell`: the name of a field, or a function of the row. `number`: aligned right. `whole`: never
    wrapped; numbers are
    whole by default. `style`: a colour of the row's cell. `rank`: a column of the highest rank is
    the first to go on a
    narrow terminal; a column of rank 0 stays.
    """

    heading: str
    cell: str | Callable[[Any], object]
    number: bool = False
    whole: bool | None = None
    style: Callable[[Any], str] | str = ""
    rank: int = 0

    def format(self, row: Any) -> str:
        """Return the cell of a row as Rich markup; markup in values is text."""
        text = escape(format_value(self._read_cell(row)))
        style = self._choose_style(row)
        if not style:
            return text
        return f"[{style}]{text}[/]"

    def _read_cell(self, row: Any) -> object:
        if callable(self.cell):
            return self.cell(row)
        return getattr(row, self.cell)

    def _choose_style(self, row: Any) -> str:
        if callable(self.style):
            return self.style(row)
        return self.style


def format_value(value: object) -> str:
    """`-` for an absent value, `yes` or `no`, integers with thousands separators."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        if value:
            return "yes"
        return "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def format_time(at: float) -> str:
    local_time = datetime.fromtimestamp(at).astimezone()
    return local_time.strftime("%Y-%m-%d %H:%M")


def make_size_column(heading: str, field: str) -> TableColumn:
    """Make a column of sizes; `field`: the name of a field in bytes."""

    def format_size(row: Any) -> str:
        return format_quantity(getattr(row, field), "bytes")

    return TableColumn(heading, format_size, number=True)


def make_time_column(heading: str, field: str) -> TableColumn:
    """Make a column of local times; `field`: the name of a field in seconds since 1970."""

    def format_field(row: Any) -> str:
        return format_time(getattr(row, field))

    return TableColumn(heading, format_field, whole=True)


def make_estimate_columns(heading: str, field: str) -> tuple[TableColumn, TableColumn]:
    """Make a column of values and one of their 90 % intervals; `field`: the name of a field with an estimate."""

    def format_estimate(row: Any) -> str:
        estimate = getattr(row, field)
        return format_quantity(estimate.value, estimate.unit)

    def format_band(row: Any) -> str:
        return format_interval(getattr(row, field))

    return (
        TableColumn(heading, format_estimate, number=True),
        TableColumn("90 % interval", format_band, number=True),
    )


def make_table(
    columns: Iterable[TableColumn],
    rows: Iterable[Any],
    title: str = "",
    *,
    boxed: bool = False,
) -> Table:
    """Draw records as rows. Without `boxed` a table has no lines.

    An empty list of headings hides the header. A number and its heading are never clipped: the
    other columns wrap.
    """
    all_columns = tuple(columns)
    all_rows = tuple(rows)
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
    )
    table.show_header = any(column.heading for column in all_columns)
    if not boxed:
        table.box = None
        table.padding = (0, 1)
        table.pad_edge = bool(title)

    for column in all_columns:
        _add_column(table, column, all_rows)
    for row in all_rows:
        cells = [column.format(row) for column in all_columns]
        table.add_row(*cells)
    return table


def _add_column(table: Table, column: TableColumn, rows: Sequence[Any]) -> None:
    justify: JustifyMethod = "left"
    longest_word = max(column.heading.split(), key=len, default="")
    min_width = len(longest_word)
    if column.number:
        justify = "right"
        min_width = _measure_column(column, rows)

    is_whole = column.number
    if column.whole is not None:
        is_whole = column.whole
    overflow: OverflowMethod = "ellipsis" if is_whole else "fold"
    table.add_column(
        column.heading,
        justify=justify,
        no_wrap=is_whole,
        overflow=overflow,
        min_width=min_width,
    )


def _measure_column(column: TableColumn, rows: Iterable[Any]) -> int:
    """Return the width in cells of the widest text or of the heading."""
    width = len(column.heading)
    for row in rows:
        text = Text.from_markup(column.format(row))
        width = max(width, text.cell_len)
    return width


def choose_columns(
    columns: Iterable[TableColumn],
    rows: Sequence[Any],
    width: int,
) -> tuple[TableColumn, ...]:
    """Return the columns that fit into `width`, without those of the highest ranks.

    Long text is going to wrap.
    """
    chosen = list(columns)
    widths: dict[str, int] = {}
    for column in chosen:
        full_width = _measure_column(column, rows)
        if not column.number and not column.whole:
            full_width = min(full_width, WRAPPED_WIDTH)
        widths[column.heading] = full_width + GAP

    while sum(widths[column.heading] for column in chosen) > width:
        least_important = max(chosen, key=lambda column: column.rank)
        if not least_important.rank:
            break
        chosen.remove(least_important)
    return tuple(chosen)


def print_indented(out: Console, text: str, by: int = 2) -> None:
    out.print(Padding(text, (0, 0, 0, by)))


def print_fields(out: Console, fields: Mapping[str, str | None]) -> None:
    """Print `name  value` lines; a field without a value is left out.

    Long values are not wrapped.
    """
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        if value:
            out.print(f"{name:<{width}}  {escape(value)}", soft_wrap=True)


def print_lines(out: Console, lines: Iterable[str], *, shown: int, prefix: str = "") -> None:
    """Print the first `shown` lines, unwrapped, then the number of the others."""
    listed = list(lines)
    for line in listed[:shown]:
        out.print(f"{prefix}{escape(line)}", soft_wrap=True)
    print_remaining(out, len(listed) - shown, prefix)


def print_remaining(out: Console, count: int, prefix: str = "") -> None:
    if count > 0:
        out.print(f"{prefix}[dim]and {count:,} more (--json shows all)[/]")
