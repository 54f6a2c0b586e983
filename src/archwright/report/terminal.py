"""Chapters of a document for a terminal. A picture is shown by its text, which has all its numbers."""

import io
from collections.abc import Iterable, Iterator

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from archwright.report.document import (
    Block,
    Callout,
    Cell,
    Chapter,
    Column,
    FigureBlock,
    Item,
    Items,
    Paragraph,
    TableBlock,
    Tiles,
    Tone,
)

STYLES: dict[Tone, str] = {
    "": "",
    "good": "green",
    "warn": "yellow",
    "bad": "red",
    "quiet": "dim",
    "strong": "bold",
}
TEXT_WIDTH = 120
INDENT = 2


def render_terminal(chapters: Iterable[Chapter]) -> RenderableType:
    """Return the chapters for a console of `rich`."""
    parts: list[RenderableType] = []
    for chapter in chapters:
        parts += _draw_chapter(chapter)
    return Group(*parts)


def render_text(chapters: Iterable[Chapter]) -> str:
    """Return the chapters as plain text, in lines of at most TEXT_WIDTH characters."""
    stream = io.StringIO()
    console = Console(file=stream, width=TEXT_WIDTH, color_system=None, highlight=False)
    console.print(render_terminal(chapters))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join(lines) + "\n"


def _draw_chapter(chapter: Chapter) -> Iterator[RenderableType]:
    yield Text(f"\n{chapter.title}", style="bold underline")
    if chapter.lead:
        yield Text(chapter.lead, style="dim")
    for block in chapter.blocks:
        yield Text()
        yield from _draw_block(block)


def _draw_block(block: Block) -> Iterator[RenderableType]:
    match block:
        case TableBlock():
            yield from _draw_table(block)
        case FigureBlock():
            yield Text(block.title, style="bold")
            yield _indent(Text(block.alt))
        case Tiles():
            yield _draw_tiles(block)
        case Paragraph():
            yield Text(block.text, style=STYLES[block.tone])
        case Items():
            yield from _draw_items(block)
        case Callout():
            yield Text.assemble((block.title, f"bold {STYLES[block.tone]}"), " ", block.text)


def _draw_table(block: TableBlock) -> Iterator[RenderableType]:
    yield Text(block.caption, style="bold")
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in block.columns:
        _add_column(table, column)
    for number, row in enumerate(block.rows):
        is_marked = number == block.marked
        table.add_row(*map(_draw_cell, row), style="bold" if is_marked else "")
    yield _indent(table)
    if block.note:
        yield _indent(Text(block.note, style="dim"))


def _add_column(table: Table, column: Column) -> None:
    # The smallest share is one unit of the widths, which `rich` counts in whole numbers.
    ratio = max(1, round(10 * column.share))
    justify: JustifyMethod = "right" if column.numeric else "left"
    table.add_column(column.title, ratio=ratio, justify=justify, overflow="fold")


def _draw_cell(cell: Cell) -> Text:
    text = Text(cell.text, style=STYLES[cell.tone])
    for note in cell.notes:
        label = f"{note.label}: " if note.label else ""
        line_break = "\n" if text else ""
        text.append(f"{line_break}{label}{note.text}", style="dim")
    return text


def _draw_tiles(block: Tiles) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for tile in block.tiles:
        value = Text(tile.value, style="bold")
        table.add_row(tile.label, value, Text(tile.note, style="dim"))
    return _indent(table)


def _draw_items(block: Items) -> Iterator[RenderableType]:
    if block.title:
        yield Text(block.title, style="bold")
    for number, item in enumerate(block.items, 1):
        mark = f"{number}." if block.ordered else "-"
        yield _draw_item(mark, item)


def _draw_item(mark: str, item: Item) -> RenderableType:
    text = Text(item.lead)
    if item.text:
        text = Text.assemble((item.lead, "bold"), ": ", item.text)
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_row(mark, text)
    return _indent(row)


def _indent(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, INDENT))
