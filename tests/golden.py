"""Write the golden files: the text of each renderer of a plan, one file for each plan and renderer.

    python -m tests.golden

Read the difference in git before a commit: it is what readers of a plan get to see.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pypdfium2

from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.needs.reader import parse_needs
from archwright.plan.planner import make_plan
from archwright.report.board import list_board_chapters
from archwright.report.document import Document
from archwright.report.document_builder import build_document, engineer_chapters
from archwright.report.html import render_html
from archwright.report.pdf import render_pdf
from archwright.report.terminal import render_text
from archwright.report.xlsx import render_xlsx

from .examples import read_example
from .plan.conftest import MACHINE, NOW
from .planned import Planned
from .report.full_plan import BOARD
from .report.workbook_reader import Workbook

FOLDER = Path(__file__).parent / "report" / "golden"
EXAMPLES = ("desk", "startup", "clinic", "manufacturer")
# Digests of the plan, the needs and the catalog change with every fact.
DIGEST = re.compile(r"\b[0-9a-f]{12}\b")
# Elements of a page that start a line.
LINES = {"h1", "h2", "h3", "p", "tr", "li", "dt", "caption", "figcaption", "td", "th", "svg"}
# A row per month says little: the months of the first year stand for them.
SHOWN_MONTHS = 13


def view_plan(plan: Plan) -> str:
    """The board's view, which `plan` prints."""
    return render_text(list_board_chapters(plan))


def view_explanation(plan: Plan) -> str:
    """The engineer's view, which `explain` prints."""
    return render_text(engineer_chapters(document_of(plan)).values())


def view_html(plan: Plan) -> str:
    page = PageText()
    page.feed(render_html(document_of(plan)).decode())
    return page.text


def view_pdf(plan: Plan) -> str:
    pages = pypdfium2.PdfDocument(render_pdf(document_of(plan)))
    texts = [page.get_textpage().get_text_range() for page in pages]
    return "\n".join(text.replace("\r", "").replace("\u200b", "") for text in texts)


def view_workbook(plan: Plan) -> str:
    workbook = Workbook(render_xlsx(document_of(plan)))
    lines: list[str] = []
    for name in workbook.names:
        end = SHOWN_MONTHS if name == "By month" else None
        lines += [f"# {name}", *workbook.list_lines(name)[:end]]
    return "\n".join(lines)


def document_of(plan: Plan) -> Document:
    return build_document(plan, load_catalog())


class PageText(HTMLParser):
    """The text of a page, a line for each block, without the style and the texts of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._hidden = 0

    @property
    def text(self) -> str:
        return "\n".join(self._lines)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("style", "svg", "title"):
            self._hidden += 1
        if tag in LINES:
            self._lines.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "svg", "title"):
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        words = " ".join(data.split())
        if words and not self._hidden:
            self._lines.append(f"{self._lines.pop()} {words}" if self._lines else words)


Renderer = Callable[[Plan], str]
# The example that has everything, in each renderer.
FULL_VIEWS: dict[str, Renderer] = {
    "plan": view_plan,
    "explain": view_explanation,
    "html": view_html,
    "pdf": view_pdf,
    "workbook": view_workbook,
}
# The plans of real needs hold hundreds of facts of the catalog: the board's view says what changes for a reader.
EXAMPLE_VIEWS: dict[str, Renderer] = {"plan": view_plan}
GOLDENS = [
    *(("full", renderer) for renderer in FULL_VIEWS),
    *((example, renderer) for example in EXAMPLES for renderer in EXAMPLE_VIEWS),
]


def render_golden(plan: Plan, renderer: str) -> str:
    """Return the text of a golden file: lines without empty ones, blanks at their ends and digests."""
    text = DIGEST.sub("(digest)", FULL_VIEWS[renderer](plan))
    lines = (line.strip() if renderer in ("html", "pdf") else line.rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def find_golden(name: str, renderer: str) -> Path:
    return FOLDER / f"{name}.{renderer}.txt"


def read_plan_of(name: str, planned: Planned | None = None) -> Plan:
    """Return the plan of an example, kept in `planned` for the other workers of a test run; `full`: of full_plan.py."""
    catalog = load_catalog()
    if name == "full":
        return replace(BOARD, catalog_digest=catalog.digest)
    needs, source = parse_needs(read_example(name).encode(), "needs.yaml", catalog)

    def plan() -> Plan:
        return make_plan(needs, source, catalog, MACHINE, NOW)

    if planned is None:
        return plan()
    return planned.find(f"{source.digest} {MACHINE} {NOW}", plan, keep=True)


def list_goldens() -> Iterator[tuple[Path, str]]:
    """Yield each golden file with its text of today."""
    plans = {name: read_plan_of(name) for name in ("full", *EXAMPLES)}
    for name, renderer in GOLDENS:
        yield find_golden(name, renderer), render_golden(plans[name], renderer)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path, text in list_goldens():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
