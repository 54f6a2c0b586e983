"""Prometheus text exposition of every series of contract.metrics, summed over the processes of a gateway.

Design: a child (one label set of one metric) is bound once; an observation is then an addition to its slots. The slots
of a process are in a file that all processes can read, so a scrape of any process covers all of them, and the counts of
a killed process are kept. A metric has at most `limit` label sets. Further label sets count under "other", so callers
that invent label values cost accuracy, not memory.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import threading
from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from io import FileIO
from pathlib import Path

import msgspec

from archwright.contract.metrics import FOLDED_LABELS, METRIC_BY_QUANTITY, METRICS, REQUEST_LABELS, REQUEST_SETS, Metric
from archwright.monitor.wal.segments import allocate_bytes

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABEL_SETS_LIMIT = 64  # per metric; of requests for each of so many models on a pool
OTHER_LABEL = "other"
SLOT_BYTES = 8
COUNTERS_SUFFIX = ".counters"
LABELS_SUFFIX = ".labels"
LabelValues = tuple[str, ...]
SeriesValues = dict[str, dict[LabelValues, list[float]]]


class _Child:
    """One label set of a metric with its `slots`."""

    def __init__(self, slots: memoryview[float], lock: threading.Lock) -> None:
        self.slots = slots
        self._lock = lock


class Counter(_Child):
    def add(self, value: float = 1.0) -> None:
        """Add `value` >= 0."""
        with self._lock:
            self.slots[0] += value

    record = add


class Gauge(_Child):
    def record(self, value: float) -> None:
        self.slots[0] = value


class Histogram(_Child):
    """One slot per bucket (not cumulative; the last is unbounded), then the sum."""

    bounds: tuple[float, ...] = ()

    def record(self, value: float) -> None:
        with self._lock:
            self.add_observation(value)

    def add_observation(self, value: float) -> None:
        """Add a value; the caller holds the exposition's lock."""
        slots = self.slots
        slots[bisect_left(self.bounds, value)] += 1.0
        slots[-1] += value


Child = Counter | Gauge | Histogram
CHILD_TYPES: dict[str, type[Counter | Gauge | Histogram]] = {"histogram": Histogram, "counter": Counter, "gauge": Gauge}


