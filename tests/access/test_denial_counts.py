"""Denials of strangers: bounded records in a second and in an hour, and no count is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from archwright.access import denial_counts
from archwright.access.audit_log import AuditEntry, AuditEvent, AuditLog, read_entries
from archwright.access.denial_counts import QUOTA_BYTES, QUOTA_WINDOW_S, SOURCES_LIMIT, DenialCounts
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store


class Stand:
    """The counts of a process whose clock stands at `now`."""

    def __init__(self, store: Store, home: Home, wal: WalWriter) -> None:
        self.log = AuditLog(wal)
        self.counts = DenialCounts(self.log)
        self.now, self._store, self._home, self._wal = 1_000.0, store, home, wal

    def deny(self, source: str = "192.0.2.1", reason: str = "no key", count: int = 1) -> None:
        for number in range(count):
            event = {"request_id": f"r{number}", "source": source, "reason": reason, "outcome": "refused"}
            more = {"tenant": "", "key_id": "", "action": "GET /v1/models", "permission": "models.read"}
            self.counts.count(AuditEvent(at=self.now, effect="deny", **more, **event))  # type: ignore[arg-type]

    def sweep(self, later_s: float = 1.0) -> None:
        self.now += later_s
        self.counts.write_totals(self.now)

    def entries(self) -> list[AuditEntry]:
        self._wal.flush()
        return read_entries(self._store, self._home)[::-1]


@pytest.fixture
def stand(store: Store, home: Home) -> Iterator[Stand]:
    with closing(WalWriter(store, home)) as wal:
        yield Stand(store, home, wal)


def test_the_first_denial_is_written_at_once_and_the_others_as_a_total(stand: Stand) -> None:
    stand.deny(count=100)
    stand.deny(reason="unknown key")
    stand.sweep(0.5)
    assert [(one.reason, one.count) for one in stand.entries()] == [("no key", 1), ("unknown key", 1)]
    stand.sweep(0.5)
    total = stand.entries()[-1]
    assert (total.count, total.request_id, total.source) == (99, "r1", "192.0.2.1")
    stand.sweep()
    stand.deny()
    assert [one.count for one in stand.entries()] == [1, 1, 99, 1]


def test_many_sources_write_at_most_64_records_a_second(stand: Stand) -> None:
    for number in range(10_000):
        stand.deny(f"2001:db8::{number:x}", ("no key", "unknown key")[number % 2], 2)
    stand.sweep()
    found = stand.entries()
    assert len(found) == 2 * SOURCES_LIMIT + 2 == 64
    assert sum(one.count for one in found) == 20_000
    assert [one.source for one in found].count(denial_counts.OTHER_SOURCES) == 2


def test_after_the_quota_of_an_hour_only_totals_of_minutes_are_written(stand: Stand) -> None:
    stand.counts._hour_at, stand.counts._hour_bytes = stand.now, QUOTA_BYTES
    for _ in range(120):
        stand.deny("192.0.2.1", count=5)
        stand.deny("192.0.2.2", count=5)
        stand.sweep()
    assert [(one.source, one.count) for one in stand.entries()] == [("other", 600), ("other", 600)]
    stand.sweep(3_600.0)
    stand.deny()
    assert stand.entries()[-1].source == "192.0.2.1"


def test_the_records_of_an_hour_use_at_most_the_quota_and_one_window(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denial_counts, "QUOTA_BYTES", 16 << 10)
    for _ in range(300):
        for number in range(40):
            stand.deny(f"192.0.2.{number}", count=2)
        stand.sweep()
    stand.sweep(QUOTA_WINDOW_S)
    per_record = stand.counts._hour_bytes / len(stand.entries())
    assert stand.counts._hour_bytes < (16 << 10) + 64 * per_record + 300 / QUOTA_WINDOW_S * 2 * per_record
    assert sum(one.count for one in stand.entries()) == 300 * 80


def test_a_full_disk_loses_no_count(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_event: AuditEvent) -> int:
        raise StoreError("AW-STO-06", "full")

    with monkeypatch.context() as patch:
        patch.setattr(stand.log, "record", refuse)
        for _ in range(10):
            stand.deny(count=10)
            stand.sweep()
        assert stand.entries() == []
    stand.sweep()
    assert [one.count for one in stand.entries()] == [100]


def test_a_clock_that_goes_back_ends_the_window(stand: Stand) -> None:
    stand.deny(count=3)
    stand.sweep(-500.0)
    assert [one.count for one in stand.entries()] == [1, 2]


def test_the_end_of_a_process_writes_its_counts(stand: Stand) -> None:
    stand.deny(count=3)
    assert stand.counts.write_totals(stand.now, closing=True)
    assert [one.count for one in stand.entries()] == [1, 2]
