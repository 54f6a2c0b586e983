from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from archwright.contract.evidence import Deviation
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.monitor.metrics.prometheus import PrometheusClient
from archwright.reconcile.opencost import compare_model_costs

from ..deploy.tools import require_program
from .costed_plan import make_costed_plan

PLAN = make_costed_plan()
NOW = 1_796_000_000.0
# 1 USD per million input tokens, 5 per output token, 20 input and 12 output tokens a request.
BLENDED = 2.5
# name | labels | value
GAUGES: tuple[tuple[str, dict[str, str], float], ...] = (
    ("llm_cost_per_million_tokens", {"cost_basis": "allocation"}, 2.6),
    ("llm_cost_per_million_tokens", {"cost_basis": "usage"}, 0.9),
    ("llm_cost_per_million_tokens", {"cost_basis": "allocation", "phase": "prompt"}, 1.1),
    ("llm_cost_per_million_tokens", {"cost_basis": "allocation", "phase": "generation"}, 4.1),
    ("llm_total_hourly_cost", {"cost_basis": "allocation"}, 1.2),
    ("llm_total_hourly_cost", {"cost_basis": "usage"}, 0.3),
    ("llm_cache_savings_fraction", {}, 0.25),
)
OTHER = {"model_name": "other/null-model-2", "namespace": "n"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The answers by query; a query whose gauge and labels are among GAUGES gets its value."""
    answers: dict[str, float] = {}

    def query(_: PrometheusClient, promql: str, _at: float) -> float | None:
        for name, labels, value in GAUGES:
            exact = {"phase": "", **labels} if name.endswith("tokens") else labels
            if name in promql and all(f'{key}="{text}"' in promql for key, text in exact.items()):
                factor = float(promql.rpartition("* ")[2]) if "* " in promql.rpartition("]")[2] else 1.0
                answers[promql] = value * factor
                return answers[promql]
        return None

    monkeypatch.setattr(PrometheusClient, "query_instant", query)
    return answers


def compare(plan: Plan) -> dict[str, Deviation]:
    found = compare_model_costs(plan, PrometheusClient("http://127.0.0.1:9"), NOW)
    return {one.prediction_id.removeprefix("assistant."): one for one in found}


def test_cost_is_assessed_as_kept_available_and_shown_as_consumed(asked: dict[str, float]) -> None:
    found = compare(PLAN)
    kept, consumed = found["usd_per_million_tokens.allocation"], found["usd_per_million_tokens.usage"]
    assert kept.measured is not None and consumed.measured is not None
    assert kept.predicted.value == pytest.approx(BLENDED)
    assert (kept.measured.value, kept.verdict) == (2.6, "within")
    assert kept.predicted.low == pytest.approx(0.8 * BLENDED) and kept.predicted.high == pytest.approx(1.5 * BLENDED)
    assert (consumed.measured.value, consumed.verdict) == (0.9, "unknown")
    assert "consumed only: the plan predicts what is kept available" in consumed.evidence
    month = found["cost_per_month.allocation"]
    assert month.measured is not None and month.measured.value == pytest.approx(1.2 * 730)
    # The first year of the plan costs 750 per month.
    assert month.predicted.value == pytest.approx(750) and month.verdict == "within"
    assert found["usd_per_million_input.allocation"].verdict == "unknown"
    assert found["usd_per_million_output.allocation"].predicted.value == pytest.approx(5.0)
    assert found["cached_prompt_share"].verdict == "unknown"


def test_monthly_cost_is_in_the_plans_currency(asked: dict[str, float]) -> None:
    euro = compare(make_costed_plan("EUR"))
    month = euro["cost_per_month.allocation"]
    assert month.measured is not None and month.measured.value == pytest.approx(1.2 * 730 * 0.9)
    # Prices of tokens are USD in every plan.
    assert euro["usd_per_million_tokens.allocation"].predicted.unit == "USD/million tokens"
    unknown = compare(replace(make_costed_plan("EUR"), bases=()))["cost_per_month.allocation"]
    assert unknown.verdict == "unknown" and "exchange rate" in unknown.evidence


def test_pools_of_one_model_are_not_assessed_apart(asked: dict[str, float]) -> None:
    (option,) = PLAN.options
    twice = replace(option, pools=(*option.pools, replace(option.pools[0], name="second")))
    row = compare(replace(PLAN, options=(twice,)))["usd_per_million_tokens.allocation"]
    assert row.verdict == "unknown" and "assistant, second" in row.evidence


def test_without_gauges_there_are_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrometheusClient, "query_instant", lambda *_: None)
    assert compare(PLAN) == {}
    # A pod without the label of its model has tokens and no cost.
    monkeypatch.setattr(PrometheusClient, "query_instant", lambda *_: 0.0)
    assert compare(PLAN) == {}
    assert compare(replace(PLAN, chosen=None)) == {}


@pytest.mark.nightly
def test_a_real_prometheus_evaluates_the_queries(asked: dict[str, float], tmp_path: Path) -> None:
    """With another model, whose name begins alike, and an organisation before the name of ours."""
    promtool = require_program("promtool")
    compare(PLAN)
    series = []
    for name, labels, value in GAUGES:
        for own, shown in (({"model_name": "org/null-model", "namespace": "n"}, value), (OTHER, 99.0)):
            inner = ",".join(f'{key}="{text}"' for key, text in {**own, **labels}.items())
            series.append({"series": f"{name}{{{inner}}}", "values": f"{shown}x1500"})
    checks = [
        {"expr": query, "eval_time": "24h", "exp_samples": [{"labels": "{}", "value": value}]}
        for query, value in asked.items()
    ]
    assert len(checks) == len(GAUGES)
    tests = {
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checks}],
    }
    path = tmp_path / "tests.yaml"
    path.write_text(yaml.safe_dump(tests))
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
