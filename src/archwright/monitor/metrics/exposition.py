"""Prometheus text exposition of every series of contract.metrics.

The series are summed over the processes of a gateway.

Design: a child (one label set of one metric) is bound once; an observation is then an addition to
its slots. The slots of a process are in a file that all processes can read, so a scrape of any
process covers all of them, and the counts of a killed process are kept. A metric has at most
`limit` label sets. Further label sets count under "other", so callers that invent label values cost
accuracy, not memory.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import mmap
import os
import threading
from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import msgspec

from archwright.contract.metrics import (
    FOLDED_LABELS,
    METRIC_BY_QUANTITY,
    METRICS,
    REQUEST_LABELS,
    REQUEST_SETS,
    Metric,
)
from archwright.monitor.wal.segments import allocate_bytes

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Most label sets of a metric; of requests for each of so many models on a pool.
LABEL_SETS_LIMIT = 64
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
CHILD_TYPES: dict[str, type[Child]] = {
    "histogram": Histogram,
    "counter": Counter,
    "gauge": Gauge,
}


class _SlotRange(NamedTuple):
    """Slots of a metric: the first, and how many each label set has."""

    first: int
    width: int


class _ProcessSlots(NamedTuple):
    """Slots of another process, and its label sets in binding order: the quantity, then labels."""

    label_sets: list[list[str]]
    slots: memoryview[float]


class _LockedFile(NamedTuple):
    path: Path
    file: FileIO


class Exposition:
    """The series of one process. Thread-safe.

    `folder`: files of all summed processes; None: this process alone.
    """

    def __init__(self, limit: int = LABEL_SETS_LIMIT, folder: Path | None = None) -> None:
        self._limit = limit
        self.lock = threading.Lock()  # protects every slot; a holder may write several slots
        self._binding = threading.Lock()
        self._ranges, size = _compute_slot_ranges(limit)
        self._children: dict[str, dict[LabelValues, Child]] = {}
        for metric in METRICS:
            self._children[metric.quantity] = {}

        self._file: _CountersFile | None = None
        if folder is None:
            self._slots = memoryview(bytearray(size)).cast("d")
            return
        self._file = _CountersFile(folder, _digest_layout(limit), size)
        self._slots = memoryview(self._file.mapped).cast("d")
        for quantity, *labels in self._file.bound:
            child = self._create_child(METRIC_BY_QUANTITY[quantity], tuple(labels))
            if isinstance(child, Gauge):
                child.record(0.0)

    def bind(self, quantity: str, labels: Mapping[str, str]) -> Child:
        """Return the child of this label set.

        Labels that the metric lacks are ignored, missing labels are empty.
        """
        metric = METRIC_BY_QUANTITY[quantity]
        key = tuple([labels.get(label, "") for label in metric.labels])
        child = self._children[quantity].get(key)
        if child is None:
            child = self._bind(metric, key)
        return child

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
        """Return the text of every series, summed over the processes.

        The series of the expositions `beside` are included.
        """
        series: SeriesValues = {metric.quantity: {} for metric in METRICS}
        for exposition in (self, *beside):
            for quantity, children in exposition._children.items():
                for key, child in tuple(children.items()):
                    series[quantity][key] = list(child.slots)
        if self._file is not None:
            for process in self._file.read_others():
                self._add_process(series, process)

        text = io.StringIO()
        for metric in METRICS:
            text.write(_render_metric(metric, series[metric.quantity]))
        return text.getvalue().encode()

    def close(self) -> None:
        """Close the files; the counts stay for the other processes."""
        if self._file is not None:
            self._file.close()

    def _add_process(self, series: SeriesValues, process: _ProcessSlots) -> None:
        bound_counts: Counted[str] = Counted()
        for quantity, *labels in process.label_sets:
            first, width = self._ranges[quantity]
            start = first + bound_counts[quantity] * width
            bound_counts[quantity] += 1
            values = process.slots[start : start + width]

            totals = series[quantity].setdefault(tuple(labels), [0.0] * width)
            for index, value in enumerate(values):
                totals[index] += value

    def _bind(self, metric: Metric, key: LabelValues) -> Child:
        children = self._children[metric.quantity]
        printable_key = tuple(map(sanitise_label_value, key))
        with self._binding, self._lock_files():
            bound_key = self._choose_bound_key(metric, printable_key)
            if bound_key not in children:
                if self._file is not None:
                    self._file.append_labels([metric.quantity, *bound_key])
                self._create_child(metric, bound_key)
            return children[bound_key]

    def _lock_files(self) -> AbstractContextManager[None]:
        if self._file is None:
            return nullcontext()
        return _lock_folder(self._file.folder)

    def _choose_bound_key(self, metric: Metric, key: LabelValues) -> LabelValues:
        """Return the label set that counts values of `key`: the same, or one with "other"."""
        children = self._children[metric.quantity]
        if key in children:
            return key
        folded_key = self._fold(metric, key)
        if folded_key in children or len(children) < _limit_sets(metric, self._limit):
            return folded_key
        return (OTHER_LABEL,) * len(key)

    def _fold(self, metric: Metric, key: LabelValues) -> LabelValues:
        """Return the label set with "other" as tenant, then as HTTP status.

        Nothing is replaced if its model has few label sets in all processes.
        """
        bound_keys = set(self._children[metric.quantity])
        if self._file is not None:
            for process in self._file.read_others():
                for quantity, *labels in process.label_sets:
                    if quantity == metric.quantity:
                        bound_keys.add(tuple(labels))

        of_model = key[: len(REQUEST_LABELS)]
        count = 0
        for bound_key in bound_keys:
            count += bound_key[: len(REQUEST_LABELS)] == of_model

        labels = list(key)
        for index, name in enumerate(metric.labels):
            if tuple(labels) in bound_keys:
                break
            if name in FOLDED_LABELS and count >= FOLDED_LABELS[name]:
                labels[index] = OTHER_LABEL
        return tuple(labels)

    def _create_child(self, metric: Metric, key: LabelValues) -> Child:
        children = self._children[metric.quantity]
        first, width = self._ranges[metric.quantity]
        start = first + len(children) * width
        slots = self._slots[start : start + width]
        child = CHILD_TYPES[metric.kind](slots, self.lock)
        if isinstance(child, Histogram):
            child.bounds = metric.bounds
        children[key] = child
        return child


class _CountersFile:
    """The mapped slots of this process, and a file with the label sets in binding order.

    The file's lock shows that the process is alive. A new process takes over the file of an ended
    one, so that no counter decreases. If no process is alive, it starts from 0.
    """

    def __init__(self, folder: Path, layout: str, size: int) -> None:
        self.folder = folder
        self._layout = layout
        with _lock_folder(folder):
            locked = self._claim_abandoned(size)
            if locked is None:
                locked = self._create(size)
        self._path = locked.path
        self._file = locked.file
        self.mapped = mmap.mmap(self._file.fileno(), size)

        self._labels = self._path.with_suffix(LABELS_SUFFIX).open("a+b", buffering=0)
        self._labels.seek(0)
        lines = self._labels.read()
        self.bound = _parse_label_sets(lines)
        # An incomplete line after a crash would corrupt the next one.
        self._labels.truncate(lines.rfind(b"\n") + 1)

    def _claim_abandoned(self, size: int) -> _LockedFile | None:
        """Lock and return the file of an ended process, None if there is none.

        All files are deleted if no process is alive.
        """
        ended: list[_LockedFile] = []
        live = 0
        for path in self.folder.glob(f"*{COUNTERS_SUFFIX}"):
            file = path.open("r+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ended.append(_LockedFile(path, file))
            except BlockingIOError:
                file.close()
                live += 1

        claimed: _LockedFile | None = None
        for locked in ended:
            if live and claimed is None and self._is_usable(locked, size):
                claimed = locked
                continue
            locked.file.close()
            if not live:
                locked.path.unlink()
                locked.path.with_suffix(LABELS_SUFFIX).unlink(missing_ok=True)
        return claimed

    def _is_usable(self, locked: _LockedFile, size: int) -> bool:
        """True if the file has this layout and was completely created."""
        status = os.fstat(locked.file.fileno())
        return status.st_size == size and locked.path.name.startswith(self._layout)

    def _create(self, size: int) -> _LockedFile:
        path = self.folder / f"{self._layout}-{os.urandom(8).hex()}{COUNTERS_SUFFIX}"
        file = path.open("w+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            # An unallocated page would cause a SIGBUS at its first count if the disk were full
            # then.
            allocate_bytes(file.fileno(), size)
        except OSError:
            path.unlink()
            file.close()
            raise
        return _LockedFile(path, file)

    def append_labels(self, names: list[str]) -> None:
        """Append a label set, whole or not at all: later lines would be unreadable.

        Raises OSError.
        """
        line = msgspec.json.encode(names) + b"\n"
        size = os.fstat(self._labels.fileno()).st_size
        if self._labels.write(line) < len(line):
            self._labels.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def read_others(self) -> Iterator[_ProcessSlots]:
        """Yield label sets and slots of every other process, ended ones included."""
        for path in self.folder.glob(f"{self._layout}-*{COUNTERS_SUFFIX}"):
            if path == self._path:
                continue
            with suppress(FileNotFoundError):
                lines = path.with_suffix(LABELS_SUFFIX).read_bytes()
                label_sets = _parse_label_sets(lines)
                slots = memoryview(path.read_bytes()).cast("d")
                yield _ProcessSlots(label_sets, slots)

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


def _parse_label_sets(text: bytes) -> list[list[str]]:
    """Decode the complete lines: one label set each."""
    complete = text[: text.rfind(b"\n") + 1]
    return msgspec.json.Decoder(list[str]).decode_lines(complete)


def sanitise_label_value(text: str) -> str:
    """Return a printable label value.

    A value that cannot be encoded would break the whole exposition.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def _digest_layout(limit: int) -> str:
    """Return the name of a slot layout; files of another one (another version) are not read."""
    series = [(metric.name, metric.labels, metric.bounds) for metric in METRICS]
    layout = msgspec.json.encode([limit, REQUEST_SETS, *series])
    return hashlib.sha256(layout).hexdigest()[:12]


