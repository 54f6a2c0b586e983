"""The WAL: every acknowledged record exists once, in spite of kills, failures and concurrent readers."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.monitor.conftest import running_threads
from tests.tools.checks import WAIT_S, until

from archwright.access import audit_log
from archwright.contract.served import RequestRecord, make_request_id, request_received_at
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.usage_totals import (
    MONEY_LIMIT,
    TOKENS_LIMIT,
    USAGE_DELTAS,
    USAGE_DIMENSIONS,
    USAGE_TOTALS,
    UsageDelta,
    UsageTotal,
    encode_delta,
    gather_deltas,
    merge_totals,
)
from archwright.monitor.wal import compaction
from archwright.monitor.wal import writer as wal_writer
from archwright.monitor.wal.compaction import BLOCKS, compact_orphans, read_served, read_usage_totals
from archwright.monitor.wal.segments import DATA_START, WalSegment, encode_batch, find_data_end, read_batches
from archwright.monitor.wal.writer import WalWriter
from archwright.store import ColumnRange, Store, TableRows


def one(number: int, **more: Any) -> RequestRecord:
    given: dict[str, Any] = {"tenant": "acme", "model": "m", "input_tokens": 3, "output_tokens": 5, "cost_usd": 1e-6}
    return RequestRecord(at=1_000.0 + number, request_id=f"r{number}", status="ok", **{**given, **more})


DENIED = audit_log.AuditEvent(
    at=1.0, tenant="acme", key_id="k", action="chat", permission="p", effect="deny", resource="r" * 200
)


def names(store: Store, home: Home | None) -> list[str]:
    return [record.request_id for record in read_served(store, home)]


@pytest.fixture
def wal(store: Store, home: Home) -> Iterator[WalWriter]:
    with closing(WalWriter(store, home)) as opened:
        yield opened


def put(wal: WalWriter, *records: RequestRecord) -> None:
    for record in records:
        wal.append("served", record)
    wal.flush()


DRIVER = """
import os, random, signal, struct, sys, time, traceback
from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.contract.served import RequestRecord
from archwright.home import Home
from archwright.monitor.wal import writer
from archwright.store import Store

home, url, rounds, chance = Home(sys.argv[1]), sys.argv[2], int(sys.argv[3]), random.Random(1)
# A thousand chances to be killed while compacting.
writer.SYNC_S, writer.COMPACT_EVERY_SYNCS, writer.MERGE_ROWS = 0.002, 1, 20
writer.SEGMENTS_LIMIT = 10_000

def write(round_, pipe, seed):
    chance = random.Random(seed)
    wal = writer.WalWriter(Store(url), home, segment_bytes=128 << 10)
    log, number = AuditLog(wal), 0
    while number < 600:
        for _ in range(chance.choice((1, 1, 4, 64))):
            name = f"{round_}-{number}"
            log.record(AuditEvent(at=time.time(), tenant="acme", key_id="k", action="chat", permission="p",
                                  effect="allow", request_id=name))
            wal.append("served", RequestRecord(at=time.time(), request_id=name, status="ok", tenant=f"t{round_}",
                                           output_tokens=2))
            number += 1
        wal.flush()
        os.write(pipe, struct.pack("<I", number))
    while True:  # only compaction is left
        time.sleep(1)

