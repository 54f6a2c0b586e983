"""Export of request traces to an OpenTelemetry collector: OTLP/HTTP with JSON, GenAI semantic conventions.

Disabled unless a collector is configured. A trace is built from a finished request's record: a span of the request with
child spans for gateway, queue and engine, in that order (the record has durations, not their interleaving). Sampling
depends only on the request id, so every process of a gateway samples the same requests. Content is sent only if
`traced` is True for its tenant when the trace is sent. Export never delays a request: a full queue drops and counts.
"""

import hashlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Literal, cast, get_args

import msgspec

from archwright import __version__
from archwright.contract.listener import TraceSpec
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.served import RequestRecord
from archwright.http_client.blocking_client import BlockingClient, NoReply

QUEUE_LIMIT = 2_048
BATCH_TRACES = 256
EXPORT_INTERVAL_S = 1.0
BACKOFF_LIMIT_S = 30.0
TIMEOUT_S = 5.0
JSON_HEADERS = {"content-type": "application/json"}
SHUTDOWN_TIMEOUT_S = 5.0  # longest time to send the queued traces when the process ends
# Content beyond the queue limit is left out and marked as truncated; beyond the batch limit it goes to the next batch.
CONTENT_QUEUE_BYTES, CONTENT_BATCH_BYTES = 16 << 20, 2 << 20
SAMPLING_BITS = 52
SPAN_KIND_SERVER, SPAN_KIND_INTERNAL, SPAN_KIND_CLIENT = 2, 1, 3
STATUS_ERROR = 2
# Statuses after which a batch is sent again; any other error status drops it.
RETRYABLE_STATUS = (429, 502, 503, 504)
OtlpSpan = dict[str, object]
DropReason = Literal["full", "refused", "away"]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)


@dataclass(frozen=True, slots=True)
class TraceContent:
    """Messages and response of a request as the conventions' JSON; `missing`: left out because of its length."""

    tenant: str
    input: str
    output: str
    system: str = "[]"
    missing: bool = False

    @property
    def size(self) -> int:
        return len(self.input) + len(self.output) + len(self.system)


@dataclass(frozen=True, slots=True)
class _QueuedTrace:
    """Spans of one request (the request's own span first) with its content."""

    spans: list[OtlpSpan]
    content: TraceContent | None

    @property
    def content_bytes(self) -> int:
        return 0 if self.content is None else self.content.size


