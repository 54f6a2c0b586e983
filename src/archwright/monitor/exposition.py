"""The text a Prometheus scrapes: every series of contract.metrics, on a registry of its own.

Children are bound once per label set, so that an observation on the hot path costs a dict lookup and an addition.
A metric holds at most `limit` label sets; what comes after is counted under "other", so a caller that invents label
values costs accuracy, not memory.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from archwright.contract.metrics import BY_QUANTITY, LATENCY_BOUNDS_S, METRICS, Metric

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4
LIMIT = 64  # label sets per metric: 3 histograms of 98 series each stay below 20,000 series, half a second to render
OTHER = "other"

# A "created" series beside each counter and histogram doubles the scrape and nobody of ours asks for it.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

Child = Histogram | Counter | Gauge


class Exposition:
    """Safe to share between threads."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._registry = CollectorRegistry()
        self._limit = limit
        self._lock = threading.Lock()
        self._families = {metric.quantity: _family(metric, self._registry) for metric in METRICS}
        self._children: dict[str, dict[tuple[str, ...], Child]] = {metric.quantity: {} for metric in METRICS}

    def observe(self, quantity: str, labels: Mapping[str, str], value: float) -> None:
        """One observation of a histogram."""
        child = self._child(quantity, labels)
        if not isinstance(child, Histogram):
            raise ValueError(f"{quantity} is no histogram")
        child.observe(value)

    def add(self, quantity: str, labels: Mapping[str, str], value: float = 1.0) -> None:
        """An increment of a counter (>= 0)."""
        child = self._child(quantity, labels)
        if not isinstance(child, Counter):
            raise ValueError(f"{quantity} is no counter")
        child.inc(value)

    def set(self, quantity: str, labels: Mapping[str, str], value: float) -> None:
        """The value of a gauge."""
        child = self._child(quantity, labels)
        if not isinstance(child, Gauge):
            raise ValueError(f"{quantity} is no gauge")
        child.set(value)

    def record(self, quantity: str, labels: Mapping[str, str], value: float) -> None:
        """What the metric's kind makes of a value: observed, added or set."""
        child = self._child(quantity, labels)
        if isinstance(child, Histogram):
            child.observe(value)
        elif isinstance(child, Counter):
            child.inc(value)
        else:
            child.set(value)

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def _child(self, quantity: str, labels: Mapping[str, str]) -> Child:
        """The bound child; labels the metric does not have are left out, missing ones are empty."""
        metric = BY_QUANTITY[quantity]
        key = tuple([labels.get(label, "") for label in metric.labels])
        known = self._children[quantity]
        return known.get(key) or self._bind(quantity, key)

    def _bind(self, quantity: str, key: tuple[str, ...]) -> Child:
        known = self._children[quantity]
        key = tuple(printable(text) for text in key)
        with self._lock:
            if len(known) >= self._limit and key not in known:
                key = (OTHER,) * len(key)
            if key not in known:
                known[key] = self._families[quantity].labels(*key)
            return known[key]


def printable(text: str) -> str:
    """A label value that every reader takes: one that cannot be encoded would hold up everything behind it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _family(metric: Metric, registry: CollectorRegistry) -> Child:
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=LATENCY_BOUNDS_S)
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, metric.labels, registry=registry)
    return Gauge(metric.name, metric.help, metric.labels, registry=registry)
