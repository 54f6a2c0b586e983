"""How lines and tables stand on the page."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table


def indented(out: Console, text: str, by: int = 2) -> None:
    """A paragraph whose every line stands as far to the right as its first."""
    out.print(Padding(text, (0, 0, 0, by)))


def drawn(title: str) -> Table:
    """A table without lines, its name above."""
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, padding=(0, 1))
