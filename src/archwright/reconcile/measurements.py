"""Measure a plan's predictions from the bench client, the platform's observations or a Prometheus.

Design: the limits of each source.
- The client gives percentiles of its single requests. A request of the peak without content at the end of the drain
  counts in TTFT with its waiting time, a lower bound; otherwise an overloaded server would look fast.
- The platform's observations are evaluated over exactly the window of the phase.
- A Prometheus knows no phases, so the evidence states the load of its window beside the planned load. Tokens/s is read
  only if on average at least BUSY_SHARE of the planned concurrency was in flight (Little: latency seconds per second).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from archwright.contract.evidence import QUANTILE, Measurement, Prediction, Query, Statistic, escape_label_value
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.percentile import percentile
from archwright.contract.plan import Plan, Pool
from archwright.contract.record import replace
from archwright.home import Home
from archwright.monitor.metrics.observations import evaluate_query
from archwright.monitor.metrics.prometheus import PrometheusClient
from archwright.reconcile.bench_result import BenchPhase, BenchResult, TimeWindow
from archwright.store import Store

BUSY_SHARE = 0.8
# The longest time in which the gateway notices that a client disconnected.
DISCONNECT_NOTICE_S = 0.25
# By default scrapes are 15 to 60 s apart, and a rate needs two scrapes.
SCRAPE_WINDOW_S = 300.0
# The label of the model in the series of an engine.
MODEL_LABEL = "model_name"
NO_SAMPLES = "neither our own series nor the engine's series have samples in the window"

# Properties of BenchRequestTiming.
_REQUEST_METRICS = ("ttft_s", "tpot_s", "latency_s")


def client_measurements(plan: Plan, result: BenchResult) -> list[Measurement]:
    """Measure the predictions of the driven workload with the client's timings; others are left out."""
    digest = plan.digest
    found: list[Measurement] = []
    for prediction in plan.predictions:
        # The query's phase; without a phase all phases, but tokens/s only of the closed loop.
        phase_name = prediction.query.phase or ("closed" if prediction.metric == "tokens_per_s" else "")
        phases = [phase for phase in result.phases if phase_name in ("", phase.name)]
        if prediction.workload != result.workload or not phases:
            continue
        value, samples = _compute_client_value(prediction, phases)
        if value is None:
            continue
        window = _span_windows(phases)
        query = replace(prediction.query, window_s=window.window_s)
        sent = sum(len(phase.requests) for phase in phases)
        names = " and ".join(phase.name for phase in phases)
        seen = f"by the client's clock at {result.url}, phase {names}, {samples} of {sent} requests"
        evidence = f"{query.promql()}  # {seen}"
        found.append(build_measurement(digest, prediction, SourceReading("client", window, value, samples, evidence)))
    return found


def _compute_client_value(prediction: Prediction, phases: list[BenchPhase]) -> tuple[float | None, int]:
    if prediction.metric == "tokens_per_s":
        samples = sum(1 for phase in phases for request in phase.requests if request.chunks)
        seconds = sum(phase.window_s for phase in phases)
        tokens = sum(phase.tokens_delivered for phase in phases)
        return (tokens / seconds, samples) if samples and seconds > 0 else (None, 0)
    if prediction.metric not in _REQUEST_METRICS:
        return None, 0
    values = [value for phase in phases for value in phase.collect_values(attrgetter(prediction.metric))]
    if prediction.metric == "ttft_s":
        sent = (request for phase in phases if phase.name == "peak" for request in phase.requests)
        unanswered = (request for request in sent if request.outcome == "cut" and request.first_s is None)
        values += [request.ended_s - request.sent_s for request in unanswered]
    return _compute_statistic(values, prediction.query.statistic), len(values)


def _compute_statistic(values: list[float], statistic: Statistic) -> float | None:
    if not values:
        return None
    if statistic in QUANTILE:
        return percentile(values, QUANTILE[statistic])
    if statistic == "max":
        return max(values)
    return sum(values) / len(values) if statistic == "mean" else None


def platform_measurements(
    store: Store, plan: Plan, windows: Sequence[TimeWindow], home: Home | None = None
) -> list[Measurement]:
    """Measure each prediction over its phase's window from the platform's records; with `home`, up to this moment.

    A prediction without a phase uses the window named "", else the window of its own query, at least as long as the
    whole run, up to the end of the run: so a start-up before the bench is included.
    """
    digest = plan.digest
    named = {window.name: window for window in windows}
    found: list[Measurement] = []
    for prediction in plan.predictions:
        window = named.get(prediction.query.phase)
        if window is None and not prediction.query.phase and windows:
            whole = _span_windows(windows)
            window = replace(whole, started_at=min(whole.started_at, whole.ended_at - prediction.query.window_s))
        if window is None:
            continue
        query = replace(prediction.query, window_s=window.window_s)
        seen = _read_platform_value(store, query, window, home)
        if seen is not None:
            found.append(build_measurement(digest, prediction, seen))
    return found


