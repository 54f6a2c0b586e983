"""Report as PDF through typst. The document is passed as JSON and never read as markup, so no text needs escaping.

The PDF is tagged for screen readers (PDF/UA-1). The same plan gives the same bytes: the date is that of the plan.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from archwright.errors import require_extra
from archwright.report.document import Cell, Chapter, Document, Item, split_links

TEMPLATES = Path(__file__).parent / "templates"
# typst includes this font, so a page looks the same on every machine.
FONT_FACE = "Libertinus Serif"
UNBROKEN = re.compile(r"[^\s\u200b]{16,}")
BREAK_AFTER = re.compile(r"(?<=[/._=&?,:;(){}\[\]-])(?=[^\s])")
ZERO_WIDTH = "\u200b"
LONGEST_PIECE = 24
FOOTER_LENGTH = 80


def render_pdf(document: Document) -> bytes:
    """Raises MissingError AW-GET-01 without the extra `report`."""
    compiler, made_at = _make_compiler(document), _creation_time(document)
    try:
        made = compiler.compile(format="pdf", timestamp=made_at, pdf_standards=["ua-1"])
    except RuntimeError:  # typst.TypstError
        # PDF/UA-1 refuses a script without a font on this machine. The PDF is tagged, but does not claim the standard.
        made = compiler.compile(format="pdf", timestamp=made_at)
    assert isinstance(made, bytes)
    return made


def _make_compiler(document: Document) -> Any:
    """A typst compiler of the document, which can also be queried."""
    with require_extra("report", "a report as PDF"):
        import typst  # noqa: PLC0415
    given = {"document": msgspec.json.encode(_to_template_data(document)).decode()}
    return typst.Compiler(TEMPLATES / "report.typ", root=TEMPLATES, sys_inputs=given)


def _creation_time(document: Document) -> datetime:
    """The time of the plan; the epoch if it is not a valid time."""
    try:
        made = datetime.fromisoformat(document.plan.created_at)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return made if made.tzinfo is not None else made.replace(tzinfo=UTC)


def _to_template_data(document: Document) -> dict[str, object]:
    """Data of the template: texts as runs of (text, address), pictures with the font of the page."""
    return {
        "title": document.title,
        "headline": _make_breakable(document.title),
        "footer": document.title if len(document.title) <= FOOTER_LENGTH else document.title[:FOOTER_LENGTH] + "…",
        "subtitle": document.subtitle,
        "sentence": _text_runs(document.sentence),
        "facts": [_item_data(fact) for fact in document.facts],
        "face": FONT_FACE,
        "board": [_chapter_data(chapter) for chapter in document.board],
        "parts": [
            {"title": part.title, "chapters": [_chapter_data(chapter) for chapter in part.chapters]}
            for part in document.parts
        ],
    }


def _chapter_data(chapter: Chapter) -> dict[str, object]:
    blocks = [_block_data(block._asdict()) for block in chapter.blocks]
    return {"id": chapter.id, "title": chapter.title, "lead": _text_runs(chapter.lead), "blocks": blocks}


def _block_data(block: dict[str, object]) -> dict[str, object]:
    made = dict(block)
    match block:
        case {"kind": "table", "rows": tuple() as rows, "columns": tuple() as columns}:
            made["rows"] = [[_cell_data(cell) for cell in row] for row in rows]
            made["columns"] = [column._asdict() for column in columns]
        case {"kind": "tiles", "tiles": tuple() as tiles}:
            made["tiles"] = [tile._asdict() for tile in tiles]
        case {"kind": "items", "items": tuple() as items}:
            made["items"] = [_item_data(item) for item in items]
        case {"kind": "figure", "svg": str() as svg}:
            made["svg"] = re.sub(r'font-family="[^"]*"', f'font-family="{FONT_FACE}"', svg)
    return made | {name: _text_runs(text) for name in ("text", "note") if isinstance(text := made.get(name), str)}


def _cell_data(cell: Cell) -> dict[str, object]:
    notes = [{"label": note.label, "runs": _text_runs(note.text)} for note in cell.notes]
    return {"runs": _text_runs(cell.text), "notes": notes, "tone": cell.tone}


def _item_data(item: Item) -> dict[str, object]:
    return {"lead": _text_runs(item.lead), "runs": _text_runs(item.text)}


def _text_runs(text: str) -> list[tuple[str, str]]:
    return [(_make_breakable(span.text), span.url) for span in split_links(text)]


def _make_breakable(text: str) -> str:
    """Let long words break after punctuation, else anywhere, so that no name is wider than its cell."""

    def break_word(match: re.Match[str]) -> str:
        pieces = BREAK_AFTER.sub(ZERO_WIDTH, match.group()).split(ZERO_WIDTH)
        size = LONGEST_PIECE
        return ZERO_WIDTH.join(p[at : at + size] for p in pieces for at in range(0, len(p), size))

    return UNBROKEN.sub(break_word, text)
