"""The one table of our metric names.

Names follow Prometheus (base unit as suffix, `_total` for counters). `quantity` is the word a Prediction uses; `name`
the exposed series; `otel` the OpenTelemetry GenAI name.

Design: a model on one pool has at most 145 series. The bounds of histograms are round numbers (1, 1.5, 2, 3, 5, 7 per
decade), so a round limit is read exactly; a quantile can be off by one step, 50 % on average, at most 67 %. Our own
`evaluate_query` takes quantiles from the usage records, without buckets.
"""

from typing import Literal, NamedTuple, get_args

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
        """True if each series is one run with one value: two runs of a name are never summed."""
        return "run" in self.labels

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bounds of a histogram's buckets, in seconds."""
        low, high = BOUNDS_S.get(self.quantity, (0.0, 0.0))
        return tuple(bound for bound in _ROUND_BOUNDS_S if low <= bound <= high)


REQUEST_LABELS = ("workload", "model", "pool")
# After so many label sets of a model on a pool, further ones have "other" for this label: at most REQUEST_SETS in all.
FOLDED_LABELS = {"tenant": 20, "http_status": 30}
REQUEST_SETS = 30 + 7  # 7 statuses

# Statuses of requests that got no answer for a reason other than the client's.
FAILED_STATUSES = ("failed", "rejected")
# Status of requests that a limit of their own caller refused. No service level counts them, neither as bad nor at all:
# a key above its rate is no outage, and many such requests would hide one.
LIMITED_STATUS = "limited"

# quantity | name | kind | unit | labels | help
_ROWS = """
ttft_s | archwright_ttft_seconds | histogram | s | workload model pool | request received to first content
tpot_s | archwright_tpot_seconds | histogram | s | workload model pool
    | (last - first token) / (tokens - 1) of a finished request
latency_s | archwright_request_seconds | histogram | s | workload model pool | request received to last byte
tokens_per_s | archwright_output_tokens_total | counter | tokens | workload model pool | generated tokens delivered
input_tokens | archwright_input_tokens_total | counter | tokens | workload model pool | prompt tokens read
requests | archwright_requests_total | counter | requests | workload model pool tenant status http_status
    | requests by outcome
spend_usd | archwright_spend_usd_total | counter | USD | workload model pool tenant | cost of requests at your prices
cache_lookups | archwright_cache_lookups_total | counter | requests | workload model pool outcome
    | requests that the response cache may answer, by outcome: hit, miss
refusals | archwright_refusals_total | counter | requests | route http_status
    | requests refused before a model was chosen, by the route's template
shadows | archwright_shadows_total | counter | requests | pool verdict
    | requests copied to a second pool, by how its answer compared: same, different, failed
in_flight | archwright_requests_in_flight | gauge | requests | pool | requests being served now
pool_tenants | archwright_pool_tenants | gauge | tenants | pool
    | tenants of the last minutes, for which slots are kept; each worker counts them
queue_length | archwright_queue_length | gauge | requests | pool | requests that wait for a slot
queue_wait_s | archwright_queue_wait_seconds | histogram | s | pool | wait for a slot of the requests that had to wait
retries | archwright_retries_total | counter | requests | pool | requests sent again to the same pool
fallbacks | archwright_fallbacks_total | counter | requests | pool
    | requests that left a pool for the next one, because it was full, unavailable or failed
upstream_healthy | archwright_upstream_healthy_workers | gauge | workers | pool upstream
    | workers for which the upstream is healthy
breaker_open | archwright_breaker_open_workers | gauge | workers | pool upstream
    | workers whose circuit breaker avoids the upstream
budget_usd | archwright_budget_usd | gauge | USD | tenant | budget of a tenant
budget_left_usd | archwright_budget_left_usd | gauge | USD | tenant
    | what is left of a tenant's budget in its period, without reservations
batches | archwright_batches | gauge | batches | state | batches that are not done: running, waiting
disk_free_bytes | archwright_disk_free_bytes | gauge | bytes | disk | free space on the disk of the home
peak_memory_bytes | archwright_memory_bytes | gauge | bytes | process
    | memory of the platform's processes (proportional set size)
startup_s | archwright_startup_seconds | gauge | s | process | `up` called to ready
disk_bytes | archwright_disk_bytes | gauge | bytes | process | files the plan accounts for: model, store, logs
restarts | archwright_restarts_total | counter | restarts | process | supervised processes started again
train_s | archwright_training_seconds | gauge | s | run name | first to last step of a training run
train_tokens_per_s | archwright_training_tokens_per_second | gauge | tokens/s | run name
    | tokens (classifiers: rows) a training run went through per second of stepping
train_memory_bytes | archwright_training_memory_bytes | gauge | bytes | run name
    | largest memory of a training run's process (resident set)
control_held | archwright_control_held | gauge | share | control
    | share of a control's checks that held when reconcile asked
decisions | archwright_authz_decisions_total | counter | decisions | effect permission | access decisions
connections_dropped | archwright_connections_dropped_total | counter | connections | reason
    | connections that lost their slot to another client, or found none free
tls_expiration | archwright_tls_certificate_expiration_timestamp_seconds | gauge | s | process
    | end of the certificate's validity, in seconds since 1970
batch_failures | archwright_batch_failures_total | counter | batches | reason
    | failed batches: invalid_input, invalid_api_key, file_quota_exceeded, disk_full
batches_waiting | archwright_batches_waiting | gauge | batches | reason
    | batches that wait, by reason: disk (for free space)
traces_dropped | archwright_traces_dropped_total | counter | traces | reason | traces that the collector did not get
"""
_OTEL_NAMES = {
    "ttft_s": "gen_ai.server.time_to_first_token",
    "tpot_s": "gen_ai.server.time_per_output_token",
    "latency_s": "gen_ai.server.request.duration",
}


def _parse_row(row: str) -> Metric:
    quantity, name, word, unit, labels, text = (cell.strip() for cell in row.split("|"))
    kind: MetricKind = next(kind for kind in get_args(MetricKind) if kind == word)
    return Metric(quantity, name, kind, unit, text, tuple(labels.split()), _OTEL_NAMES.get(quantity, ""))


METRICS: tuple[Metric, ...] = tuple(map(_parse_row, _ROWS.replace("\n    |", " |").strip().splitlines()))
METRIC_BY_QUANTITY = {metric.quantity: metric for metric in METRICS}

# First and last bound: TPOT of a fast decoder and of a processor, TTFT from a small to a busy model.
BOUNDS_S = {"ttft_s": (0.01, 70.0), "queue_wait_s": (0.1, 300.0), "tpot_s": (0.002, 1.0), "latency_s": (0.01, 300.0)}
_ROUND_BOUNDS_S = tuple(float(f"{digits}e{decade}") for decade in range(-3, 3) for digits in (1, 1.5, 2, 3, 5, 7))
