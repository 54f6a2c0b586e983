"""Content of a report without its layout: parts, chapters and blocks.

Every format is rendered from the same Document, so all readers get the same text. Texts are plain and never markup;
each format escapes them and turns web addresses into links.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.number_format import format_money, format_money_interval
from archwright.contract.plan import Plan

# The space between a number and its unit.
UNIT_GAP = re.compile(
    r"(?<=\d) (?=(?:%|M|bn|tn|ms|s|min|h|days|(?:[KMGTP]i|[kMGTP])?B(?:/s)?|[kMG]?bit/s|k?Wh?|[A-Z]{3})(?!\w))"
)
Tone = Literal["", "good", "warn", "bad", "quiet", "strong"]
URL = re.compile(r"https?://[^\s<>\"'`|\\^{}]+[^\s<>\"'`|\\^{}.,;:!?)\]]")


class CellNote(NamedTuple):
    """A smaller line under the text of a cell, with its label (`Why`, `Proof`)."""

    label: str
    text: str


class Cell(NamedTuple):
    """`value`: the number behind the text, for programs that calculate; None for a text."""

    text: str = ""
    notes: tuple[CellNote, ...] = ()
    tone: Tone = ""
    value: float | None = None


class Column(NamedTuple):
    """`share`: part of the table's width; numeric columns are aligned to the right."""

    title: str
    share: float = 1.0
    numeric: bool = False


class TableBlock(NamedTuple):
    """The first cell of a row is its header. `marked`: the row of the chosen option."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: int | None = None
    note: str = ""
    kind: str = "table"


class FigureBlock(NamedTuple):
    """`alt`: the content of the picture as text, with its numbers."""

    title: str
    svg: str
    alt: str
    note: str = ""
    kind: str = "figure"


class Tile(NamedTuple):
    label: str
    value: str
    note: str = ""


class Tiles(NamedTuple):
    tiles: tuple[Tile, ...]
    kind: str = "tiles"


class Paragraph(NamedTuple):
    text: str
    tone: Tone = ""
    kind: str = "text"


class Item(NamedTuple):
    lead: str
    text: str = ""


class Items(NamedTuple):
    title: str
    items: tuple[Item, ...]
    ordered: bool = False
    kind: str = "items"


class Callout(NamedTuple):
    title: str
    text: str
    tone: Tone = "warn"
    kind: str = "callout"


Block = TableBlock | FigureBlock | Tiles | Paragraph | Items | Callout


class Chapter(NamedTuple):
    id: str
    title: str
    lead: str
    blocks: tuple[Block, ...]


class DocumentPart(NamedTuple):
    title: str
    chapters: tuple[Chapter, ...]


class Position(NamedTuple):
    """A position of the request for quotation. `delivery`: a month; `term`: bought, or how long it is rented."""

    number: int
    item: str
    specification: str
    quantity: float
    unit: str
    delivery: str
    term: str


class Document(NamedTuple):
    """`facts`: label and text under the title. `board`: the first two pages.

    `plan` and `positions`: the data of the sheets that calculate.
    """

    title: str
    subtitle: str
    sentence: str
    facts: tuple[Item, ...]
    board: tuple[Chapter, Chapter]
    parts: tuple[DocumentPart, ...]
    plan: Plan
    positions: tuple[Position, ...]


class TextSpan(NamedTuple):
    text: str
    url: str = ""


def bind_units(text: str) -> str:
    """Return `text` for a page, where a number and its unit stay on one line."""
    return UNIT_GAP.sub("\u00a0", text)


def split_links(text: str) -> tuple[TextSpan, ...]:
    """Split `text` for a page at the start and end of web addresses."""
    text = bind_units(text)
    found, at = list[TextSpan](), 0
    for match in URL.finditer(text):
        if match.start() > at:
            found.append(TextSpan(text[at : match.start()]))
        found.append(TextSpan(match.group(), match.group()))
        at = match.end()
    return (*found, TextSpan(text[at:])) if at < len(text) else tuple(found)


def build_table(
    caption: str,
    columns: Mapping[str, float],
    rows: Iterable[Iterable[Cell | str]],
    *,
    numeric: Collection[int] = (),
    marked: int | None = None,
    note: str = "",
) -> TableBlock:
    """A table of cells or strings. `columns`: title and share; `numeric`: positions of the numeric columns."""
    heads = tuple(Column(title, share, place in numeric) for place, (title, share) in enumerate(columns.items()))
    body = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return TableBlock(caption, heads, body, marked, note)


def build_cell(text: str, *notes: str | tuple[str, str], tone: Tone = "") -> Cell:
    """A cell with its notes: label and text, or text alone. Notes without text are left out."""
    pairs = (CellNote(*note) if isinstance(note, tuple) else CellNote("", note) for note in notes)
    return Cell(text, tuple(note for note in pairs if note.text), tone)


def build_money_cell(amount: Estimate | None, tone: Tone = "") -> Cell:
    if amount is None:
        return Cell("no price", tone="quiet")
    cell = build_cell(format_money(amount.value), format_money_interval(amount), tone=tone)
    return cell._replace(value=amount.value)


def build_amount_cell(amount: float, tone: Tone = "") -> Cell:
    """A cell with an amount of money that has no interval."""
    return Cell(format_money(amount), tone=tone, value=amount)


def build_items(title: str, texts: Iterable[Item | str]) -> Items | None:
    """A list, or None if it is empty."""
    found = tuple(text if isinstance(text, Item) else Item(text) for text in texts)
    return Items(title, found) if found else None


def keep_blocks(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)
