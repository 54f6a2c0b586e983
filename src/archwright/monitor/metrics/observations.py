"""The embedded ring: single observations in the store, and the answer to a Query from them and from what was served.

One observation is one value at one time with its labels. What a value means follows the metric's kind: a histogram's
is one request, a counter's an increment at the time it happened, a gauge's a reading that holds until the next.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from archwright.contract.evidence import Query
from archwright.contract.metrics import FAILED_STATUSES, METRIC_BY_QUANTITY
from archwright.contract.percentile import percentile
from archwright.contract.record import Record
from archwright.errors import ArchwrightError, boundary
from archwright.home import Home
from archwright.monitor.metrics.exposition import sanitise_label_value
from archwright.monitor.metrics.request_recorder import REQUEST_VALUES, extract_labels
from archwright.monitor.wal.compaction import BLOCKS, read_served
from archwright.store import ColumnRange, RecordTable, Store

FLUSH_S = 0.25
BUFFER_LIMIT = 100_000  # observations kept while the store refuses, some 30 MB
BATCH_ROWS = 5_000  # rows of one transaction: others get their turn at the store


class Observation(Record):
    quantity: str
    at: float
    value: float
    labels: dict[str, str]


class QueryResult(Record):
    """The answer to a Query: `samples` observations stand behind it."""

    value: float
    unit: str
    samples: int
    window_s: float


OBSERVATIONS = RecordTable("observations", Observation, index=("at",))


class ObservationRecorder:
    """Takes observations without blocking the caller; a thread writes them. While the store refuses, the newest
    BUFFER_LIMIT are kept and `dropped` counts the others and values not finite; `refusal` is the store's last error."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        flush_s: float = FLUSH_S,
        buffer_limit: int = BUFFER_LIMIT,
    ) -> None:
        self.dropped = 0
        self.refusal: ArchwrightError | None = None
        self._store = store
        self._clock = clock
        self._flush_s = flush_s
        self._limit = buffer_limit
        self._buffer: deque[Observation] = deque()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def observe(self, quantity: str, labels: Mapping[str, str], value: float, at: float | None = None) -> None:
        """`at` is seconds since the epoch, by default now. Raises KeyError for a quantity without a metric."""
        if not math.isfinite(value):
            self.dropped += 1
            return
        kept = {name: sanitise_label_value(text) for name, text in sorted(labels.items())}
        moment = self._clock() if at is None else at
        name = METRIC_BY_QUANTITY[quantity].quantity
        self._buffer.append(Observation(quantity=name, at=moment, value=float(value), labels=kept))
        if len(self._buffer) > self._limit:
            self._buffer.popleft()
            self.dropped += 1

    def flush(self) -> bool:
        """Write what is there; False when the store refused and some of it still waits."""
        with self._writing:
            while self._buffer:
                batch = self._take_batch()
                try:
                    with boundary("recorder"):
                        self._store.append(OBSERVATIONS, batch)
                except ArchwrightError as error:
                    self.refusal = error
                    room = max(0, self._limit - len(self._buffer))
                    kept = batch[max(0, len(batch) - room) :]
                    self.dropped += len(batch) - len(kept)
                    self._buffer.extendleft(reversed(kept))
                    return False
                self.refusal = None
        return True

    def prune(self, before: float) -> int:
        """Drop what is older than `before` from the store, 0 when it refuses: the next time will do."""
        try:
            with boundary("recorder"):
                return prune_observations(self._store, before)
        except ArchwrightError as error:
            self.refusal = error
            return 0

    def close(self) -> None:
        """Stop the thread after a last attempt to write."""
        self._stop.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._stop.wait(self._flush_s):
            self.flush()

    def _take_batch(self) -> list[Observation]:
        """Up to BATCH_ROWS from the front. Only the holder of `_writing` takes; a full buffer may shrink meanwhile."""
        batch: list[Observation] = []
        with suppress(IndexError):
            while len(batch) < BATCH_ROWS:
                batch.append(self._buffer.popleft())
        return batch


