"""A plan as a document: `report`."""

from pathlib import Path

from archwright.catalog.load import load_catalog
from archwright.errors import ErrorLocation, UsageError
from archwright.home import write_atomic
from archwright.plan.plan_file import read_plan
from archwright.report.document_builder import build_document
from archwright.report.html import render_html
from archwright.report.pdf import render_pdf
from archwright.report.xlsx import render_xlsx

FORMATS = {".html": render_html, ".pdf": render_pdf, ".xlsx": render_xlsx}


def report(plan: str, *, output: str) -> Path:
    """Write one document for business and engineers, from the plan file and the shipped catalog only.

    The suffix of `output` selects the format. Raises UsageError AW-USE-65 for an unknown suffix, PlanFileError for a
    broken plan, MissingError AW-GET-01 without the extra `report`.
    """
    path = Path(output)
    write = FORMATS.get(path.suffix.lower())
    if write is None:
        hint = f"choose a file name that ends in one of {', '.join(FORMATS)}"
        raise UsageError(
            "AW-USE-65", f"{path.name!r} has no known report format", where=ErrorLocation(output), hint=hint
        )
    write_atomic(path, write(build_document(read_plan(Path(plan)), load_catalog())), mode=0o644)
    return path
