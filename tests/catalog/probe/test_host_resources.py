"""Resources read from the operating system, on machines that a folder simulates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archwright.catalog.load import load_catalog
from archwright.catalog.probe import host_resources
from archwright.catalog.probe.host_resources import CpuTicks
from archwright.catalog.tables import parsers
from archwright.catalog.tables.csv_table import DATA
from archwright.catalog.tables.records import DeviceTool


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("group", "limits", "cores", "memory"),
    [
        pytest.param("", {}, 8, 5000, id="without limits"),
        pytest.param(
            "0::/pod/box\n",
            {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "250000 100000\n"}
            | {"pod/box/memory.max": "max\n", "pod/memory.max": "1000\n"},
            *(2, 1000),
            id="of a group above",
        ),
        pytest.param("0::/\n", {"cpu.max": "50000 100000\n"}, 1, 5000, id="below one core"),
        pytest.param("0::/../elsewhere\n", {"cpu.max": "300000 100000"}, 3, 5000, id="path is not below the mount"),
    ],
)
def test_limits_of_version_2(tmp_path: Path, group: str, limits: dict[str, str], cores: int, memory: int) -> None:
    write(tmp_path, "proc/self/cgroup", group)
    for path, text in limits.items():
        write(tmp_path, f"sys/fs/cgroup/{path}", text)
    assert host_resources.usable_cores(tmp_path, affinity=8) == cores
    assert host_resources.usable_memory(tmp_path, physical=5000) == memory


def test_version_1(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/box\n3:cpu,cpuacct:/box\n2:pids:/box\nnonsense\n")
    write(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1\n")
    write(tmp_path, "sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write(tmp_path, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", f"{2**63 - 4096}\n")
    assert host_resources.usable_cores(tmp_path, affinity=8) == 4
    assert host_resources.usable_memory(tmp_path, physical=5000) == 5000
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n")
    assert host_resources.usable_memory(tmp_path, physical=5000) == 2000


def test_this_machine() -> None:
    assert 1 <= host_resources.usable_cores() <= len(os.sched_getaffinity(0))
    assert host_resources.usable_memory() > 2**28
    assert host_resources.instruction_set() in ("avx512", "avx2", "sse", "neon")


@pytest.mark.parametrize(
    ("architecture", "line", "plain", "training"),
    [
        ("x86_64", "flags : sse2 avx2 avx512f", "avx512", "avx512"),
        ("x86_64", "flags : sse2 avx2 avx512f avx512_bf16", "avx512", "avx512-bf16"),
        ("x86_64", "flags : avx2 avx512f amx_bf16", "avx512", "avx512-bf16"),
        ("x86_64", "flags : sse2 avx2", "avx2", "avx2"),
        ("x86_64", "flags : sse2", "sse", "sse"),
        ("aarch64", "Features : asimd", "neon", "neon"),
        ("aarch64", "Features : asimd bf16", "neon", "neon-bf16"),
        ("arm64", "", "neon", "neon"),
    ],
)
def test_instruction_sets(tmp_path: Path, architecture: str, line: str, plain: str, training: str) -> None:
    write(tmp_path, "proc/cpuinfo", f"processor : 0\n{line}\n")
    assert host_resources.instruction_set(tmp_path, architecture) == plain
    assert host_resources.training_instruction_set(tmp_path, architecture) == training


def test_listed_devices() -> None:
    text = "NVIDIA H100 80GB HBM3, 81559\nNVIDIA GB10, [N/A]\n\nNo devices were found\n"
    found = host_resources.parse_accelerator_list(text, 2**20)
    assert found == ["NVIDIA H100 80GB HBM3 (79.6 GiB)", "NVIDIA GB10"]
    assert load_catalog().accelerator(found[0]).id == "H100-SXM-80GB"


@pytest.mark.process
def test_devices_of_installed_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tool(name: str, script: str) -> DeviceTool:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return DeviceTool(program=name, arguments=("--list",), memory_unit_bytes=2**20, source="test")

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    good = tool("good-smi", "echo 'Card A, 1024'; echo 'Card A, 1024'")
    broken = tool("broken-smi", "exit 9")
    absent = DeviceTool(program="absent-smi", arguments=(), memory_unit_bytes=1, source="test")
    assert host_resources.list_accelerators([absent, broken, good]) == ("Card A (1.0 GiB)", "Card A (1.0 GiB)")


def test_the_shipped_tool_row_is_a_command() -> None:
    (row,) = parsers.read_device_tools(DATA)
    assert row.program == "nvidia-smi"
    assert row.arguments[0].startswith("--query-gpu=")


def test_the_load_during_a_probe_is_what_other_processes_used(tmp_path: Path) -> None:
    write(tmp_path, "proc/stat", "cpu  100 10 20 800 50 5 5 10 7 0\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 9\n")
    before = host_resources.read_cpu_ticks(tmp_path)
    assert before == CpuTicks(busy=140, steal=10, total=1000)
    assert host_resources.read_processor_ticks(tmp_path) == {0: CpuTicks(busy=5, steal=1, total=8)}
    after = CpuTicks(busy=260, steal=30, total=1200)
    assert host_resources.compute_busy_share(before, after, 0.4, 100) == 0.4, "without what the hypervisor took"
    assert host_resources.compute_steal_share(before, after) == 0.143, "nothing is taken from idle time"
    little = CpuTicks(busy=150, steal=5, total=1200)
    assert host_resources.compute_busy_share(before, little, 0.4, 100) == 0.0, "clocks differ a little"
    assert host_resources.compute_steal_share(before, little) == 0.0
    assert host_resources.compute_busy_share(before, before, 0.0, 100) is None
    write(tmp_path, "proc/stat", "intr 5\n")
    assert host_resources.read_cpu_ticks(tmp_path) is None is host_resources.read_cpu_ticks(tmp_path / "no")
    assert host_resources.compute_busy_share(None, before, 0.0, 100) is None
    assert host_resources.compute_steal_share(None, before) is None


def test_the_frequency_of_each_processor(tmp_path: Path) -> None:
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2400000\n")
    write(tmp_path, "sys/devices/system/cpu/cpu11/cpufreq/scaling_cur_freq", "800000\n")
    write(tmp_path, "sys/devices/system/cpu/cpu12/cpufreq/scaling_cur_freq", "<unknown>\n")
    write(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "5\n")
    assert host_resources.read_frequencies(tmp_path) == {0: 2.4e9, 11: 8e8}
    assert host_resources.read_frequencies(tmp_path / "no") == {}
