"""The ledger: every acknowledged record is there once, whatever was killed, refused or read meanwhile."""

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
from pathlib import Path
from typing import Any

import msgspec
import pytest

from archwright.access import audit_log
from archwright.contract.served import RequestRecord, make_request_id, request_received_at
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.metrics import observations
from archwright.monitor.usage_totals import (
    MONEY_LIMIT,
    TOKENS_LIMIT,
    USAGE_DELTAS,
    USAGE_DIMENSIONS,
    USAGE_TOTALS,
    encode_delta,
    gather_deltas,
    merge_totals,
)
from archwright.monitor.wal import compaction
from archwright.monitor.wal import writer as wal_writer
from archwright.monitor.wal.compaction import BLOCKS, compact_orphans, read_served, read_usage_totals
from archwright.monitor.wal.segments import DATA_START, WalSegment, encode_batch, find_data_end, read_batches
from archwright.monitor.wal.writer import WalWriter
from archwright.store import ReplacedRows, Store, TableRows


def one(number: int, **more: Any) -> RequestRecord:
    given: dict[str, Any] = {"tenant": "acme", "model": "m", "input_tokens": 3, "output_tokens": 5, "cost_usd": 1e-6}
    return RequestRecord(at=1_000.0 + number, request_id=f"r{number}", status="ok", **{**given, **more})


def names(store: Store, home: Home | None) -> list[str]:
    return [record.request_id for record in read_served(store, home)]


@pytest.fixture
def books(store: Store, home: Home) -> Iterator[WalWriter]:
    opened = WalWriter(store, home)
    yield opened
    opened.close()


def put(books: WalWriter, *records: RequestRecord) -> None:
    for record in records:
        books.append("served", record)
    books.flush()


DRIVER = """
import os, random, signal, struct, sys, time, traceback
from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.contract.served import RequestRecord
from archwright.home import Home
from archwright.monitor.wal import writer
from archwright.store import Store

home, url, rounds, chance = Home(sys.argv[1]), sys.argv[2], int(sys.argv[3]), random.Random(int(sys.argv[4]))
# A thousand chances to be killed while compacting.
writer.SYNC_S, writer.COMPACT_EVERY_SYNCS, writer.MERGE_ROWS = 0.002, 1, 20
writer.SEGMENTS_LIMIT = 10_000

def write(turn, told, seed):
    chance = random.Random(seed)
    ledger = writer.WalWriter(Store(url), home, segment_bytes=128 << 10)
    log, number = AuditLog(ledger), 0
    while number < 600:
        for _ in range(chance.choice((1, 1, 4, 64))):
            name = f"{turn}-{number}"
            log.record(AuditEvent(at=time.time(), tenant="acme", key_id="k", action="chat", permission="p",
                                  effect="allow", request_id=name))
            ledger.append("served", RequestRecord(at=time.time(), request_id=name, status="ok", tenant=f"t{turn}",
                                           output_tokens=2))
            number += 1
        ledger.flush()
        os.write(told, struct.pack("<I", number))
    while True:  # what is left to do is to fold
        time.sleep(1)

for turn in range(rounds):
    heard, told = os.pipe()
    seed = chance.random()
    child = os.fork()
    if not child:
        os.close(heard)
        try:
            write(turn, told, seed)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(told)
    first = os.read(heard, 4)
    time.sleep(chance.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    said = first
    while piece := os.read(heard, 1 << 16):
        said += piece
    _, status = os.waitpid(child, 0)
    os.close(heard)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    print(struct.unpack("<I", said[-4:])[0], flush=True)
"""


