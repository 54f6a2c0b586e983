"""How long a plan lets requests wait: who is let in is in time, and who the plan was made for is let in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import Plan, QueueTimeouts
from archwright.contract.record import replace
from archwright.plan.evidence.gateway_settings import MIN_WAIT_SHARE, derive_queue_timeouts
from archwright.plan.explain.explanation import explain_plan
from archwright.simulate.continuous_batching import SimulatedOutcome, SimulatedRequest
from archwright.simulate.queue_latency import QueueLatencyPrediction, measure_queue_latency

Read = Callable[..., tuple[Needs, NeedsSource]]


def queueing(served_s: float, wait_s: float = 0.0, slow_s: float | None = None) -> QueueLatencyPrediction:
    slow = wait_s if slow_s is None else slow_s
    return QueueLatencyPrediction(
        served_p95_s=Estimate(value=served_s, low=served_s / 2, high=served_s * 2, unit="s"),
        wait_p99_s=Estimate(value=wait_s, low=0.0, high=slow, unit="s"),
    )


def of(needs: Needs, *found: QueueLatencyPrediction) -> QueueTimeouts:
    return derive_queue_timeouts(needs, {"assistant": found})["assistant"]


def test_what_the_limit_leaves_for_a_wait(needs_of: Read) -> None:
    needs, _ = needs_of("desk")
    limit = needs.workloads[0].slo.ttft_p95_s
    assert limit == 8.0
    assert of(needs, queueing(2.0)) == QueueTimeouts(
        wait_s=6.0, overflow_s=6.0, source="TTFT p95 of 8 s less 2 s, predicted for a free slot at the peak"
    )
    # Of several pools the slowest; who the plan was made for is let in, also on the slow end of the band.
    two = of(needs, queueing(2.0), queueing(3.0, 1.0, 7.0))
    assert (two.wait_s, two.overflow_s) == (7.0, 5.0) and "p99 wait" in two.source
    # Nobody is let in who could only be late, however long the plan's own waits; and a floor of a tight limit.
    late = of(needs, queueing(9.0, 5.0, 90.0))
    assert (late.wait_s, late.overflow_s) == (8.0, 0.8) and "at least 10 % of the limit" in late.source


def test_without_a_limit_or_a_prediction_nothing_is_reported(needs_of: Read) -> None:
    needs, _ = needs_of("desk")
    (workload,) = needs.workloads
    free = replace(needs, workloads=(replace(workload, slo=replace(workload.slo, ttft_p95_s=None)),))
    assert derive_queue_timeouts(free, {"assistant": (queueing(1.0),)}) == {}
    assert derive_queue_timeouts(needs, {}) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.01, 100), st.floats(0, 100), st.floats(0, 100))
def test_laws(needs_of: Read, served_s: float, wait_s: float, slower_s: float) -> None:
    limit = 8.0
    found = of(needs_of("desk")[0], queueing(served_s, wait_s, wait_s + slower_s))
    assert 0.99 * MIN_WAIT_SHARE * limit <= found.overflow_s <= found.wait_s <= limit
    if served_s <= limit * (1 - MIN_WAIT_SHARE):
        assert found.overflow_s + served_s == pytest.approx(limit, rel=0.01), "in time, if only just"


def test_the_wait_for_a_slot_is_taken_out_of_the_time_to_a_first_token() -> None:
    begun = [SimulatedOutcome(SimulatedRequest(0.0, 1, 0, 2), None, 9.0, 2, waited) for waited in (0.0, 0.0, 4.0)]
    found = measure_queue_latency(begun, [1.0, 2.0, 5.5])
    assert found.served_p95_s == pytest.approx(1.95) and found.wait_p99_s == pytest.approx(3.92)


def test_a_plan_says_it_and_why(desk: Plan) -> None:
    waits = desk.workloads[0].waits
    predicted = next(one for one in desk.predictions if one.id == "assistant.ttft_s.p95")
    assert waits is not None and 8.0 - predicted.estimate.value <= waits.overflow_s < 8.0
    said = explain_plan(desk, "assistant")
    assert f"refused if it would wait longer than {waits.wait_s:g} s" in said and waits.source in said
