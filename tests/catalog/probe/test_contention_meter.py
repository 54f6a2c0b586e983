"""The contention of a machine that a folder simulates."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import pytest

from archwright.catalog.probe.contention_meter import ContentionMeter, FrequencyMean
from archwright.contract.contention import Contention

ENGINE = 4_000_001


class FakeMachine:
    """Two processors with the counts of a test, this process, and an engine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def count(self, *, busy: int, steal: int, idle: int, own: int, engine: int) -> None:
        self.write("proc/stat", f"cpu {busy} 0 0 {idle} 0 0 0 {steal} 0 0\n")
        for pid, ticks in ((os.getpid(), own), (ENGINE, engine)):
            self.write(f"proc/{pid}/stat", f"{pid} (x) S 1 {'0 ' * 9}{ticks} {'0 ' * 7}5 0\n")

    def run(self, frequencies_khz: tuple[int, int], busy: tuple[int, int]) -> None:
        lines = [f"cpu{number} {ticks} 0 0 500 0 0 0 0 0 0" for number, ticks in enumerate(busy)]
        self.write("proc/stat", "\n".join(["cpu 0 0 0 0 0 0 0 0", *lines]))
        for number, khz in enumerate(frequencies_khz):
            self.write(f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq", f"{khz}\n")


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


@pytest.mark.parametrize(
    ("measured", "other_share"), [({ENGINE, os.getpid()}, 0.3), ({os.getpid()}, 0.7), (None, None)]
)
def test_the_measured_processes_and_this_one_are_no_other_programs(
    machine: FakeMachine, measured: Collection[int] | None, other_share: float | None
) -> None:
    found = None if measured is None else frozenset(measured)
    machine.count(busy=1000, steal=10, idle=5000, own=100, engine=200)
    with ContentionMeter(lambda: found, machine.root) as meter:
        machine.count(busy=1800, steal=110, idle=5100, own=200, engine=600)
    assert meter.contention == Contention(other_share=other_share, steal_share=0.111, frequency_hz=None)


def test_a_machine_without_counts_has_no_contention(machine: FakeMachine) -> None:
    with ContentionMeter(lambda: frozenset({os.getpid()}), machine.root) as meter:
        pass
    assert meter.contention == Contention()


def test_the_frequency_is_that_of_the_processors_that_worked(machine: FakeMachine) -> None:
    machine.run((1_000_000, 1_000_000), busy=(0, 0))
    mean = FrequencyMean(machine.root)
    machine.run((3_000_000, 800_000), busy=(300, 0))
    mean.add_sample()
    machine.run((2_000_000, 2_000_000), busy=(400, 200))
    mean.add_sample()
    assert mean.mean_hz == pytest.approx(2.5e9)
