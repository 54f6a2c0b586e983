"""Reports that aiperf 0.13.0, guidellm 0.8.1 and inference-perf 0.7.0 wrote of runs against our gateway with the null
engine (a first token after 20 ms, then one every 5 ms). Only fields that are never read were removed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from archwright.errors import ReconcileError
from archwright.reconcile.tool_reports import list_formats, read_tool_reports

REPORTS = Path(__file__).parent / "tool_reports"


def load(name: str) -> Any:
    return json.loads((REPORTS / f"{name}.json").read_bytes())


@pytest.mark.parametrize("tool", ["aiperf", "guidellm", "inference-perf"])
def test_each_tool_measures_the_null_engine_alike(tool: str) -> None:
    (report,) = read_tool_reports(load(f"{tool}-rate"), "x.json")
    assert report.is_open
    assert 0.0045 < report.values["tpot_s", "p50"] < 0.0055
    assert 0.02 < report.values["ttft_s", "p50"] < 0.12
    assert report.values["ttft_s", "p50"] <= report.values["ttft_s", "p95"] <= report.values["ttft_s", "p99"]
    assert report.numbers["input_tokens"] == pytest.approx(20, rel=0.02) and report.numbers["output_tokens"] == 12
    assert report.samples >= 24 and not report.gaps
    rate = report.numbers["requests_per_s"]
    assert rate is not None
    assert report.values["tokens_per_s", "rate"] == pytest.approx(12 * rate, rel=0.02)


def test_the_load_is_what_ran_and_not_what_was_asked() -> None:
    """guidellm was asked for 4 requests/s and sent 9.3."""
    document = load("guidellm-rate")
    assert document["benchmarks"][0]["config"]["strategy"]["rate"] == 4.0
    assert read_tool_reports(document, "x")[0].numbers["requests_per_s"] == pytest.approx(9.33, abs=0.01)


@pytest.mark.parametrize("tool", ["aiperf", "guidellm"])
def test_a_closed_loop_states_its_concurrency(tool: str) -> None:
    (report,) = read_tool_reports(load(f"{tool}-concurrency"), "x")
    assert (report.is_open, report.numbers["concurrency"]) == (False, 2)


def test_percentiles_over_tokens_are_computed_again_over_requests() -> None:
    """A long slow answer is most of the tokens, and one of three requests."""
    document = load("guidellm-rate")
    run = document["benchmarks"][0]
    run["requests"]["successful"] = [
        {"time_to_first_token_ms": 10.0, "inter_token_latency_ms": value, "output_tokens": tokens}
        for value, tokens in ((5.0, 10), (6.0, 10), (50.0, 5000))
    ]
    run["metrics"]["inter_token_latency_ms"]["successful"]["percentiles"]["p50"] = 50.0
    (report,) = read_tool_reports(document, "x")
    assert report.values["tpot_s", "p50"] == 0.006
    assert "converted" in report.definitions["tpot_s"]


def test_what_cannot_be_converted_is_reported() -> None:
    document = load("guidellm-rate")
    document["benchmarks"][0]["requests"] = None
    (report,) = read_tool_reports(document, "x")
    assert "cannot be converted" in report.gaps["tpot_s"]
    assert ("tpot_s", "p50") not in report.values
    document = load("inference-perf-rate")
    document["successes"]["latency"]["time_per_output_token"] = None
    (report,) = read_tool_reports(document, "x")
    assert "neither can be converted" in report.gaps["tpot_s"]
    assert ("tpot_s", "p95") not in report.values


def test_broken_reports_are_refused() -> None:
    with pytest.raises(ReconcileError) as caught:
        read_tool_reports({"hello": 1}, "x.json")
    assert caught.value.code == "AW-REC-32"
    for document, field in ((load("aiperf-rate"), "benchmark_duration"), (load("inference-perf-rate"), "successes")):
        document[field] = {}
        with pytest.raises(ReconcileError) as caught:
            read_tool_reports(document, "x.json")
        assert caught.value.code == "AW-REC-33"
        assert field in caught.value.message


def test_a_format_names_its_source() -> None:
    for row in list_formats():
        assert row["source"] and row["as_of"] and row["tpot_definition"], row["tool"]


@pytest.mark.parametrize("tool", ["aiperf", "guidellm", "inference-perf"])
@pytest.mark.parametrize("value", ["NaN", "x", -1, 1e999, [], [1], {}, {"a": 1}, None, True, "9" * 400])
def test_a_field_of_another_form_is_an_error_and_never_a_number(tool: str, value: Any) -> None:
    """Each field, one after the other, is replaced by something else."""
    for path in list_paths(load(f"{tool}-rate")):
        document = load(f"{tool}-rate")
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        try:
            reports = read_tool_reports(document, "x.json")
        except ReconcileError:
            continue
        assert all(0 <= number < math.inf for report in reports for number in report.values.values()), path


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = value.keys() if isinstance(value, dict) else range(min(2, len(value))) if isinstance(value, list) else ()
    return [one for key in keys for one in ((*path, key), *list_paths(value[key], (*path, key)))]