def killed(store: Store, home: Home, rounds: int, seed: int) -> None:
    """A writer is killed again and again, each next one folding what the last one left, and being killed over it."""
    command = [sys.executable, "-c", DRIVER, str(home.root), store.url, str(rounds), str(seed)]
    driver = subprocess.run(command, capture_output=True, text=True, check=False)
    assert driver.returncode == 0, driver.stderr
    acknowledged = [int(line) for line in driver.stdout.splitlines()]
    assert len(acknowledged) == rounds
    for _ in range(2):  # as it was left, and folded
        found = names(store, home)
        assert len(found) == len(set(found)), "none twice"
        counts = Counter(name.partition("-")[0] for name in found)
        for turn, least in enumerate(acknowledged):
            assert counts[str(turn)] >= least
            assert f"{turn}-{counts[str(turn)] - 1}" in found, "whole from the first on"
        assert {total.tenant: total.requests for total in read_usage_totals(store, home, ("tenant",))} == {
            f"t{turn}": count for turn, count in counts.items()
        }
        records, broken = audit_log.check_chain(store, home)
        # A write that was cut short may have brought a decision without its end: nobody was told of either.
        assert broken is None and len(found) <= records <= len(found) + rounds
        until = time.monotonic() + 5
        while compact_orphans(store, home) or list(home.write_ahead_log.glob("*.segment")):
            assert time.monotonic() < until
    assert sum(block.count for block in store.rows(BLOCKS["served"])) == len(found)


@pytest.mark.process
def test_a_writer_killed_at_any_moment_loses_and_doubles_nothing(store: Store, home: Home) -> None:
    killed(store, home, 40, 1)


@pytest.mark.nightly
def test_a_writer_killed_many_times_loses_and_doubles_nothing(store: Store, home: Home) -> None:
    killed(store, home, 500, 2)


@pytest.mark.nightly
def test_a_writer_killed_over_another_database_loses_and_doubles_nothing(postgres: str, home: Home) -> None:
    store = Store(postgres)
    killed(store, home, 100, 3)
    store.close()


def test_nothing_is_written_before_the_flush_and_all_of_it_after(store: Store, home: Home, books: WalWriter) -> None:
    books.append("served", one(1))
    books.append("served", one(2))
    assert names(store, home) == []
    books.flush()
    assert names(store, home) == ["r1", "r2"] and names(store, None) == []
    assert books.compact() == 2
    assert names(store, home) == names(store, None) == ["r1", "r2"]
    books.close()
    assert list(home.write_ahead_log.glob("*.segment")) == []


def test_the_thread_folds_by_itself(store: Store, home: Home, books: WalWriter) -> None:
    put(books, one(1))
    until = time.monotonic() + 10
    while names(store, None) != ["r1"]:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_records_are_found_by_time_and_tenant(
    store: Store, home: Home, books: WalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "RANGE_RECORDS", 4)
    monkeypatch.setattr(compaction, "BLOCKS_PER_READ", 2)
    for number in range(40):
        books.append("served", one(number, tenant="bank" if number % 2 else "acme"))
    books.flush()
    books.compact()
    for number in range(40, 50):
        books.append("served", one(number, tenant="acme"))
    books.flush()
    found = [record.request_id for record in read_served(store, home, (1_017.0, 1_042.0), "acme")]
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
    """A record as version 0.1 framed it: by itself."""
    return struct.pack("<IIB", len(payload), zlib.crc32(payload), stream) + payload


def test_what_an_earlier_version_left_is_folded(store: Store, home: Home) -> None:
    """Killed while it wrote: its segment has a frame for each record, and each of its audit records a link."""
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
    assert audit_log.read_chain_tip(store) == prev == audit_log.read_entries(store)[0].hash and not list(
        home.write_ahead_log.glob("*.segment")
    )


def test_what_is_written_at_once_may_be_longer_than_a_stretch(
    store: Store, home: Home, books: WalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "RANGE_BYTES", 100)
    monkeypatch.setattr(compaction, "RANGE_RECORDS", 10)
    for number in range(50):
        books.append("served", one(number))
        if number in (20, 40, 45):
            books.flush()
    books.close()
    assert names(store, None) == [f"r{number}" for number in range(50)]
    assert [block.count for block in store.rows(BLOCKS["served"])] == [21, 20, 9]