def evaluate_query(store: Store, query: Query, until: float, home: Home | None = None) -> QueryResult | None:
    """The query's answer over [until - window_s, until], None without observations; requests are a second old at most,
    with `home` also those only just written down.

    The query's labels must be among the observation's. Histogram and counter: percentile, mean, max and last of single
    values; rate is sum / window_s; a counter's last is the sum. Gauge: the same over the sum of all matching series
    after each reading, no rate; of training runs each is its own value. A counter's share is what its failed statuses
    leave of it. Raises StoreError."""
    metric = METRIC_BY_QUANTITY[query.metric]
    found = _select_observations(store, query, until)
    if query.metric in REQUEST_VALUES:
        found += _select_requests(store, query, until, home)
    found.sort(key=lambda point: point.at)
    if not found:
        return None
    values = _sum_series(found) if metric.kind == "gauge" and not metric.is_per_run else [row.value for row in found]
    unit = metric.unit
    if query.statistic == "share":
        return _compute_share(found, query)
    if query.statistic == "rate":
        if metric.kind == "gauge":
            return None
        value, unit = math.fsum(values) / query.window_s, f"{unit}/s"
    elif query.statistic == "last" and metric.kind == "counter":
        value = math.fsum(values)
    else:
        value = _compute_statistic(query, values)
    return QueryResult(value=value, unit=unit, samples=len(found), window_s=query.window_s)


def prune_observations(store: Store, before: float) -> int:
    """Drop observations older than `before`, and requests: what these add up to stays. Returns how many rows went."""
    last = math.nextafter(before, -math.inf)
    gone = store.prune(OBSERVATIONS, ColumnRange("at", None, last))
    return gone + store.prune(BLOCKS["served"], ColumnRange("last_at", None, last))


class _Sample(NamedTuple):
    """A matching observation; `series` is its labels as stored."""

    at: float
    value: float
    series: str


def _select_observations(store: Store, query: Query, until: float) -> list[_Sample]:
    """The matching observations of the window. There are few label sets: each is read once."""
    span = ColumnRange("at", until - query.window_s, until)
    matches: dict[str, bool] = {}
    found: list[_Sample] = []
    for at, value, series in store.columns(OBSERVATIONS, ("at", "value", "labels"), {"quantity": query.metric}, span):
        match = matches.get(series)
        if match is None:
            match = matches[series] = query.labels.items() <= msgspec.json.decode(series, type=dict[str, str]).items()
        if match:
            found.append(_Sample(at, value, series))
    return found


def _select_requests(store: Store, query: Query, until: float, home: Home | None) -> list[_Sample]:
    """The matching requests that ended in the window."""
    value_of = REQUEST_VALUES[query.metric]
    series: dict[tuple[str, ...], str | None] = {}
    found: list[_Sample] = []
    for one in read_served(store, home, (until - query.window_s, until)):
        value = None if one.shadow else value_of(one)
        if value is None:
            continue
        key = (one.workload, one.model, one.pool, one.status)
        if key not in series:
            labels = extract_labels(one) | ({"status": one.status} if query.metric == "requests" else {})
            matching = query.labels.items() <= labels.items()
            series[key] = msgspec.json.encode(labels).decode() if matching else None
        name = series[key]
        if name is not None:
            found.append(_Sample(one.at, value, name))
    return found


def _compute_share(points: Sequence[_Sample], query: Query) -> QueryResult | None:
    """Increments whose status counts as answered, among all."""
    kinds = {point.series: msgspec.json.decode(point.series, type=dict[str, str]) for point in points}
    lost = {series for series, labels in kinds.items() if labels.get("status") in FAILED_STATUSES}
    whole = math.fsum(point.value for point in points)
    if whole <= 0:
        return None
    failed = math.fsum(point.value for point in points if point.series in lost)
    return QueryResult(value=1 - failed / whole, unit="share", samples=len(points), window_s=query.window_s)


def _compute_statistic(query: Query, values: Sequence[float]) -> float:
    if query.quantile is not None:
        return percentile(values, query.quantile)
    if query.statistic == "mean":
        return math.fsum(values) / len(values)
    return max(values) if query.statistic == "max" else values[-1]


def _sum_series(points: Sequence[_Sample]) -> list[float]:
    """After each moment with readings, the sum over series of the newest reading of each."""
    newest: dict[str, float] = {}
    sums: list[float] = []
    for index, point in enumerate(points):
        newest[point.series] = point.value
        if index + 1 == len(points) or points[index + 1].at != point.at:
            sums.append(math.fsum(newest.values()))
    return sums
