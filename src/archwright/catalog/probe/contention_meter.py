"""Measures the contention of this machine while something else is measured on it."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from archwright.catalog.probe import host_resources
from archwright.catalog.probe.process_times import list_tree, read_process_times, sum_tree_ticks
from archwright.contract.contention import Contention

SAMPLE_INTERVAL_S = 1.0
# Finding the servers behind a port reads the open files of all processes.
SEARCH_INTERVAL_S = 30.0

# Returns the root processes of what is measured now; None if they are unknown.
FindMeasured = Callable[[], frozenset[int] | None]


class ContentionMeter:
    """Measures from `with` until the end of its block; `contention` is the result.

    The trees of the processes that `find_measured` returns, and this process without its children, are not "other
    programs". If they are unknown at one time, so is the share of other programs.
    """

    def __init__(self, find_measured: FindMeasured, root: Path = host_resources.ROOT) -> None:
        self.contention = Contention()
        self._find_measured, self._root = find_measured, root
        self._own_pid = os.getpid()
        self._measured: set[int] | None = {self._own_pid}
        self._frequency = FrequencyMean(root)
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="contention", daemon=True)

    def __enter__(self) -> "ContentionMeter":
        self._search()
        self._times_before = read_process_times(self._root)
        self._ticks_before = host_resources.read_cpu_ticks(self._root)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._sampler.join()
        ticks_after = host_resources.read_cpu_ticks(self._root)
        self._frequency.add_sample()
        self._search()
        self.contention = Contention(
            other_share=self._compute_other_share(ticks_after),
            steal_share=host_resources.compute_steal_share(self._ticks_before, ticks_after),
            frequency_hz=self._frequency.mean_hz,
        )

    def _sample(self) -> None:
        searched_s = SEARCH_INTERVAL_S
        while not self._stopped.wait(SAMPLE_INTERVAL_S):
            self._frequency.add_sample()
            searched_s += SAMPLE_INTERVAL_S
            if searched_s >= SEARCH_INTERVAL_S:
                # Connections between servers may exist only under load.
                self._search()
                searched_s = 0.0

    def _search(self) -> None:
        found = self._find_measured()
        if found is None or self._measured is None:
            self._measured = None
        else:
            self._measured |= found

    def _compute_other_share(self, ticks_after: host_resources.CpuTicks | None) -> float | None:
        times_after = read_process_times(self._root)
        measured = self._measured
        if measured is None or not list_tree(times_after, measured, self._own_pid):
            return None
        own_ticks = sum_tree_ticks(self._times_before, times_after, measured, self._own_pid)
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        own_cpu_s = own_ticks / ticks_per_s
        return host_resources.compute_busy_share(self._ticks_before, ticks_after, own_cpu_s, ticks_per_s)


class FrequencyMean:
    """The mean frequency of the processors; each counts for the time that it worked since the sample before."""

    def __init__(self, root: Path = host_resources.ROOT) -> None:
        self._root = root
        self._ticks = host_resources.read_processor_ticks(root)
        self._weighted_hz = 0.0
        self._weight = 0

    def add_sample(self) -> None:
        frequencies = host_resources.read_frequencies(self._root)
        if not frequencies:
            return
        ticks = host_resources.read_processor_ticks(self._root)
        for processor, frequency_hz in frequencies.items():
            if processor in ticks and processor in self._ticks:
                worked = ticks[processor].busy - self._ticks[processor].busy
                self._weighted_hz += worked * frequency_hz
                self._weight += worked
        self._ticks = ticks

    @property
    def mean_hz(self) -> float | None:
        return self._weighted_hz / self._weight if self._weight > 0 else None