def _read_platform_value(store: Store, query: Query, window: TimeWindow, home: Home | None) -> SourceReading | None:
    """Evaluate a query. Streams that the client cancelled at the end of the window end a moment later."""
    seconds = window.window_s + DISCONNECT_NOTICE_S
    ended_at = window.ended_at + DISCONNECT_NOTICE_S
    reading = evaluate_query(store, replace(query, window_s=seconds), ended_at, home=home)
    if reading is None:
        return None
    value = reading.value * seconds / window.window_s if query.statistic == "rate" else reading.value
    evidence = query.promql() + (f"  # phase {query.phase}" if query.phase else "")
    return SourceReading("gateway", window, value, reading.samples, evidence)


def _span_windows(windows: Sequence[TimeWindow]) -> TimeWindow:
    return TimeWindow(name="", started_at=min(w.started_at for w in windows), ended_at=max(w.ended_at for w in windows))


class SourceReading(NamedTuple):
    source: str
    window: TimeWindow
    value: float
    samples: int
    evidence: str


def build_measurement(digest: str, prediction: Prediction, seen: SourceReading) -> Measurement:
    return Measurement(
        plan_digest=digest,
        prediction_id=prediction.id,
        at=seen.window.ended_at,
        source=seen.source,
        value=seen.value,
        unit=prediction.estimate.unit,
        statistic=prediction.query.statistic,
        samples=seen.samples,
        window_s=seen.window.window_s,
        evidence=seen.evidence,
    )


class PrometheusReading(NamedTuple):
    """The measurements of a Prometheus, and the reason for each prediction without one."""

    measurements: tuple[Measurement, ...]
    gaps: dict[str, str]


def read_prometheus(
    plan: Plan,
    prometheus: PrometheusClient,
    now: float,
    window_s: float | None = None,
    engines: Sequence[Mapping[str, str]] = (),
) -> PrometheusReading:
    """Read each prediction from our own series, else from the engine's series of the workload's pool.

    `engines`: the series of other engines, which may serve the pool instead of the planned one.

    `window_s` ends at `now` and replaces the windows of the queries. Without it, a query without a value in its own
    window is repeated over SCRAPE_WINDOW_S. An engine's series are read for the pool's model, or without a model if the
    Prometheus knows only one model; never if the pool serves several workloads.
    """
    digest = plan.digest
    measurements: list[Measurement] = []
    gaps: dict[str, str] = {}
    for prediction in plan.predictions:
        own = prediction.query.window_s
        tried = sorted({own, max(own, SCRAPE_WINDOW_S)}) if window_s is None else [window_s]
        for seconds in tried:
            window = TimeWindow(name="", started_at=now - seconds, ended_at=now)
            seen = _PrometheusPrediction(plan, prediction, prometheus, window).read(engines)
            if isinstance(seen, SourceReading):
                measurements.append(build_measurement(digest, prediction, seen))
                gaps.pop(prediction.id, None)
                break
            gaps[prediction.id] = seen
    return PrometheusReading(tuple(measurements), gaps)


class _MetricSeries(NamedTuple):
    """The series of a source: `names` maps quantities to an engine's series; empty for our own series."""

    names: Mapping[str, str]
    labels: dict[str, str]


