"""The one table of our metric names.

Names follow Prometheus (base unit as suffix, `_total` for counters). `quantity` is the word a Prediction uses; `name`
the exposed series; `otel` the OpenTelemetry GenAI name. Histogram bounds grow by 15 % from 1 ms to 585 s: a quantile
read from them is off by at most 15 %.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

MetricKind = Literal["histogram", "counter", "gauge"]


class Metric(NamedTuple):
    quantity: str
    name: str
    kind: MetricKind
    unit: str
    help: str
    labels: tuple[str, ...]
    otel: str = ""

    @property
    def is_per_run(self) -> bool:
        """Each series is a run of its own with one value: two runs of a name are two values, not a sum."""
        return "run" in self.labels


REQUEST_LABELS = ("workload", "model", "pool")
RUN_LABELS = ("run", "name")

# Requests that ended so were not answered, and not for the client's own doing.
FAILED_STATUSES = ("failed", "rejected")

METRICS: tuple[Metric, ...] = (
    Metric(
        "ttft_s",
        "archwright_ttft_seconds",
        "histogram",
        "s",
        "request received to first content",
        REQUEST_LABELS,
        "gen_ai.server.time_to_first_token",
    ),
    Metric(
        "tpot_s",
        "archwright_tpot_seconds",
        "histogram",
        "s",
        "(last - first token) / (tokens - 1) of a finished request",
        REQUEST_LABELS,
        "gen_ai.server.time_per_output_token",
    ),
    Metric(
        "latency_s",
        "archwright_request_seconds",
        "histogram",
        "s",
        "request received to last byte",
        REQUEST_LABELS,
        "gen_ai.server.request.duration",
    ),
    Metric(
        "tokens_per_s",
        "archwright_output_tokens_total",
        "counter",
        "tokens",
        "generated tokens delivered",
        REQUEST_LABELS,
    ),
    Metric("input_tokens", "archwright_input_tokens_total", "counter", "tokens", "prompt tokens read", REQUEST_LABELS),
    Metric(
        "requests",
        "archwright_requests_total",
        "counter",
        "requests",
        "requests by outcome",
        (*REQUEST_LABELS, "status"),
    ),
    Metric(
        "shadows",
        "archwright_shadows_total",
        "counter",
        "requests",
        "requests asked of a second pool too, by how its answer compared: same, different, failed",
        ("pool", "verdict"),
    ),
    Metric("in_flight", "archwright_requests_in_flight", "gauge", "requests", "requests being served now", ("pool",)),
    Metric(
        "peak_memory_bytes",
        "archwright_memory_bytes",
        "gauge",
        "bytes",
        "memory of the platform's processes (proportional set size)",
        ("process",),
    ),
    Metric("startup_s", "archwright_startup_seconds", "gauge", "s", "`up` called to ready", ("process",)),
    Metric(
        "disk_bytes",
        "archwright_disk_bytes",
        "gauge",
        "bytes",
        "files the plan accounts for: model, store, logs",
        ("process",),
    ),
    Metric(
        "restarts",
        "archwright_restarts_total",
        "counter",
        "restarts",
        "supervised processes started again",
        ("process",),
    ),
    Metric("train_s", "archwright_training_seconds", "gauge", "s", "first to last step of a training run", RUN_LABELS),
    Metric(
        "train_tokens_per_s",
        "archwright_training_tokens_per_second",
        "gauge",
        "tokens/s",
        "tokens (classifiers: rows) a training run went through per second of stepping",
        RUN_LABELS,
    ),
    Metric(
        "train_memory_bytes",
        "archwright_training_memory_bytes",
        "gauge",
        "bytes",
        "largest memory of a training run's process (resident set)",
        RUN_LABELS,
    ),
    Metric(
        "control_held",
        "archwright_control_held",
        "gauge",
        "share",
        "share of a control's checks that held when reconcile asked",
        ("control",),
    ),
    Metric(
        "decisions",
        "archwright_authz_decisions_total",
        "counter",
        "decisions",
        "access decisions",
        ("effect", "permission"),
    ),
    Metric(
        "traces_dropped",
        "archwright_traces_dropped_total",
        "counter",
        "traces",
        "traces that the collector did not get",
        ("reason",),
    ),
)

METRIC_BY_QUANTITY = {metric.quantity: metric for metric in METRICS}

LATENCY_BOUNDS_S: tuple[float, ...] = tuple(round(0.001 * 1.15**step, 6) for step in range(96))
