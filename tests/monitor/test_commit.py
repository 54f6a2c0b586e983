"""Group commit: what waits goes together, in order, and a refusal reaches everybody it concerns."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from archwright.errors import InternalError, StoreError
from archwright.monitor import commit
from archwright.monitor.commit import GroupCommit


class Disk:
    """Writes when its gate is open; `refuse` is what it says instead."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.refuse: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()

    def write(self, rows: Sequence[int]) -> None:
        self.busy.set()
        assert self.gate.wait(10)
        if self.refuse is not None:
            raise self.refuse
        self.written.append(list(rows))


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_what_waits_while_the_disk_is_busy_goes_together(disk: Disk) -> None:
    commits: GroupCommit[int] = GroupCommit("book", disk.write)
    disk.gate.clear()
    first = commits.record(0)
    assert disk.busy.wait(10)
    waiting = [commits.record(number) for number in range(1, 5)]
    assert waiting[1].cancel() and not first.done()
    disk.gate.set()
    commits.close()
    assert disk.written == [[0], [1, 3, 4]]
    assert all(future.done() for future in [first, *waiting])


def test_a_refusal_fails_those_it_concerns_and_nobody_later(disk: Disk) -> None:
    commits: GroupCommit[int] = GroupCommit("book", disk.write)
    disk.refuse = StoreError("AW-STO-01", "the store refuses")
    with pytest.raises(StoreError):
        commits.record(1).result(10)
    disk.refuse = RuntimeError("a bug")
    with pytest.raises(InternalError):
        commits.record(2).result(10)
    disk.refuse = None
    assert commits.record(3).result(10) is None
    commits.close()
    assert disk.written == [[3]]
    with pytest.raises(StoreError) as closed:
        commits.record(4).result(10)
    assert closed.value.code == "AW-STO-05" and "book" in closed.value.message


def test_there_is_a_limit_to_what_waits(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "WAITING_LIMIT", 2)
    commits: GroupCommit[int] = GroupCommit("book", disk.write)
    disk.gate.clear()
    commits.record(0)
    assert disk.busy.wait(10)
    waiting = [commits.record(number) for number in range(1, 4)]
    with pytest.raises(StoreError) as full:
        waiting[2].result(0)
    assert full.value.code == "AW-STO-06"
    disk.gate.set()
    commits.close()
    assert disk.written == [[0], [1, 2]]
