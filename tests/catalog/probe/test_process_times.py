"""CPU time of trees of processes: ended children count once, and the children of the measuring process never."""

from __future__ import annotations

import os
from pathlib import Path

from archwright.catalog.probe.process_times import ProcessTime, list_tree, read_process_times, sum_tree_ticks

OWN = 10


def process(parent: int, ticks: int, *, ended: int = 0, started: int = 1) -> ProcessTime:
    return ProcessTime(parent=parent, started=started, ticks=ticks, ended_ticks=ended)


BEFORE = {
    1: process(0, 900),
    OWN: process(1, 50),
    11: process(OWN, 70),
    20: process(1, 5),
    21: process(20, 100),
    22: process(21, 30),
    30: process(1, 400),
}


def test_a_tree_is_its_descendants_and_nothing_below_the_leaf() -> None:
    assert list_tree(BEFORE, {20, OWN, 77}, OWN) == {20, 21, 22, OWN}


def test_only_the_time_between_the_readings_counts() -> None:
    after = BEFORE | {21: process(20, 160), 22: process(21, 31), OWN: process(1, 53, ended=500), 30: process(1, 999)}
    assert sum_tree_ticks(BEFORE, after, {20, OWN}, OWN) == 60 + 1 + 3


def test_a_child_that_restarted_counts_once() -> None:
    """The supervisor 20 waited for 21, which had waited for 22, and started a new child with the number of 22."""
    after = {pid: times for pid, times in BEFORE.items() if pid not in (21, 22)}
    after |= {20: process(1, 6, ended=100 + 12 + 30 + 3), 22: process(20, 8, started=2)}
    assert sum_tree_ticks(BEFORE, after, {20}, OWN) == 1 + 12 + 3 + 8


def test_a_root_that_ended_does_not_make_the_time_negative() -> None:
    after = {pid: times for pid, times in BEFORE.items() if pid not in (20, 21, 22)} | {40: process(1, 9, started=7)}
    assert sum_tree_ticks(BEFORE, after, {20, 40}, OWN) == 9


def test_names_of_programs_may_hold_blanks_and_brackets(tmp_path: Path) -> None:
    fields = "S 7 5 5 0 -1 0 0 0 0 0 11 4 20 3 20 0 1 0 8800 0 0"
    (tmp_path / "proc" / "42").mkdir(parents=True)
    (tmp_path / "proc" / "42" / "stat").write_text(f"42 (a (b) c) {fields}\n")
    (tmp_path / "proc" / "43").mkdir()
    assert read_process_times(tmp_path) == {42: ProcessTime(parent=7, started=8800, ticks=15, ended_ticks=23)}


def test_this_process_is_read() -> None:
    assert read_process_times()[os.getpid()].parent == os.getppid()
