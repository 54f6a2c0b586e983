"""Embedded metrics store: single observations, and evaluation of a Query.

A query is evaluated over observations and served requests. An observation is a value at a time with
labels. Its meaning depends on the metric's kind: histogram: the value of one request; counter: an
increment at that time; gauge: a reading that is valid until the next reading.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import NamedTuple

import msgspec

from archwright.contract.evidence import Query
from archwright.contract.metrics import FAILED_STATUSES, LIMITED_STATUS, METRIC_BY_QUANTITY
from archwright.contract.percentile import percentile
from archwright.contract.record import Record
from archwright.contract.served import RequestRecord
from archwright.errors import ArchwrightError, boundary
from archwright.home import Home
from archwright.monitor.metrics.exposition import sanitise_label_value
from archwright.monitor.metrics.request_recorder import (
    REQUEST_QUANTITIES,
    extract_labels,
    read_value,
)
from archwright.monitor.wal.compaction import read_served
from archwright.store import ColumnRange, RecordTable, Store

FLUSH_S = 0.25
BUFFER_LIMIT = 100_000  # observations buffered while the store fails, about 30 MB
# Rows per transaction, so that other writers of the store are not blocked for long.
BATCH_ROWS = 5_000


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

    While the store fails, the newest BUFFER_LIMIT observations are kept. `dropped` counts the
    others and values that
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

    def observe(
        self,
        quantity: str,
        labels: Mapping[str, str],
        value: float,
        *,
        at: float | None = None,
    ) -> None:
        """Buffer a value; `at`: seconds since the epoch (None: now).

        Raises KeyError for an unknown quantity.
        """
        if not math.isfinite(value):
            self.dropped += 1
            return

        printable_labels: dict[str, str] = {}
        for name, text in sorted(labels.items()):
            printable_labels[name] = sanitise_label_value(text)
        observation = Observation(
            quantity=METRIC_BY_QUANTITY[quantity].quantity,
            at=self._clock() if at is None else at,
            value=float(value),
            labels=printable_labels,
        )
        self._buffer.append(observation)

        if len(self._buffer) > self._limit:
            self._buffer.popleft()
            self.dropped += 1

    def flush(self) -> bool:
        """Write the buffer; False if the store failed and observations are still buffered."""
        with self._writing:
            while self._buffer:
                batch = self._take_batch()
                try:
                    with boundary("recorder"):
                        self._store.append(OBSERVATIONS, batch)
                except ArchwrightError as error:
                    self.refusal = error
                    self._put_back(batch)
                    return False
                self.refusal = None
        return True

    def prune(self, before: float) -> int:
        """Delete observations older than `before`; return their number, 0 if the store fails."""
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
        """Take up to BATCH_ROWS from the front; a full buffer may shrink meanwhile.

        The caller holds `_writing`.
        """
        batch: list[Observation] = []
        with suppress(IndexError):
            while len(batch) < BATCH_ROWS:
                batch.append(self._buffer.popleft())
        return batch

    def _put_back(self, batch: list[Observation]) -> None:
        """Put the newest observations back to the front, as many as the buffer has space for."""
        free = max(0, self._limit - len(self._buffer))
        dropped = max(0, len(batch) - free)
        newest = batch[dropped:]
        self.dropped += dropped
        self._buffer.extendleft(reversed(newest))


def evaluate_query(
    store: Store,
    query: Query,
    until: float,
    *,
    home: Home | None = None,
) -> QueryResult | None:
    """Evaluate a query over [until - window_s, until]; None without matching observations.

    Requests are visible within a second, with `home` immediately. An observation matches if it has
    the query's labels.
    - Histogram and counter: percentile, mean, max and last of the single values; rate = sum /
      window_s; last of a counter = sum; share of a counter = 1 - failed statuses / all.
    - Gauge: the same statistics over the sum of all matching series after each reading, without
      rate. A gauge of training runs is not summed: each reading is a value.
    Raises StoreError.
    """
    metric = METRIC_BY_QUANTITY[query.metric]
    samples = _select_observations(store, query, until)
    if query.metric in REQUEST_QUANTITIES:
        samples += _select_requests(store, query, until, home=home)
    samples.sort(key=lambda sample: sample.at)
    if not samples:
        return None

    if query.statistic == "share":
        return _compute_share(samples, query)
    if query.statistic == "rate" and metric.kind == "gauge":
        return None

    if metric.kind == "gauge" and not metric.is_per_run:
        values = _sum_series(samples)
    else:
        values = [sample.value for sample in samples]
    unit = metric.unit
    if query.statistic == "rate":
        value = math.fsum(values) / query.window_s
        unit = f"{metric.unit}/s"
    elif query.statistic == "last" and metric.kind == "counter":
        value = math.fsum(values)
    else:
        value = _compute_statistic(query, values)
    return QueryResult(value=value, unit=unit, samples=len(samples), window_s=query.window_s)


def prune_observations(store: Store, before: float) -> int:
    """Delete observations older than `before`; return the number of rows.

    Request records go with a signed checkpoint (`access.audit_checkpoints`).
    """
    last = math.nextafter(before, -math.inf)
    return store.prune(OBSERVATIONS, ColumnRange("at", None, last))


class _Sample(NamedTuple):
    """A matching observation; `series`: its labels as stored."""

    at: float
    value: float
    series: str


def _select_observations(store: Store, query: Query, until: float) -> list[_Sample]:
    """Return the matching observations of the window; each distinct label set is decoded once."""
    columns = ("at", "value", "labels")
    where = {"quantity": query.metric}
    span = ColumnRange("at", until - query.window_s, until)

    matches: dict[str, bool] = {}
    samples: list[_Sample] = []
    for at, value, series in store.columns(OBSERVATIONS, columns, where, span):
        if series not in matches:
            matches[series] = query.labels.items() <= _decode_labels(series).items()
        if matches[series]:
            samples.append(_Sample(at, value, series))
    return samples


def _select_requests(
    store: Store,
    query: Query,
    until: float,
    *,
    home: Home | None,
) -> list[_Sample]:
    """Return the matching requests of the window; each distinct label set is encoded once."""
    series_by_key: dict[tuple[str, ...], str | None] = {}
    samples: list[_Sample] = []
    for record in read_served(store, home, (until - query.window_s, until)):
        if record.shadow:
            continue
        value = read_value(record, query.metric)
        if value is None:
            continue

        key = (record.workload, record.model, record.pool, record.status)
        if key not in series_by_key:
            series_by_key[key] = _match_request(record, query)
        series = series_by_key[key]
        if series is not None:
            samples.append(_Sample(record.at, value, series))
    return samples


def _match_request(record: RequestRecord, query: Query) -> str | None:
    """Return the request's series; None if it lacks labels of the query."""
    labels = extract_labels(record)
    if query.metric == "requests":
        labels["status"] = record.status
    if not query.labels.items() <= labels.items():
        return None
    return msgspec.json.encode(labels).decode()


