"""The audit log: written before the response, fail closed, and tamper-evident."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from typing import Any

import pytest
from tests.access.conftest import run_threads
from tests.tools.checks import WAIT_S

from archwright.access.audit_log import (
    AuditEvent,
    AuditLog,
    check_chain,
    hash_lines,
    read_chain_tip,
    read_entries,
)
from archwright.contract.served import RequestRecord
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.wal import compaction, writer
from archwright.monitor.wal.compaction import BLOCKS
from archwright.monitor.wal.segments import WalSegment
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store

Blocks = dict[int, list[bytes]]


def event(number: int, tenant: str = "clinic", **more: Any) -> AuditEvent:
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


@pytest.fixture
def wal(store: Store, home: Home) -> Iterator[WalWriter]:
    with closing(WalWriter(store, home)) as made:
        yield made


def fill(store: Store, home: Home, count: int, size: int = 1, **more: str) -> None:
    """Write `count` records in groups of `size`."""
    with closing(WalWriter(store, home)) as wal:
        log = AuditLog(wal)
        for number in range(count):
            log.record(event(number, **more))
            if number % size == size - 1:
                wal.flush()


def test_an_event_is_there_for_everybody_when_the_wal_is_flushed(store: Store, home: Home, wal: WalWriter) -> None:
    AuditLog(wal).record(event(1, reason="role member"))
    assert read_entries(Store(store.url), home) == []
    wal.flush()
    (entry,) = read_entries(Store(store.url), home)
    found = (entry.request_id, entry.reason, entry.effect, entry.number, entry.prev)
    assert found == ("r1", "role member", "allow", 0, "")
    wal.compact()
    assert read_entries(store, home) == read_entries(store) == [entry]


def test_every_event_knows_its_place_in_the_chain(store: Store, home: Home) -> None:
    assert check_chain(store) == (0, None) and read_chain_tip(store) == ""
    fill(store, home, 7, 3)
    found = read_entries(store)[::-1]
    assert [(entry.number, entry.request_id) for entry in found] == [(number, f"r{number}") for number in range(7)]
    assert len({entry.hash for entry in found}) == 3 and len({entry.chain for entry in found}) == 1
    assert [entry.prev for entry in found] == ["", "", "", *[found[0].hash] * 3, found[3].hash]
    assert found[6].hash == read_chain_tip(store)


def test_many_keep_their_order_across_blocks_segments_and_pending_records(store: Store, home: Home) -> None:
    wal = WalWriter(store, home, segment_bytes=64 << 10)
    log = AuditLog(wal)
    for number in range(1_500):
        log.record(event(number))
        if number % 7 == 0:
            wal.flush()
        if number == 1_200:
            wal.compact()
    wal.flush()
    names = [f"r{number}" for number in range(1_500)]
    assert [entry.request_id for entry in reversed(read_entries(store, home))] == names
    assert check_chain(store, home) == (1_500, None)
    wal.close()
    assert [entry.request_id for entry in reversed(read_entries(store))] == names
    assert check_chain(store) == (1_500, None)
    assert read_chain_tip(store) == read_entries(store, limit=1)[0].hash
    assert not list(home.write_ahead_log.glob("*.segment"))


def test_the_chain_can_be_verified_without_our_code(store: Store, home: Home) -> None:
    fill(store, home, 20, 7)
    with closing(sqlite3.connect(home.root / "archwright.db")) as connection:
        blocks = connection.execute("select data, tip from audit_blocks order by seq").fetchall()
    before, count = "", 0
    for data, stated in blocks:
        for group in parted(zlib.decompress(data).split(b"\n")):
            first = json.loads(group[0])
            assert (first["number"], first["prev"]) == (count, before)
            assert not any("prev" in json.loads(line) for line in group[1:])
            before, count = hashlib.sha256(b"\n".join(group)).hexdigest(), count + len(group)
        assert stated == before
    assert count == 20


def parted(lines: list[bytes]) -> list[list[bytes]]:
    starts = [place for place, line in enumerate(lines) if b',"chain":"' in line]
    return [lines[start:end] for start, end in pairwise([*starts, len(lines)])]


def test_two_logs_of_one_wal_have_chains_of_their_own(store: Store, home: Home) -> None:
    with closing(WalWriter(store, home)) as wal:
        one, other = AuditLog(wal), AuditLog(wal)
        for number in range(60):
            (one if number % 5 < 3 else other).record(event(number))
            if number % 13 == 0:
                wal.flush()
    assert check_chain(store) == (60, None)
    assert [entry.request_id for entry in reversed(read_entries(store))] == [f"r{number}" for number in range(60)]
    assert len({entry.chain for entry in read_entries(store)}) == 2


def test_a_text_cannot_pretend_to_be_a_link(store: Store, home: Home) -> None:
    fill(store, home, 4, 5, resource=',"chain":"0","number":7,"prev":""}')
    assert check_chain(store) == (4, None) and len({entry.hash for entry in read_entries(store)}) == 1


def test_events_are_filtered(store: Store, wal: WalWriter) -> None:
    log = AuditLog(wal)
    for number in range(6):
        log.record(event(number, "clinic" if number % 2 else "bank"))
    wal.flush()
    wal.compact()
    assert [entry.request_id for entry in read_entries(store, tenant="bank")] == ["r4", "r2", "r0"]
    assert [entry.request_id for entry in read_entries(store, None, {"request_id": "r3"})] == ["r3"]
    assert [entry.request_id for entry in read_entries(store, span=(1_001.0, 1_002.0))] == ["r2", "r1"]
    assert len(read_entries(store, limit=2)) == 2
    assert read_entries(store, None, {"effect": "deny"}, tenant="clinic") == []


def rewritten(home: Home, change: Callable[[Blocks], object]) -> None:
    """Change the blocks (lines by number) like an attacker with write access who does not forge the chain."""
    connection = sqlite3.connect(home.root / "archwright.db")
    rows = {row[0]: row for row in connection.execute("select * from audit_blocks")}
    names = [column[1] for column in connection.execute("pragma table_info(audit_blocks)")]
    blocks = {seq: zlib.decompress(row[names.index("data")]).split(b"\n") for seq, row in rows.items()}
    change(blocks)
    connection.execute("delete from audit_blocks")
    for index, (seq, lines) in enumerate(sorted(blocks.items())):
        row = list(rows.get(seq, rows[1]))
        row[0], row[names.index("data")] = seq, zlib.compress(b"\n".join(lines))
        row[names.index("number")], row[names.index("tip")] = index, tip_of(lines)
        connection.execute(f"insert into audit_blocks values ({','.join('?' * len(row))})", row)
    connection.commit()
    connection.close()


def tip_of(lines: list[bytes]) -> str:
    return hashlib.sha256(b"\n".join((parted(lines) or [lines])[-1])).hexdigest()


def edit(block: int, place: int, old: bytes, new: bytes) -> Callable[[Blocks], object]:
    def change(blocks: Blocks) -> None:
        assert old in blocks[block][place]
        blocks[block][place] = blocks[block][place].replace(old, new)

    return change


def drop(block: int, place: int) -> Callable[[Blocks], object]:
    def change(blocks: Blocks) -> None:
        blocks[block].pop(place)

    return change


# Kind of tampering, and the number of the reported record for groups of one and of five.
TAMPER: dict[str, tuple[Callable[[Blocks], object], dict[int, int]]] = {
    "altered": (edit(6, 4, b'"allow"', b'"deny"'), {1: 56, 5: 56}),
    "altered time": (edit(6, 4, b'"at":105', b'"at":905'), {1: 56, 5: 56}),
    "moved to another tenant": (edit(6, 4, b'"clinic"', b'"bank"'), {1: 56, 5: 56}),
    "altered first of a group": (edit(6, 5, b'"allow"', b'"deny"'), {1: 57, 5: 61}),
    "deleted": (drop(6, 4), {1: 55, 5: 55}),
    "deleted first of a group": (drop(6, 5), {1: 56, 5: 60}),
    "deleted group": (lambda blocks: blocks[6].__delitem__(slice(5)), {1: 51, 5: 51}),
    "deleted block": (lambda blocks: blocks.pop(6), {1: 51, 5: 51}),
    "deleted first": (drop(1, 0), {1: 1, 5: 1}),
    "deleted first of a block": (drop(6, 0), {1: 51, 5: 51}),
    "deleted first block": (lambda blocks: blocks.pop(1), {1: 1, 5: 1}),
    "renumbered": (edit(6, 5, b'"number":55', b'"number":56'), {1: 56, 5: 56}),
    "prev replaced": (edit(6, 5, b'"prev":"', b'"prev":"0'), {1: 56, 5: 56}),
    "swapped": (lambda blocks: blocks[6].insert(5, blocks[6].pop(4)), {1: 55, 5: 55}),
    "swapped in a group": (lambda blocks: blocks[6].insert(3, blocks[6].pop(2)), {1: 53, 5: 56}),
    "swapped blocks": (lambda blocks: blocks.update({6: blocks[7], 7: blocks[6]}), {1: 51, 5: 51}),
    "moved to the end": (lambda blocks: blocks[10].append(blocks[6].pop(4)), {1: 55, 5: 55}),
    "inserted": (lambda blocks: blocks[6].insert(5, blocks[6][4]), {1: 56, 5: 57}),
    "repeated block": (lambda blocks: blocks.update({11: blocks[6]}), {1: 101, 5: 101}),
    "no record": (edit(6, 4, b"{", b""), {1: 55, 5: 56}),
}


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("how", TAMPER)
def test_tampering_is_found(store: Store, home: Home, how: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "RANGE_RECORDS", 10)
    monkeypatch.setattr(compaction, "BLOCKS_PER_READ", 2)
    monkeypatch.setattr(writer, "SYNC_S", 60.0)  # compaction at the end only: blocks of 10 records
    fill(store, home, 100, size)
    assert check_chain(store) == (100, None)
    change, expected = TAMPER[how]
    rewritten(home, lambda blocks: None)
    assert check_chain(store).broken is None
    rewritten(home, change)
    assert check_chain(store).broken == expected[size]


@pytest.mark.parametrize("sql", ["tip = printf('%064d', 1)", "data = x'00'"])
def test_a_block_that_does_not_fit_itself_is_found(store: Store, home: Home, sql: str) -> None:
    """The block's own hash also covers the last record, which no later link covers."""
    fill(store, home, 10)
    with closing(sqlite3.connect(home.root / "archwright.db")) as connection:
        connection.execute(f"update audit_blocks set {sql}")
        connection.commit()
    assert check_chain(store).broken == (10 if "tip" in sql else 1)


