"""Removal of old audit and usage records: what stays verifiable, what a legal hold keeps, and attacks on the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from archwright import api
from archwright.access.audit_checkpoints import CheckpointWriter, read_checkpoints
from archwright.access.log_retention import RecordRetention
from archwright.api import audit
from archwright.errors import ArchwrightError, StoreError, UsageError
from archwright.home import Home
from archwright.monitor.wal.compaction import BLOCKS
from archwright.store import Store

from .test_audit_default_setup import RECORDS, Log, rows_of

WHOLE = ("AW-STO-23", 10)
KILLED_IN_REMOVAL = """
import os, signal
from archwright.access.audit_checkpoints import CheckpointWriter
from archwright.api import audit
CheckpointWriter._remove_stated = lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL)
audit.prune(keep_days=0)
"""


class OldLog(Log):
    """A log whose usage records are an hour old."""

    age_s = 3_600.0


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.nightly)])
def log(home: Home, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Log:
    if request.param == "sqlite":
        return OldLog(home)
    database: str = request.getfixturevalue("postgres_database")
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", database)
    return OldLog(home, database=database)


def read_numbers(log: Log, table: str) -> list[object]:
    return [row[0] for row in rows_of(log, f"select seq from {table} order by seq")]


def test_old_audit_records_are_removed_and_the_rest_verifies(log: Log) -> None:
    preview = audit.prune(keep_days=0, dry_run=True)
    assert (preview.records, preview.dry_run) == (2 * RECORDS, True)
    assert read_numbers(log, "audit_blocks") == [1, 2, 3], "a preview removes nothing"
    removed = audit.prune(keep_days=0)
    assert removed.records == 3 * RECORDS, "the record of the act itself is the newest block"
    assert read_numbers(log, "audit_blocks") == [4]
    assert log.code() == WHOLE
    actions = [event.action for event in audit.list()]
    assert actions == ["audit.prune"]
    log.write()
    assert log.code() == WHOLE
    newest = read_checkpoints(log.home.audit_checkpoints)[-1]
    assert newest.audit_start is not None and newest.audit_start.records == 3 * RECORDS
    assert newest.records == 4 * RECORDS + 2, "with the record of audit.list"


def test_a_removal_of_usage_keeps_the_bill(log: Log) -> None:
    before = api.usage(by="tenant,key,model,day")
    removed = audit.prune(log="usage", keep_days=0)
    assert removed.records == 2 * RECORDS, "the last block stays"
    assert read_numbers(log, "served_blocks") == [3]
    assert api.usage(by="tenant,key,model,day") == before and before[0].requests == 3 * RECORDS
    assert log.code() == WHOLE


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_legal_hold_refuses_a_removal_until_it_is_released(log: Log, tenant: str | None) -> None:
    hold = audit.hold(reason="case 7", tenant=tenant)
    with pytest.raises(StoreError, match="case 7") as refusal:
        audit.prune(keep_days=0)
    assert refusal.value.code == "AW-STO-34" and f"audit release {hold.id}" in refusal.value.hint
    assert audit.prune(keep_days=0, dry_run=True).limit == f"a legal hold: {hold.id}, case 7"
    assert audit.holds() == (hold,)
    audit.release(hold.id)
    assert audit.holds() == () and audit.prune(keep_days=0).records
    assert log.code() == WHOLE
    acts = [event.action for event in audit.list() if event.action in ("audit.hold", "audit.release")]
    assert acts == [], "the acts were removed with the records of their time"


def test_a_hold_of_another_tenant_keeps_its_own_records_alone(log: Log) -> None:
    audit.hold(reason="case 7", tenant="clinic")
    assert audit.prune(keep_days=0, dry_run=True).limit.startswith("a legal hold")
    with pytest.raises(StoreError, match="the tenant clinic"):
        audit.prune(keep_days=0)
    acts = [(event.action, event.tenant) for event in audit.list() if event.action == "audit.hold"]
    assert acts == [("audit.hold", "clinic")], "the act itself is the first record of the tenant"


def test_a_hold_stops_the_automatic_removal(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archwright.access.audit_checkpoints.CHECKPOINT_S", 0.0)
    log = Log(home, RecordRetention(audit_s=-60.0, usage_s=-60.0))
    audit.hold(reason="case 7")
    first = read_numbers(log, "audit_blocks")[0]
    for _ in range(3):
        log.write()
    assert read_numbers(log, "audit_blocks")[0] == first
    (hold,) = audit.holds()
    audit.release(hold.id)
    for _ in range(3):
        log.write()
    for table in ("audit_blocks", "served_blocks"):
        assert 2 <= len(read_numbers(log, table)) <= 3
    assert log.code() == WHOLE


def test_a_second_place_must_have_a_record_before_it_leaves(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_CHECKPOINTS", f"file:{place}")
    refused = audit.prune(keep_days=0, dry_run=True)
    assert (refused.records, refused.limit) == (0, "a second place lacks later records")
    audit.list()  # this process delivers
    assert audit.prune(keep_days=0).records == 3 * RECORDS + 1
    found = audit.verify()
    assert (found.removed, found.warning) == (3 * RECORDS + 1, "")
    audit.list()
    assert audit.verify().records == found.records + 1


@pytest.mark.process
def test_a_killed_removal_is_completed_by_the_next_process(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "ARCHWRIGHT_HOME": str(log.home.root)}
    ended = subprocess.run([sys.executable, "-P", "-c", KILLED_IN_REMOVAL], env=environment)
    assert ended.returncode == -signal.SIGKILL
    assert read_numbers(log, "audit_blocks") == [1, 2, 3, 4], "the checkpoint states the start, nothing is deleted"
    assert log.code() == WHOLE
    monkeypatch.setattr("archwright.access.audit_checkpoints.CHECKPOINT_S", 0.0)
    log.write()
    assert read_numbers(log, "audit_blocks") == [4, 5]
    assert log.code() == WHOLE


def cut_kept(log: Log) -> None:
    log.execute("delete from audit_blocks where seq = (select min(seq) from audit_blocks)")


def cut_end(log: Log) -> None:
    log.execute("delete from audit_blocks where seq = (select max(seq) from audit_blocks)")


def cut_all(log: Log) -> None:
    log.execute("delete from audit_blocks")


def change_kept(log: Log) -> None:
    log.execute("update audit_blocks set first_at = 0 where seq = (select min(seq) from audit_blocks)")


ATTACKS: dict[Callable[[Log], None], str] = {
    cut_kept: "AW-STO-18",
    cut_end: "AW-STO-17",
    cut_all: "AW-STO-17",
    change_kept: "AW-STO-18",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_after_a_removal_is_found(log: Log, attack: Callable[[Log], None]) -> None:
    audit.prune(keep_days=0)
    log.write()
    log.write()
    assert log.code() == WHOLE
    attack(log)
    assert log.code() == (ATTACKS[attack], 8)


def test_records_that_were_deleted_by_hand_are_found_before_a_removal(log: Log) -> None:
    log.execute("delete from audit_blocks where seq = 1")
    assert log.code()[1] == 8


@pytest.mark.process
def test_an_auditor_verifies_an_export_after_a_removal(log: Log, tmp_path: Path) -> None:
    audit.prune(keep_days=0)
    log.write()
    export, verifier = tmp_path / "export.jsonl", tmp_path / "verifier.py"
    audit.export(output=str(export))
    audit.verifier(output=str(verifier))
    assert run_verifier(verifier, export) == (0, f"records {3 * RECORDS + 1} to ")
    lines = export.read_bytes().splitlines(keepends=True)
    export.write_bytes(b"".join(lines[1:]))
    assert run_verifier(verifier, export)[0] == 1, "the first kept record is missing"


def run_verifier(verifier: Path, export: Path) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(verifier), str(export)], capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout.partition(": ")[2][: len("records 13 to ")]


@pytest.mark.parametrize("options", [{}, {"before": "2026-01-01", "keep_days": 1}, {"before": "soon"}, {"log": "x"}])
def test_a_removal_needs_one_limit(log: Log, options: dict[str, str | int]) -> None:
    with pytest.raises(UsageError) as refusal:
        audit.prune(**options)  # type: ignore[arg-type]
    assert refusal.value.code == "AW-USE-100"


def test_an_unknown_hold_and_a_shared_database_are_refused(log: Log, tmp_path: Path) -> None:
    with pytest.raises(ArchwrightError) as refusal:
        audit.release("hold-1")
    assert refusal.value.code == "AW-GET-17"
    with closing(Store(log.url)) as store:
        CheckpointWriter(store, Home(tmp_path / "other")).write_due(1, last=True)
        blocks = store.newest_seq(BLOCKS["audit"])
    with pytest.raises(StoreError) as refusal:
        audit.prune(keep_days=0)
    assert refusal.value.code == "AW-STO-35" and blocks
