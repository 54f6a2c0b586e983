"""A plan for its readers: `explain` on the terminal, `report` as a file, and the view that `plan` prints."""

from pathlib import Path

from rich.console import RenderableType

from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.errors import ErrorLocation, UsageError
from archwright.home import write_atomic
from archwright.plan.explain.explanation import explain_plan, is_named
from archwright.plan.plan_file import read_plan
from archwright.report.board import list_board_chapters
from archwright.report.document_builder import build_document, engineer_chapters
from archwright.report.html import render_html
from archwright.report.pdf import render_pdf
from archwright.report.terminal import render_terminal, render_text
from archwright.report.xlsx import render_xlsx

FORMATS = {".html": render_html, ".pdf": render_pdf, ".xlsx": render_xlsx}


def report(plan: str, *, output: str) -> Path:
    """Write one document for business and engineers, from the plan file and the shipped catalog only.

    The suffix of `output` selects the format. Raises UsageError AW-USE-65 for an unknown suffix, PlanFileError for a
    broken plan, MissingError AW-GET-01 without the extra `report`.
    """
    path = Path(output)
    render = FORMATS.get(path.suffix.lower())
    if render is None:
        hint = f"choose a file name that ends in one of {', '.join(FORMATS)}"
        raise UsageError(
            "AW-USE-65", f"{path.name!r} has no known report format", where=ErrorLocation(output), hint=hint
        )
    document = build_document(read_plan(Path(plan)), load_catalog())
    write_atomic(path, render(document), mode=0o644)
    return path


def explain(plan: str, thing: str | None = None) -> str:
    """Return the engineer's chapters of a plan, or explain one chapter, number, option, workload or control of it.

    Raises UsageError AW-USE-21 if the plan does not contain the name.
    """
    shown = read_plan(Path(plan))
    chapters = engineer_chapters(build_document(shown, load_catalog()))
    if thing is None:
        return render_text(chapters.values())
    if thing in chapters and not is_named(shown, thing):
        return render_text([chapters[thing]])
    return explain_plan(shown, thing, chapters)


def view_board(plan: Plan) -> RenderableType:
    """Return the board's view of a plan for a terminal."""
    return render_terminal(list_board_chapters(plan))
