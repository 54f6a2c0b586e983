"""A real Prometheus scrapes an engine's metrics and ours; reconcile reads both by their own names."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from tests.tools.checks import WAIT_S

from archwright.catalog.load import load_catalog
from archwright.contract.evidence import Measurement, Prediction, Query, Statistic
from archwright.contract.plan import LoadSpec, Plan
from archwright.contract.record import replace
from archwright.monitor.metrics.exposition import CONTENT_TYPE, Exposition
from archwright.monitor.metrics.prometheus import PrometheusClient
from archwright.reconcile.deviations import reconcile_plan
from archwright.reconcile.measurements import read_prometheus

pytestmark = pytest.mark.enable_socket

MakePlan = Callable[..., Plan]
Predict = Callable[..., Prediction]
SCRIPT = Path(__file__).parents[1] / "tools" / "prometheus.sh"
SCRAPES, WINDOW_S = 7, 5.0

# Every simulated request takes this long; at 5 per second 3 are in flight on average, at 50 tokens/s.
RATE, TTFT_S, TPOT_S, LATENCY_S, TOKENS = 5.0, 0.3, 0.02, 0.6, 10
ENGINE = {
    "ttft_s": "vllm:time_to_first_token_seconds",
    "tpot_s": "vllm:request_time_per_output_token_seconds",
    "latency_s": "vllm:e2e_request_latency_seconds",
    "tokens_per_s": "vllm:generation_tokens_total",
}
ODD = {"ttft_s": "odd:ttft_seconds"}
DUO = {"ttft_s": "duo:time_to_first_token_seconds"}
TTFT_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
TPOT_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
LATENCY_BOUNDS = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60)


class Traffic:
    """Renders both expositions after RATE requests per second since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._done = 0
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._engine = {
            "ttft_s": self._histogram(ENGINE["ttft_s"], TTFT_BOUNDS),
            "tpot_s": self._histogram(ENGINE["tpot_s"], TPOT_BOUNDS),
            "latency_s": self._histogram(ENGINE["latency_s"], LATENCY_BOUNDS),
        }
        self._duo = self._histogram(DUO["ttft_s"], TTFT_BOUNDS)
        self._running = Gauge("vllm:num_requests_running", "now", ["model_name"], registry=self._registry)
        self._running.labels("acme/small").set(RATE * LATENCY_S)
        self._odd = Summary(ODD["ttft_s"], "no buckets", ["model_name"], registry=self._registry)
        self._tokens = Counter(ENGINE["tokens_per_s"], "generated", ["model_name", "engine"], registry=self._registry)
        self._own = Exposition()
        self._own.record("peak_memory_bytes", {"process": "engine"}, 3e8)
        self._own.record("startup_s", {"process": "platform"}, 1.5)
        for run, seconds in (("one", 300.0), ("two", 200.0)):
            self._own.record("train_s", {"run": run, "name": "tune"}, seconds)

    def _histogram(self, name: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(name, name, ["model_name", "engine"], buckets=bounds, registry=self._registry)

    def page(self, path: str) -> bytes:
        with self._lock:
            due = int((time.monotonic() - self._began) * RATE)
            for number in range(self._done, due):
                self._request(number)
            self._done = due
        return self._own.render() if path == "/own" else generate_latest(self._registry)

    def _request(self, number: int) -> None:
        ttft_s = TTFT_S * (0.8, 1.0, 1.2)[number % 3]
        own = {"workload": "own", "model": "small", "pool": "p"}
        values = {"ttft_s": ttft_s, "tpot_s": TPOT_S, "latency_s": LATENCY_S}
        for quantity, value in values.items():
            self._own.record(quantity, own, value)
            self._engine[quantity].labels("acme/small", "0").observe(value)
        self._own.counter("tokens_per_s", own).add(TOKENS)
        self._own.counter("requests", {**own, "status": "failed" if number % 5 == 0 else "ok"}).add()
        self._own.counter("requests", {**own, "workload": "calm", "status": "refused"}).add()
        self._tokens.labels("acme/small", "0").inc(TOKENS)
        self._odd.labels("acme/small").observe(ttft_s)
        for model in ("a", "b"):
            self._duo.labels(model, "0").observe(ttft_s)


class Running(NamedTuple):
    prometheus: PrometheusClient
    now: float


@pytest.fixture(scope="module")
def exposition() -> Iterator[int]:
    """Return the port of a server with the engine's page at /engine and our page at /own."""
    traffic = Traffic()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(traffic.page(self.path))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(WAIT_S)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_until(url: str, deadline_s: float) -> None:
    ends = time.monotonic() + deadline_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=WAIT_S):
                return
        except (OSError, urllib.error.URLError):
            if time.monotonic() > ends:
                pytest.fail(f"{url} is not ready after {deadline_s} s")
            time.sleep(0.1)


