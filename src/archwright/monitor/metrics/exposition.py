"""The text a Prometheus scrapes: every series of contract.metrics.

A child (one label set of one metric) is bound once; an observation is then an addition into its slots. The slots of
a process lie in a file that others map too, so that whichever process is scraped answers for all of them, and what
one had counted when it was killed is still there. A metric holds at most `limit` label sets; what comes after is
counted under "other", so a caller that invents label values costs accuracy, not memory.
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
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from archwright.contract.metrics import LATENCY_BOUNDS_S, METRIC_BY_QUANTITY, METRICS, Metric
from archwright.monitor.wal.segments import allocate_bytes

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABEL_SETS_LIMIT = 64  # label sets per metric: 3 histograms of 98 series each stay below 20,000 series
OTHER_LABEL = "other"
SLOT_BYTES = 8
BUCKETS = len(LATENCY_BOUNDS_S) + 1
COUNTERS_SUFFIX = ".counters"
LABELS_SUFFIX = ".labels"
LabelValues = tuple[str, ...]
SeriesValues = dict[str, dict[LabelValues, list[float]]]


class _Child:
    """One series (of a histogram: all of its series): `slots` are its own."""

    def __init__(self, slots: memoryview[float], lock: threading.Lock) -> None:
        self.slots = slots
        self._lock = lock


class Counter(_Child):
    def add(self, value: float = 1.0) -> None:
        """`value` >= 0."""
        with self._lock:
            self.slots[0] += value

    record = add


class Gauge(_Child):
    def set(self, value: float) -> None:
        self.slots[0] = value

    def record(self, value: float) -> None:
        self.set(value)


class Histogram(_Child):
    """A slot for each bucket (not cumulative), the last without a bound; behind them the sum."""

    def observe(self, value: float) -> None:
        with self._lock:
            add_observation(self.slots, value)

    record = observe


def add_observation(slots: memoryview[float], value: float) -> None:
    """The lock of the page is held."""
    slots[bisect_left(LATENCY_BOUNDS_S, value)] += 1.0
    slots[BUCKETS] += value


Child = Counter | Gauge | Histogram
C = TypeVar("C", Counter, Gauge, Histogram)
CHILD_TYPES: dict[str, type[Counter | Gauge | Histogram]] = {"histogram": Histogram, "counter": Counter, "gauge": Gauge}


class _SlotRange(NamedTuple):
    """Where a metric's children lie: `width` slots each from `first`."""

    first: int
    width: int


