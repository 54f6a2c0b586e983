"""The audit log: durable before the answer, fail closed, and tampering is found."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from archwright.access import audit
from archwright.access.audit import TABLE, AuditEvent, AuditLog, digest, events, tip, verify
from archwright.errors import InternalError, StoreError
from archwright.home import Home
from archwright.monitor import commit
from archwright.store import Store, Table

R = TypeVar("R")


def event(number: int, tenant: str = "clinic", **more: str) -> AuditEvent:
    return AuditEvent(
        at=1_000.0 + number,
        tenant=tenant,
        key_id="key-1",
        action="chat",
        permission="inference.invoke",
        effect="allow",
        request_id=f"r{number}",
        **more,
    )


def fill(store: Store, count: int) -> None:
    log = AuditLog(store)
    futures = [log.record(event(number)) for number in range(count)]
    log.close()
    assert all(future.result() is None for future in futures)


class RefusingStore(Store):
    """A real store that can be told to refuse, as a full disk does."""

    refuse: BaseException | None = None

    def append(self, table: Table[R], rows: Sequence[R]) -> None:
        if self.refuse is not None:
            raise self.refuse
        super().append(table, rows)


def test_an_event_is_in_the_store_when_its_future_is_done(store: Store) -> None:
    log = AuditLog(store)
    assert log.record(event(1, reason="role member")).result(timeout=10) is None
    (entry,) = events(Store(store.url))
    assert (entry.request_id, entry.reason, entry.effect, entry.number, entry.prev) == (
        "r1",
        "role member",
        "allow",
        0,
        "",
    )
    log.close()


def test_many_waiting_share_a_transaction_and_keep_their_order(store: Store) -> None:
    fill(store, 500)
    found = events(store)
    assert [entry.request_id for entry in reversed(found)] == [f"r{number}" for number in range(500)]
    assert verify(store) is None
    assert tip(store) == found[0].hash


def test_the_chain_can_be_verified_without_our_code(store: Store, tmp_path: Path) -> None:
    fill(store, 20)
    connection = sqlite3.connect(tmp_path / "home" / "archwright.db")
    connection.row_factory = sqlite3.Row
    before = ""
    for row in connection.execute("select * from audit order by seq"):
        plain = {name: row[name] for name in row.keys() if name != "seq"}  # noqa: SIM118 - a Row iterates values
        stated, plain["hash"] = plain["hash"], ""
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert plain["prev"] == before
        assert hashlib.sha256(text.encode()).hexdigest() == stated
        before = stated
    connection.close()


def test_events_are_filtered(store: Store) -> None:
    log = AuditLog(store)
    for number in range(6):
        log.record(event(number, "clinic" if number % 2 else "bank"))
    log.close()
    assert [entry.request_id for entry in events(store, tenant="bank")] == ["r4", "r2", "r0"]
    assert [entry.request_id for entry in events(store, {"request_id": "r3"})] == ["r3"]
    assert [entry.request_id for entry in events(store, span=(1_001.0, 1_002.0))] == ["r2", "r1"]
    assert len(events(store, limit=2)) == 2
    assert events(store, {"effect": "deny"}, tenant="clinic") == []


TAMPER = {
    "altered": "update audit set effect = 'deny' where seq = 60",
    "altered time": "update audit set at = at + 1 where seq = 60",
    "moved to another tenant": "update audit set tenant = 'bank' where seq = 60",
    "deleted": "delete from audit where seq = 60",
    "deleted first": "delete from audit where seq = 1",
    "renumbered": "delete from audit where seq = 60; update audit set number = number - 1 where seq > 60",
    "hash replaced": "update audit set hash = printf('%064d', 1) where seq = 60",
    "swapped": "update audit set seq = 1000 where seq = 60; update audit set seq = 60 where seq = 61;"
    "update audit set seq = 61 where seq = 1000",
    "moved to the end": "update audit set seq = 1000 where seq = 60",
    "inserted": "insert into audit select 1000, at, tenant, key_id, action, permission, effect, reason, request_id,"
    " resource, chain, 100, prev, hash from audit where seq = 60",
}


@pytest.mark.parametrize("how", TAMPER)
def test_tampering_is_found(store: Store, tmp_path: Path, how: str) -> None:
    fill(store, 100)
    assert verify(store) is None
    connection = sqlite3.connect(tmp_path / "home" / "archwright.db")
    connection.executescript(TAMPER[how])
    connection.close()
    broken = verify(store)
    expected = {"deleted": 61, "deleted first": 2, "renumbered": 61, "moved to the end": 61}
    assert broken == expected.get(how, 1000 if how == "inserted" else 60)


def test_every_single_deleted_or_altered_row_but_the_last_is_found(store: Store, tmp_path: Path) -> None:
    """Paging is on the way: the chain holds across pages."""
    fill(store, 40)
    file = tmp_path / "home" / "archwright.db"
    for seq in random.Random(3).sample(range(1, 40), 12):
        for sql in (f"delete from audit where seq = {seq}", f"update audit set resource = 'x' where seq = {seq}"):
            connection = sqlite3.connect(file)
            kept = connection.execute(f"select * from audit where seq = {seq}").fetchone()
            connection.execute(sql)
            connection.commit()
            assert verify(store) in (seq, seq + 1)
            connection.execute(f"delete from audit where seq = {seq}")
            connection.execute(f"insert into audit values ({','.join('?' * len(kept))})", kept)
            connection.commit()
            connection.close()
    assert verify(store) is None


def test_the_chain_holds_across_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 25)
    monkeypatch.setattr(audit, "PAGE", 10)
    assert verify(store) is None


def test_an_empty_log_holds(store: Store) -> None:
    assert verify(store) is None
    assert tip(store) == ""


def test_a_cut_tail_shows_against_a_tip_kept_elsewhere(store: Store, tmp_path: Path) -> None:
    fill(store, 10)
    kept = tip(store)
    connection = sqlite3.connect(tmp_path / "home" / "archwright.db")
    connection.execute("delete from audit where seq > 8")
    connection.commit()
    connection.close()
    assert verify(store) is None, "documented: not visible from the chain alone"
    assert tip(store) != kept


def test_a_removed_writer_shows_when_a_later_one_started(store: Store, tmp_path: Path) -> None:
    fill(store, 5)
    fill(store, 5)
    assert verify(store) is None
    connection = sqlite3.connect(tmp_path / "home" / "archwright.db")
    connection.execute("delete from audit where seq <= 5")
    connection.commit()
    connection.close()
    assert verify(store) == 6


PROGRAM = """
import sys
from archwright.access.audit import AuditEvent, AuditLog
from archwright.store import Store
log = AuditLog(Store(sys.argv[1]))
for number in range(int(sys.argv[2])):
    event = AuditEvent(at=float(number), tenant=sys.argv[3], key_id="", action="a", permission="p", effect="allow",
                       request_id=str(number))
    log.record(event).result()
    print(number, flush=True)
