"""Reads cores, memory, instruction set and devices of this machine from the operating system.

A container's limits count if they are smaller than the host. Tests replace `root`, the folder of all paths.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.tables.records import DeviceTool

ROOT = Path("/")
TOOL_DEADLINE_S = 5.0
# A version-1 control group without a limit reports a number near 2**63.
NO_LIMIT = 2**60
STAT_FIELDS = 8
# The flag of the processor and our name of the set, the widest first.
X86_SETS = (("avx512f", "avx512"), ("avx2", "avx2"))
NATIVE_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
ARM = frozenset({"aarch64", "arm64"})


def usable_cores(root: Path = ROOT, affinity: int | None = None) -> int:
    """Return the whole cores that this process may use within a CPU quota, at least one."""
    allowed = len(os.sched_getaffinity(0)) if affinity is None else affinity
    return max(1, int(min([float(allowed), *_cpu_quotas(root)])))


def usable_memory(root: Path = ROOT, physical: int | None = None) -> int:
    """Return the smaller of the physical memory and the limits of this process's control groups, in bytes."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if physical is None else physical
    return min([installed, *_memory_limits(root)])


class CpuTicks(NamedTuple):
    """Clock ticks of all processors since the start of the machine.

    `busy`: without idle time, waits for the disk, and `steal`: what the hypervisor gave to other virtual machines.
    """

    busy: int
    steal: int
    total: int


def read_cpu_ticks(root: Path = ROOT) -> CpuTicks | None:
    """Return the ticks of all processors together; None if the system has no count."""
    name, *fields = _read_text(root / "proc/stat").partition("\n")[0].split() or [""]
    return _parse_ticks(fields) if name == "cpu" and len(fields) >= STAT_FIELDS else None


def read_processor_ticks(root: Path = ROOT) -> dict[int, CpuTicks]:
    """Return the ticks of each processor by its number; empty if the system has no count."""
    found: dict[int, CpuTicks] = {}
    for line in _read_text(root / "proc/stat").splitlines():
        name, *fields = line.split() or [""]
        number = name.removeprefix("cpu")
        if number != name and number.isdecimal() and len(fields) >= STAT_FIELDS:
            found[int(number)] = _parse_ticks(fields)
    return found


def _parse_ticks(fields: Sequence[str]) -> CpuTicks:
    """Parse the fields of a line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
    ticks = [int(field) for field in fields[:STAT_FIELDS]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return CpuTicks(busy=user + nice + system + irq + softirq, steal=steal, total=sum(ticks))


def compute_busy_share(
    before: CpuTicks | None, after: CpuTicks | None, own_cpu_s: float, ticks_per_s: int
) -> float | None:
    """Return the share of CPU time between two counts that went to processes other than ours."""
    if before is None or after is None:
        return None
    others = after.busy - before.busy - own_cpu_s * ticks_per_s
    return _compute_share(others, after.total - before.total)


def compute_steal_share(before: CpuTicks | None, after: CpuTicks | None) -> float | None:
    """Return the share of the CPU time asked for between two counts that the hypervisor gave to other machines.

    Idle time does not count: nothing is taken from a processor that asks for nothing, so a share of all time would be
    smaller for a half-idle bench than for the calibration that it is compared with.
    """
    if before is None or after is None:
        return None
    stolen = after.steal - before.steal
    used = after.busy - before.busy
    return _compute_share(stolen, used + stolen)


def _compute_share(part: float, total: int) -> float | None:
    return round(min(max(part / total, 0.0), 1.0), 3) if total > 0 else None


def read_frequencies(root: Path = ROOT) -> dict[int, float]:
    """Return the present frequency of each processor in Hz by its number; empty if the system states none."""
    found: dict[int, float] = {}
    for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"):
        frequency_khz = _read_text(path).strip()
        if frequency_khz.isdecimal():
            found[int(path.parts[-3].removeprefix("cpu"))] = float(frequency_khz) * 1e3
    return found


def is_virtual_machine(root: Path = ROOT) -> bool:
    """True if the processor says that it is one of a hypervisor, whose other guests this machine cannot see."""
    flags = _read_text(root / "proc/cpuinfo").split()
    return "hypervisor" in flags or (root / "sys/hypervisor/type").exists()


def instruction_set(root: Path = ROOT, architecture: str | None = None) -> str:
    """Return the widest vectors of the processor: `avx512`, `avx2`, `sse` or `neon`."""
    if (architecture or platform.machine()).lower() in ARM:
        return "neon"
    flags = set(_read_text(root / "proc/cpuinfo").split())
    return next((name for flag, name in X86_SETS if flag in flags), "sse")


def training_instruction_set(root: Path = ROOT, architecture: str | None = None) -> str:
    """Return the instruction set, with the suffix `-bf16` if the processor multiplies bf16 natively."""
    is_native = bool(NATIVE_BF16 & set(_read_text(root / "proc/cpuinfo").split()))
    return instruction_set(root, architecture) + ("-bf16" if is_native else "")


def list_accelerators(tools: Iterable[DeviceTool]) -> tuple[str, ...]:
    """Return `NAME (N GiB)` of each accelerator that the installed tools list; failing tools are ignored."""
    found: list[str] = []
    for tool in tools:
        program = shutil.which(tool.program)
        if program is None:
            continue
        command = [program, *tool.arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_DEADLINE_S, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        found += parse_accelerator_list(done.stdout, tool.memory_unit_bytes)
    return tuple(found)


def parse_accelerator_list(text: str, unit_bytes: int) -> list[str]:
    """Parse `name, memory` lines; if the memory is not a number (`[N/A]`), the name alone is returned."""
    found = []
    for line in text.splitlines():
        name, _, memory = line.rpartition(",")
        if not name.strip():
            continue
        size = int(memory) if memory.strip().isdecimal() else 0
        found.append(f"{name.strip()} ({size * unit_bytes / 2**30:.1f} GiB)" if size else name.strip())
    return found


def _cpu_quotas(root: Path) -> Iterator[float]:
    for folder in _control_groups(root, "cpu"):
        quota, _, period = _read_text(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = (_read_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[int]:
    for folder in _control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read_text(folder / name).strip()
            if limit.isdecimal() and 0 < int(limit) < NO_LIMIT:
                yield int(limit)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield this process's control group and all groups above it, in the trees of versions 2 and 1.

    Inside a container the path of /proc/self/cgroup may not exist below the mount: then the top has the limits.
    """
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        match = re.match(r"\d+:([^:]*):/(.*)$", line)
        if match is None:
            continue
        controllers, inside = match.group(1).split(","), Path(match.group(2))
        top = root / "sys/fs/cgroup"
        if controller in controllers:
            top /= controller
        if controller in controllers or controllers == [""]:
            yield from (top / part for part in (inside, *inside.parents))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