def test_a_cut_tail_shows_against_a_tip_kept_elsewhere(
    store: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "RANGE_RECORDS", 4)
    monkeypatch.setattr(writer, "SYNC_S", 60.0)  # compaction at the end only: the last block is the third
    fill(store, home, 10)
    kept = read_chain_tip(store)
    rewritten(home, lambda blocks: blocks.pop(3))
    assert check_chain(store).broken is None, "documented: not visible from the chain alone"
    assert read_chain_tip(store) != kept


def test_a_removed_writer_shows_when_a_later_one_started(store: Store, home: Home) -> None:
    fill(store, home, 5)
    fill(store, home, 5)
    assert check_chain(store) == (10, None)
    rewritten(home, lambda blocks: blocks.pop(1))
    assert check_chain(store).broken == 1


PROGRAM = """
import sys
from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.home import Home
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store
home = Home(sys.argv[1])
wal = WalWriter(Store(home.store_url), home)
log = AuditLog(wal)
for number in range(int(sys.argv[2])):
    event = AuditEvent(at=float(number), tenant=sys.argv[3], key_id="", action="a", permission="p", effect="allow",
                       request_id=str(number))
    log.record(event)
    wal.flush()
    print(number, flush=True)
wal.close()
"""


def start(home: Home, count: int, tenant: str, output: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(home.root), str(count), tenant]
    return subprocess.Popen(command, stdout=output, text=True)


