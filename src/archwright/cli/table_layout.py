"""How lines and tables stand on the page."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table


def print_indented(out: Console, text: str, by: int = 2) -> None:
    """A paragraph whose every line stands as far to the right as its first."""
    out.print(Padding(text, (0, 0, 0, by)))


def _add_columns(table: Table, names: Collection[str], right: Collection[str], whole: Collection[str]) -> Table:
    """Columns in `right` are aligned right. Long cells wrap, except in the columns of `whole`."""
    for name in names:
        side: JustifyMethod = "right" if name in right else "left"
        kept = name in whole
        table.add_column(name, justify=side, no_wrap=kept, overflow="ellipsis" if kept else "fold")
    return table


def make_plain_table(
    *names: str, right: Collection[str] = (), whole: Collection[str] = (), title: str | None = None
) -> Table:
    """A table without lines."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    return _add_columns(table, names, right, whole)


def make_titled_table(title: str, *texts: str, numbers: Collection[str] = ()) -> Table:
    """A table without lines, its name above: columns of text, then columns of numbers, which never wrap."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, padding=(0, 1))
    return _add_columns(table, (*texts, *numbers), numbers, numbers)


def make_boxed_table(title: str, text: str, *, numbers: Collection[str], whole: bool) -> Table:
    """A table with lines: a column of text, then columns of numbers; with `whole` no cell wraps."""
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column(text, no_wrap=whole)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=whole)
    return table
