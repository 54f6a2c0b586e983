"""Finished requests as metrics: what a Served record says, to the ring and to the page a Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from archwright.contract.metrics import REQUEST_LABELS
from archwright.contract.served import RequestRecord
from archwright.monitor.metrics.exposition import Exposition, add_observation
from archwright.monitor.trace_exporter import TraceContent, TraceExporter
from archwright.monitor.wal.writer import WalWriter

# What is only measured of an answer that came to its end; None: the request says nothing about it.
REQUEST_VALUES: Mapping[str, Callable[[RequestRecord], float | None]] = {
    "ttft_s": lambda one: one.ttft_s if one.status == "ok" else None,
    "tpot_s": lambda one: one.tpot_s if one.status == "ok" else None,
    "latency_s": lambda one: one.latency_s if one.status == "ok" else None,
    "tokens_per_s": lambda one: one.output_tokens or None,
    "input_tokens": lambda one: one.input_tokens or None,
    "requests": lambda one: 1.0,
}


class _BoundSeries(NamedTuple):
    """The slots of one (workload, model, pool, status)."""

    ttft: memoryview[float]
    tpot: memoryview[float]
    latency: memoryview[float]
    output: memoryview[float]
    input: memoryview[float]
    requests: memoryview[float]


class RequestRecorder:
    """Where a process that serves writes down what it served: in its ledger, on the page, and in traces."""

    def __init__(self, ledger: WalWriter, exposition: Exposition, traces: TraceExporter | None = None) -> None:
        self._ledger = ledger
        self._exposition = exposition
        self._traces = traces
        self._bound: dict[tuple[str, str, str, str], _BoundSeries] = {}

    def add(self, one: RequestRecord, content: TraceContent | None = None) -> None:
        """Survives kill -9 once the ledger is flushed. `content` is only traced. Raises StoreError AW-STO-06."""
        # A label that the disk has no room for costs the page this request, never the books: these have their reserve.
        bound = None
        if not one.shadow:
            bound = self._bound.get((one.workload, one.model, one.pool, one.status))
            if bound is None:
                with suppress(OSError):
                    bound = self._bind_series(one)
        self._ledger.append("served", one)
        if self._traces is not None:
            self._traces.add(one, content)
        if bound is None:
            return
        with self._exposition.lock:
            if one.status == "ok":
                add_observation(bound.latency, one.latency_s)
                if one.ttft_s is not None:
                    add_observation(bound.ttft, one.ttft_s)
                if one.tpot_s is not None:
                    add_observation(bound.tpot, one.tpot_s)
            bound.output[0] += max(one.output_tokens, 0)
            bound.input[0] += max(one.input_tokens, 0)
            bound.requests[0] += 1.0

    def _bind_series(self, one: RequestRecord) -> _BoundSeries:
        page, labels = self._exposition, extract_labels(one)
        made = self._bound[one.workload, one.model, one.pool, one.status] = _BoundSeries(
            ttft=page.histogram("ttft_s", labels).slots,
            tpot=page.histogram("tpot_s", labels).slots,
            latency=page.histogram("latency_s", labels).slots,
            output=page.counter("tokens_per_s", labels).slots,
            input=page.counter("input_tokens", labels).slots,
            requests=page.counter("requests", {**labels, "status": one.status}).slots,
        )
        return made


def extract_labels(one: RequestRecord) -> dict[str, str]:
    return {name: getattr(one, name) for name in REQUEST_LABELS}