class Exposition:
    """The series of one process. Thread-safe. `folder`: files of all summed processes; None: this process alone."""

    def __init__(self, limit: int = LABEL_SETS_LIMIT, folder: Path | None = None) -> None:
        self._limit = limit
        self.lock = threading.Lock()  # protects every slot; a holder may write several slots
        self._binding = threading.Lock()
        self._ranges, size = _compute_slot_ranges(limit)
        self._children: dict[str, dict[LabelValues, Child]] = {metric.quantity: {} for metric in METRICS}
        self._file: _CountersFile | None = None
        if folder is None:
            self._slots = memoryview(bytearray(size)).cast("d")
        else:
            # Files of another slot layout (another version) are not read.
            series = [(metric.name, metric.labels, metric.bounds) for metric in METRICS]
            layout = msgspec.json.encode([limit, REQUEST_SETS, *series])
            self._file = _CountersFile(folder, hashlib.sha256(layout).hexdigest()[:12], size)
            self._slots = memoryview(self._file.mapped).cast("d")
            for quantity, *labels in self._file.bound:
                child = self._create_child(METRIC_BY_QUANTITY[quantity], tuple(labels))
                if isinstance(child, Gauge):
                    child.record(0.0)

    def bind(self, quantity: str, labels: Mapping[str, str]) -> Child:
        """Return the child of this label set; labels that the metric lacks are ignored, missing labels are empty."""
        metric = METRIC_BY_QUANTITY[quantity]
        key = tuple([labels.get(label, "") for label in metric.labels])
        return self._children[quantity].get(key) or self._bind(metric, key)

    def counter(self, quantity: str, labels: Mapping[str, str]) -> Counter:
        child = self.bind(quantity, labels)
        if not isinstance(child, Counter):
            raise ValueError(f"{quantity} is not a counter")
        return child

    def histogram(self, quantity: str, labels: Mapping[str, str]) -> Histogram:
        child = self.bind(quantity, labels)
        if not isinstance(child, Histogram):
            raise ValueError(f"{quantity} is not a histogram")
        return child

    def record(self, quantity: str, labels: Mapping[str, str], value: float) -> None:
        """Record a value according to the metric's kind: observe, add or set it."""
        self.bind(quantity, labels).record(value)

    def render(self, *beside: Exposition) -> bytes:
        """Return the text of every series, summed over the processes, with the series of the expositions `beside`."""
        series: SeriesValues = {metric.quantity: {} for metric in METRICS}
        for exposition in (self, *beside):
            for quantity, children in exposition._children.items():
                for key, child in tuple(children.items()):
                    series[quantity][key] = list(child.slots)
        if self._file is not None:
            for bound, slots in self._file.read_others():
                self._add_process(series, bound, slots)
        return "".join(_render_metric(metric, series[metric.quantity]) for metric in METRICS).encode()

    def close(self) -> None:
        """Close the files; the counts stay for the other processes."""
        if self._file is not None:
            self._file.close()

    def _add_process(self, series: SeriesValues, bound: list[list[str]], slots: memoryview[float]) -> None:
        order: Counted[str] = Counted()
        for quantity, *labels in bound:
            first, width = self._ranges[quantity]
            first += order[quantity] * width
            order[quantity] += 1
            theirs = slots[first : first + width]
            ours = series[quantity].get(tuple(labels), [0.0] * width)
            series[quantity][tuple(labels)] = [one + other for one, other in zip(ours, theirs, strict=True)]

    def _bind(self, metric: Metric, key: LabelValues) -> Child:
        children = self._children[metric.quantity]
        key = tuple(sanitise_label_value(text) for text in key)
        with self._binding, nullcontext() if self._file is None else _lock_folder(self._file.folder):
            if key not in children:
                key = self._fold(metric, key)
            if len(children) >= _limit_sets(metric, self._limit) and key not in children:
                key = (OTHER_LABEL,) * len(key)
            if key not in children:
                if self._file is not None:
                    self._file.append_labels([metric.quantity, *key])
                self._create_child(metric, key)
            return children[key]

    def _fold(self, metric: Metric, key: LabelValues) -> LabelValues:
        """Return the label set with "other" as tenant, then as HTTP status, if its model has many in all processes."""
        bound, size = set(self._children[metric.quantity]), len(REQUEST_LABELS)
        for sets, _ in () if self._file is None else self._file.read_others():
            bound.update(tuple(one[1:]) for one in sets if one[0] == metric.quantity)
        count = sum(one[:size] == key[:size] for one in bound)
        for place, label in enumerate(metric.labels):
            if key not in bound and count >= FOLDED_LABELS.get(label, count + 1):
                key = (*key[:place], OTHER_LABEL, *key[place + 1 :])
        return key

    def _create_child(self, metric: Metric, key: LabelValues) -> Child:
        children, (first, width) = self._children[metric.quantity], self._ranges[metric.quantity]
        first += len(children) * width
        child = children[key] = CHILD_TYPES[metric.kind](self._slots[first : first + width], self.lock)
        if isinstance(child, Histogram):
            child.bounds = metric.bounds
        return child