for round_ in range(rounds):
    reader, pipe = os.pipe()
    seed = chance.random()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            write(round_, pipe, seed)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(pipe)
    first = os.read(reader, 4)
    time.sleep(chance.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    counts = first
    while piece := os.read(reader, 1 << 16):
        counts += piece
    _, status = os.waitpid(child, 0)
    os.close(reader)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    print(struct.unpack("<I", counts[-4:])[0], flush=True)
"""


def killed(store: Store, home: Home, rounds: int) -> None:
    """Kill a writer repeatedly; each next writer compacts the segments of the previous one until it is killed."""
    command = [sys.executable, "-c", DRIVER, str(home.root), store.url, str(rounds)]
    driver = subprocess.run(command, capture_output=True, text=True, check=False)
    assert driver.returncode == 0, driver.stderr
    acknowledged = [int(line) for line in driver.stdout.splitlines()]
    assert len(acknowledged) == rounds
    for _ in range(2):  # before and after compaction
        found = names(store, home)
        assert len(found) == len(set(found)), "none twice"
        counts = Counter(name.partition("-")[0] for name in found)
        for round_, least in enumerate(acknowledged):
            assert counts[str(round_)] >= least
            assert f"{round_}-{counts[str(round_)] - 1}" in found, "whole from the first on"
        assert {total.tenant: total.requests for total in read_usage_totals(store, home, ("tenant",))} == {
            f"t{round_}": count for round_, count in counts.items()
        }
        records, broken = audit_log.check_chain(store, home)
        # An interrupted write may contain a decision without its request record; neither was acknowledged.
        assert broken is None and len(found) <= records <= len(found) + rounds
        until(lambda: not compact_orphans(store, home) and not list(home.write_ahead_log.glob("*.segment")))
    assert sum(block.count for block in store.rows(BLOCKS["served"])) == len(found)


@pytest.mark.parametrize(
    "rounds", [pytest.param(20, marks=pytest.mark.process), pytest.param(500, marks=pytest.mark.nightly)]
)
def test_a_writer_killed_at_any_moment_loses_and_doubles_nothing(store: Store, home: Home, rounds: int) -> None:
    killed(store, home, rounds)


@pytest.mark.nightly
def test_a_writer_killed_over_another_database_loses_and_doubles_nothing(postgres: str, home: Home) -> None:
    store = Store(postgres)
    killed(store, home, 100)
    store.close()


def test_nothing_is_written_before_the_flush_and_all_of_it_after(store: Store, home: Home, wal: WalWriter) -> None:
    wal.append("served", one(1))
    wal.append("served", one(2))
    assert names(store, home) == []
    wal.flush()
    assert names(store, home) == ["r1", "r2"] and names(store, None) == []
    assert wal.compact() == 2
    assert names(store, home) == names(store, None) == ["r1", "r2"]
    wal.close()
    assert list(home.write_ahead_log.glob("*.segment")) == []


def test_the_thread_compacts_by_itself(store: Store, home: Home, wal: WalWriter) -> None:
    put(wal, one(1))
    until(lambda: names(store, None) == ["r1"])


def test_records_are_found_by_time_and_tenant(
    store: Store, home: Home, wal: WalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "RANGE_RECORDS", 4)
    monkeypatch.setattr(compaction, "BLOCKS_PER_READ", 2)
    for number in range(40):
        wal.append("served", one(number, tenant="bank" if number % 2 else "acme"))
    wal.flush()
    wal.compact()
    for number in range(40, 50):
        wal.append("served", one(number, tenant="acme"))
    wal.flush()
    found = [record.request_id for record in read_served(store, home, (1_017.0, 1_042.0), tenant="acme")]
    assert found == [f"r{number}" for number in range(17, 43) if number % 2 == 0 or number >= 40]
    assert len(list(read_served(store, home))) == 50


def test_a_torn_tail_is_recognised() -> None:
    whole = encode_batch([b'{"at":1}'], []) + encode_batch([b'{"at":2}', b'{"at":3}'], [b"[4]", b"[5]"])
    torn = encode_batch([b'{"at":6}'], [b"[7]"])
    for cut in range(len(torn)):
        data = bytes(DATA_START) + whole + torn[:cut] + bytes(100)
        first, second = read_batches(data)
        assert (first.counts, first.lines) == ((1, 0), (b'{"at":1}', b""))
        assert (second.counts, second.lines) == ((2, 2), (b'{"at":2}\n{"at":3}', b"[4]\n[5]"))
        assert second.end == find_data_end(data) == DATA_START + len(whole)
    for place in range(len(torn)):
        flipped = bytearray(bytes(DATA_START) + whole + torn)
        flipped[DATA_START + len(whole) + place] ^= 1
        assert find_data_end(bytes(flipped)) == DATA_START + len(whole)


def before(stream: int, payload: bytes) -> bytes:
    """Frame of a single record, as version 0.1 wrote it."""
    return struct.pack("<IIB", len(payload), zlib.crc32(payload), stream) + payload


def test_what_an_earlier_version_left_is_compacted(store: Store, home: Home) -> None:
    """A writer of version 0.1 was killed: one frame per record, and a link in each audit record."""
    data, prev = bytes(DATA_START), ""
    for number in range(3):
        event = {"at": 1.0, "tenant": "t", "key_id": "k", "action": "a", "permission": "p", "effect": "allow"}
        line = msgspec.json.encode({**event, "chain": "c0", "number": number, "prev": prev})
        data += before(0, line) + before(1, msgspec.json.encode(one(number)))
        prev = hashlib.sha256(line).hexdigest()
    (home.write_ahead_log / "0-000000.segment").write_bytes(data + before(1, b"[1.0]")[:-1] + bytes(100))
    for _ in range(2):
        assert names(store, home) == ["r0", "r1", "r2"]
        assert audit_log.check_chain(store, home) == (3, None)
        assert [entry.number for entry in audit_log.read_entries(store, home)] == [2, 1, 0]
        compact_orphans(store, home)
    assert audit_log.read_chain_tip(store) == prev == audit_log.read_entries(store)[0].hash
    assert not list(home.write_ahead_log.glob("*.segment"))


def test_what_is_written_at_once_may_be_longer_than_a_range(
    store: Store, home: Home, wal: WalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "RANGE_BYTES", 100)
    monkeypatch.setattr(compaction, "RANGE_RECORDS", 10)
    for number in range(50):
        wal.append("served", one(number))
        if number in (20, 40, 45):
            wal.flush()
    wal.close()
    assert names(store, None) == [f"r{number}" for number in range(50)]
    assert [block.count for block in store.rows(BLOCKS["served"])] == [21, 20, 9]


def test_a_segment_damaged_under_its_writer_is_reported_and_not_skipped(
    store: Store, home: Home, wal: WalWriter
) -> None:
    put(wal, one(1))
    (path,) = home.write_ahead_log.glob("*.segment")
    with path.open("r+b") as file:
        file.seek(DATA_START + 40)
        file.write(b"?")
    with pytest.raises(StoreError) as caught:
        wal.compact()
    assert caught.value.code == "AW-STO-08" and path.stem in str(caught.value)


def test_a_segment_of_a_living_writer_is_left_alone(store: Store, home: Home, wal: WalWriter) -> None:
    put(wal, one(1))
    (path,) = home.write_ahead_log.glob("*.segment")
    assert WalSegment.adopt(path) is None
    wal.compact()
    assert compact_orphans(store, home) == 0 and path.exists()


class Moody(Store):
    """Store that fails on request, or commits and then loses its response."""

    refuse = False
    mute = False

    def append_together(self, tables: TableRows, **more: Any) -> None:
        if not self.refuse:
            super().append_together(tables, **more)
        if self.refuse or self.mute:
            raise StoreError("AW-STO-01", "the store refuses: connection lost")


@pytest.mark.parametrize("mood", ["refuse", "mute"])
def test_what_the_store_refuses_waits_and_comes_once(tmp_path: Path, home: Home, mood: str) -> None:
    store = Moody(home.store_url)
    wal = WalWriter(store, home)
    setattr(store, mood, True)
    for number in range(5):
        put(wal, one(number))
        with pytest.raises(StoreError):
            wal.compact()
            assert mood == "mute"  # the previous attempt had committed, so nothing was left to compact
            raise StoreError("AW-STO-01", "as above")
        assert names(store, home) == [f"r{count}" for count in range(number + 1)]
    setattr(store, mood, False)
    wal.close()
    assert names(store, None) == ["r0", "r1", "r2", "r3", "r4"]
    assert [total.requests for total in read_usage_totals(store, None, ())] == [5]


@pytest.mark.process
def test_what_a_dead_writer_left_is_not_compacted_into_another_store(store: Store, home: Home) -> None:
    """A verb without the database's URL must not import the usage records of the gateway's dead workers."""
    script = """
import os, sys
from archwright.contract.served import RequestRecord
from archwright.home import Home
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store
wal = WalWriter(Store(sys.argv[2]), Home(sys.argv[1]))
wal.append("served", RequestRecord(at=1.0, request_id="r1", status="ok", tenant="acme"))
wal.flush()
os._exit(9)
"""
    url = f"sqlite:///{home.root / 'other.db'}"
    subprocess.run([sys.executable, "-c", script, str(home.root), url], check=False)
    assert names(store, home) == [] and read_usage_totals(store, home, ("tenant",)) == []
    assert compact_orphans(store, home) == 0
    other = Store(url)
    assert names(other, home) == ["r1"]
    assert compact_orphans(other, home) == 1 and names(other, home) == ["r1"]
    assert not list(home.write_ahead_log.glob("*.segment"))
    other.close()


def test_a_chain_begun_while_the_store_was_away_goes_on_in_order(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first segment has no store name, the next has one; sorting by it would read them in the wrong order."""
    store = Moody(home.store_url)
    store.refuse = True
    wal = WalWriter(store, home, segment_bytes=16 << 10)
    monkeypatch.setattr(wal, "_compact_segments", lambda least: 0)
    monkeypatch.setattr(wal, "_name", "f" * 16)
    log = audit_log.AuditLog(wal)
    while len(list(home.write_ahead_log.glob("*.segment"))) < 4:
        log.record(DENIED)
        wal.flush()
        store.refuse = False
    assert {path.stem.count(".") for path in home.write_ahead_log.glob("*.segment")} == {0, 1}
    assert audit_log.check_chain(store, home).broken is None
    monkeypatch.undo()
    wal.close()
    assert audit_log.check_chain(store, None).broken is None
    store.close()


def test_what_waits_for_another_store_takes_no_room_of_this_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change to another database, the segments of the old one must not stop admissions."""
    monkeypatch.setattr(wal_writer, "SEGMENTS_LIMIT", 4)
    for number in range(4):
        WalSegment.create(home.write_ahead_log, f"0123abcd.{number:016}-000000", 4 << 10).close()
    store = Store(home.store_url)
    wal = WalWriter(store, home, segment_bytes=4 << 10)
    assert wal.has_space
    wal.close()
    store.close()


def test_a_store_that_is_silent_does_not_hold_up_the_end(home: Home) -> None:
    class Silent(Store):
        asked, speaks = threading.Event(), threading.Event()

        def append_together(self, tables: TableRows, **more: Any) -> None:
            if more.get("synced"):
                self.asked.set()
                self.speaks.wait()
            super().append_together(tables, **more)

    store = Silent(home.store_url)
    wal = WalWriter(store, home)
    put(wal, one(1))
    assert store.asked.wait(WAIT_S)
    wal.append("served", one(2))
    wal.close(within_s=0.01)
    assert names(store, home) == ["r1", "r2"], "in the kernel, and compacted by the next writer"
    store.speaks.set()
    wal.close()
    assert names(store, None) == ["r1", "r2"]
    store.close()


def test_a_chain_read_while_its_writer_goes_on_in_the_next_segment_holds(
    store: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next segment exists before its use; if it is read last, it has records later than those read first."""
    wal = WalWriter(store, home, segment_bytes=16 << 10)
    monkeypatch.setattr(wal, "_compact_segments", lambda least: 0)  # without compaction
    log = audit_log.AuditLog(wal)

    def write() -> None:
        log.record(DENIED)
        wal.flush()

    while len(list(home.write_ahead_log.glob("*.segment"))) < 2:
        write()
    read = Path.open

    def open_slowly(path: Path, *args: Any, **more: Any) -> Any:
        file = read(path, *args, **more)
        if path.suffix != ".segment":
            return file
        content = io.BytesIO(file.read())
        file.close()
        for _ in range(40):
            write()
        return content

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_slowly)
        assert audit_log.check_chain(store, home).broken is None
    monkeypatch.undo()
    wal.close()


