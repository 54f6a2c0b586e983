"""Deliveries to places: each record at least once, whatever fails, and no place waits for another."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.tools.checks import WAIT_S, until

from archwright.access.audit_checkpoints import read_checkpoints, select_checkpoints
from archwright.access.audit_delivery import outbox as outbox_module
from archwright.access.audit_delivery.delivery_place import DeliveryBatch
from archwright.access.audit_delivery.outbox import (
    AuditOutbox,
    PlaceOutbox,
    list_known_addresses,
    read_place_status,
)
from archwright.access.audit_delivery.places import open_place, split_addresses
from archwright.access.delivery_cursor import locate_cursor, read_cursor
from archwright.access.record_chain import AUDIT_BLOCKS, decode_record_lines, extend_digest
from archwright.api import audit
from archwright.errors import ArchwrightError, SettingsError
from archwright.home import Home
from archwright.monitor.wal.compaction import compact_orphans
from archwright.monitor.wal.segment_owner import read_store_name
from archwright.settings import load
from archwright.store import Store

from .log_with_places import MemoryPlace, fill_store, write_events

ADDRESS = "file:/memory"


class Delivery:
    """A place of a home's log, with the failures that its outbox reported."""

    def __init__(self, store: Store, home: Home, place: MemoryPlace | None = None) -> None:
        self.store, self.home = store, home
        self.place = place or MemoryPlace()
        self.errors: list[ArchwrightError] = []
        self.outbox = self.restart()

    def restart(self) -> PlaceOutbox:
        """The outbox of another process."""
        self.outbox = PlaceOutbox(self.store, self.home, ADDRESS, report=self.errors.append, place=self.place)
        return self.outbox

    @property
    def codes(self) -> list[str]:
        return [error.code for error in self.errors]


@pytest.fixture
def delivery(home: Home) -> Iterator[Delivery]:
    with closing(Store(home.store_url)) as store:
        yield Delivery(store, home)


def test_a_place_gets_each_record_once_with_its_number_and_a_digest_of_all_before(delivery: Delivery) -> None:
    for start in (0, 10, 20):
        write_events(delivery.store, delivery.home, range(start, start + 10))
        delivery.outbox.deliver()
    delivery.outbox.deliver()
    records = delivery.place.records
    assert [line.number for line in records] == list(range(1, 31))
    assert [json.loads(line.record)["action"] for line in records] == [f"act.{number}" for number in range(30)]
    digest = ""
    for line in records:
        digest = extend_digest(digest, line.record)
        assert line.digest == digest and line.store == read_store_name(delivery.store)
    assert len(delivery.place.batches) == 3, "the last call had nothing to deliver"


def test_a_place_gets_each_checkpoint_and_its_chain_digest_is_that_of_the_record(delivery: Delivery) -> None:
    for start in (0, 10):
        write_events(delivery.store, delivery.home, range(start, start + 10))
        delivery.outbox.deliver()
    checkpoints = list(select_checkpoints(delivery.place.lines, "place"))
    assert checkpoints == list(read_checkpoints(delivery.home.audit_checkpoints))
    digests = {line.number: line.digest for line in delivery.place.records}
    assert [checkpoint.chain for checkpoint in checkpoints] == [digests[10], digests[20]]


def test_a_store_without_records_gets_no_files(delivery: Delivery) -> None:
    delivery.outbox.deliver(closing=True)
    assert not (delivery.home.root / "audit").exists() and not delivery.errors


