"""Real plans of the four examples: every format holds them, and the page stays small."""

from __future__ import annotations

import json
import re
from functools import partial
from html import escape

import pytest
from tests.examples import read_example

from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.needs.reader import parse_needs
from archwright.plan.planner import make_plan
from archwright.report.bill import build_bill, sum_years
from archwright.report.delivery_chapters import list_tasks
from archwright.report.document import Document
from archwright.report.document_builder import build_document
from archwright.report.html import render_html
from archwright.report.pdf import _make_compiler, render_pdf
from archwright.report.xlsx import render_xlsx

from ..plan.conftest import MACHINE, NOW
from ..planned import Planned


@pytest.fixture(
    scope="session", params=["desk", "startup", "clinic", pytest.param("manufacturer", marks=pytest.mark.nightly)]
)
def real_plan(request: pytest.FixtureRequest, planned: Planned) -> Plan:
    needs, source = parse_needs(read_example(request.param).encode(), "needs.yaml", load_catalog())
    made = partial(make_plan, needs, source, load_catalog(), MACHINE, NOW)
    return planned.find(f"{source.digest} {MACHINE} {NOW}", made, keep=True)


@pytest.fixture(scope="session")
def real_document(real_plan: Plan) -> Document:
    return build_document(real_plan, load_catalog())


def test_a_real_plan_fills_every_format(real_document: Document) -> None:
    """The board has two pages; the engineer's part starts on the third."""
    assert len(render_html(real_document)) < 500_000
    assert render_pdf(real_document).startswith(b"%PDF")
    assert render_xlsx(real_document).startswith(b"PK")
    assert json.loads(_make_compiler(real_document).query("<engineers-start>", field="value", one=True)) == 3


def test_everything_a_real_plan_says_is_on_the_page(real_plan: Plan, real_document: Document) -> None:
    """Options, predictions, controls and pools of the choice: none is left out for want of room."""
    text = render_html(real_document).decode().replace("\u00a0", " ")
    chosen = next(option for option in real_plan.options if option.name == real_plan.chosen)
    names = [option.name for option in real_plan.options] + [control.demand for control in real_plan.controls]
    names += [promise.id for promise in real_plan.predictions] + [pool.name for pool in chosen.pools]
    missing = [name for name in names if escape(name) not in text]
    assert missing == []
    assert text.count('<section id="') == text.count("<h2 id=")


def test_what_is_open_is_a_task_and_no_limit_of_this_tool(real_plan: Plan, real_document: Document) -> None:
    text = " ".join(re.sub(r"<[^>]+>", " ", render_html(real_document).decode()).split())
    assert not re.search(
        r"this release|later release|comes? later|not implemented|paperwork|proves nothing", text, re.I
    )
    assert not re.search(r"(?<![\d.,])0\.00(?!\d)|\bnan\b|\binf\b|\bNone\b", text)
    tasks = list_tasks(real_plan, real_plan.chosen_option)
    assert len(tasks) > len(real_plan.controls)
    phases = {"procurement", "build", "pilot", "growing use"}
    assert all(task.owner and task.due in phases and "{" not in task.text for task in tasks)


def test_bill_and_years_add_up_to_the_total_and_each_line_has_its_source(real_plan: Plan) -> None:
    option = real_plan.chosen_option
    assert option is not None and option.total_cost is not None
    lines = build_bill(real_plan, option)
    for line in lines:
        assert line.source and line.as_of and line.confidence, line.item
        assert line.quantity * line.unit_price[1] * line.times == pytest.approx(line.amount), line.item
        assert line.unit_price[0] <= line.unit_price[1] <= line.unit_price[2], line.item
    years = sum_years(real_plan, option)
    for total in (sum(line.amount for line in lines), sum(year.total for year in years)):
        assert total == pytest.approx(option.total_cost.value, rel=1e-6, abs=1e-6)
    for year in years:
        parts = (year.purchases, year.running, year.staff, year.resale)
        assert sum(part or 0.0 for part in parts) == pytest.approx(year.total, rel=1e-6, abs=1e-6)
    assert sum(year.purchases or 0.0 for year in years) == pytest.approx(option.capex.value if option.capex else 0.0)


def test_an_older_plan_file_is_a_document(real_plan: Plan) -> None:
    """Without payments by year, prices as numbers, choices and limits; the page limit holds."""
    options = tuple(
        replace(one, cost_without_staff=None, cost_lines=tuple(replace(line, by_year=()) for line in one.cost_lines))
        for one in real_plan.options
    )
    bases = tuple(replace(basis, estimate=None) for basis in real_plan.bases)
    decision = replace(real_plan.decision, choices=(), binding=(), schedules=())
    old = build_document(replace(real_plan, options=options, bases=bases, decision=decision), load_catalog())
    assert json.loads(_make_compiler(old).query("<engineers-start>", field="value", one=True)) == 3
    assert "Make the plan again" in render_html(old).decode() or not old.plan.pools


def test_a_request_for_quotation_states_machines_and_dates(real_plan: Plan, real_document: Document) -> None:
    bought = [p for p in real_document.positions if p.unit == "machines"]
    machines = {p.machine for p in (real_plan.chosen_option or real_plan.options[0]).purchases if p.kind == "bought"}
    assert {position.item for position in bought} >= machines
    said = " ".join(f"{position.item} {position.specification}" for position in real_document.positions)
    assert not re.search(r"\b(USD|EUR|GBP)\b", said), "no price of the plan"
    assert all("kW" in position.specification and "bit/s" in position.specification for position in bought)
    assert all(position.quantity > 0 and position.delivery for position in real_document.positions)