def _decode_labels(series: str) -> dict[str, str]:
    return msgspec.json.decode(series, type=dict[str, str])


def _compute_share(samples: Sequence[_Sample], query: Query) -> QueryResult | None:
    """Return the share of increments without a failed status.

    Increments that no service level counts are left out.
    """
    statuses: dict[str, str | None] = {}
    for sample in samples:
        if sample.series not in statuses:
            statuses[sample.series] = _decode_labels(sample.series).get("status")

    counted_values: list[float] = []
    failed_values: list[float] = []
    for sample in samples:
        status = statuses[sample.series]
        if status == LIMITED_STATUS:
            continue
        counted_values.append(sample.value)
        if status in FAILED_STATUSES:
            failed_values.append(sample.value)

    total = math.fsum(counted_values)
    if total <= 0:
        return None
    return QueryResult(
        value=1 - math.fsum(failed_values) / total,
        unit="share",
        samples=len(counted_values),
        window_s=query.window_s,
    )


def _compute_statistic(query: Query, values: Sequence[float]) -> float:
    if query.quantile is not None:
        return percentile(values, query.quantile)
    if query.statistic == "mean":
        return math.fsum(values) / len(values)
    if query.statistic == "max":
        return max(values)
    return values[-1]


def _sum_series(samples: Sequence[_Sample]) -> list[float]:
    """Return, for each time with readings, the sum of the newest readings of all series."""
    newest: dict[str, float] = {}
    sums: list[float] = []
    for _at, readings in groupby(samples, key=lambda sample: sample.at):
        for reading in readings:
            newest[reading.series] = reading.value
        sums.append(math.fsum(newest.values()))
    return sums