def test_a_place_that_fails_gets_everything_later_and_the_status_says_since_when(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(delivery.store, delivery.home, range(4))
    delivery.outbox.deliver()
    delivery.place.failure = ConnectionRefusedError("nobody listens")
    write_events(delivery.store, delivery.home, range(4, 7))
    began_at = time.time()
    for _ in range(3):
        delivery.outbox.deliver(closing=True)
    assert delivery.codes == ["AW-STO-27"], "one report per interval"
    status = read_place_status(delivery.store, delivery.home, ADDRESS)
    assert (status.delivered, status.waiting, status.oldest_at) == (4, 3, 1e9 + 4)
    assert "nobody listens" in status.failure and 0 < status.delivered_at <= began_at <= status.failing_since
    assert list_known_addresses(delivery.store, delivery.home) == (ADDRESS,)
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", "stdout")
    assert [(one.place, one.waiting) for one in audit.status()] == [("stdout", 7), (ADDRESS, 3)]

    delivery.place.failure = None
    delivery.outbox.deliver(closing=True)
    assert delivery.place.numbers == list(range(1, 8))
    status = read_place_status(delivery.store, delivery.home, ADDRESS)
    assert (status.waiting, status.failing_since, status.failure, status.oldest_at) == (0, 0.0, "", 0.0)


def test_a_failing_place_is_asked_more_rarely(delivery: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    write_events(delivery.store, delivery.home, range(2))
    delivery.place.failure = OSError("down")
    for _ in range(200):
        delivery.outbox.deliver()
        clock[0] += 1.0
    assert [at - 1_000.0 for at in delivery.place.tries] == [0, 1, 3, 7, 15, 31, 63, 123, 183]


def test_a_process_that_dies_after_the_place_took_a_batch_delivers_it_again(delivery: Delivery) -> None:
    write_events(delivery.store, delivery.home, range(5))
    path = locate_cursor(delivery.home, read_store_name(delivery.store), ADDRESS)
    delivery.outbox.deliver()
    path.unlink()
    delivery.restart().deliver()
    assert delivery.place.numbers == [1, 2, 3, 4, 5] * 2
    path.write_bytes(b"{")
    delivery.restart().deliver()
    assert delivery.place.numbers == [1, 2, 3, 4, 5] * 3


def test_a_full_disk_sends_nothing_twice_in_one_process(delivery: Delivery) -> None:
    write_events(delivery.store, delivery.home, range(5))
    delivery.outbox.deliver()
    write_events(delivery.store, delivery.home, range(5, 8))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        for _ in range(3):
            delivery.outbox.deliver(closing=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert delivery.codes, "the cursor was not written"
    delivery.outbox.deliver(closing=True)
    assert delivery.place.numbers == list(range(1, 9))
    assert read_place_status(delivery.store, delivery.home, ADDRESS).waiting == 0


def test_a_log_that_lost_records_is_reported_once_and_sent_again(delivery: Delivery) -> None:
    for start in (0, 3):
        write_events(delivery.store, delivery.home, range(start, start + 3))
    delivery.outbox.deliver()
    delivery.store.remove(AUDIT_BLOCKS, {"count": 3, "first_at": 1e9 + 3})
    for _ in range(3):
        delivery.outbox.deliver()
    assert delivery.codes == ["AW-STO-28"]
    assert delivery.place.numbers == [1, 2, 3, 4, 5, 6, 1, 2, 3]


def test_batches_have_a_bound_and_a_window(delivery: Delivery, monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setattr(outbox_module, "BATCH_BYTES", 3_000)
    fill_store(delivery.store, [[b'{"n":%d,"text":"%d"}' % (block, 10**200)] * 5 for block in range(4)])
    delivery.outbox.deliver()
    assert [batch.last for batch in delivery.place.batches] == [10, 20]
    windowed = Delivery(delivery.store, Home(home.root.parent / "other"), MemoryPlace(window_s=60.0))
    windowed.outbox.deliver()
    fill_store(delivery.store, [[b'{"n":1}']])
    windowed.outbox.deliver()
    assert windowed.place.batches[-1].last == 20, "the window is open"
    windowed.outbox.deliver(closing=True)
    assert windowed.place.batches[-1].last == 21


class HangingPlace(MemoryPlace):
    """A place that takes a batch when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.free = threading.Event(), threading.Event()

    def deliver(self, batch: DeliveryBatch) -> None:
        self.entered.set()
        assert self.free.wait(WAIT_S)
        super().deliver(batch)


def test_a_place_that_hangs_delays_neither_the_others_nor_the_end(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "DELIVER_EVERY_S", 0.01)
    hanging = HangingPlace()
    stuck = PlaceOutbox(delivery.store, delivery.home, "file:/hanging", place=hanging)
    both = AuditOutbox((stuck, delivery.outbox))
    both.start()
    write_events(delivery.store, delivery.home, range(3))
    until(hanging.entered.is_set)
    until(lambda: delivery.place.numbers == [1, 2, 3])
    both.close(0.05)
    assert hanging.numbers == []
    hanging.free.set()
    until(lambda: hanging.numbers == [1, 2, 3])
    until(lambda: len(read_status_files(delivery.home)) == 2)


def read_status_files(home: Home) -> list[Path]:
    return list((home.root / "audit" / "outbox").glob("*.json"))


def test_one_process_at_a_time_delivers_to_a_place(delivery: Delivery) -> None:
    hanging = HangingPlace()
    write_events(delivery.store, delivery.home, range(3))
    first = PlaceOutbox(delivery.store, delivery.home, ADDRESS, place=hanging)
    thread = threading.Thread(target=first.deliver)
    thread.start()
    until(hanging.entered.is_set)
    delivery.outbox.deliver(closing=True)
    assert delivery.place.numbers == []
    hanging.free.set()
    thread.join()
    delivery.outbox.deliver(closing=True)
    assert delivery.place.numbers == [] and hanging.numbers == [1, 2, 3]


WRITER = """
import sys, time
from archwright.access.audit_delivery.outbox import AuditOutbox, PlaceOutbox
from archwright.access.audit_delivery.places import split_addresses
from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.home import Home
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store
home, address = Home(sys.argv[1]), sys.argv[2]
store = Store(home.store_url)
wal = WalWriter(store, home)
log = AuditLog(wal)
outbox = PlaceOutbox(store, home, address)
for number in range(10_000):
    log.record(AuditEvent(at=time.time(), tenant="t", key_id="k", action="a", permission="p", effect="allow"))
    wal.flush()
    wal.compact()
    outbox.deliver(closing=True)
"""


@pytest.mark.enable_socket
def test_kill_9_loses_no_record(home: Home, tmp_path: Path, processes: None) -> None:
    address = f"file:{tmp_path / 'place'}"
    for count in (5, 17, 40):
        writer = subprocess.Popen([sys.executable, "-P", "-c", WRITER, str(home.root), address])
        place = tmp_path / "place"
        lines_before = place.read_bytes().count(b"\n") if place.exists() else 0
        until(lambda: place.exists() and place.read_bytes().count(b"\n") >= lines_before + count)  # noqa: B023
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    write_audited(home)
    with closing(Store(home.store_url)) as store:
        PlaceOutbox(store, home, address).deliver(closing=True)
        total = sum(count for (count,) in store.columns(AUDIT_BLOCKS, ("count",)))
        assert read_place_status(store, home, address).waiting == 0
    with place.open("rb") as file:
        numbers = {line.number for line in decode_record_lines(file)}
    assert total > 40 and numbers == set(range(1, total + 1))
    assert audit.verify(against=str(place)).warning == ""


def write_audited(home: Home) -> None:
    """Import what the killed processes left in the write-ahead log: a writer that ends soon leaves it to the next."""
    with closing(Store(home.store_url)) as store:
        compact_orphans(store, home)
        write_events(store, home, range(1))


def test_standard_output_gets_whole_lines(home: Home, processes: None) -> None:
    """Lines of other processes must not stand within them, so a write has at most what a pipe takes whole."""
    with closing(Store(home.store_url)) as store:
        write_events(store, home, range(50))
        program = WRITER.split("wal = ")[0] + "PlaceOutbox(store, home, address).deliver(closing=True)\n"
        command = [sys.executable, "-P", "-c", program, str(home.root), "stdout"]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()
        assert [line.number for line in decode_record_lines(lines)] == list(range(1, 51))
        assert len(list(select_checkpoints(lines, "stdout"))) == 1 and len(lines) == 51
        assert read_place_status(store, home, "stdout").delivered == 50


def test_the_setting_names_several_places(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", "stdout, syslog,/var/log/a.jsonl, file:/mnt/b.jsonl,stdout")
    addresses = split_addresses(load().audit_checkpoints)
    assert addresses == ("stdout", "syslog", "file:/var/log/a.jsonl", "file:/mnt/b.jsonl")
    assert [type(open_place(address)).__name__ for address in addresses] == [
        *("StreamPlace", "SyslogPlace"),
        *("FilePlace", "FilePlace"),
    ]
    for wrong in ("stderr", "file:b.jsonl", "stdout;syslog", "ftp://host/path"):
        monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", wrong)
        with pytest.raises(SettingsError, check=lambda error: error.code == "AW-SET-02"):
            load()


def test_a_cursor_of_a_newer_version_is_read(delivery: Delivery) -> None:
    write_events(delivery.store, delivery.home, range(2))
    delivery.outbox.deliver()
    path = locate_cursor(delivery.home, read_store_name(delivery.store), ADDRESS)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 1}))
    cursor = read_cursor(path)
    assert cursor is not None and cursor.records == 2
