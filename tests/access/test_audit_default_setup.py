"""Attacks on a log without a second place: on the files of checkpoints, on the blocks, on both."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy

from archwright.access import audit_checkpoints
from archwright.access.audit_checkpoints import (
    AuditCheckpoint,
    CheckpointWriter,
    encode_checkpoint,
    load_signing_key,
    read_checkpoints,
    read_signing_key,
    sign_correction,
)
from archwright.access.audit_log import AuditLog
from archwright.access.log_retention import KEEP_ALL, RecordRetention
from archwright.api import audit
from archwright.contract.record import replace
from archwright.contract.served import RequestRecord
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.wal.compaction import BLOCKS
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store

from .test_audit_checkpoints import make_event

RECORDS = 4
FOLDED_BLOCKS = 3


class Log:
    """A home with a log of three blocks, three blocks of usage, and three checkpoints; no second place."""

    age_s = 0.0

    def __init__(self, home: Home, retention: RecordRetention = KEEP_ALL, database: str = "") -> None:
        """`database`: the URL of an empty one; by default, the home has its own."""
        self.home = home
        self.retention = retention
        self.url = database or home.store_url
        for _ in range(FOLDED_BLOCKS):
            self.write()

    def write(self) -> None:
        """Write records as one process does, which ends with a checkpoint."""
        with closing(Store(self.url)) as store:
            checkpoints = CheckpointWriter(store, self.home, retention=self.retention)
            with closing(WalWriter(store, self.home, on_compaction=checkpoints.write_due)) as wal:
                log = AuditLog(wal)
                now = time.time() - self.age_s
                for number in range(RECORDS):
                    log.record(make_event())
                    wal.append("served", RequestRecord(at=now + number, request_id="aw-1", status="ok", cost_usd=1.0))
                wal.flush()

    def execute(self, statement: str) -> None:
        """Execute statements, which `;` separates."""
        with connect(self.url) as connection:
            for part in statement.split(";"):
                connection.exec_driver_sql(part)

    @property
    def lines(self) -> list[bytes]:
        return self.home.audit_checkpoints.read_bytes().splitlines(keepends=True)

    @lines.setter
    def lines(self, lines: list[bytes]) -> None:
        self.home.audit_checkpoints.write_bytes(b"".join(lines))

    def code(self) -> tuple[str, int]:
        """The code and the exit status of `audit verify`."""
        try:
            audit.verify()
        except StoreError as error:
            return error.code, error.exit_status
        return "", 0


@pytest.fixture
def log(home: Home) -> Log:
    return Log(home)


def cut_tail(log: Log) -> None:
    log.execute("delete from audit_blocks where seq = (select max(seq) from audit_blocks)")


def cut_last_line(log: Log) -> None:
    log.lines = log.lines[:-1]


def cut_both(log: Log) -> None:
    cut_tail(log)
    cut_last_line(log)


def cut_both_and_write_on(log: Log) -> None:
    cut_both(log)
    log.write()


def cut_all_but_one(log: Log) -> None:
    log.execute("delete from audit_blocks where seq > 1; delete from served_blocks where seq > 1")
    log.lines = log.lines[:1]


def drop_a_line(log: Log) -> None:
    first, _second, third = log.lines
    log.lines = [first, third]


def drop_the_first_line(log: Log) -> None:
    log.lines = log.lines[1:]


def delete_checkpoints(log: Log) -> None:
    log.home.audit_checkpoints.unlink()


def delete_folder(log: Log) -> None:
    shutil.rmtree(log.home.root / "audit")


def delete_blocks_and_folder(log: Log) -> None:
    delete_folder(log)
    log.execute("delete from audit_blocks; delete from served_blocks")


def delete_folder_and_write_on(log: Log) -> None:
    delete_folder(log)
    log.write()


def delete_anchor(log: Log) -> None:
    log.execute("delete from checkpoint_anchors")


def delete_anchor_and_cut_both(log: Log) -> None:
    delete_anchor(log)
    cut_both(log)


def lower_anchor(log: Log) -> None:
    """The attacker has no older anchor: it was replaced, so its signature is of another number."""
    log.execute("update checkpoint_anchors set number = 2")
    cut_both(log)


def cut_usage(log: Log) -> None:
    log.execute("delete from served_blocks where seq = (select max(seq) from served_blocks)")


def empty_usage(log: Log) -> None:
    log.execute("delete from served_blocks")


def replace_usage(log: Log) -> None:
    log.execute("update served_blocks set data = (select data from served_blocks where seq = 2) where seq = 1")
    log.execute("update served_blocks set first_at = 0 where seq = 1")


def forge_correction(log: Log) -> None:
    """The attacker states that the bill was corrected by an erasure."""
    with closing(sqlite3.connect(log.home.root / "archwright.db")) as connection:
        (data,) = connection.execute("select data from served_blocks where seq = 1").fetchone()
        row = hashlib.sha256(data).hexdigest(), b"forged"
        connection.execute("update served_blocks set origin = ?, data = ? where seq = 1", row)
        connection.commit()


ATTACKS: dict[Callable[[Log], None], str] = {
    cut_tail: "AW-STO-17",
    cut_last_line: "AW-STO-22",
    cut_both: "AW-STO-22",
    cut_both_and_write_on: "AW-STO-22",
    cut_all_but_one: "AW-STO-22",
    drop_a_line: "AW-STO-22",
    drop_the_first_line: "AW-STO-22",
    delete_checkpoints: "AW-STO-22",
    delete_folder: "AW-STO-22",
    delete_blocks_and_folder: "AW-STO-22",
    delete_folder_and_write_on: "AW-STO-22",
    delete_anchor: "AW-STO-22",
    delete_anchor_and_cut_both: "AW-STO-22",
    lower_anchor: "AW-STO-22",
    cut_usage: "AW-STO-17",
    empty_usage: "AW-STO-16",
    replace_usage: "AW-STO-18",
    forge_correction: "AW-STO-18",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_found_without_a_second_place(log: Log, attack: Callable[[Log], None]) -> None:
    attack(log)
    assert log.code() == (ATTACKS[attack], 8)


def test_a_whole_log_without_a_second_place_is_not_enough_unless_told_so(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert log.code() == ("AW-STO-23", 10)
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_SECOND_PLACE", "none")
    found = audit.verify()
    assert (found.whole, found.records, found.checkpoints) == (True, 3 * RECORDS, 3)
    assert found.second_place == 'none, by audit_second_place = "none"' and found.warning


def test_an_empty_log_needs_no_second_place(home: Home) -> None:
    assert audit.verify().records == 0


def test_a_signed_correction_of_usage_is_no_attack(log: Log) -> None:
    """The erasure of a person changes usage records of older versions, which name users."""
    with closing(Store(log.home.store_url)) as store:
        key = load_signing_key(log.home)
        for text in (b"once", b"twice"):
            store.revise(BLOCKS["served"], partial(sign_correction, data=zlib.compress(text), key=key))
            assert log.code() == ("AW-STO-23", 10)
    log.write()
    assert log.code() == ("AW-STO-23", 10)
    log.execute("update served_blocks set data = x'00' where seq = 1")
    assert log.code() == ("AW-STO-18", 8)


def test_a_checkpoint_of_an_older_version_keeps_its_bytes_and_is_followed(log: Log) -> None:
    """Its signature covers the fields of its version alone."""
    fields: dict[str, object] = {"at": 1.0, "store": "s", "database": "d", "seq": 1, "blocks": 1, "records": 4}
    fields |= {"tip": "t", "public_key": "k"}
    text = b'{"kind":"archwright-audit-checkpoint","at":1.0,"store":"s","database":"d","seq":1,"blocks":1,"records":4,'
    text += b'"tip":"t","public_key":"k","signature":""}'
    assert encode_checkpoint(AuditCheckpoint(**fields)) == text  # type: ignore[arg-type]
    key = load_signing_key(log.home)
    old = replace(read_checkpoints(log.home.audit_checkpoints)[0], number=None, previous=None, usage=None, rows=None)
    old = replace(old, signature="")
    log.lines = [encode_checkpoint(replace(old, signature=key.sign(encode_checkpoint(old)))) + b"\n"]
    log.execute("delete from checkpoint_anchors")
    log.write()
    assert [json.loads(line).get("number") for line in log.lines] == [None, 1]
    assert log.code() == ("AW-STO-23", 10)
    log.lines = log.lines[1:]
    assert log.code() == ("AW-STO-22", 8), "the older one is missing"


def test_checkpoints_have_consecutive_numbers(log: Log) -> None:
    lines = [json.loads(line) for line in log.lines]
    assert [line["number"] for line in lines] == [1, 2, 3]
    assert [line["usage"]["records"] for line in lines] == [RECORDS, 2 * RECORDS, 3 * RECORDS]
    assert max(map(len, log.lines)) < 1_000, "a message of syslog has at most 1,024 bytes"


def test_a_process_that_was_killed_between_file_and_database_breaks_nothing(log: Log) -> None:
    """The file is written first, so the database may be one behind."""
    (anchor,) = rows_of(log, "select public_key, number, digest, signature, kind from checkpoint_anchors")
    log.write()
    log.execute("delete from checkpoint_anchors")
    with closing(sqlite3.connect(log.home.root / "archwright.db")) as connection:
        names = "public_key, number, digest, signature, kind"
        connection.execute(f"insert into checkpoint_anchors ({names}) values (?, ?, ?, ?, ?)", anchor)
        connection.commit()
    assert log.code() == ("AW-STO-23", 10)
    log.write()
    assert [row[0] for row in rows_of(log, "select number from checkpoint_anchors")] == [5]
    assert log.code() == ("AW-STO-23", 10)


def rows_of(log: Log, query: str) -> list[tuple[object, ...]]:
    with connect(log.url) as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


@contextmanager
def connect(url: str) -> Iterator[sqlalchemy.Connection]:
    """Connect to a database around its program; the changes are committed at the end."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def test_an_older_copy_of_the_files_alone_or_of_the_database_alone_is_found(log: Log, tmp_path: Path) -> None:
    files, database = tmp_path / "audit", tmp_path / "copy.db"
    shutil.copytree(log.home.root / "audit", files)
    shutil.copy(log.home.root / "archwright.db", database)
    log.write()
    newest = log.home.root / "archwright.db"
    shutil.copytree(files, log.home.root / "audit", dirs_exist_ok=True)
    assert log.code() == ("AW-STO-22", 8)
    log.write()
    assert log.code() == ("AW-STO-22", 8), "what proves the loss stays"
    shutil.copy(database, newest)
    assert log.code()[1] == 8


