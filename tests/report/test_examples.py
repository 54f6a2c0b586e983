"""Real plans of the four examples: every format holds them, and the page stays small."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest

from archwright.catalog.load import load
from archwright.contract.estimate import within_factor
from archwright.contract.plan import MachineFacts, Plan
from archwright.needs.reader import parse
from archwright.needs.template import template
from archwright.plan.make import make_plan
from archwright.report.compose import document_of
from archwright.report.html import html
from archwright.report.pdf import pdf
from archwright.report.xlsx import xlsx

from ..planned import Planned

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
MACHINE = MachineFacts(
    cores_usable=2,
    memory_bytes=8 << 30,
    memory_bandwidth_bytes_per_s=within_factor(9e9, 1.1, "bytes/s"),
    matmul_flops_per_s=within_factor(90e9, 1.1, "FLOP/s"),
    disk_write_bytes_per_s=within_factor(2e8, 1.2, "bytes/s"),
    disk_free_bytes=50 << 30,
    isa="avx512",
    gpus=(),
    probed_at=1.7e9,
)


@pytest.fixture(scope="session", params=["desk", "startup", "clinic", "manufacturer"])
def real_plan(request: pytest.FixtureRequest, planned: Planned) -> Plan:
    needs, source = parse(template(request.param).encode(), "needs.yaml", load())
    made = partial(make_plan, needs, source, load(), MACHINE, NOW)
    return planned.find(f"{source.digest} {MACHINE} {NOW}", made, keep=True)


def test_a_real_plan_fills_every_format(real_plan: Plan) -> None:
    document = document_of(real_plan, load())
    page = html(document)
    assert len(page) < 500_000
    assert pdf(document).startswith(b"%PDF")
    assert xlsx(document).startswith(b"PK")


def test_everything_a_real_plan_says_is_on_the_page(real_plan: Plan) -> None:
    """Options, cost lines, promises, controls and sections of the choice: none is left out for want of room."""
    text = html(document_of(real_plan, load())).decode()
    chosen = next(option for option in real_plan.options if option.name == real_plan.chosen)
    names = [option.name for option in real_plan.options] + [control.id for control in real_plan.controls]
    names += [promise.id for promise in real_plan.predictions] + [pool.name for pool in chosen.pools]
    names += [section.title for section in real_plan.sections]
    missing = [name for name in names if f">{name}<" not in text and name not in text]
    assert missing == []
    assert text.count('<section id="') == text.count("<h2 id=")
