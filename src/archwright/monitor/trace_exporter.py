"""Export of request traces to an OpenTelemetry collector.

The format is OTLP/HTTP with JSON and the GenAI semantic conventions.

Disabled unless a collector is configured. A trace is built from a finished request's record: a span
of the request with child spans for gateway, queue and engine, in that order (the record has
durations, not their interleaving). Sampling depends only on the request id, so every process of a
gateway samples the same requests. Content is sent only if `traced` is True for its tenant when the
trace is sent. Export never delays a request: a full queue drops and counts.
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
# Longest time to send the queued traces when the process ends.
SHUTDOWN_TIMEOUT_S = 5.0
# Content beyond this limit is left out and marked as truncated.
CONTENT_QUEUE_BYTES = 16 << 20
# Content beyond this limit goes to the next batch.
CONTENT_BATCH_BYTES = 2 << 20
SAMPLING_BITS = 52
SPAN_KIND_INTERNAL = 1
SPAN_KIND_SERVER = 2
SPAN_KIND_CLIENT = 3
STATUS_ERROR = 2
# Statuses after which a batch is sent again; any other error status drops it.
RETRYABLE_STATUS = (429, 502, 503, 504)
OtlpSpan = dict[str, object]
DropReason = Literal["full", "refused", "away"]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)


@dataclass(frozen=True, slots=True)
class TraceContent:
    """Messages and response of a request as the conventions' JSON.

    `missing`: left out because of its length.
    """

    tenant: str
    input: str
    output: str
    system: str = "[]"
    missing: bool = False

    @property
    def size(self) -> int:
        texts = (self.input, self.output, self.system)
        return sum(map(len, texts))


@dataclass(frozen=True, slots=True)
class _QueuedTrace:
    """Spans of one request (the request's own span first) with its content."""

    spans: list[OtlpSpan]
    content: TraceContent | None

    @property
    def content_bytes(self) -> int:
        if self.content is None:
            return 0
        return self.content.size


class TraceExporter:
    """Queue of sampled traces and the thread that sends them.

    An unsampled request costs one comparison. `on_drop` counts undelivered traces: queue `full`,
    `refused` by the collector, collector `away` at shutdown. `traced` returns True if a tenant's
    traces include content.
    """

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
        self._every_s = every_s
        self._last_s = last_s
        self._last_at = math.inf
        self._traced = traced
        self._queue: deque[_QueuedTrace] = deque()
        # Content bytes put in by one thread and taken out by the other; each has a single writer.
        self._put_bytes = 0
        self._taken_bytes = 0
        self._client = BlockingClient(TIMEOUT_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def is_sampled(self, request_id: str) -> bool:
        """True if the random part of the request id is within the sampled share.

        The random part is the last 13 hex digits.
        """
        return int(request_id[-13:], 16) < self._limit

    def add(self, record: RequestRecord, content: TraceContent | None = None) -> None:
        """Queue the trace of a finished request if it is sampled."""
        if not self.is_sampled(record.request_id):
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self._on_drop["full"](1)
            return

        if content is not None:
            queued_bytes = self._put_bytes - self._taken_bytes
            if queued_bytes + content.size > CONTENT_QUEUE_BYTES:
                content = replace(content, input="[]", output="[]", system="[]", missing=True)
            self._put_bytes += content.size
        self._queue.append(_QueuedTrace(build_spans(record), content))

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
        batch = self._peek_batch()
        spans: list[OtlpSpan] = []
        for trace in batch:
            spans += self._with_content(trace)

        is_refused = self._post(_encode_request(spans))
        if is_refused is None:
            return False
        for trace in batch:
            self._queue.popleft()
            self._taken_bytes += trace.content_bytes
        if is_refused:
            self._on_drop["refused"](len(batch))
        return True

    def _peek_batch(self) -> list[_QueuedTrace]:
        """Return the oldest traces of the queue, at least one; they stay in the queue."""
        batch: list[_QueuedTrace] = []
        batch_bytes = 0
        for index in range(min(BATCH_TRACES, len(self._queue))):
            trace = self._queue[index]
            batch_bytes += trace.content_bytes
            if batch and batch_bytes > CONTENT_BATCH_BYTES:
                break
            batch.append(trace)
        return batch

    def _with_content(self, trace: _QueuedTrace) -> list[OtlpSpan]:
        """Return the spans with their content, if the tenant's traces still include content."""
        content = trace.content
        if content is None or not self._traced(content.tenant):
            return trace.spans

        fields: dict[str, object] = {}
        if content.system != "[]":
            fields["gen_ai.system_instructions"] = content.system
        fields["gen_ai.input.messages"] = content.input
        fields["gen_ai.output.messages"] = content.output
        if content.missing:
            fields["archwright.content.truncated"] = True

        root, *parts = trace.spans
        attributes = [*cast(list[object], root["attributes"]), *_encode_attributes(fields)]
        return [{**root, "attributes": attributes}, *parts]

    def _post(self, body: bytes) -> bool | None:
        """Send a batch.

        Return False if it was accepted, True if it was refused, None if it must be sent again.
        """
        try:
            # The response body has no use.
            with self._client.open("POST", self._url, headers=JSON_HEADERS, body=body) as reply:
                if reply.status in RETRYABLE_STATUS:
                    return None
                return reply.status >= HTTPStatus.MULTIPLE_CHOICES
        except NoReply:
            return None


def build_spans(record: RequestRecord) -> list[OtlpSpan]:
    """Return the spans of a request: the request's own, then its parts."""
    digest = hashlib.sha256(record.request_id.encode()).hexdigest()
    trace_id = digest[:32]
    root_id = digest[32:48]
    start = record.at - record.latency_s
    root: OtlpSpan = {
        "traceId": trace_id,
        "spanId": root_id,
        "name": f"{record.operation} {record.model}",
        "kind": SPAN_KIND_SERVER,
        **_encode_times(start, record.latency_s),
        "attributes": _encode_attributes(_list_request_attributes(record)),
    }
    if record.status != "ok":
        root["status"] = {"code": STATUS_ERROR, "message": record.status}

    spans = [root]
    parts = (
        ("gateway", SPAN_KIND_INTERNAL, record.gateway_s),
        ("queue", SPAN_KIND_INTERNAL, record.queue_s),
        ("engine", SPAN_KIND_CLIENT, record.engine_s),
    )
    for number, (name, kind, duration_s) in enumerate(parts, 1):
        part_id = int(root_id, 16) ^ number
        part: OtlpSpan = {
            "traceId": trace_id,
            "spanId": f"{part_id:016x}",
            "name": name,
            "kind": kind,
            **_encode_times(start, duration_s),
            "parentSpanId": root_id,
        }
        spans.append(part)
        start += duration_s
    return spans


def _encode_times(start: float, duration_s: float) -> dict[str, object]:
    """Return the fields of a span's times, in nanoseconds since the epoch."""
    end = start + duration_s
    return {
        "startTimeUnixNano": str(round(start * 1e9)),
        "endTimeUnixNano": str(round(end * 1e9)),
    }


def _encode_request(spans: list[OtlpSpan]) -> bytes:
    scope = {"name": "archwright", "version": __version__}
    service = {"attributes": _encode_attributes({"service.name": "archwright-gateway"})}
    resource_spans = {
        "resource": service,
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }
    return msgspec.json.encode({"resourceSpans": [resource_spans]})


def _list_request_attributes(record: RequestRecord) -> dict[str, object]:
    """Return the attributes with the conventions' names, or ours if there is none.

    None values are omitted.
    """
    error_type = None if record.status == "ok" else record.status
    return {
        "gen_ai.operation.name": record.operation,
        "gen_ai.provider.name": record.pool or None,
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.version or None,
        "gen_ai.response.id": record.request_id,
        "gen_ai.usage.input_tokens": record.input_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens or None,
        METRIC_BY_QUANTITY["ttft_s"].otel: record.ttft_s,
        METRIC_BY_QUANTITY["tpot_s"].otel: record.tpot_s,
        "http.response.status_code": record.http_status or None,
        "error.type": error_type,
        "archwright.tenant": record.tenant,
        "archwright.workload": record.workload,
        "archwright.route": record.route or None,
        "archwright.cache": record.cache,
        "archwright.tries": record.tries,
        "archwright.cost_usd": record.cost_usd,
        "archwright.shadow": record.shadow or None,
    }


def _encode_attributes(fields: Mapping[str, object]) -> list[dict[str, object]]:
    """Encode the fields that have a value."""
    attributes: list[dict[str, object]] = []
    for key, value in fields.items():
        if value is not None:
            attributes.append({"key": key, "value": _encode_value(value)})
    return attributes


def _encode_value(value: object) -> dict[str, object]:
    """Encode a value; OTLP JSON represents 64-bit integers as strings."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}