def test_a_home_without_records_gets_no_signing_key(home: Home) -> None:
    """Else the key alone would look like deleted checkpoints."""
    with closing(Store(home.store_url)) as store:
        CheckpointWriter(store, home).write_due(0, last=True)
    assert read_signing_key(home) is None and not home.audit_checkpoints.exists()


def test_usage_alone_makes_no_signing_key(home: Home) -> None:
    """A checkpoint covers the audit log first; without one the key alone would look like deleted checkpoints."""
    with closing(Store(home.store_url)) as store:
        checkpoints = CheckpointWriter(store, home)
        with closing(WalWriter(store, home, on_compaction=checkpoints.write_due)) as wal:
            wal.append("served", RequestRecord(at=time.time(), request_id="aw-1", status="ok", cost_usd=1.0))
            wal.flush()
        assert store.newest_seq(BLOCKS["served"]) == (1,)
    assert read_signing_key(home) is None


@pytest.fixture
def retained(home: Home, monkeypatch: pytest.MonkeyPatch) -> Log:
    """A log whose usage records are too old as soon as a checkpoint covers them."""
    monkeypatch.setattr(audit_checkpoints, "CHECKPOINT_S", 0.0)
    log = Log(home, RecordRetention(usage_s=-60.0))
    for _ in range(3):
        log.write()
    return log


