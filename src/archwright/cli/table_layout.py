"""How lines and tables stand on the page."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table


def print_indented(out: Console, text: str, by: int = 2) -> None:
    """A paragraph whose every line stands as far to the right as its first."""
    out.print(Padding(text, (0, 0, 0, by)))


def make_plain_table(
    *names: str, right: Collection[str] = (), whole: Collection[str] = (), title: str | None = None
) -> Table:
    """A table without lines. What is in `right` stands to the right; long cells go on below, except in `whole`."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in names:
        side: JustifyMethod = "right" if name in right else "left"
        kept = name in whole
        table.add_column(name, justify=side, no_wrap=kept, overflow="ellipsis" if kept else "fold")
    return table


def make_titled_table(title: str) -> Table:
    """A table without lines, its name above."""
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, padding=(0, 1))