@pytest.mark.process
def test_several_processes_write_at_once(store: Store, home: Home) -> None:
    started = [start(home, 150, f"t{number}", subprocess.DEVNULL) for number in range(3)]
    assert [process.wait(WAIT_S) for process in started] == [0, 0, 0]
    assert check_chain(store) == (450, None)
    assert len({entry.chain for entry in read_entries(store)}) == 3


@pytest.mark.process
def test_what_was_acknowledged_survives_kill_9(store: Store, home: Home) -> None:
    for round_ in range(3):
        tenant = f"k{round_}"
        process = start(home, 1_000_000, tenant, subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(30):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged = 30 + len(process.stdout.read().splitlines())
        process.wait(WAIT_S)
        process.stdout.close()
        assert len(read_entries(store, home, tenant=tenant)) >= acknowledged - 1  # the last line may be half written
        assert check_chain(store, home).broken is None


def test_fails_closed_and_goes_on_with_its_chain(store: Store, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = WalWriter(store, home, segment_bytes=8 << 10)
    log = AuditLog(wal)
    log.record(event(1))
    wal.flush()

    def full(_handle: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    written = 1
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-06"):
        while True:
            log.record(event(written + 1))
            written += 1
    wal.flush()
    monkeypatch.undo()
    log.record(event(written + 1))
    wal.close()
    assert check_chain(store) == (written + 1, None)
    assert len({entry.chain for entry in read_entries(store)}) == 1


@pytest.mark.parametrize("text", ["a\x00b", "a\nb", "\ud800", "x" * 10_000, "\x1b[2J", "ünï©ode 中"])
def test_texts_from_outside_cannot_stop_the_log(store: Store, wal: WalWriter, text: str) -> None:
    AuditLog(wal).record(event(1, resource=text))
    wal.flush()
    wal.compact()
    (entry,) = read_entries(store)
    assert entry.resource.isprintable() and len(entry.resource) <= 256
    assert check_chain(store) == (1, None)
    assert entry.hash == read_chain_tip(store) and len(hash_lines(b"")) == 64


def test_records_of_an_older_version_are_read_and_verified(store: Store, home: Home) -> None:
    """Version 1 had no source, user, outcome and count, and wrote empty texts."""
    old = {"at": 5.0, "tenant": "t", "key_id": "k", "action": "a", "permission": "p", "effect": "allow"}
    old |= {"reason": "", "request_id": "r", "resource": "", "chain": "c0ffee", "number": 0, "prev": ""}
    with closing(WalWriter(store, home)) as wal:
        wal.append_encoded("audit", json.dumps(old, separators=(",", ":")).encode(), 0)
    fill(store, home, 2, source="192.0.2.1", user="ann", outcome="admitted")
    assert check_chain(store) == (3, None)
    newest, _, oldest = read_entries(store)
    assert (newest.source, newest.user, newest.outcome, newest.count) == ("192.0.2.1", "ann", "admitted", 1)
    assert (oldest.source, oldest.user, oldest.outcome, oldest.count) == ("", "", "", 1)
    assert read_entries(store, None, {"source": "192.0.2.1", "user": "ann"})[0] == newest


def test_a_key_in_a_field_is_not_written(store: Store, wal: WalWriter) -> None:
    AuditLog(wal).record(event(1, resource="role aw_" + "x" * 49))
    wal.flush()
    wal.compact()
    assert read_entries(store)[0].resource == "role aw_..."


def test_threads_share_a_chain(store: Store, wal: WalWriter) -> None:
    log = AuditLog(wal)

    def work() -> None:
        for number in range(300):
            log.record(event(number))

    run_threads(work)
    wal.flush()
    wal.compact()
    assert check_chain(store) == (1_200, None)


def test_all_records_and_their_links_are_one_write(wal: WalWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """No record makes a system call of its own; bench/wal measures the time."""
    written: list[tuple[int, int]] = []
    write = WalSegment.write

    def counted(self: WalSegment, data: bytes) -> None:
        written.append((data.count(b'"effect"'), data.count(b"served-by")))
        write(self, data)

    monkeypatch.setattr(WalSegment, "write", counted)
    log = AuditLog(wal)
    for number in range(2_000):
        log.record(event(number))
        wal.append("served", RequestRecord(at=1.0, request_id="r", status="ok", model="served-by"))
    assert not written
    wal.flush()
    wal.flush()
    assert written == [(2_000, 2_000)]


@pytest.mark.nightly
def test_one_changed_record_of_many_is_found(store: Store, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "RANGE_RECORDS", 1_000)
    fill(store, home, 100_000, 10)
    assert check_chain(store) == (100_000, None)
    rewritten(home, edit(77, 76, b'"allow"', b'"deny"'))
    assert check_chain(store).broken == sum(block.count for block in store.rows(BLOCKS["audit"], limit=76)) + 81
    assert len(read_entries(store, limit=10)) == 10