def test_a_segment_damaged_under_its_writer_is_said_and_not_gone_round(
    store: Store, home: Home, books: WalWriter
) -> None:
    put(books, one(1))
    (path,) = home.write_ahead_log.glob("*.segment")
    with path.open("r+b") as file:
        file.seek(DATA_START + 40)
        file.write(b"?")
    with pytest.raises(StoreError) as caught:
        books.compact()
    assert caught.value.code == "AW-STO-08" and path.stem in str(caught.value)


def test_a_segment_of_a_living_writer_is_left_alone(store: Store, home: Home, books: WalWriter) -> None:
    put(books, one(1))
    (path,) = home.write_ahead_log.glob("*.segment")
    assert WalSegment.adopt(path) is None
    books.compact()
    assert compact_orphans(store, home) == 0 and path.exists()


class Moody(Store):
    """A real store: it refuses when told to, or does what it was asked and loses the answer."""

    refuse = False
    mute = False

    def append_together(self, lots: TableRows, *, synced: bool = False, instead: ReplacedRows | None = None) -> None:
        if not self.refuse:
            super().append_together(lots, synced=synced, instead=instead)
        if self.refuse or self.mute:
            raise StoreError("AW-STO-01", "the store refuses: connection lost")


@pytest.mark.parametrize("mood", ["refuse", "mute"])
def test_what_the_store_refuses_waits_and_comes_once(tmp_path: Path, home: Home, mood: str) -> None:
    store = Moody(home.store_url)
    books = WalWriter(store, home)
    setattr(store, mood, True)
    for number in range(5):
        put(books, one(number))
        with pytest.raises(StoreError):
            books.compact()
            assert mood == "mute"  # nothing was left to fold: the time before had been heard after all
            raise StoreError("AW-STO-01", "as above")
        assert names(store, home) == [f"r{count}" for count in range(number + 1)]
    setattr(store, mood, False)
    books.close()
    assert names(store, None) == ["r0", "r1", "r2", "r3", "r4"]
    assert [total.requests for total in read_usage_totals(store, None, ())] == [5]


@pytest.mark.process
def test_what_a_dead_writer_left_is_not_folded_into_another_store(store: Store, home: Home) -> None:
    """A verb called without the database's URL once took the bill of the gateway's dead workers into the home's own."""
    script = """
import os, sys
from archwright.contract.served import RequestRecord
from archwright.home import Home
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store
books = WalWriter(Store(sys.argv[2]), Home(sys.argv[1]))
books.append("served", RequestRecord(at=1.0, request_id="r1", status="ok", tenant="acme"))
books.flush()
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
    """The first segment had no store's name, the next had: sorted by it, they were read in the wrong order."""
    store = Moody(home.store_url)
    store.refuse = True
    books = WalWriter(store, home, segment_bytes=16 << 10)
    monkeypatch.setattr(books, "_compact_segments", lambda least: 0)
    monkeypatch.setattr(books, "_name", "f" * 16)
    log = audit_log.AuditLog(books)
    while len(list(home.write_ahead_log.glob("*.segment"))) < 4:
        event = audit_log.AuditEvent(at=1.0, tenant="acme", key_id="k", action="c", permission="p", effect="deny")
        log.record(event)
        books.flush()
        store.refuse = False
    assert {path.stem.count(".") for path in home.write_ahead_log.glob("*.segment")} == {0, 1}
    assert audit_log.check_chain(store, home).broken is None
    monkeypatch.undo()
    books.close()
    assert audit_log.check_chain(store, None).broken is None
    store.close()


def test_what_waits_for_another_store_takes_no_room_of_this_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is away for hours is given up for another: that one's gateway let nobody in."""
    monkeypatch.setattr(wal_writer, "SEGMENTS_LIMIT", 4)
    for number in range(4):
        WalSegment.create(home.write_ahead_log, f"0123abcd.{number:016}-000000", 4 << 10).close()
    store = Store(home.store_url)
    books = WalWriter(store, home, segment_bytes=4 << 10)
    assert books.has_space
    books.close()
    store.close()