def wait_for_scrapes(prometheus: PrometheusClient) -> None:
    """Wait until both pages were scraped SCRAPES times; the first scrape comes up to 5 s after the start."""
    ends = time.monotonic() + WAIT_S
    while (prometheus.query_instant("min(count_over_time(up[1m]))") or 0) < SCRAPES:
        if time.monotonic() > ends:
            pytest.fail("the Prometheus does not scrape")
        time.sleep(0.2)


@pytest.fixture(scope="module")
def running(exposition: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A Prometheus that has scraped both pages every second for a while."""
    found = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.fail(found.stderr.strip())
    folder = tmp_path_factory.mktemp("prometheus")
    jobs = "".join(
        f"  - job_name: {name}\n    metrics_path: /{name}\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{exposition}']}}]\n"
        for name in ("engine", "own")
    )
    config = folder / "prometheus.yml"
    config.write_text(f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}")
    port = free_port()
    command = [found.stdout.strip(), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait_until(f"http://127.0.0.1:{port}/-/ready", WAIT_S)
        prometheus = PrometheusClient(f"http://127.0.0.1:{port}")
        wait_for_scrapes(prometheus)
        yield Running(prometheus, time.time())
    finally:
        process.terminate()
        process.wait(WAIT_S)


def measured_by(running: Running, plan: Plan, window_s: float | None = WINDOW_S) -> dict[str, Measurement]:
    read = read_prometheus(plan, running.prometheus, running.now, window_s)
    return {measurement.prediction_id: measurement for measurement in read.measurements}


def owned(plan: Plan) -> Plan:
    """Return the plan with predictions for the workload of our own exposition."""
    changed = [replace(p, query=replace(p.query, labels={"workload": "own"})) for p in plan.predictions]
    return replace(plan, predictions=tuple(changed))


VALUES = (TTFT_S, TPOT_S, RATE * TOKENS)


WIDE_BUCKET = "the quantile lies between 0.3 and 0.5 s, a bucket that an end of the interval cuts"


def test_a_quantile_far_from_the_interval_is_assessed(running: Running, make_plan: MakePlan) -> None:
    plan = owned(make_plan(values=(TTFT_S / 4, TPOT_S, RATE * TOKENS)))
    read = read_prometheus(plan, running.prometheus, running.now, WINDOW_S)
    result = reconcile_plan(plan, {m.prediction_id: m for m in read.measurements}, read.gaps)
    assert {d.prediction_id: d.verdict for d in result.deviations}["chat.ttft_s.p95"] == "worse"


def test_our_own_names(running: Running, make_plan: MakePlan, predict: Predict) -> None:
    plan = owned(make_plan(values=VALUES, extra=(predict("ttft_s", "mean", "closed", TTFT_S, "chat"),)))
    read = read_prometheus(plan, running.prometheus, running.now, WINDOW_S)
    # The p95 is 0.36 s and read as 0.47 s. The interval ends at 0.45 s, so nobody can judge it.
    assert read.gaps == {"chat.ttft_s.p95": WIDE_BUCKET}
    result = reconcile_plan(plan, {m.prediction_id: m for m in read.measurements}, read.gaps)
    verdicts = {d.prediction_id: d.verdict for d in result.deviations}
    assert verdicts.pop("chat.ttft_s.p95") == "unknown" and set(verdicts.values()) == {"within"}
    assert result.coverage == 1.0
    measured = {m.prediction_id: m for m in read.measurements}
    assert measured["chat.ttft_s.p50"].value == pytest.approx(TTFT_S, rel=0.15)
    assert measured["chat.tokens_per_s.rate"].value == pytest.approx(RATE * TOKENS, rel=0.25)
    assert measured["chat.ttft_s.p50"].samples == pytest.approx(RATE * WINDOW_S, rel=0.4)
    assert measured["chat.ttft_s.p50"].window_s == WINDOW_S
    assert "requests/s in the window, predicted for 60/s" in measured["chat.ttft_s.p50"].evidence
    assert measured["chat.ttft_s.mean"].evidence.endswith("requests/s in the window, predicted for 3 at once")
    assert {m.source for m in read.measurements} == {"prometheus"}


def test_shares_and_runs(running: Running) -> None:
    """One request in five fails; a workload without failures has no series of failures."""

    def asked(metric: str, statistic: Statistic, labels: dict[str, str]) -> float | None:
        query = Query(metric=metric, labels=labels, statistic=statistic, window_s=WINDOW_S)
        return running.prometheus.query_instant(query.promql(), running.now)

    assert asked("requests", "share", {"workload": "own"}) == pytest.approx(0.8, abs=0.06)
    assert asked("requests", "share", {"workload": "calm"}) == 1.0
    assert asked("requests", "share", {"workload": "nobody"}) is None
    assert asked("train_s", "max", {"name": "tune"}) == 300.0
    assert asked("train_s", "mean", {"name": "tune"}) == 250.0


def test_an_engines_names_for_the_pools_model(running: Running, make_plan: MakePlan) -> None:
    plan = make_plan(values=VALUES, metrics=ENGINE)
    plan = replace(plan, pools=tuple(replace(pool, model="acme/small") for pool in plan.pools))
    found = measured_by(running, plan)
    assert set(found) == {p.id for p in plan.predictions}
    ttft = found["chat.ttft_s.p50"]
    assert 0.25 < ttft.value < 0.5, "inside the engine's own bucket"
    assert 'vllm:time_to_first_token_seconds_bucket{model_name="acme/small"}[5s]' in ttft.evidence
    assert 0.01 < found["chat.tpot_s.p95"].value <= 0.025
    assert found["chat.tokens_per_s.rate"].value == pytest.approx(RATE * TOKENS, rel=0.25)


def test_an_engines_names_without_a_label_when_it_is_the_only_model(running: Running, make_plan: MakePlan) -> None:
    found = measured_by(running, make_plan(metrics=ENGINE))
    assert len(found) == 5 and all("model_name" not in m.evidence for m in found.values())


def test_the_series_of_an_engine_that_serves_instead_of_the_planned_one(running: Running, make_plan: MakePlan) -> None:
    plan = make_plan(metrics={"ttft_s": "sglang:time_to_first_token_seconds"})
    rows = load_catalog().list_known_series()
    read = read_prometheus(plan, running.prometheus, running.now, WINDOW_S, engines=rows)
    found = {measurement.prediction_id: measurement for measurement in read.measurements}
    assert len(found) == 5 and "vllm:time_to_first_token_seconds" in found["chat.ttft_s.p50"].evidence


def gaps_of(plan: Plan, running: Running, window_s: float | None = WINDOW_S) -> dict[str, str]:
    return read_prometheus(plan, running.prometheus, running.now, window_s).gaps


ABSENT = "neither our own series nor the engine's series have samples in the window"


@pytest.mark.parametrize(
    ("metrics", "gap"),
    [
        pytest.param(DUO, "this Prometheus knows several models, none of them called small", id="none is guessed"),
        pytest.param({"ttft_s": "vllm:absent"}, ABSENT, id="no such series"),
        pytest.param(ODD, "the Prometheus has no value for the query", id="no buckets"),
    ],
)
def test_why_a_series_of_an_engine_has_no_value(
    running: Running, make_plan: MakePlan, metrics: dict[str, str], gap: str
) -> None:
    gaps = gaps_of(make_plan(metrics=metrics), running)
    assert (gaps["chat.ttft_s.p50"], gaps["chat.tpot_s.p50"]) == (gap, "our own series has no samples in the window")


def test_a_pool_of_several_workloads_is_not_told_apart(running: Running, make_plan: MakePlan) -> None:
    gaps = gaps_of(make_plan(metrics=ENGINE, workloads=("chat", "other")), running)
    assert set(gaps.values()) == {"the engine does not tell the pool's workloads apart"}


def test_tokens_per_s_of_a_window_too_quiet_stays_unmeasured(
    running: Running, make_plan: MakePlan, load: LoadSpec
) -> None:
    crowded = make_plan(metrics=ENGINE, loads=(replace(load, concurrency=30),))
    gaps = gaps_of(crowded, running)
    assert set(gaps) == {"chat.tokens_per_s.rate"}
    assert "the prediction is for 30" in gaps["chat.tokens_per_s.rate"]
    blind = {name: series for name, series in ENGINE.items() if name != "latency_s"}
    assert "is unknown" in gaps_of(make_plan(metrics=blind), running)["chat.tokens_per_s.rate"]
    unloaded = make_plan(metrics=ENGINE, loads=())
    assert gaps_of(unloaded, running) == {"chat.tokens_per_s.rate": "the plan states no load for this workload"}
    result = reconcile_plan(crowded, {}, gaps)
    assert result.deviations[-1].evidence.endswith(gaps["chat.tokens_per_s.rate"])


def test_gauges_and_the_queries_own_window(running: Running, make_plan: MakePlan, predict: Predict) -> None:
    extra = tuple(
        replace(made, query=replace(made.query, labels={"process": process}))
        for made, process in (
            (predict("peak_memory_bytes", "max", "", 3e8, ""), "engine"),
            (predict("startup_s", "last", "", 1.5, ""), "platform"),
            (predict("disk_bytes", "p95", "", 1.0, ""), "platform"),
        )
    )
    plan = make_plan(extra=extra)
    found = measured_by(running, plan, None)
    assert found[".peak_memory_bytes.max"].value == 3e8
    assert found[".startup_s.last"].value == 1.5
    assert found[".startup_s.last"].window_s == 60
    assert found[".peak_memory_bytes.max"].window_s == 60
    assert "#" not in found[".startup_s.last"].evidence
    assert set(found) == {".peak_memory_bytes.max", ".startup_s.last"}


def test_a_window_without_two_scrapes_is_widened(running: Running, make_plan: MakePlan, predict: Predict) -> None:
    made = predict("ttft_s", "mean", "peak", TTFT_S, "chat")
    plan = make_plan(metrics=ENGINE, extra=(replace(made, query=replace(made.query, window_s=1)),))
    found = measured_by(running, plan, None)
    assert found["chat.ttft_s.mean"].window_s == 300
    assert found["chat.ttft_s.mean"].value == pytest.approx(TTFT_S, rel=0.1)
    assert found["chat.ttft_s.p50"].window_s == 60
    assert "chat.ttft_s.mean" in gaps_of(plan, running, window_s=1)


def test_an_engine_that_tells_only_how_many_run(running: Running, make_plan: MakePlan) -> None:
    metrics = {"tokens_per_s": ENGINE["tokens_per_s"], "in_flight": "vllm:num_requests_running"}
    assert list(measured_by(running, make_plan(metrics=metrics))) == ["chat.tokens_per_s.rate"]
