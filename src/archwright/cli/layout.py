"""How lines and tables stand on the page."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console
from rich.padding import Padding
from rich.table import Table


def indented(out: Console, text: str, by: int = 2) -> None:
    """A paragraph whose every line stands as far to the right as its first."""
    out.print(Padding(text, (0, 0, 0, by)))


def plain(*names: str, right: Collection[str] = (), title: str | None = None) -> Table:
    """A table without lines, whose long cells go on below; what is in `right` stands to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def drawn(title: str) -> Table:
    """A table without lines, its name above."""
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, padding=(0, 1))
