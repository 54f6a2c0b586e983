"""Embedded metrics store: single observations, and evaluation of a Query over observations and served requests.

An observation is a value at a time with labels. Its meaning depends on the metric's kind: histogram: the value of one
request; counter: an increment at that time; gauge: a reading that is valid until the next reading.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from archwright.contract.evidence import Query
from archwright.contract.metrics import FAILED_STATUSES, LIMITED_STATUS, METRIC_BY_QUANTITY
from archwright.contract.percentile import percentile
from archwright.contract.record import Record
from archwright.errors import ArchwrightError, boundary
from archwright.home import Home
from archwright.monitor.metrics.exposition import sanitise_label_value
from archwright.monitor.metrics.request_recorder import REQUEST_VALUES, extract_labels
from archwright.monitor.wal.compaction import BLOCKS, read_served
from archwright.store import ColumnRange, RecordTable, Store

FLUSH_S = 0.25
BUFFER_LIMIT = 100_000  # observations buffered while the store fails, about 30 MB
BATCH_ROWS = 5_000  # rows per transaction, so that other writers of the store are not blocked for long


class Observation(Record):
    quantity: str
    at: float
    value: float
    labels: dict[str, str]


class QueryResult(Record):
    """Result of a Query over `samples` observations."""

    value: float
    unit: str
    samples: int
    window_s: float


OBSERVATIONS = RecordTable("observations", Observation, index=("at",))


class ObservationRecorder:
    """Buffer of observations that a thread writes to the store without blocking the caller.

    While the store fails, the newest BUFFER_LIMIT observations are kept. `dropped` counts the others and values that
    are not finite; `refusal` is the store's last error."""

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
        """Buffer a value; `at`: seconds since the epoch (None: now). Raises KeyError for an unknown quantity."""
        if not math.isfinite(value):
            self.dropped += 1
            return
        printable = {name: sanitise_label_value(text) for name, text in sorted(labels.items())}
        observed_at = self._clock() if at is None else at
        name = METRIC_BY_QUANTITY[quantity].quantity
        self._buffer.append(Observation(quantity=name, at=observed_at, value=float(value), labels=printable))
        if len(self._buffer) > self._limit:
            self._buffer.popleft()
            self.dropped += 1

    def flush(self) -> bool:
        """Write the buffer; return False if the store failed and observations are still buffered."""
        with self._writing:
            while self._buffer:
                batch = self._take_batch()
                try:
                    with boundary("recorder"):
                        self._store.append(OBSERVATIONS, batch)
                except ArchwrightError as error:
                    self.refusal = error
                    free = max(0, self._limit - len(self._buffer))
                    newest = batch[max(0, len(batch) - free) :]
                    self.dropped += len(batch) - len(newest)
                    self._buffer.extendleft(reversed(newest))
                    return False
                self.refusal = None
        return True

    def prune(self, before: float) -> int:
        """Delete observations older than `before`; return the number of rows, 0 if the store fails."""
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
        """Take up to BATCH_ROWS from the front. The caller holds `_writing`; a full buffer may shrink meanwhile."""
        batch: list[Observation] = []
        with suppress(IndexError):
            while len(batch) < BATCH_ROWS:
                batch.append(self._buffer.popleft())
        return batch


def evaluate_query(store: Store, query: Query, until: float, home: Home | None = None) -> QueryResult | None:
    """Evaluate a query over [until - window_s, until]; None without matching observations.

    Requests are visible within a second, with `home` immediately. An observation matches if it has the query's labels.
    - Histogram and counter: percentile, mean, max and last of the single values; rate = sum / window_s; last of a
      counter = sum; share of a counter = 1 - failed statuses / all.
    - Gauge: the same statistics over the sum of all matching series after each reading, without rate. A gauge of
      training runs is not summed: each reading is a value.
    Raises StoreError."""
    metric = METRIC_BY_QUANTITY[query.metric]
    points = _select_observations(store, query, until)
    if query.metric in REQUEST_VALUES:
        points += _select_requests(store, query, until, home)
    points.sort(key=lambda point: point.at)
    if not points:
        return None
    values = _sum_series(points) if metric.kind == "gauge" and not metric.is_per_run else [row.value for row in points]
    unit = metric.unit
    if query.statistic == "share":
        return _compute_share(points, query)
    if query.statistic == "rate":
        if metric.kind == "gauge":
            return None
        value, unit = math.fsum(values) / query.window_s, f"{unit}/s"
    elif query.statistic == "last" and metric.kind == "counter":
        value = math.fsum(values)
    else:
        value = _compute_statistic(query, values)
    return QueryResult(value=value, unit=unit, samples=len(points), window_s=query.window_s)


def prune_observations(store: Store, before: float) -> int:
    """Delete observations and request records older than `before`, not usage totals; return the number of rows."""
    last = math.nextafter(before, -math.inf)
    deleted = store.prune(OBSERVATIONS, ColumnRange("at", None, last))
    return deleted + store.prune(BLOCKS["served"], ColumnRange("last_at", None, last))


class _Sample(NamedTuple):
    """A matching observation; `series`: its labels as stored."""

    at: float
    value: float
    series: str


def _select_observations(store: Store, query: Query, until: float) -> list[_Sample]:
    """Return the matching observations of the window; each distinct label set is decoded once."""
    span = ColumnRange("at", until - query.window_s, until)
    matches: dict[str, bool] = {}
    points: list[_Sample] = []
    for at, value, series in store.columns(OBSERVATIONS, ("at", "value", "labels"), {"quantity": query.metric}, span):
        if series not in matches:
            matches[series] = query.labels.items() <= msgspec.json.decode(series, type=dict[str, str]).items()
        if matches[series]:
            points.append(_Sample(at, value, series))
    return points


def _select_requests(store: Store, query: Query, until: float, home: Home | None) -> list[_Sample]:
    value_of = REQUEST_VALUES[query.metric]
    series: dict[tuple[str, ...], str | None] = {}
    points: list[_Sample] = []
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
            points.append(_Sample(one.at, value, name))
    return points


def _compute_share(points: Sequence[_Sample], query: Query) -> QueryResult | None:
    """Return the share of increments without a failed status, among those that a service level counts."""
    labels_of = {point.series: msgspec.json.decode(point.series, type=dict[str, str]) for point in points}
    status_of = {series: labels.get("status") for series, labels in labels_of.items()}
    counted = [point for point in points if status_of[point.series] != LIMITED_STATUS]
    total = math.fsum(point.value for point in counted)
    if total <= 0:
        return None
    failed = math.fsum(point.value for point in counted if status_of[point.series] in FAILED_STATUSES)
    return QueryResult(value=1 - failed / total, unit="share", samples=len(counted), window_s=query.window_s)


def _compute_statistic(query: Query, values: Sequence[float]) -> float:
    if query.quantile is not None:
        return percentile(values, query.quantile)
    if query.statistic == "mean":
        return math.fsum(values) / len(values)
    return max(values) if query.statistic == "max" else values[-1]


def _sum_series(points: Sequence[_Sample]) -> list[float]:
    """Return, for each time with readings, the sum of the newest readings of all series."""
    newest: dict[str, float] = {}
    sums: list[float] = []
    for index, point in enumerate(points):
        newest[point.series] = point.value
        if index + 1 == len(points) or points[index + 1].at != point.at:
            sums.append(math.fsum(newest.values()))
    return sums
