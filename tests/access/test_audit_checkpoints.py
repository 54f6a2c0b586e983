"""Attacks on a whole audit log, which its chain cannot show: signed checkpoints in two places show each."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.tools.checks import WAIT_S

from archwright.access import audit_checkpoints
from archwright.access.audit_checkpoints import (
    AuditCheckpoint,
    CheckpointWriter,
    read_checkpoints,
    read_signing_key,
    select_checkpoints,
)
from archwright.access.audit_delivery import places, second_place
from archwright.access.audit_delivery.outbox import PlaceOutbox
from archwright.access.audit_log import AuditEvent, AuditLog, check_chain, hash_lines
from archwright.api import audit
from archwright.api.context import write_audit_record
from archwright.crypto.signing import is_signed_by
from archwright.errors import ArchwrightError, StoreError
from archwright.home import Home
from archwright.monitor.wal.compaction import BLOCKS
from archwright.monitor.wal.writer import WalWriter
from archwright.store import ColumnRange, Store

RECORDS = 5


def make_event() -> AuditEvent:
    return AuditEvent(at=time.time(), tenant="t", key_id="k", action="a", permission="p", effect="allow")


class Log:
    """A home with a log in its database, and a second place: a file, or the system log."""

    def __init__(self, home: Home, second: Path, url: str = "") -> None:
        self.home, self.second, self.url = home, second, url or home.store_url
        self.address = str(second) if str(second) == places.SYSLOG else f"file:{second}"
        self.errors: list[ArchwrightError] = []

    def write_uncovered(self) -> None:
        """Write a record in a block without a checkpoint."""
        with closing(Store(self.url)) as store, closing(WalWriter(store, self.home)) as wal:
            AuditLog(wal).record(make_event())
            wal.flush()

    @property
    def database(self) -> Path:
        return self.home.root / "archwright.db"

    def write(self, count: int = RECORDS) -> None:
        """Write records as one process does, which ends with a block and a checkpoint."""
        with closing(Store(self.url)) as store:
            checkpoints = CheckpointWriter(store, self.home, report=self.errors.append)
            with closing(WalWriter(store, self.home, on_compaction=checkpoints.write_due)) as wal:
                log = AuditLog(wal)
                for _ in range(count):
                    log.record(make_event())
                wal.flush()
            self.deliver(store)
        # Records that the place has and the log lost are reported.
        assert {error.code for error in self.errors} <= {"AW-STO-28"}

    def deliver(self, store: Store) -> None:
        PlaceOutbox(store, self.home, self.address, report=self.errors.append).deliver(closing=True)

    def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute(statement)
            connection.commit()

    def code(self) -> str:
        """The code of `audit verify`, "" for a whole log."""
        try:
            assert audit.verify().whole
        except StoreError as error:
            return error.code
        return ""


@pytest.fixture
def log(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """A log of three blocks of RECORDS, each with a checkpoint."""
    made = Log(home, tmp_path / "elsewhere.jsonl")
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", str(made.second))
    for _ in range(3):
        made.write()
    return made


def test_a_whole_log_is_covered_by_its_checkpoints(log: Log) -> None:
    found = audit.verify()
    key = read_signing_key(log.home)
    assert key is not None and found.public_keys == (key.public_key,)
    assert (found.records, found.checkpoints, found.warning) == (3 * RECORDS, 3, "")
    assert read_checkpoints(log.second) == read_checkpoints(log.home.audit_checkpoints)
    assert [one.records for one in read_checkpoints(log.second)] == [RECORDS, 2 * RECORDS, 3 * RECORDS]
    modes = {path.stat().st_mode & 0o777 for path in (log.home.audit_signing_key, log.second)}
    assert modes == {0o600}


def cut_tail(log: Log) -> None:
    log.execute("delete from audit_blocks where seq = (select max(seq) from audit_blocks)")


def empty(log: Log) -> None:
    log.execute("delete from audit_blocks")


def delete_database(log: Log) -> None:
    for path in log.home.root.glob("archwright.db*"):
        path.unlink()
    log.write()


def recompute(log: Log) -> None:
    """Change a record of the first block and every hash after it, as an attacker who knows the format."""
    with closing(sqlite3.connect(log.database)) as connection:
        tip = ""
        for seq, data in connection.execute("select seq, data from audit_blocks order by seq").fetchall():
            lines = zlib.decompress(data).split(b"\n")
            first = json.loads(lines[0])
            first |= {"prev": tip, "tenant": "another"}
            lines[0] = json.dumps(first, separators=(",", ":")).encode()
            tip = hash_lines(b"\n".join(lines))
            row = zlib.compress(b"\n".join(lines)), tip, seq
            connection.execute("update audit_blocks set data = ?, tip = ? where seq = ?", row)
        connection.commit()


def sign_again(log: Log) -> None:
    """Recompute the chain, and sign it with the home's own key: only the second place contradicts."""
    recompute(log)
    log.home.audit_checkpoints.unlink()
    log.write()


