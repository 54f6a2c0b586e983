"""The probe: once for real, and its rules on recorded samples."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from archwright.catalog.probe import host_resources, machine_probe, probe_worker
from archwright.errors import CatalogError, MissingError
from archwright.home import Home

from ...tools.vllm_server import install_vllm

SAMPLES = machine_probe.ProbeSamples(bandwidth=(1e10, 2e10, 3e10), matmul=(1e11, 1e11))


@pytest.mark.process
def test_the_machine_at_hand_is_probed_and_kept(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    facts = machine_probe.probe_machine(home, None, now=lambda: 12.5)
    assert facts.probed_at == 12.5
    for rate in (facts.memory_bandwidth_bytes_per_s, facts.matmul_flops_per_s):
        assert 1e8 < rate.low < rate.value < rate.high < 1e14
    for quiet, rate in (
        (facts.quiet_bandwidth_bytes_per_s, facts.memory_bandwidth_bytes_per_s),
        (facts.quiet_matmul_flops_per_s, facts.matmul_flops_per_s),
    ):
        assert quiet is not None and quiet.value > 0.9 * rate.value
    assert facts.disk_write_bytes_per_s.value > 1e5
    assert facts.disk_free_bytes > 0
    assert machine_probe.cached_machine(home) == facts
    for share in (facts.busy_share, facts.steal_share):
        assert share is None or 0.0 <= share <= 1.0
    assert (facts.frequency_hz is None) == (not host_resources.read_frequencies())
    assert [path.name for path in home.machine_facts.parent.iterdir()] == ["machine.json"]


@pytest.mark.process
def test_gpus_and_installed_engines_are_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = install_vllm(tmp_path / "bin")
    tool = folder / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'NVIDIA H100 80GB HBM3, 81559'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    facts = machine_probe.probe_machine(Home(tmp_path / "home"), None, now=lambda: 1.0, measure=lambda _: SAMPLES)
    assert facts.gpus == ("NVIDIA H100 80GB HBM3 (79.6 GiB)",) * 2 and facts.programs == ("vllm",)


def test_nothing_cached_or_unreadable(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert machine_probe.cached_machine(home) is None
    home.folder("measured")
    for text in (b"", b"{", b'{"cores_usable": 2}', b'{"cores_usable": "two"}', b"\xff"):
        home.machine_facts.write_bytes(text)
        assert machine_probe.cached_machine(home) is None


def test_an_impossible_band_in_the_file_is_unreadable(tmp_path: Path) -> None:
    home = Home(tmp_path)
    machine_probe.probe_machine(home, None, now=lambda: 1.0, measure=lambda _: SAMPLES)
    text = home.machine_facts.read_text()
    home.machine_facts.write_text(text.replace("20000000000.0", "90000000000.0"))
    assert machine_probe.cached_machine(home) is None


@pytest.mark.parametrize(
    ("rates", "low", "high"),
    [
        ([100.0] * 7, 100 / 1.1, 110),
        ([50, 90, 100, 100, 300], 50, 300),
        pytest.param([100.0] * 18 + [1.0, 900.0], 100 / 1.1, 110, id="single outliers of many repeats"),
    ],
)
def test_the_median_has_a_band_of_at_least_ten_percent(rates: list[float], low: float, high: float) -> None:
    found = machine_probe.median_with_spread(rates, "bytes/s")
    assert (found.low, found.value, found.high) == pytest.approx((low, 100, high))


def test_a_missing_numpy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError) as caught:
        machine_probe.run_worker(None)
    assert (caught.value.code, caught.value.hint) == ("AW-GET-01", "pip install 'archwright[local]'")


def test_a_numpy_that_does_not_load_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(MissingError):
        probe_worker.measure_rates("")


@pytest.mark.process
def test_a_failing_worker_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, deadline_s, says in (
        ("archwright.catalog.no_such_worker", 30.0, "no_such_worker"),
        ("archwright.catalog.tables.records", 30.0, "failed"),
        (machine_probe.WORKER, 0.001, "timed out"),
    ):
        monkeypatch.setattr(machine_probe, "WORKER_DEADLINE_S", deadline_s)
        with pytest.raises(CatalogError, match=says) as caught:
            machine_probe.run_worker(None, module=module)
        assert caught.value.code == "AW-CAT-06"


def clock(step: float) -> Callable[[], float]:
    """A clock that is `step` later each time it is read."""
    readings = itertools.count(step, step)
    return lambda: next(readings)


def test_a_quick_disk_is_written_three_times_and_a_slow_one_once(tmp_path: Path) -> None:
    quick, slow = (machine_probe.measure_disk_writes(tmp_path, clock(step)) for step in (0.064, 2.0))
    assert quick == [pytest.approx(machine_probe.DISK_BYTES / 0.064)] * 3
    assert slow == [machine_probe.DISK_BYTES / 2.0]
    assert list(tmp_path.iterdir()) == []


def test_the_frequency_is_read_while_all_processors_multiply() -> None:
    rounds = itertools.count()
    readings = iter([{0: 1e9}, {number: 2e9 for number in os.sched_getaffinity(0)} | {9999: 9e9}])
    assert probe_worker.measure_frequency(lambda: next(rounds), lambda: next(readings)) == 2e9
    assert next(rounds) > 0
    assert probe_worker.measure_frequency(lambda: None, dict) is None


@pytest.mark.parametrize(("step", "repeats"), [(0.01, 50), (0.2, 5), (5.0, 1)])
def test_repeats_stop_at_the_budget_but_not_before_five(step: float, repeats: int) -> None:
    assert len(probe_worker.time_repeats(lambda: None, clock(step))) == repeats


def test_the_worker_reads_a_large_model_file_and_not_a_small_one(tmp_path: Path) -> None:
    import numpy  # noqa: PLC0415

    large, small = tmp_path / "large", tmp_path / "small"
    with large.open("wb") as file:
        file.truncate((65 << 20) + 5)
    small.write_bytes(b"12345678")
    assert probe_worker.load_words(str(large), numpy).nbytes == 65 << 20
    for path in (str(small), ""):
        assert probe_worker.load_words(path, numpy).nbytes == probe_worker.SPAN_BYTES
    found = probe_worker.measure_rates(str(large))
    assert len(found["bandwidth"]) >= 1
    assert len(found["matmul"]) >= 1
