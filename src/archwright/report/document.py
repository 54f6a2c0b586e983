"""What a report says, before anybody decides how it looks: parts of chapters of blocks.

Every format is made from the same Document, so that a board and an engineer read the same words. Texts are plain:
nothing in them is markup, whoever wrote it; each format escapes, and turns addresses into links, on its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis
from archwright.contract.plan import Plan
from archwright.report.fact_sources import FactSource
from archwright.report.number_format import format_compact_band, format_money

Tone = Literal["", "good", "warn", "bad", "quiet", "strong"]
URL = re.compile(r"https?://[^\s<>\"'`|\\^{}]+[^\s<>\"'`|\\^{}.,;:!?)\]]")


class CellNote(NamedTuple):
    """A smaller line under a cell's text: `why`, `proof` ... and what it says."""

    label: str
    text: str


class Cell(NamedTuple):
    text: str = ""
    notes: tuple[CellNote, ...] = ()
    tone: Tone = ""


class Column(NamedTuple):
    """`share` is its part of the table's width; numbers stand to the right."""

    title: str
    share: float = 1.0
    numeric: bool = False


class TableBlock(NamedTuple):
    """The first cell of a row is its header. `marked` is the row of what was chosen."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: int | None = None
    note: str = ""
    kind: str = "table"


class FigureBlock(NamedTuple):
    """`alt` says in words what the picture shows, with its numbers."""

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
    """Something not to be overlooked."""

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


class Document(NamedTuple):
    """`facts` stand on the cover: label and text. Plan, sources and bases are what the parts were written from."""

    title: str
    subtitle: str
    sentence: str
    facts: tuple[Item, ...]
    parts: tuple[DocumentPart, ...]
    plan: Plan
    sources: tuple[FactSource, ...]
    bases: tuple[Basis, ...]


class TextSpan(NamedTuple):
    """A piece of text, and the address it leads to."""

    text: str
    url: str = ""


def split_links(text: str) -> tuple[TextSpan, ...]:
    """`text` cut where web addresses begin and end."""
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
    """A table of cells or plain strings. `columns`: title and share; `numeric`: positions of the columns of numbers."""
    heads = tuple(Column(title, share, place in numeric) for place, (title, share) in enumerate(columns.items()))
    body = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return TableBlock(caption, heads, body, marked, note)


def build_cell(text: str, *notes: str | tuple[str, str], tone: Tone = "") -> Cell:
    """A cell with its notes: label and text, or text alone. A note without text is left out."""
    pairs = (note if isinstance(note, tuple) else ("", note) for note in notes)
    return Cell(text, tuple(CellNote(label, said) for label, said in pairs if said), tone)


def build_money_cell(amount: Estimate | None, tone: Tone = "") -> Cell:
    """An amount with its band."""
    if amount is None:
        return Cell("no price", tone="quiet")
    return build_cell(format_money(amount.value), format_compact_band(amount), tone=tone)


def build_items(title: str, texts: Iterable[Item | str]) -> Items | None:
    """A list, None when it is empty."""
    found = tuple(text if isinstance(text, Item) else Item(text) for text in texts)
    return Items(title, found) if found else None


def keep_blocks(*blocks: Block | None) -> tuple[Block, ...]:
    """The blocks that there are."""
    return tuple(block for block in blocks if block is not None)