class TraceExporter:
    """Queue of sampled traces and the thread that sends them; an unsampled request costs one comparison.

    `on_drop` counts undelivered traces: queue `full`, `refused` by the collector, collector `away` at shutdown.
    `traced` returns True if a tenant's traces include content."""

    def __init__(
        self,
        spec: TraceSpec,
        on_drop: Mapping[DropReason, Callable[[float], None]],
        traced: Callable[[str], bool] = lambda _tenant: False,
        *,
        every_s: float = EXPORT_INTERVAL_S,
        last_s: float = SHUTDOWN_TIMEOUT_S,
    ) -> None:
        self._url = spec.url.rstrip("/") + "/v1/traces"
        self._limit = int(spec.share * (1 << SAMPLING_BITS))
        self._on_drop = on_drop
        self._every_s, self._last_s = every_s, last_s
        self._last_at = math.inf
        self._traced = traced
        self._queue: deque[_QueuedTrace] = deque()
        # Content bytes put in by one thread and taken out by the other; each counter has a single writer.
        self._put = self._taken = 0
        self._client = BlockingClient(TIMEOUT_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def is_sampled(self, request_id: str) -> bool:
        """True if the random part of the request id (its last 13 hex digits) is within the sampled share."""
        return int(request_id[-13:], 16) < self._limit

    def add(self, one: RequestRecord, content: TraceContent | None = None) -> None:
        """Queue the trace of a finished request if it is sampled."""
        if not self.is_sampled(one.request_id):
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self._on_drop["full"](1)
            return
        if content is not None:
            if self._put - self._taken + content.size > CONTENT_QUEUE_BYTES:
                content = replace(content, input="[]", output="[]", system="[]", missing=True)
            self._put += content.size
        self._queue.append(_QueuedTrace(build_spans(one), content))

    def close(self) -> None:
        """Send the queued traces for at most `last_s`, then stop."""
        self._last_at = time.monotonic() + self._last_s
        self._stop.set()
        self._thread.join(self._last_s)
        self._on_drop["away"](len(self._queue))

    def _run(self) -> None:
        wait_s = self._every_s
        while not self._stop.wait(wait_s):
            wait_s = self._every_s
            while self._queue and not self._stop.is_set():
                if not self._send():
                    wait_s = min(BACKOFF_LIMIT_S, wait_s * 2)
                    break
        while self._queue and time.monotonic() < self._last_at and self._send():
            continue

    def _send(self) -> bool:
        """Send the oldest traces of the queue; False if they must be sent again later."""
        batch: list[_QueuedTrace] = []
        size = 0
        for place in range(min(BATCH_TRACES, len(self._queue))):
            trace = self._queue[place]
            size += trace.content_bytes
            if batch and size > CONTENT_BATCH_BYTES:
                break
            batch.append(trace)
        spans = [span for trace in batch for span in self._with_content(trace)]
        scoped = [{"scope": {"name": "archwright", "version": __version__}, "spans": spans}]
        service = {"attributes": _encode_attributes({"service.name": "archwright-gateway"})}
        refused = self._post(msgspec.json.encode({"resourceSpans": [{"resource": service, "scopeSpans": scoped}]}))
        if refused is None:
            return False
        for trace in batch:
            self._queue.popleft()
            self._taken += trace.content_bytes
        if refused:
            self._on_drop["refused"](len(batch))
        return True

    def _with_content(self, trace: _QueuedTrace) -> list[OtlpSpan]:
        """Return the spans with their content, if the tenant's traces still include content."""
        root, *parts = trace.spans
        content = trace.content
        if content is None or not self._traced(content.tenant):
            return trace.spans
        fields = {
            "gen_ai.system_instructions": content.system if content.system != "[]" else None,
            "gen_ai.input.messages": content.input,
            "gen_ai.output.messages": content.output,
            "archwright.content.truncated": content.missing or None,
        }
        return [{**root, "attributes": [*cast(list[object], root["attributes"]), *_encode_attributes(fields)]}, *parts]

    def _post(self, body: bytes) -> bool | None:
        """Send a batch. Return False if it was accepted, True if it was refused, None if it must be sent again."""
        try:
            # The response body has no use.
            with self._client.open("POST", self._url, headers=JSON_HEADERS, body=body) as reply:
                if reply.status < HTTPStatus.MULTIPLE_CHOICES:
                    return False
                return None if reply.status in RETRYABLE_STATUS else True
        except NoReply:
            return None


def build_spans(one: RequestRecord) -> list[OtlpSpan]:
    digest = hashlib.sha256(one.request_id.encode()).hexdigest()
    trace, root_id = digest[:32], digest[32:48]
    start = one.at - one.latency_s
    root = _build_span(trace, root_id, f"{one.operation} {one.model}", SPAN_KIND_SERVER, start, one.latency_s)
    root["attributes"] = _encode_attributes(_list_request_attributes(one))
    if one.status != "ok":
        root["status"] = {"code": STATUS_ERROR, "message": one.status}
    spans = [root]
    parts = (
        ("gateway", SPAN_KIND_INTERNAL, one.gateway_s),
        ("queue", SPAN_KIND_INTERNAL, one.queue_s),
        ("engine", SPAN_KIND_CLIENT, one.engine_s),
    )
    for number, (name, kind, duration_s) in enumerate(parts, 1):
        part = _build_span(trace, f"{int(root_id, 16) ^ number:016x}", name, kind, start, duration_s)
        spans.append({**part, "parentSpanId": root_id})
        start += duration_s
    return spans


def _list_request_attributes(one: RequestRecord) -> dict[str, object]:
    """Return the attributes with the conventions' names, or ours if there is none; None values are omitted."""
    return {
        "gen_ai.operation.name": one.operation,
        "gen_ai.provider.name": one.pool or None,
        "gen_ai.request.model": one.model,
        "gen_ai.response.model": one.version or None,
        "gen_ai.response.id": one.request_id,
        "gen_ai.usage.input_tokens": one.input_tokens,
        "gen_ai.usage.output_tokens": one.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": one.cached_tokens or None,
        METRIC_BY_QUANTITY["ttft_s"].otel: one.ttft_s,
        METRIC_BY_QUANTITY["tpot_s"].otel: one.tpot_s,
        "http.response.status_code": one.http_status or None,
        "error.type": None if one.status == "ok" else one.status,
        "archwright.tenant": one.tenant,
        "archwright.workload": one.workload,
        "archwright.route": one.route or None,
        "archwright.cache": one.cache,
        "archwright.tries": one.tries,
        "archwright.cost_usd": one.cost_usd,
        "archwright.shadow": one.shadow or None,
    }


def _build_span(trace: str, span_id: str, name: str, kind: int, start: float, duration_s: float) -> OtlpSpan:
    start_ns, end_ns = (str(round(at * 1e9)) for at in (start, start + duration_s))
    span: OtlpSpan = {"traceId": trace, "spanId": span_id, "name": name, "kind": kind}
    return {**span, "startTimeUnixNano": start_ns, "endTimeUnixNano": end_ns}


def _encode_attributes(fields: Mapping[str, object]) -> list[dict[str, object]]:
    return [{"key": key, "value": _encode_value(value)} for key, value in fields.items() if value is not None]


def _encode_value(value: object) -> dict[str, object]:
    """Encode a value; OTLP JSON represents 64-bit integers as strings."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}