class _PrometheusPrediction:
    def __init__(self, plan: Plan, prediction: Prediction, prometheus: PrometheusClient, window: TimeWindow) -> None:
        self._prediction = prediction
        self._prometheus = prometheus
        self._window = window
        self._query = replace(prediction.query, window_s=window.window_s)
        self._load = next((load for load in plan.loads if load.workload == prediction.workload), None)
        # Pools of a workload run the same engine and model at several sites, so the first pool names all series.
        name = next((w.pools[0] for w in plan.workloads if w.name == prediction.workload and w.pools), None)
        self._pool = None if name is None else plan.pool(name)

    def read(self, engines: Sequence[Mapping[str, str]] = ()) -> SourceReading | str:
        """Return the reading, or the reason why there is none."""
        own = _MetricSeries({}, self._query.labels)
        if self._count_samples(own) >= 1:
            return self._read_series(own)
        planned = [self._pool.launch.metrics] if self._pool is not None else []
        named = [names for names in (*planned, *engines) if self._query.metric in names]
        if self._pool is None or not named:
            return "our own series has no samples in the window"
        if self._query.statistic == "share":
            return "an engine counts its responses, not the requests lost before it"
        if len(self._pool.workloads) > 1:
            return "the engine does not tell the pool's workloads apart"
        found = (self._read_engine_series(self._pool, names) for names in named)
        first = next(found)
        return first if first != NO_SAMPLES else next((one for one in found if one != NO_SAMPLES), first)

    def _read_engine_series(self, pool: Pool, names: Mapping[str, str]) -> SourceReading | str:
        named = _MetricSeries(names, {MODEL_LABEL: pool.model})
        if self._count_samples(named) >= 1:
            return self._read_series(named)
        anonymous = _MetricSeries(names, {})
        if self._count_samples(anonymous) < 1:
            return NO_SAMPLES
        suffix = "_count" if METRIC_BY_QUANTITY[self._query.metric].kind == "histogram" else ""
        name = anonymous.names.get(self._query.metric)
        if (self._query_value(f"count(count by ({MODEL_LABEL}) ({name}{suffix}))") or 0.0) > 1:
            return f"this Prometheus knows several models, none of them called {escape_label_value(pool.model)}"
        return self._read_series(anonymous)

    def _read_series(self, series: _MetricSeries) -> SourceReading | str:
        if self._query.metric == "tokens_per_s" and (gap := self._explain_idle(series)):
            return gap
        promql = self._query.promql(series.names.get(self._query.metric), series.labels)
        value = self._query_value(promql)
        if value is None:
            return "the Prometheus has no value for the query"
        if not series.names and (gap := self._explain_wide_bucket(value)):
            return gap
        samples = max(1, round(self._count_samples(series)))
        return SourceReading("prometheus", self._window, value, samples, promql + self._describe_load(samples))

    def _explain_wide_bucket(self, value: float) -> str:
        """Return why a quantile of our own buckets is not judged: an end of the band cuts its bucket. Empty: it is."""
        bounds, band = METRIC_BY_QUANTITY[self._query.metric].bounds, self._prediction.estimate
        if self._query.quantile is None or not bounds or band.low <= value <= band.high:
            return ""
        below = max((bound for bound in bounds if bound < value), default=0.0)
        above = min((bound for bound in bounds if value <= bound < bounds[-1]), default=math.inf)
        if above < band.low or below >= band.high:
            return ""
        return f"the quantile lies between {below:g} and {above:g} s, a bucket that an end of the interval cuts"

    def _explain_idle(self, series: _MetricSeries) -> str:
        """Return why tokens/s of this window is not at the planned concurrency; empty if it is."""
        if self._load is None:
            return "the plan states no load for this workload"
        running = self._mean_in_flight(series)
        if running is None:
            return "the number of concurrent requests is unknown: no latencies and no gauge of requests in flight"
        if running < BUSY_SHARE * self._load.concurrency:
            return (
                f"on average {running:.2f} requests ran at once in {self._window.window_s:g} s; "
                f"the prediction is for {self._load.concurrency}: choose a busier window"
            )
        return ""

    def _mean_in_flight(self, series: _MetricSeries) -> float | None:
        """Mean number of requests in flight: seconds of latency per second (Little), else the engine's own gauge."""
        seconds, labels = self._window.window_s, series.labels
        query = Query(metric="latency_s", labels=labels, statistic="rate", window_s=seconds)
        if series.names and "latency_s" not in series.names:
            if "in_flight" not in series.names:
                return None
            query = Query(metric="in_flight", labels=labels, statistic="mean", window_s=seconds)
        return self._query_value(query.promql(series.names.get(query.metric)))

    def _query_value(self, promql: str) -> float | None:
        return self._prometheus.query_instant(promql, self._window.ended_at)

    def _count_samples(self, series: _MetricSeries) -> float:
        promql = self._query.promql_samples(series.names.get(self._query.metric), series.labels)
        return self._query_value(promql) or 0.0

    def _describe_load(self, samples: int) -> str:
        """Describe the load of the window, if known, beside the load of the prediction."""
        if self._load is None or METRIC_BY_QUANTITY[self._query.metric].kind != "histogram":
            return ""
        closed = self._query.phase == "closed"
        planned = f"{self._load.concurrency} at once" if closed else f"{self._load.requests_per_second:.3g}/s"
        return f"  # {samples / self._window.window_s:.3g} requests/s in the window, predicted for {planned}"
