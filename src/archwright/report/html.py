"""Report as one HTML file: no script, no network request, all texts escaped by the template engine."""

from pathlib import Path

from archwright.errors import require_extra
from archwright.report.document import Document, split_links

TEMPLATES = Path(__file__).parent / "templates"


def render_html(document: Document) -> bytes:
    """Raises MissingError AW-GET-01 without the extra `report`."""
    with require_extra("report", "a report as HTML"):
        import jinja2  # noqa: PLC0415
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    template = environment.get_template("report.html.j2")
    text: str = template.render(document=document, spans=split_links, style=style)
    return text.encode()