def read_usage_numbers(log: Log) -> list[object]:
    return [row[0] for row in rows_of(log, "select seq from served_blocks order by seq")]


def test_old_usage_is_removed_after_a_checkpoint_has_recorded_it(retained: Log) -> None:
    assert read_usage_numbers(retained) == [4, 5, 6]
    newest = read_checkpoints(retained.home.audit_checkpoints)[-1]
    assert newest.usage_start is not None and newest.usage is not None
    assert (newest.usage_start.blocks, newest.usage.blocks) == (4, 6), "the next checkpoint removes block 4"
    assert max(map(len, retained.lines)) < 1_024, "a message of syslog has at most 1,024 bytes"
    assert retained.code() == ("AW-STO-23", 10)
    retained.write()
    assert read_usage_numbers(retained) == [5, 6, 7]
    assert retained.code() == ("AW-STO-23", 10)


def remove_unstated(log: Log) -> None:
    log.execute("delete from served_blocks where seq <= 5")


def state_another_start(log: Log) -> None:
    """The attacker lets the newest checkpoint keep less."""
    fields = json.loads(log.lines[-1])
    fields["usage_start"] = fields["usage"]
    log.lines = [*log.lines[:-1], json.dumps(fields, separators=(",", ":")).encode() + b"\n"]
    remove_unstated(log)


def replace_kept(log: Log) -> None:
    log.execute("update served_blocks set first_at = 0 where seq = 5")


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (cut_usage, "AW-STO-17"),
        (empty_usage, "AW-STO-17"),
        (remove_unstated, "AW-STO-18"),
        (replace_kept, "AW-STO-18"),
        (state_another_start, "AW-STO-14"),
    ],
)
def test_an_attack_on_kept_usage_is_found(retained: Log, attack: Callable[[Log], None], code: str) -> None:
    attack(retained)
    assert retained.code() == (code, 8)


def test_homes_that_share_a_database_keep_all_usage(
    retained: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would have to trust the other's key."""
    other = Home(tmp_path / "other")
    with closing(Store(retained.home.store_url)) as store:
        CheckpointWriter(store, other).write_due(1, last=True)
    for _ in range(2):
        retained.write()
    assert read_usage_numbers(retained) == [4, 5, 6, 7, 8]
    assert retained.code() == ("AW-STO-23", 10)
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(other.root))
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", retained.home.store_url)
    assert retained.code() == ("AW-STO-23", 10)