class _CountersFile:
    """The mapped slots of this process, and a file with the label sets in binding order.

    The file's lock shows that the process is alive. A new process takes over the file of an ended one, so that no
    counter decreases. If no process is alive, it starts from 0."""

    def __init__(self, folder: Path, layout: str, size: int) -> None:
        self.folder, self._layout = folder, layout
        with _lock_folder(folder):
            abandoned = self._claim_abandoned(size)
            if abandoned is None:
                self._path = folder / f"{layout}-{os.urandom(8).hex()}{COUNTERS_SUFFIX}"
                self._file = self._path.open("w+b", buffering=0)
                fcntl.flock(self._file, fcntl.LOCK_EX)
                try:  # an unallocated page would cause a SIGBUS at its first count if the disk were full by then
                    allocate_bytes(self._file.fileno(), size)
                except OSError:
                    self._path.unlink()
                    self._file.close()
                    raise
            else:
                self._path, self._file = abandoned
        self.mapped = mmap.mmap(self._file.fileno(), size)
        self._labels = self._path.with_suffix(LABELS_SUFFIX).open("a+b", buffering=0)
        self._labels.seek(0)
        lines = self._labels.read()
        self.bound = _parse_label_sets(lines)
        self._labels.truncate(lines.rfind(b"\n") + 1)  # an incomplete line after a crash would corrupt the next one

    def _claim_abandoned(self, size: int) -> tuple[Path, FileIO] | None:
        """Lock and return the file of an ended process, None if there is none; delete all if no process is alive."""
        ended, live = [], 0
        for path in self.folder.glob(f"*{COUNTERS_SUFFIX}"):
            file = path.open("r+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ended.append((path, file))
            except BlockingIOError:
                file.close()
                live += 1
        complete = [one for one in ended if os.fstat(one[1].fileno()).st_size == size]
        usable = [one for one in complete if live and one[0].name.startswith(self._layout)]
        for path, file in ended:
            if (path, file) not in usable[:1]:
                file.close()
            if not live:
                path.unlink()
                path.with_suffix(LABELS_SUFFIX).unlink(missing_ok=True)
        return usable[0] if usable else None

    def append_labels(self, names: list[str]) -> None:
        """Append a label set, whole or not at all: later lines would be unreadable. Raises OSError."""
        line = msgspec.json.encode(names) + b"\n"
        size = os.fstat(self._labels.fileno()).st_size
        if self._labels.write(line) < len(line):
            self._labels.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def read_others(self) -> Iterator[tuple[list[list[str]], memoryview[float]]]:
        """Yield label sets and slots of every other process, ended ones included."""
        for path in self.folder.glob(f"{self._layout}-*{COUNTERS_SUFFIX}"):
            if path != self._path:
                with suppress(FileNotFoundError):
                    labels = _parse_label_sets(path.with_suffix(LABELS_SUFFIX).read_bytes())
                    yield labels, memoryview(path.read_bytes()).cast("d")

    def close(self) -> None:
        self._labels.close()
        fcntl.flock(self._file, fcntl.LOCK_UN)  # the mapping keeps the file open
        self._file.close()


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of all processes for a change of the folder's files."""
    with (folder / "counters.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _parse_label_sets(lines: bytes) -> list[list[str]]:
    return [msgspec.json.decode(line, type=list[str]) for line in lines[: lines.rfind(b"\n") + 1].splitlines()]


def sanitise_label_value(text: str) -> str:
    """Return a printable label value: a value that cannot be encoded would break the whole exposition."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _compute_slot_ranges(limit: int) -> tuple[dict[str, tuple[int, int]], int]:
    """Return (first slot, slots per label set) of every metric for `limit` label sets and "other", and their bytes."""
    ranges, first = {}, 0
    for metric in METRICS:
        width = len(metric.bounds) + 2 if metric.kind == "histogram" else 1
        ranges[metric.quantity] = first, width
        first += width * (_limit_sets(metric, limit) + 1)
    return ranges, first * SLOT_BYTES


def _limit_sets(metric: Metric, limit: int) -> int:
    return limit * REQUEST_SETS if "tenant" in metric.labels else limit


def _render_metric(metric: Metric, children: Mapping[LabelValues, Sequence[float]]) -> str:
    lines = [f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"]
    for key, slots in children.items():
        pairs = zip(metric.labels, key, strict=True)
        escaped = ((name, value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")) for name, value in pairs)
        labels = sorted(f'{name}="{value}"' for name, value in escaped)
        if metric.kind == "histogram":
            lines.append(_render_histogram(metric, ",".join(labels), slots))
        else:
            named = f"{{{','.join(labels)}}}" if labels else ""
            lines.append(f"{metric.name}{named} {slots[0]}\n")
    return "".join(lines)


def _render_histogram(metric: Metric, labels: str, slots: Sequence[float]) -> str:
    lines, total, name = [], 0.0, metric.name
    for bound, count in zip((*metric.bounds, "+Inf"), slots, strict=False):
        total += count
        lines.append(f'{name}_bucket{{le="{bound}",{labels}}} {total}\n')
    lines.append(f"{name}_count{{{labels}}} {total}\n{name}_sum{{{labels}}} {slots[-1]}\n")
    return "".join(lines)
