"""Recorder of finished requests: usage records, metrics for Prometheus, and traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from archwright.contract.metrics import METRIC_BY_QUANTITY, REQUEST_LABELS
from archwright.contract.served import RequestRecord
from archwright.monitor.metrics.exposition import Exposition, Histogram
from archwright.monitor.trace_exporter import TraceContent, TraceExporter
from archwright.monitor.wal.writer import WalWriter

# Value of a request per metric; None: not measured (latencies only for status "ok").
REQUEST_VALUES: Mapping[str, Callable[[RequestRecord], float | None]] = {
    "ttft_s": lambda one: one.ttft_s if one.status == "ok" else None,
    "tpot_s": lambda one: one.tpot_s if one.status == "ok" else None,
    "latency_s": lambda one: one.latency_s if one.status == "ok" else None,
    "tokens_per_s": lambda one: one.output_tokens or None,
    "input_tokens": lambda one: one.input_tokens or None,
    "requests": lambda one: 1.0,
}


COUNTERS = ("tokens_per_s", "input_tokens", "requests", "spend_usd")


class _BoundSeries(NamedTuple):
    ttft: Histogram
    tpot: Histogram
    latency: Histogram
    output: memoryview[float]
    input: memoryview[float]
    requests: memoryview[float]
    spend: memoryview[float]


class RequestRecorder:
    """Writes the finished requests of a gateway process to its WAL, its exposition and its traces."""

    def __init__(self, wal: WalWriter, exposition: Exposition, traces: TraceExporter | None = None) -> None:
        self._wal = wal
        self._exposition = exposition
        self._traces = traces
        self._bound: dict[tuple[str | int, ...], _BoundSeries] = {}

    def add(self, one: RequestRecord, content: TraceContent | None = None) -> None:
        """Record a request; durable against kill -9 after the WAL's flush. Raises StoreError AW-STO-06.

        The metrics omit a request without a model: they count it as a refusal.
        `content` is used for traces only. If the disk is full, a new label set is not counted in the exposition, but
        the usage record is written: the WAL has a reserve."""
        bound = None
        if one.model and not one.shadow:
            key = one.workload, one.model, one.pool, one.tenant, one.status, one.http_status
            bound = self._bound.get(key)
            if bound is None:
                with suppress(OSError):
                    bound = self._bound[key] = self._bind_series(one)
        self._wal.append("served", one)
        if self._traces is not None:
            self._traces.add(one, content)
        if bound is None:
            return
        if one.queue_s or one.cache != "off":
            self._count_queue_and_cache(one)
        with self._exposition.lock:
            if one.status == "ok":
                bound.latency.add_observation(one.latency_s)
                if one.ttft_s is not None:
                    bound.ttft.add_observation(one.ttft_s)
                if one.tpot_s is not None:
                    bound.tpot.add_observation(one.tpot_s)
            bound.output[0] += max(one.output_tokens, 0)
            bound.input[0] += max(one.input_tokens, 0)
            bound.requests[0] += 1.0
            bound.spend[0] += one.cost_usd or 0.0

    def _count_queue_and_cache(self, one: RequestRecord) -> None:
        with suppress(OSError):  # a full disk takes no new label set
            if one.queue_s:
                self._exposition.record("queue_wait_s", {"pool": one.pool}, one.queue_s)
            if one.cache != "off":
                labels = {**extract_labels(one), "outcome": one.cache}
                self._exposition.record("cache_lookups", labels, 1.0)

    def _bind_series(self, one: RequestRecord) -> _BoundSeries:
        labels = {name: str(getattr(one, name)) for name in METRIC_BY_QUANTITY["requests"].labels}
        ttft, tpot, latency = (self._exposition.histogram(name, labels) for name in ("ttft_s", "tpot_s", "latency_s"))
        counters = (self._exposition.bind(name, labels).slots for name in COUNTERS)
        return _BoundSeries(ttft, tpot, latency, *counters)


def extract_labels(one: RequestRecord) -> dict[str, str]:
    return {name: getattr(one, name) for name in REQUEST_LABELS}
