"""What a reader of a plan sees, in each renderer. After a change of texts run `python -m tests.golden`."""

from __future__ import annotations

import difflib

import pytest
from tests.golden import GOLDENS, find_golden, read_plan_of, render_golden

from archwright.plan.plan_file import decode_plan, encode_plan

from ..planned import Planned


@pytest.mark.parametrize(("name", "renderer"), GOLDENS)
def test_the_text_of_a_plan_is_that_of_its_golden_file(name: str, renderer: str, planned: Planned) -> None:
    expected = find_golden(name, renderer).read_text(encoding="utf-8").splitlines()
    actual = render_golden(read_plan_of(name, planned), renderer).splitlines()
    difference = difflib.unified_diff(expected, actual, "golden", "today", lineterm="", n=0)
    assert list(difference) == [], "a text changed; if it should, run: python -m tests.golden"


def test_a_plan_and_its_file_have_the_same_text(planned: Planned) -> None:
    plan = read_plan_of("startup", planned)
    reread = decode_plan(encode_plan(plan), "plan.json")
    assert render_golden(reread, "plan") == render_golden(plan, "plan")