def test_a_store_that_is_silent_does_not_hold_up_the_end(home: Home) -> None:
    class Silent(Store):
        asked, speaks = threading.Event(), threading.Event()

        def append_together(
            self, lots: TableRows, *, synced: bool = False, instead: ReplacedRows | None = None
        ) -> None:
            if synced:
                self.asked.set()
                self.speaks.wait()
            super().append_together(lots, synced=synced, instead=instead)

    store = Silent(home.store_url)
    books = WalWriter(store, home)
    put(books, one(1))
    assert store.asked.wait(30)
    books.append("served", one(2))
    books.close(within_s=0.01)
    assert names(store, home) == ["r1", "r2"], "in the kernel, and folded by whoever comes next"
    store.speaks.set()
    books.close()
    assert names(store, None) == ["r1", "r2"]
    store.close()


def test_a_chain_read_while_its_writer_goes_on_in_the_next_segment_holds(
    store: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next segment was there before it was used: read last, it had what came after what was read first."""
    books = WalWriter(store, home, segment_bytes=16 << 10)
    monkeypatch.setattr(books, "_compact_segments", lambda least: 0)  # a fold late
    log = audit_log.AuditLog(books)

    def write() -> None:
        event = audit_log.AuditEvent(
            at=1.0, tenant="acme", key_id="k", action="chat", permission="p", effect="deny", resource="r" * 200
        )
        log.record(event)
        books.flush()

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
    books.close()


def test_a_store_that_is_away_for_long_ends_admissions_before_the_disk_is_full(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_writer, "SEGMENTS_LIMIT", 4)
    store = Moody(home.store_url)
    store.refuse = True
    books = WalWriter(store, home, segment_bytes=4 << 10)
    written = 0
    with pytest.raises(StoreError) as caught:
        while True:
            books.append_encoded("served", json.dumps([1.0, f"r{written}", "ok"]).encode(), books.reserve)
            written += 1
            books.flush()
    assert caught.value.code == "AW-STO-06"
    assert len(list(home.write_ahead_log.glob("*.segment"))) == 4
    books.append("served", one(written))  # of a request let in before
    books.flush()
    store.refuse = False
    books.compact()
    assert books.has_space
    books.close()
    assert names(store, None) == [f"r{number}" for number in range(written + 1)]


def test_a_write_that_fails_is_tried_again(
    store: Store, home: Home, books: WalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(books, one(1))

    def broken(*_args: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", broken)
        books.append("served", one(2))
        with pytest.raises(StoreError):
            books.flush()
    put(books, one(3))
    assert names(store, home) == ["r1", "r2", "r3"]


def test_a_record_of_absurd_length_and_a_closed_ledger_are_refused(store: Store, home: Home, books: WalWriter) -> None:
    with pytest.raises(StoreError) as caught:
        books.append("served", one(1, route="x" * 70_000))
    assert caught.value.code == "AW-STO-07"
    books.close()
    with pytest.raises(StoreError) as caught:
        books.append("served", one(1))
    assert caught.value.code == "AW-STO-05"


def test_readers_see_each_record_once_while_it_is_folded(
    store: Store, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_writer, "SYNC_S", 0.001)
    monkeypatch.setattr(wal_writer, "COMPACT_EVERY_SYNCS", 1)
    monkeypatch.setattr(wal_writer, "MERGE_ROWS", 3)
    monkeypatch.setattr(compaction, "RANGE_RECORDS", 5)
    books = WalWriter(store, home, segment_bytes=16 << 10)
    written = 0
    stop = threading.Event()

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            put(books, one(written))
            written += 1
            time.sleep(0.0003)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(60):
        before = written
        found = names(store, home)
        assert len(found) == len(set(found)) and len(found) >= before
        before = written
        requests = sum(total.requests for total in read_usage_totals(Store(store.url), home, ("tenant", "day")))
        assert before <= requests <= written + 1
    stop.set()
    writer.join()
    books.close()
    assert sum(total.requests for total in read_usage_totals(store, home, ())) == written


def test_usage_is_added_up_exactly_and_outlives_the_blocks(store: Store, home: Home, books: WalWriter) -> None:
    put(
        books,
        one(1, cost_usd=0.1),
        one(2, cost_usd=0.2, user="ann"),
        one(86_400, cost_usd=None, cache="hit", saved_usd=0.3),
        one(4, shadow=True),
    )
    before = sorted(read_usage_totals(store, home, USAGE_DIMENSIONS), key=repr)
    books.compact()
    assert sorted(read_usage_totals(store, home, USAGE_DIMENSIONS), key=repr) == before
    assert (len(store.rows(USAGE_DELTAS)), len(store.rows(USAGE_TOTALS))) == (0, 4), (
        "the first fold of a process gathers"
    )
    for number in (1, 2):
        put(books, one(number, cost_usd=0.0, input_tokens=0, output_tokens=0, shadow=True))
        books.compact()
    assert len(store.rows(USAGE_DELTAS)) == 2
    assert (gather_deltas(store), gather_deltas(store), len(store.rows(USAGE_DELTAS)), merge_totals(store)) == (
        1,
        0,
        0,
        4,
    )
    before = sorted(read_usage_totals(store, home, USAGE_DIMENSIONS), key=repr)
    assert observations.prune_observations(store, 1e6) == 3
    assert names(store, home) == [] and books.compact() == 0
    assert sorted(read_usage_totals(store, home, USAGE_DIMENSIONS), key=repr) == before
    (own, shadow) = sorted(read_usage_totals(store, home, ("shadow",)), key=lambda total: total.shadow)
    assert (own.requests, own.hits, own.cost_nano_usd, own.saved_nano_usd) == (3, 1, 300_000_000, 300_000_000)
    assert (own.input_tokens, own.output_tokens, shadow.requests) == (9, 15, 3)
    assert {total.day for total in read_usage_totals(store, home, ("day",))} == {0, 1}


def test_a_record_that_is_none_holds_up_nothing_and_a_newer_one_is_read(
    store: Store, home: Home, books: WalWriter
) -> None:
    newer = [*json.loads(msgspec.json.encode(one(2))), "a field of tomorrow"]
    for line in (msgspec.json.encode(one(1)), b'["x"]', b'[1.0,"r","ok",7]', b"{", msgspec.json.encode(newer)):
        books.append_encoded("served", line, 0)
    put(books, one(3, input_tokens=2**200, output_tokens=-5, cost_usd=4e19, saved_usd=-1.0))
    for _ in range(2):
        assert names(store, home) == ["r1", "r2", "r3"]
        (total,) = read_usage_totals(store, home, ())
        assert (total.requests, total.input_tokens, total.output_tokens) == (3, 6 + TOKENS_LIMIT, 10)
        assert (total.cost_nano_usd, total.saved_nano_usd) == (2_000 + MONEY_LIMIT, 0)
        books.compact()
    books.close()
    assert list(home.write_ahead_log.glob("*.segment")) == []


def test_usage_of_ten_million_requests_is_told_in_a_second(store: Store, home: Home) -> None:
    """10,000 blocks of a thousand, each of five keys, none merged yet: the worst that folding leaves."""
    lots = [
        encode_delta(
            {
                (20_000 + block // 1_000, f"t{key}", f"k{(block + key) % 50}", "", "m", False): [200, 0, 1, 1, 7, 0]
                for key in range(5)
            }
        )
        for block in range(10_000)
    ]
    store.append(USAGE_DELTAS, lots)
    found = read_usage_totals(store, home, ("tenant", "model", "day"))
    assert sum(total.requests for total in found) == 10_000_000


def test_those_who_gather_at_once_take_each_lot_once(store: Store, home: Home) -> None:
    """Four gather as fast as they can while others fold: each lot counts once, whoever was first."""
    stop = threading.Event()

    def gathers() -> None:
        mine = Store(store.url)
        while not stop.is_set():
            gather_deltas(mine)
            merge_totals(mine)
        mine.close()

    gather_deltas(store)  # the tables are there
    threads = [threading.Thread(target=gathers) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(60):
        store.append(
            USAGE_DELTAS,
            [encode_delta({(number % 3, "t", f"k{key}", "", "m", False): [1, 0, 2, 3, 4, 5] for key in range(4)})],
        )
        (total,) = read_usage_totals(store, home, ())
        assert (total.requests, total.saved_nano_usd) == (4 * number + 4, 20 * number + 20)
    stop.set()
    for thread in threads:
        thread.join()
    gather_deltas(store)
    assert merge_totals(store) == 12 and store.rows(USAGE_DELTAS) == []
    assert sum(total.requests for total in read_usage_totals(store, home, USAGE_DIMENSIONS)) == 240


def test_the_id_of_a_request_tells_when_it_came() -> None:
    ids = [make_request_id(at, chance) for at in (1.7e9, 1.7e9 + 0.002, 1.8e9) for chance in (0, 2**52 - 1)]
    assert ids == sorted(ids) and len(set(ids)) == 6 and {len(name) for name in ids} == {27}
    assert [request_received_at(name) for name in ids[::2]] == pytest.approx([1.7e9, 1.7e9 + 0.002, 1.8e9], abs=1e-3)
    for wrong in ("", "aw-1", "r1", ids[0].upper(), ids[0] + "0"):
        assert request_received_at(wrong) is None


def test_all_that_waits_is_one_write(store: Store, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a record costs in time is measured by bench/ledger."""
    written: list[int] = []
    write = WalSegment.write

    def counted(self: WalSegment, data: bytes) -> None:
        written.append(len(data))
        write(self, data)

    monkeypatch.setattr(WalSegment, "write", counted)
    books, record = WalWriter(store, home), one(1)
    for _ in range(2_000):
        books.append("served", record)
    assert not written
    books.flush()
    books.flush()
    assert len(written) == 1 and written[0] > 2_000 * 100
    books.close()


def test_a_segment_that_gets_full_while_it_is_folded_comes_before_its_successor(store: Store, home: Home) -> None:
    """Else what waits of it would stand behind, and an audit chain in that order is a broken one."""
    books = WalWriter(store, home, segment_bytes=4 << 10)
    books._stop.set()
    books._thread.join()
    written: list[str] = []

    def write() -> None:
        """Until the segment in use is another one."""
        current = books._current
        while not written or books._current is current:
            put(books, one(len(written)))
            written.append(one(len(written)).request_id)

    class Meanwhile(deque[WalSegment]):
        """Where the interpreter may switch to the thread that serves."""

        def __iter__(self) -> Iterator[WalSegment]:
            yield from super().__iter__()
            if serving.ident is None:
                serving.start()
                serving.join(0.5)

    write()
    serving = threading.Thread(target=write)
    books._full = Meanwhile()
    books.compact()
    serving.join()
    books.compact()
    books.close()
    assert names(store, None) == written


def test_what_a_crash_left_of_a_segment_being_made_goes_and_one_being_made_stays(store: Store, home: Home) -> None:
    old, young = home.write_ahead_log / "a-000000.new", home.write_ahead_log / "b-000000.new"
    for path in (old, young):
        path.write_bytes(bytes(100))
    os.utime(old, (time.time() - 100, time.time() - 100))
    assert compact_orphans(store, home) == 0
    assert not old.exists() and young.exists()


def test_one_process_at_a_time_folds_what_others_left(store: Store, home: Home, books: WalWriter) -> None:
    """In order: an audit chain goes on from one segment to the next."""
    put(books, one(1))
    (path,) = home.write_ahead_log.glob("*.segment")
    left = home.write_ahead_log / "0-000000.segment"
    left.write_bytes(path.read_bytes())  # as if its writer were gone
    with (home.write_ahead_log / "orphans.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert compact_orphans(store, home) == 0 and left.exists()
    assert compact_orphans(store, home) == 1 and not left.exists()
