"""CPU time of processes and of their descendants, from /proc.

The kernel adds the time of an ended process to the process that waited for it. So the sum over a tree neither loses nor
repeats the time of children that restart.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.probe.host_resources import ROOT

# Places in /proc/PID/stat behind the name of the program.
PARENT = 1
TIMES = slice(11, 15)
STARTED = 19


class ProcessTime(NamedTuple):
    """`ticks`: of the process itself; `ended_ticks`: of its ended children. `started` tells reused numbers apart."""

    parent: int
    started: int
    ticks: int
    ended_ticks: int


ProcessTimes = Mapping[int, ProcessTime]


def read_process_times(root: Path = ROOT) -> dict[int, ProcessTime]:
    """Return all processes that the system shows to this user, by their number."""
    found: dict[int, ProcessTime] = {}
    for path in (root / "proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # ended since the folder was listed
        fields = text.rpartition(")")[2].split()
        if len(fields) > STARTED:
            found[int(path.parent.name)] = _parse_times(fields)
    return found


def _parse_times(fields: list[str]) -> ProcessTime:
    user, system, ended_user, ended_system = map(int, fields[TIMES])
    parent = int(fields[PARENT])
    started = int(fields[STARTED])
    return ProcessTime(parent, started, ticks=user + system, ended_ticks=ended_user + ended_system)


def list_tree(times: ProcessTimes, roots: Iterable[int], leaf: int) -> set[int]:
    """Return the processes of `roots` and their descendants; the children of `leaf` do not count."""
    children: dict[int, list[int]] = {}
    for pid, process in times.items():
        children.setdefault(process.parent, []).append(pid)
    tree: set[int] = set()
    pending = [pid for pid in roots if pid in times]
    while pending:
        pid = pending.pop()
        if pid in tree:
            continue
        tree.add(pid)
        if pid != leaf:
            pending += children.get(pid, [])
    return tree


def sum_tree_ticks(before: ProcessTimes, after: ProcessTimes, roots: Collection[int], leaf: int) -> int:
    """Return the ticks that the trees of `roots` used between two readings; of `leaf` only its own ticks.

    A process that ended without a parent in the tree loses its ticks: they count for other programs.
    """
    old_tree = list_tree(before, roots, leaf)
    new_tree = list_tree(after, roots, leaf)
    used_ticks = 0
    for pid in new_tree:
        used_ticks += _count_ticks(pid, after, leaf)
        if _is_same(pid, before, after):
            used_ticks -= _count_ticks(pid, before, leaf)
    for pid in old_tree:
        if not _is_same(pid, before, after) and _has_heir(pid, before, after, new_tree):
            used_ticks -= _count_ticks(pid, before, leaf)
    return max(used_ticks, 0)


def _count_ticks(pid: int, times: ProcessTimes, leaf: int) -> int:
    process = times[pid]
    if pid == leaf:
        return process.ticks
    return process.ticks + process.ended_ticks


def _is_same(pid: int, before: ProcessTimes, after: ProcessTimes) -> bool:
    """True if the number belongs to the same process in both readings."""
    if pid not in before or pid not in after:
        return False
    return before[pid].started == after[pid].started


def _has_heir(pid: int, before: ProcessTimes, after: ProcessTimes, tree: Collection[int]) -> bool:
    """True if the nearest ancestor that still runs is in the tree: it got the time of the ended process."""
    parent = before[pid].parent
    while parent in before and not _is_same(parent, before, after):
        parent = before[parent].parent
    return parent in tree
