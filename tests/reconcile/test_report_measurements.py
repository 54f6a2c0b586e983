from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archwright.contract.evidence import Reconciliation
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.errors import ReconcileError
from archwright.reconcile.deviations import reconcile_plan, select_measurements
from archwright.reconcile.report_measurements import read_report_files

REPORTS = Path(__file__).parent / "tool_reports"


def compare(plan: Plan, *names: str) -> Reconciliation:
    reading = read_report_files(plan, [str(REPORTS / f"{name}.json") for name in names])
    return reconcile_plan(plan, select_measurements(reading.measurements), reading.gaps)


def verdicts(result: Reconciliation) -> dict[str, str]:
    return {one.metric: one.verdict for one in result.deviations if one.measured is not None}


@pytest.mark.parametrize("tool", ["aiperf", "inference-perf"])
def test_latency_is_assessed_at_the_planned_rate_and_throughput_is_not(null_plan: Plan, tool: str) -> None:
    result = compare(null_plan, f"{tool}-rate")
    assert verdicts(result) == {"ttft_s": "within", "tpot_s": "within", "tokens_per_s": "unknown"}
    (rate,) = (one for one in result.deviations if one.metric == "tokens_per_s")
    assert "other load" in rate.evidence and "predicted for 2 in flight" in rate.evidence
    assert result.coverage == 1.0


@pytest.mark.parametrize("tool", ["aiperf", "guidellm"])
def test_throughput_is_assessed_in_the_closed_loop(null_plan: Plan, tool: str) -> None:
    result = compare(null_plan, f"{tool}-concurrency")
    assert verdicts(result) == {"ttft_s": "unknown", "tpot_s": "unknown", "tokens_per_s": "within"}


def test_a_report_at_the_planned_load_precedes_the_others(null_plan: Plan) -> None:
    for names in (("guidellm-rate", "aiperf-rate"), ("aiperf-rate", "guidellm-rate")):
        result = compare(null_plan, *names, "guidellm-concurrency")
        assert verdicts(result) == {"ttft_s": "within", "tpot_s": "within", "tokens_per_s": "within"}


def test_other_lengths_of_requests_are_another_load(null_plan: Plan) -> None:
    load = null_plan.loads[0]
    longer = replace(null_plan, loads=(replace(load, input_tokens=replace(load.input_tokens, mean=30.0)),))
    result = compare(longer, "aiperf-rate")
    assert set(verdicts(result).values()) == {"unknown"} and result.coverage is None
    assert "20 input tokens, predicted for 30" in result.deviations[0].evidence


def test_a_value_outside_its_band_is_worse_or_better(null_plan: Plan) -> None:
    for factor, verdict in ((100.0, "better"), (0.01, "worse")):
        scaled = [
            replace(one, estimate=one.estimate.scaled(factor)) if one.metric == "ttft_s" else one
            for one in null_plan.predictions
        ]
        assert verdicts(compare(replace(null_plan, predictions=tuple(scaled)), "aiperf-rate"))["ttft_s"] == verdict


def test_a_report_of_another_model_is_refused(null_plan: Plan) -> None:
    other = replace(null_plan, loads=tuple(replace(load, model="other", workload="w") for load in null_plan.loads))
    with pytest.raises(ReconcileError) as caught:
        compare(other, "aiperf-rate")
    assert caught.value.code == "AW-REC-34" and "null-model" in caught.value.message


def test_files_that_are_no_reports_are_refused(null_plan: Plan, tmp_path: Path) -> None:
    csv = tmp_path / "report.csv"
    csv.write_text("Metric,avg\n")
    for file in (csv, tmp_path / "absent.json"):
        with pytest.raises(ReconcileError) as caught:
            read_report_files(null_plan, [str(file)])
        assert caught.value.code == "AW-REC-32" and "beside its CSV" in caught.value.hint


def write_result(path: Path, plan: Plan, **changes: Any) -> str:
    estimate = {"value": 1.0, "low": 1.0, "high": 1.0, "unit": "s"}
    measured = {"value": 0.05, "unit": "s", "statistic": "p50", "samples": 9, "window_s": 2.0}
    deviation: dict[str, Any] = {"prediction_id": "assistant.ttft_s.p50", "metric": "ttft_s", "workload": "assistant"}
    deviation |= {"predicted": estimate, "measured": measured, "verdict": "within", "evidence": "promql"}
    found = {"plan_digest": plan.digest, "coverage": 1.0, "deviations": [deviation]} | changes
    path.write_text(json.dumps({"url": "u", "reconciliation": found}))
    return str(path)


def test_a_result_of_bench_is_read_back(null_plan: Plan, tmp_path: Path) -> None:
    reading = read_report_files(null_plan, [write_result(tmp_path / "a.json", null_plan)])
    result = reconcile_plan(null_plan, select_measurements(reading.measurements), reading.gaps)
    # Judged again, by the plan that is given.
    assert verdicts(result) == {"ttft_s": "within"}
    other = read_report_files(null_plan, [write_result(tmp_path / "b.json", null_plan, plan_digest="0" * 64)])
    result = reconcile_plan(null_plan, select_measurements(other.measurements))
    assert verdicts(result) == {} and "another plan" in result.deviations[0].evidence
    with pytest.raises(ReconcileError) as caught:
        read_report_files(null_plan, [write_result(tmp_path / "c.json", null_plan, deviations=3)])
    assert caught.value.code == "AW-REC-33"
