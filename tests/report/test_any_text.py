"""Whatever the needs name things, every format shows it as text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from archwright.catalog.load import load_catalog
from archwright.contract.decision import Decision
from archwright.contract.plan import Plan, WorkloadPlan
from archwright.contract.record import replace
from archwright.report.document_builder import build_document
from archwright.report.html import render_html
from archwright.report.pdf import render_pdf
from archwright.report.xlsx import render_xlsx

from ..drawing import draw
from .full_plan import BOARD, HYBRID
from .test_html import Page
from .workbook_reader import Workbook

SHARP = st.sampled_from(
    ["<", ">", "&", '"', "'", "#", "$", "@", "=", "\\", "`", "{{", "{%", "[", "]", "</", "\n", "\x00"]
)
TAGS = """html head meta title style body a header p h1 dl div dt dd nav ol li main section h2 h3 span ul b aside figure
figcaption table caption colgroup col thead tbody tr th td footer svg rect line text polyline polygon circle"""
TEXT = st.lists(st.one_of(SHARP, st.text(max_size=6)), max_size=12).map("".join)


def named(text: str) -> Plan:
    option = replace(HYBRID, name=text, notes=(text,), pools=(), purchases=(), models={text: text}, regions=(text,))
    workloads = (WorkloadPlan(name=text, model=text, pools=()),)
    plain = replace(BOARD, decision=Decision(), sections=(), predictions=(), bases=(), controls=(), pools=())
    return replace(plain, organisation=text, chosen=text, options=(option,), workloads=workloads, assumptions=(text,))


@given(TEXT)
@draw(15, 40)
def test_a_page_and_a_workbook_hold_any_name(text: str) -> None:
    document = build_document(named(text), load_catalog())
    page = Page(render_html(document))
    assert {name for name, _ in page.elements} <= set(TAGS.split())
    assert document.plan.organisation.split() == page.text[page.text.index(document.title)].split()[4:]
    cells = Workbook(render_xlsx(document)).cells("Assumptions")
    assert cells["A4"].formula is None


@given(TEXT)
@draw(4, 8)
def test_a_pdf_holds_any_name(text: str) -> None:
    assert render_pdf(build_document(named(text), load_catalog())).startswith(b"%PDF")
