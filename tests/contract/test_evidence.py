"""Queries render to PromQL, verdicts follow from band and measurement, measurements print."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.contract import evidence
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.record import as_dict

W = {"workload": "chat"}


def query(
    metric: str, statistic: evidence.Statistic, labels: dict[str, str] | None = None, window_s: float = 45.0
) -> evidence.Query:
    return evidence.Query(metric=metric, labels=W if labels is None else labels, statistic=statistic, window_s=window_s)


SHORT = {
    "{chat}": '{workload="chat"}',
    "{ttft}": "archwright_ttft_seconds",
    "{requests}": "archwright_requests_total",
    "{memory}": "archwright_memory_bytes",
    "{train}": "archwright_training_seconds",
}


@pytest.mark.parametrize(
    ("metric", "statistic", "expected"),
    [
        ("ttft_s", "p95", "histogram_quantile(0.95, sum by (le) (increase({ttft}_bucket{chat}[45s])))"),
        ("ttft_s", "max", "histogram_quantile(1.0, sum by (le) (increase({ttft}_bucket{chat}[45s])))"),
        ("ttft_s", "mean", "sum(increase({ttft}_sum{chat}[45s])) / sum(increase({ttft}_count{chat}[45s]))"),
        ("ttft_s", "rate", "sum(rate({ttft}_sum{chat}[45s]))"),
        ("tokens_per_s", "rate", "sum(rate(archwright_output_tokens_total{chat}[45s]))"),
        ("requests", "last", "sum(increase({requests}{chat}[45s]))"),
        (
            "requests",
            "share",
            '1 - (sum(increase({requests}{workload="chat",status=~"failed|rejected"}[45s])) or vector(0))'
            ' / sum(increase({requests}{workload="chat",status!="limited"}[45s]))',
        ),
        ("peak_memory_bytes", "max", "max_over_time(sum({memory}{chat})[45s:1s])"),
        ("peak_memory_bytes", "mean", "avg_over_time(sum({memory}{chat})[45s:1s])"),
        ("peak_memory_bytes", "p50", "quantile_over_time(0.5, sum({memory}{chat})[45s:1s])"),
        ("peak_memory_bytes", "last", "sum({memory}{chat})"),
        ("train_s", "max", "max(last_over_time({train}{chat}[45s]))"),
        ("train_s", "last", "max(last_over_time({train}{chat}[45s]))"),
        ("train_s", "mean", "avg(last_over_time({train}{chat}[45s]))"),
        ("train_s", "p50", "quantile(0.5, last_over_time({train}{chat}[45s]))"),
    ],
)
def test_promql(metric: str, statistic: evidence.Statistic, expected: str) -> None:
    for short, text in SHORT.items():
        expected = expected.replace(short, text)
    assert query(metric, statistic).promql() == expected


def test_the_share_of_all_requests_needs_no_labels() -> None:
    assert query("requests", "share", {}).promql() == (
        '1 - (sum(increase(archwright_requests_total{status=~"failed|rejected"}[45s])) or vector(0))'
        ' / sum(increase(archwright_requests_total{status!="limited"}[45s]))'
    )
    assert evidence.determine_verdict("requests", within_factor(0.9, 1.01, "share"), 0.95) == "better"


def test_promql_over_an_engines_series_and_labels() -> None:
    rendered = query("ttft_s", "p50").promql("vllm:time_to_first_token_seconds", {"model_name": "m", "engine": "0"})
    assert 'vllm:time_to_first_token_seconds_bucket{engine="0",model_name="m"}[45s]' in rendered
    assert query("disk_bytes", "last", {}).promql() == "sum(archwright_disk_bytes)"


def test_promql_windows_are_whole_seconds_and_never_zero() -> None:
    assert "[1s]" in query("tokens_per_s", "rate", window_s=0.2).promql()
    assert "[12s]" in query("tokens_per_s", "rate", window_s=12.4).promql()


def test_promql_for_the_number_of_samples() -> None:
    assert (
        query("tpot_s", "p50").promql_samples() == 'sum(increase(archwright_tpot_seconds_count{workload="chat"}[45s]))'
    )
    gauge = query("peak_memory_bytes", "max").promql_samples("engine_bytes", {})
    assert gauge == "sum(count_over_time(engine_bytes[45s]))"


@given(st.text())
def test_escaped_values_cannot_leave_their_quotes(text: str) -> None:
    escaped = evidence.escape_label_value(text)
    assert "\n" not in escaped
    bare = escaped.replace(r"\\", "")
    assert bare.count('"') == bare.count(r"\"")


def test_only_percentiles_have_a_quantile() -> None:
    assert query("ttft_s", "p99").quantile == 0.99
    assert query("ttft_s", "mean").quantile is None


BAND = Estimate(value=2.0, low=1.0, high=4.0, unit="s")


@pytest.mark.parametrize(
    ("metric", "measured", "verdict"),
    [
        ("ttft_s", None, "unknown"),
        ("ttft_s", math.nan, "unknown"),
        ("ttft_s", 1.0, "within"),
        ("ttft_s", 4.0, "within"),
        ("ttft_s", 0.99, "better"),
        ("ttft_s", 4.01, "worse"),
        ("ttft_s", math.inf, "worse"),
        ("tokens_per_s", 0.99, "worse"),
        ("tokens_per_s", 4.01, "better"),
    ],
)
def test_verdict_of_a_measurement(metric: str, measured: float | None, verdict: str) -> None:
    assert evidence.determine_verdict(metric, BAND, measured) == verdict


@given(st.floats(0.01, 100), st.floats(1, 5), st.floats(0.001, 1000), st.sampled_from(["ttft_s", "tokens_per_s"]))
def test_within_exactly_when_the_band_holds_it(value: float, factor: float, measured: float, metric: str) -> None:
    band = within_factor(value, factor, "x")
    assert (evidence.determine_verdict(metric, band, measured) == "within") == (band.low <= measured <= band.high)


def test_a_measurement_prints_as_measured() -> None:
    shown = evidence.MeasuredValue(value=0.2, unit="s", statistic="p95", samples=30, window_s=45.0)
    kept = evidence.Measurement(
        plan_digest="d", prediction_id="p", at=1.0, source="client", evidence="q", **as_dict(shown)
    )
    assert kept.to_measured_value() == shown