log.close()
"""


def test_several_processes_write_at_once(store: Store) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, store.url, "150", f"t{n}"], stdout=subprocess.DEVNULL)
        for n in range(3)
    ]
    assert [process.wait(timeout=60) for process in started] == [0, 0, 0]
    assert verify(store) is None
    found = events(store)
    assert len(found) == 450
    assert len({entry.chain for entry in found}) == 3


def test_what_was_acknowledged_survives_kill_9(store: Store) -> None:
    for round_ in range(3):
        tenant = f"k{round_}"
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, store.url, "100000", tenant], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(30):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged = 30 + len(process.stdout.read().splitlines())
        process.wait(timeout=10)
        process.stdout.close()
        assert len(events(store, tenant=tenant)) >= acknowledged - 1  # the last line may be half written
        assert verify(store) is None


def test_fails_closed_and_recovers_with_a_new_chain(tmp_path: Path) -> None:
    store = RefusingStore(Home(tmp_path / "home").store_url)
    log = AuditLog(store)
    log.record(event(1)).result(timeout=10)
    store.refuse = StoreError("AW-STO-01", "the store refuses: database or disk is full")
    refused = [log.record(event(number)) for number in (2, 3)]
    for future in refused:
        with pytest.raises(StoreError, match="disk is full"):
            future.result(timeout=10)
    store.refuse = None
    log.record(event(4)).result(timeout=10)
    log.close()
    assert verify(store) is None
    found = events(store)
    assert [entry.request_id for entry in found] == ["r4", "r1"]
    assert found[0].prev == found[1].hash and found[0].chain != found[1].chain


def test_a_bug_in_the_writer_fails_the_futures_and_not_the_thread(tmp_path: Path) -> None:
    store = RefusingStore(Home(tmp_path / "home").store_url)
    log = AuditLog(store)
    store.refuse = RuntimeError("surprise")
    with pytest.raises(InternalError, match="surprise"):
        log.record(event(1)).result(timeout=10)
    store.refuse = None
    log.record(event(2)).result(timeout=10)
    log.close()


def test_closed_means_refused(store: Store) -> None:
    log = AuditLog(store)
    log.close()
    with pytest.raises(StoreError) as caught:
        log.record(event(1)).result(timeout=1)
    assert caught.value.code == "AW-STO-05"


class SlowStore(RefusingStore):
    gate: threading.Event

    def append(self, table: Table[R], rows: Sequence[R]) -> None:
        self.gate.wait(10)
        super().append(table, rows)


def test_too_many_waiting_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "WAITING_LIMIT", 5)
    store = SlowStore(Home(tmp_path / "home").store_url)
    store.gate = threading.Event()
    log = AuditLog(store)
    first = log.record(event(0))
    while not first.running():
        time.sleep(0.001)
    futures = [log.record(event(number)) for number in range(1, 8)]
    refused = [future for future in futures if future.done()]
    assert len(refused) == 2
    with pytest.raises(StoreError) as caught:
        refused[0].result()
    assert caught.value.code == "AW-STO-06"
    assert futures[0].cancel(), "a caller that gave up before the commit is left out"
    store.gate.set()
    log.close()
    assert len(events(store)) == 5
    assert verify(store) is None


@pytest.mark.parametrize("text", ["a\x00b", "a\nb", "\ud800", "x" * 10_000, "\x1b[2J", "ünï©ode 中"])
def test_texts_from_outside_cannot_stop_the_log(store: Store, text: str) -> None:
    log = AuditLog(store)
    log.record(
        AuditEvent(at=1, tenant="t", key_id="k", action="a", permission="p", effect="deny", resource=text)
    ).result(timeout=10)
    log.close()
    (entry,) = events(store)
    assert entry.resource.isprintable() and len(entry.resource) <= 256
    assert verify(store) is None
    assert digest(entry) == entry.hash


@pytest.mark.nightly
def test_one_changed_record_of_many_is_found(store: Store, tmp_path: Path) -> None:
    log = AuditLog(store)
    for start in range(0, 100_000, 5_000):
        futures = [log.record(event(number)) for number in range(start, start + 5_000)]
        for future in futures:
            future.result(timeout=60)
    log.close()
    assert verify(store) is None
    connection = sqlite3.connect(tmp_path / "home" / "archwright.db")
    connection.execute("update audit set reason = 'x' where seq = 77777")
    connection.commit()
    connection.close()
    assert verify(store) == 77_777
    assert len(events(store, limit=10)) == 10
    assert TABLE.name == "audit"