class Exposition:
    """Thread-safe. `folder` holds the slots of the processes that are summed; without it this one stands alone."""

    def __init__(self, limit: int = LABEL_SETS_LIMIT, folder: Path | None = None) -> None:
        self._limit = limit
        self.lock = threading.Lock()  # of every slot: who has it may write several at once
        self._binding = threading.Lock()
        self._places, count = _compute_slot_ranges(limit)
        self._children: dict[str, dict[LabelValues, Child]] = {metric.quantity: {} for metric in METRICS}
        self._file: _CountersFile | None = None
        size = count * SLOT_BYTES
        if folder is None:
            self._slots = memoryview(bytearray(size)).cast("d")
        else:
            self._file = _CountersFile(folder, _hash_layout(limit), size)
            self._slots = memoryview(self._file.mapped).cast("d")
            for quantity, *labels in self._file.bound:
                child = self._create_child(METRIC_BY_QUANTITY[quantity], tuple(labels))
                if isinstance(child, Gauge):
                    child.set(0.0)

    def bind(self, quantity: str, labels: Mapping[str, str]) -> Child:
        """The child of this label set: labels the metric does not have are left out, missing ones are empty."""
        metric = METRIC_BY_QUANTITY[quantity]
        key = tuple([labels.get(label, "") for label in metric.labels])
        return self._children[quantity].get(key) or self._bind(metric, key)

    def histogram(self, quantity: str, labels: Mapping[str, str]) -> Histogram:
        return self._bind_kind(Histogram, quantity, labels)

    def counter(self, quantity: str, labels: Mapping[str, str]) -> Counter:
        return self._bind_kind(Counter, quantity, labels)

    def gauge(self, quantity: str, labels: Mapping[str, str]) -> Gauge:
        return self._bind_kind(Gauge, quantity, labels)

    def _bind_kind(self, kind: type[C], quantity: str, labels: Mapping[str, str]) -> C:
        child = self.bind(quantity, labels)
        if not isinstance(child, kind):
            raise ValueError(f"{quantity} is no {kind.__name__.lower()}")
        return child

    def record(self, quantity: str, labels: Mapping[str, str], value: float) -> None:
        """What the metric's kind makes of a value: observed, added or set."""
        self.bind(quantity, labels).record(value)

    def render(self, beside: Exposition | None = None) -> bytes:
        """Every series, those of the other processes added, and those that stand on another exposition only."""
        found: SeriesValues = {metric.quantity: {} for metric in METRICS}
        known = [*self._children.items(), *(beside._children.items() if beside is not None else ())]
        for quantity, children in known:
            for key, child in tuple(children.items()):
                found[quantity][key] = list(child.slots)
        if self._file is not None:
            for bound, slots in self._file.read_others():
                self._add_process(found, bound, slots)
        return "".join(_render_metric(metric, found[metric.quantity]) for metric in METRICS).encode()

    def close(self) -> None:
        """The slots stay for those who sum them."""
        if self._file is not None:
            self._file.close()

    def _add_process(self, found: SeriesValues, bound: list[list[str]], slots: memoryview[float]) -> None:
        order: Counted[str] = Counted()
        for quantity, *labels in bound:
            place = self._places[quantity]
            first = place.first + order[quantity] * place.width
            order[quantity] += 1
            theirs = slots[first : first + place.width]
            ours = found[quantity].get(tuple(labels), [0.0] * place.width)
            found[quantity][tuple(labels)] = [one + other for one, other in zip(ours, theirs, strict=True)]

    def _bind(self, metric: Metric, key: LabelValues) -> Child:
        known = self._children[metric.quantity]
        key = tuple(sanitise_label_value(text) for text in key)
        with self._binding:
            if len(known) >= self._limit and key not in known:
                key = (OTHER_LABEL,) * len(key)
            if key not in known:
                if self._file is not None:
                    self._file.append_labels([metric.quantity, *key])
                self._create_child(metric, key)
            return known[key]

    def _create_child(self, metric: Metric, key: LabelValues) -> Child:
        known, place = self._children[metric.quantity], self._places[metric.quantity]
        first = place.first + len(known) * place.width
        child = CHILD_TYPES[metric.kind](self._slots[first : first + place.width], self.lock)
        known[key] = child
        return child


