"""Recorder of finished requests: usage records, metrics for Prometheus, and traces."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from archwright.contract.metrics import METRIC_BY_QUANTITY, REQUEST_LABELS
from archwright.contract.served import RequestRecord
from archwright.monitor.metrics.exposition import Exposition, Histogram
from archwright.monitor.trace_exporter import TraceContent, TraceExporter
from archwright.monitor.wal.writer import WalWriter

# Metrics whose values the records of requests give.
REQUEST_QUANTITIES = frozenset(
    {"ttft_s", "tpot_s", "latency_s", "tokens_per_s", "input_tokens", "requests"},
)


class _BoundSeries(NamedTuple):
    """The series of one label set: histograms, and the slots of counters."""

    ttft: Histogram
    tpot: Histogram
    latency: Histogram
    output: memoryview[float]
    input: memoryview[float]
    requests: memoryview[float]
    spend: memoryview[float]


class RequestRecorder:
    """Writes a gateway process's finished requests to its WAL, its exposition and its traces."""

    def __init__(
        self,
        wal: WalWriter,
        exposition: Exposition,
        traces: TraceExporter | None = None,
    ) -> None:
        self._wal = wal
        self._exposition = exposition
        self._traces = traces
        self._bound: dict[tuple[str | int, ...], _BoundSeries] = {}

    def add(self, record: RequestRecord, content: TraceContent | None = None) -> None:
        """Record a request, durable against kill -9 after the WAL's flush.

        The metrics omit a request without a model: they count it as a refusal. `content` is used
        for traces only. If the disk is full, a new label set is not counted in the exposition, but
        the usage record is written: the WAL has a reserve. Raises StoreError AW-STO-06.
        """
        series = None
        if record.model and not record.shadow:
            series = self._find_series(record)

        self._wal.append("served", record)
        if self._traces is not None:
            self._traces.add(record, content)
        if series is None:
            return

        if record.queue_s or record.cache != "off":
            self._count_queue_and_cache(record)
        with self._exposition.lock:
            if record.status == "ok":
                series.latency.add_observation(record.latency_s)
                if record.ttft_s is not None:
                    series.ttft.add_observation(record.ttft_s)
                if record.tpot_s is not None:
                    series.tpot.add_observation(record.tpot_s)
            series.output[0] += max(record.output_tokens, 0)
            series.input[0] += max(record.input_tokens, 0)
            series.requests[0] += 1.0
            series.spend[0] += record.cost_usd or 0.0

    def _find_series(self, record: RequestRecord) -> _BoundSeries | None:
        """Return the series of the request's labels; None if they are new and the disk is full."""
        key = (
            record.workload,
            record.model,
            record.pool,
            record.tenant,
            record.status,
            record.http_status,
        )
        series = self._bound.get(key)
        if series is None:
            with suppress(OSError):
                series = self._bound[key] = self._bind_series(record)
        return series

    def _bind_series(self, record: RequestRecord) -> _BoundSeries:
        label_names = METRIC_BY_QUANTITY["requests"].labels
        labels = {name: str(getattr(record, name)) for name in label_names}
        exposition = self._exposition
        return _BoundSeries(
            ttft=exposition.histogram("ttft_s", labels),
            tpot=exposition.histogram("tpot_s", labels),
            latency=exposition.histogram("latency_s", labels),
            output=exposition.counter("tokens_per_s", labels).slots,
            input=exposition.counter("input_tokens", labels).slots,
            requests=exposition.counter("requests", labels).slots,
            spend=exposition.counter("spend_usd", labels).slots,
        )

    def _count_queue_and_cache(self, record: RequestRecord) -> None:
        # A full disk takes no new label set.
        with suppress(OSError):
            if record.queue_s:
                self._exposition.record("queue_wait_s", {"pool": record.pool}, record.queue_s)
            if record.cache != "off":
                labels = extract_labels(record)
                labels["outcome"] = record.cache
                self._exposition.record("cache_lookups", labels, 1.0)


def read_value(record: RequestRecord, quantity: str) -> float | None:
    """Return a request's value of one of the REQUEST_QUANTITIES; None: not measured.

    Latencies are measured for the status "ok" only.
    """
    match quantity:
        case "requests":
            return 1.0
        case "tokens_per_s":
            return record.output_tokens or None
        case "input_tokens":
            return record.input_tokens or None

    if record.status != "ok":
        return None
    match quantity:
        case "ttft_s":
            return record.ttft_s
        case "tpot_s":
            return record.tpot_s
    return record.latency_s


def extract_labels(record: RequestRecord) -> dict[str, str]:
    return {name: getattr(record, name) for name in REQUEST_LABELS}
