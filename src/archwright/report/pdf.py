"""The report as PDF through typst. The document travels as JSON and is never read as markup: no text needs escaping.

Tagged for screen readers (PDF/UA-1), and the same bytes for the same plan: its date is the plan's.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from archwright.errors import require_extra
from archwright.report.document import Cell, Document, Item, spans

TEMPLATES = Path(__file__).parent / "templates"
# typst brings this face along, so that a page looks the same on every machine.
FACE = "Libertinus Serif"
UNBROKEN = re.compile(r"[^\s\u200b]{16,}")
BREAK_AFTER = re.compile(r"(?<=[/._=&?,:;(){}\[\]-])(?=[^\s])")
ZERO_WIDTH = "\u200b"
LONGEST = 24
FOOTER = 80


def pdf(document: Document) -> bytes:
    """Raises MissingError AW-GET-01 without the extra `report`."""
    with require_extra("report", "a report as PDF"):
        import typst  # noqa: PLC0415
    given, made_at = {"document": msgspec.json.encode(_plain(document)).decode()}, _made_at(document)
    compiler = typst.Compiler(TEMPLATES / "report.typ", root=TEMPLATES, sys_inputs=given)
    try:
        made = compiler.compile(format="pdf", timestamp=made_at, pdf_standards=["ua-1"])
    except typst.TypstError:
        # The standard refuses a script that no face on this machine can draw: tagged all the same, but not vouched for.
        made = compiler.compile(format="pdf", timestamp=made_at)
    assert isinstance(made, bytes)
    return made


def _made_at(document: Document) -> datetime:
    """The plan's time; one that is no time counts as the beginning of all."""
    try:
        made = datetime.fromisoformat(document.plan.created_at)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return made if made.tzinfo is not None else made.replace(tzinfo=UTC)


def _plain(document: Document) -> dict[str, object]:
    """What the template reads: texts as runs of (text, address), pictures with the face of the page."""
    return {
        "title": document.title,
        "headline": _breakable(document.title),
        "footer": document.title if len(document.title) <= FOOTER else document.title[:FOOTER] + "…",
        "subtitle": document.subtitle,
        "sentence": _runs(document.sentence),
        "facts": [_item(fact) for fact in document.facts],
        "face": FACE,
        # A decision fills its page; where there is none, what follows goes on below.
        "decided": document.plan.chosen is not None,
        "parts": [
            {
                "title": part.title,
                "chapters": [
                    {
                        "id": chapter.id,
                        "title": chapter.title,
                        "lead": _runs(chapter.lead),
                        "blocks": [_block(block._asdict()) for block in chapter.blocks],
                    }
                    for chapter in part.chapters
                ],
            }
            for part in document.parts
        ],
    }


def _block(block: dict[str, object]) -> dict[str, object]:
    made = dict(block)
    match block:
        case {"kind": "table", "rows": tuple() as rows, "columns": tuple() as columns}:
            made["rows"] = [[_cell(cell) for cell in row] for row in rows]
            made["columns"] = [column._asdict() for column in columns]
        case {"kind": "tiles", "tiles": tuple() as tiles}:
            made["tiles"] = [tile._asdict() for tile in tiles]
        case {"kind": "items", "items": tuple() as items}:
            made["items"] = [_item(item) for item in items]
        case {"kind": "figure", "svg": str() as svg}:
            made["svg"] = re.sub(r'font-family="[^"]*"', f'font-family="{FACE}"', svg)
    for name in ("text", "note"):
        if isinstance(made.get(name), str):
            made[name] = _runs(str(made[name]))
    return made


def _cell(cell: Cell) -> dict[str, object]:
    notes = [{"label": note.label, "runs": _runs(note.text)} for note in cell.notes]
    return {"runs": _runs(cell.text), "notes": notes, "tone": cell.tone}


def _item(item: Item) -> dict[str, object]:
    return {"lead": _runs(item.lead), "runs": _runs(item.text)}


def _runs(text: str) -> list[tuple[str, str]]:
    return [(_breakable(span.text), span.url) for span in spans(text)]


def _breakable(text: str) -> str:
    """Long words may break after their punctuation, else anywhere: no name is wider than its cell."""
    return UNBROKEN.sub(lambda match: _broken(match.group()), text)


def _broken(word: str) -> str:
    pieces = BREAK_AFTER.sub(ZERO_WIDTH, word).split(ZERO_WIDTH)
    return ZERO_WIDTH.join(
        ZERO_WIDTH.join(piece[at : at + LONGEST] for at in range(0, len(piece), LONGEST)) for piece in pieces
    )