class _CountersFile:
    """The slots of this process, mapped, and beside them the labels in the order in which they were bound. The lock
    says that the process lives. Who comes new takes the file of one that ended and counts on, so that no counter goes
    back; when nobody lives, it begins anew."""

    def __init__(self, folder: Path, shape: str, size: int) -> None:
        self._folder, self._shape = folder, shape
        with (folder / "counters.lock").open("wb") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            left = self._claim_abandoned(size)
            if left is None:
                self._path = folder / f"{shape}-{os.urandom(8).hex()}{COUNTERS_SUFFIX}"
                self._file = self._path.open("w+b", buffering=0)
                fcntl.flock(self._file, fcntl.LOCK_EX)
                try:  # a page that is not there yet would be a SIGBUS at its first count, were the disk full by then
                    allocate_bytes(self._file.fileno(), size)
                except OSError:
                    self._path.unlink()
                    self._file.close()
                    raise
            else:
                self._path, self._file = left
        self.mapped = mmap.mmap(self._file.fileno(), size)
        self._labels = self._path.with_suffix(LABELS_SUFFIX).open("a+b", buffering=0)
        self._labels.seek(0)
        lines = self._labels.read()
        self.bound = _parse_label_sets(lines)
        self._labels.truncate(lines.rfind(b"\n") + 1)  # what a crash left of a line would spoil the next one

    def _claim_abandoned(self, size: int) -> tuple[Path, FileIO] | None:
        """A file whose process ended, its lock taken; None when there is none. Without a living process all go."""
        ended, living = [], 0
        for path in self._folder.glob(f"*{COUNTERS_SUFFIX}"):
            file = path.open("r+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ended.append((path, file))
            except BlockingIOError:
                file.close()
                living += 1
        whole = [one for one in ended if os.fstat(one[1].fileno()).st_size == size]
        usable = [one for one in whole if living and one[0].name.startswith(self._shape)]
        for path, file in ended:
            if (path, file) not in usable[:1]:
                file.close()
            if not living:
                path.unlink()
                path.with_suffix(LABELS_SUFFIX).unlink(missing_ok=True)
        return usable[0] if usable else None

    def append_labels(self, names: list[str]) -> None:
        """Whole or not at all: behind half a line nobody could read the page any more. Raises OSError."""
        line = msgspec.json.encode(names) + b"\n"
        size = os.fstat(self._labels.fileno()).st_size
        if self._labels.write(line) < len(line):
            self._labels.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def read_others(self) -> Iterator[tuple[list[list[str]], memoryview[float]]]:
        """Labels and slots of every other process, of those that ended too."""
        for path in self._folder.glob(f"{self._shape}-*{COUNTERS_SUFFIX}"):
            if path != self._path:
                with suppress(FileNotFoundError):
                    labels = _parse_label_sets(path.with_suffix(LABELS_SUFFIX).read_bytes())
                    yield labels, memoryview(path.read_bytes()).cast("d")

    def close(self) -> None:
        self._labels.close()
        fcntl.flock(self._file, fcntl.LOCK_UN)  # the map holds the file open
        self._file.close()


def _parse_label_sets(lines: bytes) -> list[list[str]]:
    return [msgspec.json.decode(line, type=list[str]) for line in lines[: lines.rfind(b"\n") + 1].splitlines()]


def sanitise_label_value(text: str) -> str:
    """A label value that every reader takes: one that cannot be encoded would hold up everything behind it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _compute_slot_ranges(limit: int) -> tuple[dict[str, _SlotRange], int]:
    """The slots of every metric for `limit` label sets and the other one, and how many that makes."""
    found, first = {}, 0
    for metric in METRICS:
        width = BUCKETS + 1 if metric.kind == "histogram" else 1
        found[metric.quantity] = _SlotRange(first, width)
        first += width * (limit + 1)
    return found, first


def _hash_layout(limit: int) -> str:
    """Files of another shape (another version of us) are not read."""
    shape = [limit, LATENCY_BOUNDS_S, *((metric.name, metric.labels) for metric in METRICS)]
    return hashlib.sha256(msgspec.json.encode(shape)).hexdigest()[:12]


def _render_metric(metric: Metric, children: Mapping[LabelValues, Sequence[float]]) -> str:
    """The series of one metric as Prometheus reads them."""
    lines = [f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"]
    for key, slots in children.items():
        pairs = zip(metric.labels, key, strict=True)
        labels = sorted(f'{name}="{_escape_label_value(value)}"' for name, value in pairs)
        if metric.kind == "histogram":
            lines.append(_render_histogram(metric.name, ",".join(labels), slots))
        else:
            named = f"{{{','.join(labels)}}}" if labels else ""
            lines.append(f"{metric.name}{named} {slots[0]}\n")
    return "".join(lines)


_BUCKET_LABELS = [*(f'le="{bound}"' for bound in LATENCY_BOUNDS_S), 'le="+Inf"']


def _render_histogram(name: str, labels: str, slots: Sequence[float]) -> str:
    lines, total = [], 0.0
    for bound, count in zip(_BUCKET_LABELS, slots, strict=False):
        total += count
        lines.append(f"{name}_bucket{{{bound},{labels}}} {total}\n")
    lines.append(f"{name}_count{{{labels}}} {total}\n{name}_sum{{{labels}}} {slots[BUCKETS]}\n")
    return "".join(lines)


def _escape_label_value(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