def _compute_slot_ranges(limit: int) -> tuple[dict[str, _SlotRange], int]:
    """Return the slots of every metric for `limit` label sets and "other", and their bytes."""
    ranges: dict[str, _SlotRange] = {}
    first = 0
    for metric in METRICS:
        width = len(metric.bounds) + 2 if metric.kind == "histogram" else 1
        ranges[metric.quantity] = _SlotRange(first, width)
        first += width * (_limit_sets(metric, limit) + 1)
    return ranges, first * SLOT_BYTES


def _limit_sets(metric: Metric, limit: int) -> int:
    return limit * REQUEST_SETS if "tenant" in metric.labels else limit


def _render_metric(metric: Metric, children: Mapping[LabelValues, Sequence[float]]) -> str:
    lines = [f"# HELP {metric.name} {metric.help}\n", f"# TYPE {metric.name} {metric.kind}\n"]
    for key, slots in children.items():
        labels = _render_labels(metric.labels, key)
        if metric.kind == "histogram":
            lines.append(_render_histogram(metric, labels, slots))
        else:
            label_set = f"{{{labels}}}" if labels else ""
            lines.append(f"{metric.name}{label_set} {slots[0]}\n")
    return "".join(lines)


def _render_labels(names: Sequence[str], values: Sequence[str]) -> str:
    labels: list[str] = []
    for name, value in zip(names, values, strict=True):
        escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        labels.append(f'{name}="{escaped}"')
    return ",".join(sorted(labels))


def _render_histogram(metric: Metric, labels: str, slots: Sequence[float]) -> str:
    lines: list[str] = []
    total = 0.0
    bounds = (*metric.bounds, "+Inf")
    for bound, count in zip(bounds, slots, strict=False):
        total += count
        lines.append(f'{metric.name}_bucket{{le="{bound}",{labels}}} {total}\n')
    lines.append(f"{metric.name}_count{{{labels}}} {total}\n")
    lines.append(f"{metric.name}_sum{{{labels}}} {slots[-1]}\n")
    return "".join(lines)
