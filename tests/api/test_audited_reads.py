"""Reads of this machine's owner leave audit records, and work without space or rights for the record."""

from __future__ import annotations

import errno
import inspect
from contextlib import closing

import pytest

from archwright import api
from archwright.access import audit_log
from archwright.access.audit_log import AuditEvent
from archwright.api import context
from archwright.cli import main
from archwright.cli.verbs import VERBS
from archwright.home import Home
from archwright.monitor.wal import disk_reserve
from archwright.monitor.wal.segments import WalSegment
from archwright.store import Store

from ..command_line import CommandLine

READS = {
    "audit list": "audit.list",
    "audit list --user ann@example.org": "audit.list",
    "batches list --tenant clinic": "batches.list",
    "data card notes": "data.card",
    "data check notes": "data.check",
    "data find ann@example.org": "data.find",
    "data list --tenant clinic": "data.list",
    "data policy notes": "data.policy.show",
    "data retain --dry-run": "data.retain.plan",
    "data show notes": "data.show",
    "key list --tenant clinic": "key.list",
    "lineage notes@v1": "lineage",
    "runs list": "runs.list",
    "tenant list": "tenant.list",
    "usage": "usage",
    "user list": "user.list",
}
FAILED = {
    "batches show batch_0": "batches.show",
    "data search notes ann@example.org": "data.search",
    "data show ann@example.org": "data.show",
    "data erase --subject ann@example.org --dry-run": "data.erase.plan",
    "data receipt ann@example.org.json": "data.receipt",
    "runs show ann@example.org": "runs.show",
}
# Verbs of these groups that change something: each writes the record of its change. A verification and the state of the
# second places write nothing: an auditor can run them on a copy, and monitoring delivers nothing by asking.
# An export contains its own record, so it writes it before it reads.
CHANGES = {
    *("audit status", "audit verify", "audit export", "audit verifier", "audit stamp"),
    *("audit prune", "audit hold", "audit release"),
    *("data ingest", "data refine", "data index", "data policy", "data retain", "data export", "data erase"),
    *("batches cancel", "batches delete"),
    *("runs resume", "tenant create", "tenant limit", "tenant content", "user limit"),
    *("key create", "key install", "key limit", "key rotate", "key revoke", "key reset"),
}
AUDITED_GROUPS = ("audit", "batches", "data", "key", "lineage", "runs", "tenant", "usage", "user")


def read_records(home: Home) -> list[AuditEvent]:
    with closing(Store(home.store_url)) as store:
        return list(audit_log.read_entries(store, home))


@pytest.fixture
def notes(home: Home, cli: CommandLine) -> None:
    (home.root.parent / "notes.jsonl").write_text('{"text": "a note"}\n')
    cli.text(f"data ingest {home.root.parent / 'notes.jsonl'} --name notes")


@pytest.mark.usefixtures("notes")
def test_each_read_leaves_one_record_without_the_words_of_its_search(home: Home, cli: CommandLine) -> None:
    for line, action in READS.items():
        before = len(read_records(home))
        cli.text(line)
        made = read_records(home)
        assert [len(made) - before, made[0].action, made[0].outcome] == [1, action, "done"], line
        assert made[0].key_id == "local" and made[0].os_user
        assert made[0].tenant == ("clinic" if "clinic" in line else ""), line
    assert "notes" in {one.resource for one in read_records(home)}
    assert "ann" not in str(read_records(home))


@pytest.mark.usefixtures("notes")
def test_a_read_that_fails_is_recorded_without_what_was_asked_for(home: Home) -> None:
    for line, action in FAILED.items():
        before = len(read_records(home))
        assert main(line.split()) != 0, line
        made = read_records(home)
        assert [len(made) - before, made[0].action] == [1, action], line
    assert "ann" not in str(read_records(home))


def test_every_verb_on_data_keys_and_records_is_a_change_or_an_audited_read() -> None:
    for verb in VERBS:
        if verb.words[0] not in AUDITED_GROUPS:
            continue
        function = api
        for part in verb.function.split("."):
            function = getattr(function, part)
        audited = inspect.unwrap(function) is not function  # type: ignore[arg-type]
        assert audited is (verb.name not in CHANGES), verb.name
    assert {verb.name for verb in VERBS} >= CHANGES


@pytest.mark.usefixtures("notes")
def test_a_read_works_on_a_full_disk_and_says_that_it_has_no_record(
    home: Home, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(read_records(home))
    reserve = home.disk_reserve
    reserve.parent.mkdir(exist_ok=True)
    reserve.write_bytes(b"\0")
    monkeypatch.setattr(WalSegment, "create", refuse)
    monkeypatch.setattr(disk_reserve, "count_free_bytes", lambda _home: 0)
    for line in ("data list", "usage", "audit list", "lineage notes@v1"):
        out, err = cli.run(line)
        assert out and "AW-STO-06" in err and "no record of this read" in err, line
    assert len(read_records(home)) == before
    assert reserve.exists(), "the reserve is left to acts that change something"


@pytest.mark.usefixtures("notes")
def test_a_read_without_the_right_to_write_works(home: Home, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(context, "WalWriter", refuse)
    out, err = cli.run("data list")
    assert "notes" in out and "no record of this read" in err
