from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Measurement, Prediction, Query
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.monitor.metrics.observations import ObservationRecorder
from archwright.monitor.metrics.prometheus import PrometheusClient
from archwright.reconcile.bench_result import BenchPhase, BenchRequestTiming, BenchResult, RequestOutcome, TimeWindow
from archwright.reconcile.deviations import reconcile_plan, select_measurements
from archwright.reconcile.measurements import client_measurements, platform_measurements, read_prometheus
from archwright.store import Store

MakePlan = Callable[..., Plan]
Predict = Callable[..., Prediction]


def timing(ttft_s: float | None, tokens: int = 11, outcome: RequestOutcome = "finished") -> BenchRequestTiming:
    """Build a request that is sent at 1.0 with a token every 0.1 s; without content it ends at 9.0."""
    first = None if ttft_s is None else 1.0 + ttft_s
    last = None if first is None else first + 0.1 * (tokens - 1)
    return BenchRequestTiming(
        due_s=1.0,
        sent_s=1.0,
        first_s=first,
        last_s=last,
        ended_s=9.0 if last is None else last,
        asked_tokens=tokens,
        input_tokens=40,
        output_tokens=0 if first is None else tokens,
        chunks=0 if first is None else tokens,
        outcome=outcome,
    )


def result(peak: list[BenchRequestTiming], closed: list[BenchRequestTiming]) -> BenchResult:
    return BenchResult(
        url="http://h/v1",
        model="small",
        workload="chat",
        tokens_per_word=1.2,
        template_tokens=10.0,
        phases=(
            BenchPhase(name="peak", started_at=1000.0, ended_at=1050.0, load_s=45.0, requests=tuple(peak)),
            BenchPhase(name="closed", started_at=1050.0, ended_at=1060.0, load_s=10.0, requests=tuple(closed)),
        ),
        notes=(),
    )


def by_id(found: list[Measurement]) -> dict[str, Measurement]:
    assert len({m.prediction_id for m in found}) == len(found)
    return {m.prediction_id: m for m in found}


def test_the_client_measures_each_prediction_in_its_phase(make_plan: MakePlan) -> None:
    plan = make_plan()
    found = by_id(client_measurements(plan, result([timing(0.2), timing(0.4)], [timing(5.0, 50), timing(6.0, 50)])))
    assert set(found) == {prediction.id for prediction in plan.predictions}
    ttft = found["chat.ttft_s.p50"]
    assert ttft.value == pytest.approx(0.3)
    assert (ttft.samples, ttft.window_s, ttft.at) == (2, 50.0, 1050.0)
    assert found["chat.ttft_s.p95"].value == pytest.approx(0.39)
    assert found["chat.tpot_s.p50"].value == pytest.approx(0.1)
    rate = found["chat.tokens_per_s.rate"]
    assert (rate.value, rate.samples, rate.unit, rate.window_s) == (10.0, 2, "tokens/s", 10.0)
    assert {m.source for m in found.values()} == {"client"}
    assert {m.plan_digest for m in found.values()} == {plan.digest}
    assert ttft.evidence.startswith(
        'histogram_quantile(0.5, sum by (le) (increase(archwright_ttft_seconds_bucket{workload="chat"}[50s])))'
    )
    assert ttft.evidence.endswith("# by the client's clock at http://h/v1, phase peak, 2 of 2 requests")


def test_a_request_the_drain_cut_before_content_counts_with_the_time_it_waited(make_plan: MakePlan) -> None:
    run = result(
        [timing(0.2), timing(None, outcome="cut"), timing(None, outcome="failed")], [timing(None, outcome="cut")]
    )
    found = by_id(client_measurements(make_plan(), run))
    assert found["chat.ttft_s.p50"].value == pytest.approx((0.2 + 8.0) / 2)
    assert found["chat.ttft_s.p50"].samples == 2
    assert found["chat.tpot_s.p50"].samples == 1
    assert "chat.tokens_per_s.rate" not in found


def test_predictions_of_any_phase_use_all_of_it_and_tokens_per_s_the_closed_loop(
    make_plan: MakePlan, predict: Predict
) -> None:
    extra = (
        predict("ttft_s", "mean", "", 1.0, "chat"),
        predict("latency_s", "max", "", 1.0, "chat"),
        predict("ttft_s", "last", "", 1.0, "chat"),
        predict("tokens_per_s", "mean", "", 1.0, "chat"),
        predict("peak_memory_bytes", "max", "", 1.0, "chat"),
        predict("ttft_s", "mean", "", 1.0, "other"),
        predict("ttft_s", "p99", "third", 1.0, "chat"),
    )
    plan = make_plan(extra=extra)
    found = by_id(client_measurements(plan, result([timing(0.2)], [timing(0.6), timing(0.4, outcome="cut")])))
    assert found["chat.ttft_s.mean"].value == pytest.approx(0.4)
    assert (found["chat.ttft_s.mean"].window_s, found["chat.ttft_s.mean"].at) == (60.0, 1060.0)
    assert found["chat.latency_s.max"].value == pytest.approx(1.6)
    assert found["chat.tokens_per_s.mean"].value == pytest.approx(2.2)
    assert set(found) == {p.id for p in plan.predictions} - {
        "chat.ttft_s.last",
        "chat.peak_memory_bytes.max",
        "other.ttft_s.mean",
        "chat.ttft_s.p99",
    }