def replace_key(log: Log) -> None:
    log.home.audit_signing_key.unlink()
    sign_again(log)


def alter_checkpoint(log: Log) -> None:
    text = log.home.audit_checkpoints.read_text()
    log.home.audit_checkpoints.write_text(text.replace(f'"records":{2 * RECORDS}', '"records":1'))


def lose_checkpoints(log: Log) -> None:
    log.home.audit_checkpoints.unlink()


def lose_and_write_on(log: Log) -> None:
    log.home.audit_checkpoints.unlink()
    log.write()


ATTACKS: dict[Callable[[Log], None], str] = {
    cut_tail: "AW-STO-17",
    empty: "AW-STO-16",
    delete_database: "AW-STO-16",
    recompute: "AW-STO-18",
    sign_again: "AW-STO-18",
    replace_key: "AW-STO-15",
    alter_checkpoint: "AW-STO-14",
    lose_checkpoints: "AW-STO-19",
    lose_and_write_on: "AW-STO-19",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_named(log: Log, attack: Callable[[Log], None]) -> None:
    attack(log)
    with closing(Store(log.url)) as store:
        assert check_chain(store, log.home).broken is None, "the chain alone does not show it"
    assert log.code() == ATTACKS[attack]


@pytest.mark.parametrize(("blocks", "code"), [(0, "AW-STO-17"), (1, "AW-STO-18"), (3, "AW-STO-18")])
def test_an_older_database_is_found_also_when_it_goes_on(log: Log, tmp_path: Path, blocks: int, code: str) -> None:
    shutil.copy(log.database, tmp_path / "copy.db")
    log.write()
    shutil.copy(tmp_path / "copy.db", log.database)
    for _ in range(blocks):
        log.write(1)
    assert log.code() == code


def test_an_auditor_needs_the_database_and_the_second_place_alone(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (public_key,) = audit.verify().public_keys
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", log.url)
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(tmp_path / "auditor"))
    assert audit.verify(against=str(log.second), public_key=(public_key,)).checkpoints == 3
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-15"):
        audit.verify(against=str(log.second), public_key=("00" * 32,))
    cut_tail(log)
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-17"):
        audit.verify(against=str(log.second))
    assert not (tmp_path / "auditor" / "secrets").exists()


def test_what_the_check_cannot_see_is_reported(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.second.write_bytes(log.second.read_bytes().splitlines(keepends=True)[0])
    assert audit.verify().warning == f"the second place covers 1 of {3 * RECORDS} records"
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_SECOND_PLACE", "none")
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", "syslog")
    assert "--against FILE" in audit.verify().warning
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", "")
    assert audit.verify().warning.startswith("without a second place")


def test_checkpoints_of_another_database_are_left_out(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home may be used with several databases; each is compared with its own checkpoints."""
    url = f"sqlite:///{tmp_path}/other.db"
    Log(log.home, log.second, url).write()
    assert audit.verify().checkpoints == 3
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", url)
    assert audit.verify().checkpoints == 1


def test_a_checkpoint_that_is_written_meanwhile_is_no_loss(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that ran made a verification fail with AW-STO-19."""

    def read_and_write(lines: Iterable[bytes], place: str) -> list[AuditCheckpoint]:
        found = list(select_checkpoints(lines, place))
        log.write()
        return found

    monkeypatch.setattr(second_place, "select_checkpoints", read_and_write)
    assert log.code() == ""


def test_a_verification_checks_the_newest_signature_alone(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year of lines in two places took minutes."""
    checked: list[bytes] = []

    def check(key: str, data: bytes, signature: str) -> bool:
        checked.append(data)
        return is_signed_by(key, data, signature)

    monkeypatch.setattr(audit_checkpoints, "is_signed_by", check)
    assert audit.verify().checkpoints == 3
    assert {json.loads(data)["records"] for data in checked} == {3 * RECORDS}


def test_a_part_of_a_line_is_no_checkpoint(log: Log) -> None:
    """A killed process leaves a part of a line, and verification failed for good."""
    for path in (log.home.audit_checkpoints, log.second):
        with path.open("ab") as file:
            file.write(path.read_bytes()[:100])
    assert log.code() == ""
    log.write()
    assert audit.verify().checkpoints == 4


@pytest.mark.parametrize("full", ["home", "second"])
def test_a_full_disk_leaves_no_part_of_a_line(log: Log, full: str) -> None:
    path = log.home.audit_checkpoints if full == "home" else log.second
    noise = b"" if full == "home" else b"a line of another program\n" * 100
    path.write_bytes(noise + path.read_bytes())
    before = path.read_bytes()
    log.write_uncovered()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(Store(log.url)) as store:
        writer = CheckpointWriter(store, log.home)
        outbox = PlaceOutbox(store, log.home, log.address, report=log.errors.append)
        assert store.numbered_rows(BLOCKS["audit"])
        if full == "second":
            writer.write(time.time())
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
        try:
            if full == "home":
                with pytest.raises((OSError, StoreError), match=r"No space left|too large|disk I/O"):
                    writer.write(time.time())
            else:
                outbox.deliver(closing=True)
                assert [error.code for error in log.errors] == ["AW-STO-27"]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        assert writer.write(time.time())
        outbox.deliver(closing=True)
    assert (audit.verify().checkpoints, audit.verify().warning) == (4, "")


def test_a_second_place_that_failed_gets_what_it_lacks(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line of a failure was never sent again, so a cut of the records that it covers was not seen."""
    log.second.rename(tmp_path / "away")
    log.second.mkdir()
    with closing(Store(log.url)) as store:
        write_audit_record(store, "key.create", "k")
        assert "a second place of the audit log has no copy yet\nAW-STO-27" in capsys.readouterr().err
        log.second.rmdir()
        (tmp_path / "away").rename(log.second)
        for _ in range(2):
            log.deliver(store)
    assert read_checkpoints(log.second) == read_checkpoints(log.home.audit_checkpoints)
    assert (audit.verify().checkpoints, audit.verify().warning) == (4, "")


def test_homes_share_a_database_and_a_second_place(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Log(Home(tmp_path / "other"), log.second, log.url)
    other.write()
    key = read_signing_key(other.home)
    assert key is not None
    found = audit.verify()
    assert found.checkpoints == 3 and key.public_key in found.warning
    log.write()
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", log.url)
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(other.home.root))
    assert audit.verify().checkpoints == 1
    cut_tail(log)
    assert log.code() == "AW-STO-15"
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(log.home.root))
    assert log.code() == "AW-STO-17"


def test_forged_checkpoints_of_another_key_hide_no_cut(log: Log) -> None:
    """An attacker signs the cut log with a new key."""
    cut_tail(log)
    shutil.move(log.home.root / "audit", log.home.root / "away")
    key = log.home.audit_signing_key.read_bytes()
    log.home.audit_signing_key.unlink()
    log.write(1)
    log.home.audit_signing_key.write_bytes(key)
    shutil.rmtree(log.home.root / "audit")
    shutil.move(log.home.root / "away", log.home.root / "audit")
    assert log.code() == "AW-STO-18"


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a system log."""
    path = str(tmp_path / "log")
    monkeypatch.setattr(places, "SYSLOG_SOCKETS", (path,))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(WAIT_S)
        yield listener


def test_the_system_log_is_a_second_place(home: Home, tmp_path: Path, daemon: socket.socket) -> None:
    log = Log(home, Path("syslog"))
    log.write()
    lines = [daemon.recv(4096) for _ in range(RECORDS + 1)]
    assert all(line.startswith(b"<37>archwright: {") and len(line) < 1_024 for line in lines)
    exported = tmp_path / "exported"
    texts = [b"Nov 28 02:00:01 host " + line[4:] for line in lines]
    exported.write_bytes(b"\n".join((b"Nov 28 02:00:00 host sshd: session opened", *texts, b"")))
    found = audit.verify(against=str(exported))
    assert (found.checkpoints, found.warning) == (1, "")
    log.write_uncovered()
    with closing(Store(log.url)) as store, pytest.MonkeyPatch.context() as patch:
        CheckpointWriter(store, home).write(time.time())
        patch.setattr(places, "SYSLOG_SOCKETS", (str(tmp_path / "absent"),))
        log.deliver(store)
        assert [error.code for error in log.errors] == ["AW-STO-27"]
        patch.undo()
        for _ in range(2):
            log.deliver(store)
    assert b'"number":6,' in daemon.recv(4096), "it is sent again after a failure"
    assert b'"records":6,' in daemon.recv(4096)
    daemon.setblocking(False)
    with pytest.raises(BlockingIOError):
        daemon.recv(4096)
    empty(log)
    with pytest.raises(StoreError, match=r"records 1 to 5 .* are missing in the log") as found_error:
        audit.verify(against=str(exported))
    assert found_error.value.code == "AW-STO-16"


def test_a_second_place_that_fails_is_reported_and_the_home_has_the_checkpoint(home: Home, tmp_path: Path) -> None:
    log = Log(home, tmp_path)  # a folder is no file
    with pytest.raises(AssertionError):
        log.write()
    assert [error.code for error in log.errors] == ["AW-STO-27"] and len(read_checkpoints(home.audit_checkpoints)) == 1


def test_a_damaged_key_is_not_replaced(log: Log) -> None:
    log.home.audit_signing_key.write_bytes(b"short")
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-13"):
        audit.verify()


@pytest.mark.nightly
def test_postgres(home: Home, tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(home, tmp_path / "elsewhere.jsonl", postgres)
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", postgres)
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", str(log.second))
    for _ in range(3):
        log.write()
    assert (audit.verify().checkpoints, audit.verify().warning) == (3, "")
    with closing(Store(postgres)) as store:
        (_, cut) = store.numbered_rows(BLOCKS["audit"])[-1]
        store.prune(BLOCKS["audit"], ColumnRange("last_at", since=cut.last_at))
    assert log.code() == "AW-STO-17"
    log.write()
    assert log.code() == "AW-STO-18"


def test_a_checkpoint_is_due_after_its_interval(home: Home, tmp_path: Path) -> None:
    log = Log(home, tmp_path / "elsewhere.jsonl")
    log.write()
    log.write_uncovered()
    with closing(Store(log.url)) as store:
        writer = CheckpointWriter(store, home)
        newest: AuditCheckpoint = read_checkpoints(home.audit_checkpoints)[-1]
        writer.write(newest.at + 1, audit_checkpoints.CHECKPOINT_S)
        assert len(read_checkpoints(home.audit_checkpoints)) == 1, "another process wrote one a second ago"
        writer.write(newest.at + audit_checkpoints.CHECKPOINT_S, audit_checkpoints.CHECKPOINT_S)
        assert len(read_checkpoints(home.audit_checkpoints)) == 2
    assert os.stat(home.audit_checkpoints).st_mode & 0o777 == 0o600
