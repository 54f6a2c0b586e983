"""Tables and lists for a terminal, described as data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

# Cells that text is given before it wraps; cells between columns.
WRAPPED_WIDTH = 20
GAP = 2


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column: its heading, how to read its cell from a row, its layout.

    `cell`: the name of a field, or a function of the row. `number`: aligned right. `whole`: never wrapped; numbers are
    whole by default. `style`: a colour of the row's cell. `rank`: a column of the highest rank is the first to go on a
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
        text = escape(format_value(self.cell(row) if callable(self.cell) else getattr(row, self.cell)))
        style = self.style(row) if callable(self.style) else self.style
        return f"[{style}]{text}[/]" if style else text


def format_value(value: object) -> str:
    """`-` for an absent value, `yes` or `no`, integers with thousands separators."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def format_time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")


def make_table(columns: Iterable[TableColumn], rows: Iterable[Any], title: str = "", *, boxed: bool = False) -> Table:
    """Draw records as rows. Without `boxed` a table has no lines. An empty list of headings hides the header.

    A number and its heading are never clipped: the other columns wrap.
    """
    columns, rows = tuple(columns), tuple(rows)
    table = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold")
    table.show_header = any(column.heading for column in columns)
    if not boxed:
        table.box, table.padding, table.pad_edge = None, (0, 1), bool(title)
    for column in columns:
        whole = column.number if column.whole is None else column.whole
        side: Any = "right" if column.number else "left"
        least = _measure_column(column, rows) if column.number else max(map(len, column.heading.split()), default=0)
        overflow: Any = "ellipsis" if whole else "fold"
        table.add_column(column.heading, justify=side, no_wrap=whole, overflow=overflow, min_width=least)
    for row in rows:
        table.add_row(*(column.format(row) for column in columns))
    return table


def _measure_column(column: TableColumn, rows: Iterable[Any]) -> int:
    cells = (Text.from_markup(column.format(row)).cell_len for row in rows)
    return max(len(column.heading), *cells, 0)


def choose_columns(columns: Iterable[TableColumn], rows: Sequence[Any], width: int) -> tuple[TableColumn, ...]:
    """Return the columns that fit into `width`, without those of the highest ranks; long text is going to wrap."""
    kept, needed = list(columns), {}
    for column in kept:
        full = _measure_column(column, rows)
        needed[column.heading] = full if column.number or column.whole else min(full, WRAPPED_WIDTH)
    while sum(needed[column.heading] + GAP for column in kept) > width:
        last = max(kept, key=lambda column: column.rank)
        if not last.rank:
            break
        kept.remove(last)
    return tuple(kept)


def print_indented(out: Console, text: str, by: int = 2) -> None:
    out.print(Padding(text, (0, 0, 0, by)))


def print_fields(out: Console, fields: Mapping[str, str | None]) -> None:
    """Print `name  value` lines; a field without a value is left out. Long values are not wrapped."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        if value:
            out.print(f"{name:<{width}}  {escape(value)}", soft_wrap=True)


def print_lines(out: Console, lines: Iterable[str], shown: int, prefix: str = "") -> None:
    """Print the first `shown` lines, unwrapped, then the number of the others."""
    listed = list(lines)
    for line in listed[:shown]:
        out.print(f"{prefix}{escape(line)}", soft_wrap=True)
    print_remaining(out, len(listed) - shown, prefix)


def print_remaining(out: Console, count: int, prefix: str = "") -> None:
    if count > 0:
        out.print(f"{prefix}[dim]and {count:,} more (--json shows all)[/]")
