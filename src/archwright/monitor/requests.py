"""Finished requests as metrics: what a Served record says, to the ring and to the page a Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from archwright.contract.metrics import REQUEST_LABELS
from archwright.contract.served import Served
from archwright.monitor.exposition import Counter, Exposition, Histogram
from archwright.monitor.ledger import Ledger
from archwright.monitor.traces import Traces

# What is only measured of an answer that came to its end; None: the request says nothing about it.
VALUES: Mapping[str, Callable[[Served], float | None]] = {
    "ttft_s": lambda one: one.ttft_s if one.status == "ok" else None,
    "tpot_s": lambda one: one.tpot_s if one.status == "ok" else None,
    "latency_s": lambda one: one.latency_s if one.status == "ok" else None,
    "tokens_per_s": lambda one: one.output_tokens or None,
    "input_tokens": lambda one: one.input_tokens or None,
    "requests": lambda one: 1.0,
}


class _Bound(NamedTuple):
    """The children of one (workload, model, pool)."""

    ttft: Histogram
    tpot: Histogram
    latency: Histogram
    output: Counter
    input: Counter
    requests: dict[str, Counter]


class Requests:
    """Where a process that serves writes down what it served: in its ledger, on the page, and in traces."""

    def __init__(self, ledger: Ledger, exposition: Exposition, traces: Traces | None = None) -> None:
        self._ledger = ledger
        self._exposition = exposition
        self._traces = traces
        self._bound: dict[tuple[str, str, str], _Bound] = {}

    def add(self, one: Served) -> None:
        """Survives kill -9 once the ledger is flushed. Raises StoreError AW-STO-06."""
        self._ledger.append("served", one)
        if self._traces is not None:
            self._traces.add(one)
        if one.shadow:
            return
        bound = self._bound.get((one.workload, one.model, one.pool)) or self._bind(one)
        if one.status == "ok":
            bound.latency.observe(one.latency_s)
            if one.ttft_s is not None:
                bound.ttft.observe(one.ttft_s)
            if one.tpot_s is not None:
                bound.tpot.observe(one.tpot_s)
        if one.output_tokens:
            bound.output.add(one.output_tokens)
        if one.input_tokens:
            bound.input.add(one.input_tokens)
        (bound.requests.get(one.status) or self._status(bound, one)).add()

    def _bind(self, one: Served) -> _Bound:
        page, labels = self._exposition, labels_of(one)
        made = self._bound[one.workload, one.model, one.pool] = _Bound(
            ttft=page.histogram("ttft_s", labels),
            tpot=page.histogram("tpot_s", labels),
            latency=page.histogram("latency_s", labels),
            output=page.counter("tokens_per_s", labels),
            input=page.counter("input_tokens", labels),
            requests={},
        )
        return made

    def _status(self, bound: _Bound, one: Served) -> Counter:
        made = bound.requests[one.status] = self._exposition.counter(
            "requests", {**labels_of(one), "status": one.status}
        )
        return made


def labels_of(one: Served) -> dict[str, str]:
    return {name: getattr(one, name) for name in REQUEST_LABELS}
