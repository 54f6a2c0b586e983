"""Tables and lists for a terminal, described as data."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table


class TableColumn(NamedTuple):
    """One column: its heading, how to read its cell from a row, its layout.

    `cell`: the name of a field, or a function of the row. `number`: aligned right. `whole`: never wrapped; numbers are
    whole by default. `style`: a colour of the row's cell.
    """

    heading: str
    cell: str | Callable[[Any], object]
    number: bool = False
    whole: bool | None = None
    style: Callable[[Any], str] | str = ""

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
    """Draw records as rows. Without `boxed` a table has no lines. An empty list of headings hides the header."""
    columns = tuple(columns)
    table = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold")
    table.show_header = any(column.heading for column in columns)
    if not boxed:
        table.box, table.padding, table.pad_edge = None, (0, 1), bool(title)
    for column in columns:
        whole = column.number if column.whole is None else column.whole
        side: Any = "right" if column.number else "left"
        table.add_column(column.heading, justify=side, no_wrap=whole, overflow="ellipsis" if whole else "fold")
    for row in rows:
        table.add_row(*(column.format(row) for column in columns))
    return table


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
