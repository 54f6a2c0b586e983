"""A speed is judged only under the contention for which the plan was made."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.contract.contention import Contention
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Measurement, Prediction, Query
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.home import Home
from archwright.monitor.measurements import read_plan_measurements, save_measurements
from archwright.reconcile.contention import explain_contention, find_planned_contention
from archwright.reconcile.deviations import reconcile_plan, select_measurements
from archwright.store import Store

from ..small_plans import OPTION, PLAN, make_facts

PLANNED = Contention(other_share=0.02, steal_share=0.01, frequency_hz=3.0e9)
REASON = "other programs used 83% of the processor during the bench, 2% when the plan measured this machine"


@pytest.mark.parametrize(
    ("measured", "judged"),
    [
        ({}, True),
        ({"other_share": 0.12}, True),
        ({"other_share": 0.121}, False),
        ({"other_share": 0.0}, True),
        ({"steal_share": 0.06}, True),
        ({"steal_share": 0.061}, False),
        ({"frequency_hz": 2.7e9}, True),
        ({"frequency_hz": 2.69e9}, False),
        ({"frequency_hz": 4.0e9}, True),
        ({"other_share": None, "steal_share": None, "frequency_hz": None}, True),
    ],
)
def test_the_limits_of_each_figure(measured: dict[str, Any], judged: bool) -> None:
    assert (explain_contention("ttft_s", PLANNED, replace(PLANNED, **measured)) == "") == judged


def test_the_reason_names_both_figures_of_every_cause() -> None:
    measured = Contention(other_share=0.83, steal_share=0.11, frequency_hz=2.1e9)
    assert explain_contention("tpot_s", PLANNED, measured).split("; ") == [
        REASON,
        "the hypervisor took 11% of the processor during the bench, 1% when the plan measured this machine",
        "the processor ran at 2.10 GHz during the bench, 3.00 GHz when the plan measured this machine",
    ]


@pytest.mark.parametrize("planned", [None, Contention()])
def test_a_plan_of_another_machine_assumes_no_other_programs(planned: Contention | None) -> None:
    measured = Contention(other_share=0.83, steal_share=0.01, frequency_hz=1e9)
    said = "other programs used 83% of the processor during the bench, the plan assumes none"
    assert explain_contention("tokens_per_s", planned, measured) == said


@pytest.mark.parametrize("metric", ["peak_memory_bytes", "disk_bytes", "startup_s", "control_held", "train_s"])
def test_only_speeds_of_a_bench_depend_on_contention(metric: str) -> None:
    assert explain_contention(metric, PLANNED, Contention(other_share=0.9)) == ""
    assert explain_contention("ttft_s", PLANNED, None) == ""


def test_only_a_plan_for_this_machine_has_its_contention() -> None:
    plan = replace(PLAN, machine=make_facts(others=0.2), options=(OPTION,), chosen=OPTION.name)
    assert find_planned_contention(plan) == Contention(other_share=0.2, steal_share=0.0)
    assert find_planned_contention(replace(plan, machine=None)) is None
    assert find_planned_contention(replace(plan, chosen=None)) is None
    rented = replace(OPTION, placement="cloud")
    assert find_planned_contention(replace(plan, options=(rented,))) is None


def make_plan() -> Plan:
    predictions = []
    for metric in ("ttft_s", "latency_s", "startup_s"):
        query = Query(metric=metric, labels={}, statistic="p95", window_s=60)
        band = Estimate(value=2.0, low=1.0, high=3.0, unit="s")
        predictions.append(Prediction(id=metric, metric=metric, workload="w", estimate=band, query=query))
    facts = make_facts(others=0.02)
    return replace(PLAN, predictions=tuple(predictions), machine=facts, options=(OPTION,), chosen=OPTION.name)


def measure(plan: Plan, metric: str, value: float, contention: Contention | None) -> Measurement:
    return Measurement(
        plan_digest=plan.digest,
        prediction_id=metric,
        at=100.0,
        source="gateway",
        value=value,
        unit="s",
        statistic="p95",
        samples=9,
        window_s=10.0,
        evidence="asked",
        contention=contention,
    )


def test_a_stored_measurement_gives_the_same_verdict_and_reason(home: Home) -> None:
    """Inside or outside its interval, a speed is shown and not judged; a start-up is judged."""
    plan, busy = make_plan(), Contention(other_share=0.83, steal_share=0.0)
    store = Store(home.store_url)
    values = {"ttft_s": 9.0, "latency_s": 2.0, "startup_s": 2.0}
    found = [measure(plan, metric, value, busy) for metric, value in values.items()]
    save_measurements(store, found)
    result = reconcile_plan(plan, select_measurements(read_plan_measurements(store, plan.digest)))
    assert result == reconcile_plan(plan, select_measurements(found))
    assert [one.verdict for one in result.deviations] == ["unknown", "unknown", "within"]
    assert [one.evidence for one in result.deviations] == [f"asked  # {REASON}"] * 2 + ["asked"]
    assert [one.measured.value for one in result.deviations if one.measured] == [9.0, 2.0, 2.0]
    assert (result.coverage, result.contention) == (1.0, busy)
    assert result.planned_contention == Contention(other_share=0.02, steal_share=0.0)


@pytest.mark.parametrize("contention", [None, Contention(), Contention(other_share=0.1, steal_share=0.02)])
def test_a_slow_engine_on_a_machine_as_planned_is_worse(contention: Contention | None) -> None:
    plan = make_plan()
    result = reconcile_plan(plan, {"ttft_s": measure(plan, "ttft_s", 9.0, contention)})
    assert [one.verdict for one in result.deviations] == ["worse", "unknown", "unknown"]
