"""Real plans of the four examples: every format holds them, and the page stays small."""

from __future__ import annotations

from functools import partial

import pytest
from tests.examples import read_example

from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.needs.reader import parse_needs
from archwright.plan.planner import make_plan
from archwright.report.document_builder import build_document
from archwright.report.html import render_html
from archwright.report.pdf import render_pdf
from archwright.report.xlsx import render_xlsx

from ..plan.conftest import MACHINE, NOW
from ..planned import Planned


@pytest.fixture(scope="session", params=["desk", "startup", "clinic", "manufacturer"])
def real_plan(request: pytest.FixtureRequest, planned: Planned) -> Plan:
    needs, source = parse_needs(read_example(request.param).encode(), "needs.yaml", load_catalog())
    made = partial(make_plan, needs, source, load_catalog(), MACHINE, NOW)
    return planned.find(f"{source.digest} {MACHINE} {NOW}", made, keep=True)


def test_a_real_plan_fills_every_format(real_plan: Plan) -> None:
    document = build_document(real_plan, load_catalog())
    page = render_html(document)
    assert len(page) < 500_000
    assert render_pdf(document).startswith(b"%PDF")
    assert render_xlsx(document).startswith(b"PK")


def test_everything_a_real_plan_says_is_on_the_page(real_plan: Plan) -> None:
    """Options, cost lines, promises, controls and sections of the choice: none is left out for want of room."""
    text = render_html(build_document(real_plan, load_catalog())).decode()
    chosen = next(option for option in real_plan.options if option.name == real_plan.chosen)
    names = [option.name for option in real_plan.options] + [control.id for control in real_plan.controls]
    names += [promise.id for promise in real_plan.predictions] + [pool.name for pool in chosen.pools]
    names += [section.title for section in real_plan.sections]
    missing = [name for name in names if f">{name}<" not in text and name not in text]
    assert missing == []
    assert text.count('<section id="') == text.count("<h2 id=")