def test_a_run_that_saw_nothing_measures_nothing(make_plan: MakePlan) -> None:
    assert client_measurements(make_plan(), result([], [])) == []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One chat request per second from 990 to 1069 with a TTFT of its own second / 1000, and memory and start-up."""
    made = Store(f"sqlite:///{tmp_path / 'ring.db'}")
    recorder = ObservationRecorder(made)
    labels = {"workload": "chat", "model": "small", "pool": "p"}
    for second in range(990, 1070):
        recorder.observe("ttft_s", labels, second / 1000, at=second + 0.5)
        recorder.observe("tokens_per_s", labels, 8, at=second + 0.5)
    recorder.observe("startup_s", {"process": "platform"}, 1.5, at=900.0)
    recorder.observe("peak_memory_bytes", {"process": "engine"}, 5e8, at=1010.0)
    recorder.close()
    return made


def unlabelled(prediction: Prediction, window_s: float) -> Prediction:
    return replace(prediction, query=replace(prediction.query, labels={}, window_s=window_s))


def test_the_ring_is_asked_over_the_very_window_of_the_phase(
    store: Store, make_plan: MakePlan, predict: Predict
) -> None:
    run = result([timing(0.2)], [timing(0.2)])
    extra = (
        unlabelled(predict("startup_s", "last", "", 1.5, ""), 300),
        unlabelled(predict("peak_memory_bytes", "max", "", 5e8, ""), 20),
    )
    plan = make_plan(extra=extra)
    found = by_id(platform_measurements(store, plan, run.phases))
    assert found["chat.ttft_s.p50"].value == pytest.approx(1.0245, abs=0.001)
    assert (found["chat.ttft_s.p50"].samples, found["chat.ttft_s.p50"].window_s) == (50, 50.0)
    assert found["chat.ttft_s.p50"].evidence.endswith("[50s])))  # phase peak")
    rate = found["chat.tokens_per_s.rate"]
    assert rate.value == pytest.approx(8.0)
    assert (rate.samples, rate.unit) == (10, "tokens/s")
    assert found[".startup_s.last"].value == 1.5
    assert found[".startup_s.last"].window_s == 300.0
    assert found[".peak_memory_bytes.max"].window_s == 60.0
    assert "chat.tpot_s.p50" not in found
    assert {m.source for m in found.values()} == {"gateway"}
    store.close()


def test_a_named_whole_window_is_taken_as_it_is(store: Store, make_plan: MakePlan, predict: Predict) -> None:
    plan = make_plan(extra=(unlabelled(predict("startup_s", "last", "", 1.5, ""), 300),))
    late = TimeWindow(name="", started_at=950.0, ended_at=1060.0)
    assert platform_measurements(store, plan, [late]) == []
    (found,) = platform_measurements(store, plan, [replace(late, started_at=899.0)])
    assert (found.prediction_id, found.window_s) == (".startup_s.last", 161.0)
    assert platform_measurements(store, plan, []) == []
    store.close()


def answered(workload: str = "chat") -> Prediction:
    query = Query(metric="requests", labels={"workload": workload}, statistic="share", window_s=100.0)
    share = Estimate(value=0.995, low=0.98, high=1.0, unit="share")
    return Prediction(
        id=f"{workload}.requests.share", metric="requests", workload=workload, estimate=share, query=query
    )


@pytest.mark.parametrize(("failed", "verdict"), [(0, "within"), (1, "within"), (10, "worse")])
def test_availability_is_what_the_gateway_answered(
    make_plan: MakePlan, store: Store, failed: int, verdict: str
) -> None:
    plan = make_plan(extra=(answered(),))
    recorder = ObservationRecorder(store)
    for number in range(100):
        labels = {"workload": "chat", "status": "failed" if number < failed else "ok"}
        recorder.observe("requests", labels, 1.0, at=1000.0)
    recorder.close()
    found = platform_measurements(store, plan, [TimeWindow(name="", started_at=950.0, ended_at=1001.0)])
    deviation = next(d for d in reconcile_plan(plan, select_measurements(found)).deviations if d.metric == "requests")
    assert deviation.measured is not None
    assert deviation.measured.value == pytest.approx(1 - failed / 100)
    assert deviation.measured.statistic == "mean"
    assert (deviation.verdict, deviation.measured.samples) == (verdict, 100)


def test_an_engines_own_count_is_no_availability(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plan's own series there is no value, because an engine does not count requests lost before it."""
    plan = make_plan(metrics={"requests": "vendor:request_success_total"}, extra=(answered(),))
    monkeypatch.setattr(
        PrometheusClient, "query_instant", lambda _self, promql, _at: 9.0 if "vendor" in promql else None
    )
    reading = read_prometheus(plan, PrometheusClient("http://127.0.0.1:9"), 1000.0)
    assert "lost before it" in reading.gaps["chat.requests.share"]
