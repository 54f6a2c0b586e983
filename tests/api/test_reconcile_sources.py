"""`reconcile` from reports and bills: definitions are named, other loads are not judged, and the gate has two sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright import api
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.errors import ReconcileError
from archwright.home import Home
from archwright.plan.plan_file import write_plan

from ..command_line import CommandLine

REPORTS = Path(__file__).parents[1] / "reconcile" / "tool_reports"
RATE, CONCURRENCY = (str(REPORTS / f"aiperf-{name}.json") for name in ("rate", "concurrency"))


@pytest.fixture
def plan_file(null_plan: Plan, home: Home, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    write_plan(null_plan, path)
    return path


def test_the_output_names_definitions_and_other_loads(plan_file: Path, cli: CommandLine) -> None:
    text = " ".join(cli.text(f"reconcile {plan_file} --report {RATE}").split())
    assert "inter token latency of a request = (last chunk - first token) / (tokens - 1)" in text
    assert "not judged: assistant.tokens_per_s.rate: other load: 4.17 requests/s; predicted for 2 in flight" in text
    assert "2 of 2 measured predictions inside their interval" in text


def test_the_gate_passes_inside_the_band(plan_file: Path) -> None:
    result = api.reconcile(str(plan_file), report=[RATE, CONCURRENCY], gate=True)
    assert [one.verdict for one in result.deviations if one.measured] == ["within"] * 3


@pytest.mark.parametrize(("factor", "verdict"), [(20.0, "better"), (0.05, "worse")])
def test_the_gate_fails_at_both_ends(null_plan: Plan, plan_file: Path, factor: float, verdict: str) -> None:
    moved = [
        replace(one, estimate=one.estimate.scaled(factor)) if one.metric == "tpot_s" else one
        for one in null_plan.predictions
    ]
    write_plan(replace(null_plan, predictions=tuple(moved)), plan_file)
    with pytest.raises(ReconcileError) as caught:
        api.reconcile(str(plan_file), report=[RATE], gate=True)
    assert caught.value.code == "AW-REC-38" and f"assistant.tpot_s.p50 {verdict}" in caught.value.message
    assert caught.value.result is not None


def test_a_gate_without_an_assessed_value_fails(null_plan: Plan, plan_file: Path) -> None:
    write_plan(replace(null_plan, predictions=null_plan.predictions[2:]), plan_file)
    with pytest.raises(ReconcileError) as caught:
        api.reconcile(str(plan_file), report=[RATE], gate=True)
    assert "no prediction was measured" in caught.value.message
