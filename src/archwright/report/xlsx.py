"""Report as a workbook: a sheet for each chapter of the document, and the sheets that calculate."""

import io
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from archwright.contract.plan import Plan
from archwright.errors import require_extra
from archwright.report.bill_sheets import write_bill_sheets
from archwright.report.document import (
    Block,
    Callout,
    Cell,
    Chapter,
    Document,
    FigureBlock,
    Items,
    Paragraph,
    TableBlock,
    Tiles,
    Tone,
)
from archwright.report.workbook_writer import Value, WorkbookWriter

WORKBOOK_OPTIONS = {
    "strings_to_formulas": False,
    "strings_to_urls": False,
    "strings_to_numbers": False,
    "in_memory": True,
}
# The sheets that calculate have the lines of this chapter.
BILL_CHAPTER = "bill"
FIRST_WIDTH = 34.0
SMALLEST_WIDTH = 14.0
WIDTH_PER_SHARE = 14.0
LARGEST_WIDTH = 70.0
FEWEST_COLUMNS = 4


def render_xlsx(document: Document) -> bytes:
    """Raises MissingError AW-GET-01 without the extra `report`."""
    with require_extra("report", "a report as a workbook"):
        import xlsxwriter  # noqa: PLC0415
    stream = io.BytesIO()
    workbook = xlsxwriter.Workbook(stream, WORKBOOK_OPTIONS)
    workbook.set_properties(_describe_workbook(document))
    book = WorkbookWriter(workbook)
    option = document.plan.chosen_option
    for chapter in _list_chapters(document):
        if chapter.id == BILL_CHAPTER and option is not None:
            write_bill_sheets(book, document, option)
        else:
            ChapterSheet(book, chapter).write()
    workbook.close()
    return stream.getvalue()


def _list_chapters(document: Document) -> Iterable[Chapter]:
    """All chapters; the first one begins with the sentence of the document and its facts."""
    first, second = document.board
    facts = Items(document.title, document.facts)
    yield first._replace(lead=document.sentence, blocks=(facts, *first.blocks))
    yield second
    for part in document.parts:
        yield from part.chapters


def _describe_workbook(document: Document) -> dict[str, object]:
    return {
        "title": document.title,
        "author": "archwright",
        "created": _creation_time(document.plan),
        "comments": f"plan {document.plan.digest[:12]}",
    }


def _creation_time(plan: Plan) -> datetime:
    """The time of the plan in UTC; the first day of the format if it is not a valid time."""
    try:
        created = datetime.fromisoformat(plan.created_at)
    except ValueError:
        return datetime(1980, 1, 1)
    return created.astimezone(UTC).replace(tzinfo=None)


class SheetColumn(NamedTuple):
    """A column of a sheet; `source`: its column of the table; `read`: the value of a cell."""

    title: str
    width: float
    source: int
    read: Callable[[Cell], Value]


def list_sheet_columns(table: TableBlock) -> Iterable[SheetColumn]:
    """The columns of a table. The notes of numbers get a column, so that numbers stay numbers."""
    for index, column in enumerate(table.columns):
        wanted = WIDTH_PER_SHARE * column.share
        width = max(SMALLEST_WIDTH, min(LARGEST_WIDTH, wanted))
        has_notes = any(row[index].notes for row in table.rows)
        if column.numeric and has_notes:
            yield SheetColumn(column.title, width, index, read_number)
            yield SheetColumn(f"{column.title}: note", width, index, read_notes)
        else:
            yield SheetColumn(column.title, width, index, read_text)


def read_number(cell: Cell) -> Value:
    return cell.text if cell.value is None else cell.value


def read_notes(cell: Cell) -> str:
    lines: list[str] = []
    for note in cell.notes:
        lead = f"{note.label}: " if note.label else ""
        lines.append(f"{lead}{note.text}")
    return "\n".join(lines)


def read_text(cell: Cell) -> Value:
    if not cell.notes:
        return read_number(cell)
    return f"{cell.text}\n{read_notes(cell)}".strip()


class ChapterSheet:
    """Writes the blocks of a chapter below each other, on a sheet with the id of the chapter."""

    def __init__(self, book: WorkbookWriter, chapter: Chapter) -> None:
        self._book = book
        self._chapter = chapter
        self._widths = _list_widths(chapter)
        self._sheet = book.add_sheet(chapter.id.capitalize(), self._widths)
        self._row = 0

    def write(self) -> None:
        self._write_row((self._chapter.title,), style=self._book.title)
        if self._chapter.lead:
            self._write_text(self._chapter.lead)
        for block in self._chapter.blocks:
            self._row += 1
            self._write_block(block)

    def _write_block(self, block: Block) -> None:
        match block:
            case TableBlock():
                self._write_table(block)
            case FigureBlock():
                self._write_row((block.title,), style=self._book.bold)
                self._write_text(block.alt)
            case Tiles():
                for tile in block.tiles:
                    self._write_row((tile.label, tile.value, tile.note))
            case Paragraph():
                self._write_text(block.text, tone=block.tone)
            case Items():
                self._write_items(block)
            case Callout():
                self._write_text(f"{block.title} {block.text}", tone=block.tone)

    def _write_table(self, block: TableBlock) -> None:
        book = self._book
        columns = tuple(list_sheet_columns(block))
        titles = [column.title for column in columns]
        self._write_row((block.caption,), style=book.bold)
        self._write_row(titles, style=book.head)
        for number, row in enumerate(block.rows):
            for position, column in enumerate(columns):
                cell = row[column.source]
                value = column.read(cell)
                tone: Tone = "strong" if number == block.marked else cell.tone
                style = book.texts[tone] if isinstance(value, str) else None
                book.write_cell(self._sheet, (self._row, position), value, style=style)
            self._row += 1
        if block.note:
            self._write_text(block.note, tone="quiet")

    def _write_items(self, block: Items) -> None:
        if block.title:
            self._write_row((block.title,), style=self._book.bold)
        for number, item in enumerate(block.items, 1):
            lead = f"{number}. {item.lead}" if block.ordered else item.lead
            if item.text:
                self._book.write_cell(self._sheet, (self._row, 0), lead)
                self._write_text(item.text, column=1)
            else:
                self._write_text(lead)

    def _write_row(self, values: Iterable[Value], *, style: object = None) -> None:
        self._book.write_row(self._sheet, self._row, values, style=style)
        self._row += 1

    def _write_text(self, text: str, *, column: int = 0, tone: Tone = "") -> None:
        cell = (self._row, column)
        self._book.write_across(self._sheet, cell, text, widths=self._widths, tone=tone)
        self._row += 1


def _list_widths(chapter: Chapter) -> list[float]:
    """The width of each column: that of the widest table."""
    widths = [FIRST_WIDTH] + [SMALLEST_WIDTH] * (FEWEST_COLUMNS - 1)
    for block in chapter.blocks:
        if not isinstance(block, TableBlock):
            continue
        for position, column in enumerate(list_sheet_columns(block)):
            if position == len(widths):
                widths.append(column.width)
            widths[position] = max(widths[position], column.width)
    return widths