def test_a_store_that_is_away_for_long_ends_admissions_before_the_disk_is_full(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_writer, "SEGMENTS_LIMIT", 4)
    store = Moody(home.store_url)
    store.refuse = True
    wal = WalWriter(store, home, segment_bytes=4 << 10)
    written = 0
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-06"):
        while True:
            wal.append_encoded("served", json.dumps([1.0, f"r{written}", "ok"]).encode(), wal.reserve)
            written += 1
            wal.flush()
    assert len(list(home.write_ahead_log.glob("*.segment"))) == 4
    wal.append("served", one(written))  # of a request admitted before
    wal.flush()
    store.refuse = False
    wal.compact()
    assert wal.has_space
    wal.close()
    assert names(store, None) == [f"r{number}" for number in range(written + 1)]


def test_a_write_that_fails_is_tried_again(
    store: Store, home: Home, wal: WalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(wal, one(1))

    def broken(*_args: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", broken)
        wal.append("served", one(2))
        with pytest.raises(StoreError):
            wal.flush()
    put(wal, one(3))
    assert names(store, home) == ["r1", "r2", "r3"]


def test_a_too_long_record_and_a_closed_wal_are_refused(store: Store, home: Home, wal: WalWriter) -> None:
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-07"):
        wal.append("served", one(1, route="x" * 70_000))
    wal.close()
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-05"):
        wal.append("served", one(1))


def test_readers_see_each_record_once_while_it_is_compacted(
    store: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_writer, "SYNC_S", 0.001)
    monkeypatch.setattr(wal_writer, "COMPACT_EVERY_SYNCS", 1)
    monkeypatch.setattr(wal_writer, "MERGE_ROWS", 3)
    monkeypatch.setattr(compaction, "RANGE_RECORDS", 5)
    wal = WalWriter(store, home, segment_bytes=16 << 10)
    written = 0
    stop = threading.Event()

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            put(wal, one(written))
            written += 1
            time.sleep(0.0003)

    with running_threads(write, 1, stop):
        for _ in range(60):
            before = written
            found = names(store, home)
            assert len(found) == len(set(found)) and len(found) >= before
            before = written
            requests = sum(total.requests for total in read_usage_totals(Store(store.url), home, ("tenant", "day")))
            assert before <= requests <= written + 1
    wal.close()
    assert sum(total.requests for total in read_usage_totals(store, home, ())) == written


def test_usage_is_added_up_exactly_and_outlives_the_blocks(store: Store, home: Home, wal: WalWriter) -> None:

    def totals() -> list[UsageTotal]:
        return sorted(read_usage_totals(store, home, USAGE_DIMENSIONS), key=repr)

    put(wal, one(1, cost_usd=0.1), one(2, cost_usd=0.2, user="ann"))
    put(wal, one(86_400, cost_usd=None, cache="hit", saved_usd=0.3), one(4, shadow=True))
    before = totals()
    wal.compact()
    assert totals() == before
    # The first compaction of a process gathers.
    assert (len(store.rows(USAGE_DELTAS)), len(store.rows(USAGE_TOTALS))) == (0, 4)
    for number in (1, 2):
        put(wal, one(number, cost_usd=0.0, input_tokens=0, output_tokens=0, shadow=True))
        wal.compact()
    assert len(store.rows(USAGE_DELTAS)) == 2
    assert (gather_deltas(store), gather_deltas(store), merge_totals(store)) == (1, 0, 4)
    assert store.rows(USAGE_DELTAS) == []
    before = totals()
    assert store.prune(BLOCKS["served"], ColumnRange("seq")) == 3
    assert names(store, home) == [] and wal.compact() == 0
    assert totals() == before
    (own, shadow) = sorted(read_usage_totals(store, home, ("shadow",)), key=lambda total: total.shadow)
    assert (own.requests, own.hits, own.cost_nano_usd, own.saved_nano_usd) == (3, 1, 300_000_000, 300_000_000)
    assert (own.input_tokens, own.output_tokens, shadow.requests) == (9, 15, 3)
    assert {total.day for total in read_usage_totals(store, home, ("day",))} == {0, 1}


def test_a_record_that_is_none_holds_up_nothing_and_a_newer_one_is_read(
    store: Store, home: Home, wal: WalWriter
) -> None:
    newer = [*json.loads(msgspec.json.encode(one(2))), "a field of tomorrow"]
    for line in (msgspec.json.encode(one(1)), b'["x"]', b'[1.0,"r","ok",7]', b"{", msgspec.json.encode(newer)):
        wal.append_encoded("served", line, 0)
    put(wal, one(3, input_tokens=2**200, output_tokens=-5, cost_usd=4e19, saved_usd=-1.0))
    for _ in range(2):
        assert names(store, home) == ["r1", "r2", "r3"]
        (total,) = read_usage_totals(store, home, ())
        assert (total.requests, total.input_tokens, total.output_tokens) == (3, 6 + TOKENS_LIMIT, 10)
        assert (total.cost_nano_usd, total.saved_nano_usd) == (2_000 + MONEY_LIMIT, 0)
        wal.compact()
    wal.close()
    assert list(home.write_ahead_log.glob("*.segment")) == []


def test_usage_of_ten_million_requests_is_reported_in_a_second(store: Store, home: Home) -> None:
    """10,000 unmerged deltas of a thousand requests with five keys each: the worst case of compaction."""

    def delta(block: int) -> UsageDelta:
        keys = ((20_000 + block // 1_000, f"t{key}", f"k{(block + key) % 50}", "", "m", False) for key in range(5))
        return encode_delta({key: [200, 0, 1, 1, 7, 0] for key in keys})

    store.append(USAGE_DELTAS, [delta(block) for block in range(10_000)])
    found = read_usage_totals(store, home, ("tenant", "model", "day"))
    assert sum(total.requests for total in found) == 10_000_000


def test_those_who_gather_at_once_take_each_delta_once(store: Store, home: Home) -> None:
    """Four threads gather while deltas are appended: each delta counts once."""
    stop = threading.Event()

    def gathers() -> None:
        mine = Store(store.url)
        while not stop.is_set():
            gather_deltas(mine)
            merge_totals(mine)
        mine.close()

    gather_deltas(store)  # creates the tables
    with running_threads(gathers, 4, stop):
        for number in range(60):
            sums = {(number % 3, "t", f"k{key}", "", "m", False): [1, 0, 2, 3, 4, 5] for key in range(4)}
            store.append(USAGE_DELTAS, [encode_delta(sums)])  # type: ignore[arg-type]
            (total,) = read_usage_totals(store, home, ())
            assert (total.requests, total.saved_nano_usd) == (4 * number + 4, 20 * number + 20)
    gather_deltas(store)
    assert merge_totals(store) == 12 and store.rows(USAGE_DELTAS) == []
    assert sum(total.requests for total in read_usage_totals(store, home, USAGE_DIMENSIONS)) == 240


def test_the_id_of_a_request_tells_when_it_came() -> None:
    ids = [make_request_id(at, chance) for at in (1.7e9, 1.7e9 + 0.002, 1.8e9) for chance in (0, 2**52 - 1)]
    assert ids == sorted(ids) and len(set(ids)) == 6 and {len(name) for name in ids} == {27}
    assert [request_received_at(name) for name in ids[::2]] == pytest.approx([1.7e9, 1.7e9 + 0.002, 1.8e9], abs=1e-3)
    for wrong in ("", "aw-1", "r1", ids[0].upper(), ids[0] + "0"):
        assert request_received_at(wrong) is None


def test_a_segment_that_gets_full_while_it_is_compacted_comes_before_its_successor(store: Store, home: Home) -> None:
    """Otherwise its pending records would follow those of its successor and break an audit chain."""
    wal = WalWriter(store, home, segment_bytes=4 << 10)
    wal._stop.set()
    wal._thread.join()
    written: list[str] = []

    def write() -> None:
        """Write until another segment is in use."""
        current = wal._current
        while not written or wal._current is current:
            put(wal, one(len(written)))
            written.append(one(len(written)).request_id)

    class Meanwhile(deque[WalSegment]):
        """Iteration at which the interpreter may switch to the serving thread."""

        def __iter__(self) -> Iterator[WalSegment]:
            yield from super().__iter__()
            if serving.ident is None:
                serving.start()
                serving.join(0.5)

    write()
    serving = threading.Thread(target=write)
    wal._full = Meanwhile()
    wal.compact()
    serving.join()
    wal.compact()
    wal.close()
    assert names(store, None) == written


def test_what_a_crash_left_of_a_segment_being_made_goes_and_one_being_made_stays(store: Store, home: Home) -> None:
    old, young = home.write_ahead_log / "a-000000.new", home.write_ahead_log / "b-000000.new"
    for path in (old, young):
        path.write_bytes(bytes(100))
    os.utime(old, (time.time() - 100, time.time() - 100))
    assert compact_orphans(store, home) == 0
    assert not old.exists() and young.exists()


def test_one_process_at_a_time_compacts_what_others_left(store: Store, home: Home, wal: WalWriter) -> None:
    """In order, because an audit chain continues from one segment to the next."""
    put(wal, one(1))
    (path,) = home.write_ahead_log.glob("*.segment")
    left = home.write_ahead_log / "0-000000.segment"
    left.write_bytes(path.read_bytes())  # like a segment of an ended writer
    with (home.write_ahead_log / "orphans.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert compact_orphans(store, home) == 0 and left.exists()
    assert compact_orphans(store, home) == 1 and not left.exists()
