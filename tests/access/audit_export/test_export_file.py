"""Exports of a log: what each format holds, and what the formats' own libraries say of them (nightly)."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from tests.access.audit_delivery.log_with_places import write_events
from tests.deploy import tools

from archwright.access.audit_checkpoints import read_checkpoints
from archwright.access.record_chain import decode_record_lines
from archwright.api import audit
from archwright.home import Home
from archwright.store import Store

from ...command_line import CommandLine, error_of

RECORDS = 7
JUDGE = Path(__file__).with_name("format_judge.py")


@pytest.fixture
def log(home: Home) -> Home:
    """A home with RECORDS records, then an act of administration, then a denial's count."""
    with closing(Store(home.store_url)) as store:
        write_events(store, home, range(RECORDS))
    return home


def export(home: Home, form: str) -> Path:
    path = home.root / f"export.{form}"
    written = audit.export(output=str(path), format=form)
    data = path.read_bytes()
    assert written.sha256 == hashlib.sha256(data).hexdigest()
    assert len(data.splitlines()) == written.records + written.checkpoints
    assert path.stat().st_mode & 0o777 == 0o600
    return path


@pytest.mark.parametrize("form", ["jsonl", "rfc5424"])
def test_an_export_has_all_records_itself_and_the_checkpoints(log: Home, form: str) -> None:
    path = export(log, form)
    lines = path.read_bytes().splitlines()
    records = list(decode_record_lines(lines))
    assert [line.number for line in records] == list(range(1, RECORDS + 2))
    assert json.loads(records[-1].record)["action"] == "audit.export"
    assert len(lines) - len(records) == len(read_checkpoints(log.audit_checkpoints)) == 2
    verified = audit.verify(against=str(path))
    assert (verified.records, verified.checkpoints, verified.warning) == (RECORDS + 1, 2, "")


def test_syslog_messages_have_time_priority_and_sequence(log: Home) -> None:
    lines = export(log, "rfc5424").read_text().splitlines()
    head = re.compile(
        r"<109>1 2001-09-09T01:46:43\.000000Z - archwright - audit \[meta sequenceId=\"4\"\]\[origin [^]]+\] {"
    )
    assert head.match(lines[3])
    assert lines[-1].split(" ")[5] == "checkpoint"


def test_events_name_user_call_and_result(log: Home, cli: CommandLine) -> None:
    cli.text("key create --tenant acme --user ann")
    events = [json.loads(line) for line in export(log, "ocsf").read_text().splitlines()]
    assert [event["metadata"]["sequence"] for event in events] == list(range(1, RECORDS + 3))
    first, created = events[0], events[RECORDS]
    assert (first["time"], first["api"]["operation"], first["status_id"]) == (1_000_000_000_000, "act.0", 1)
    assert json.loads(first["raw_data"])["action"] == "act.0"
    assert created["api"]["operation"] == "key.create" and created["metadata"]["tenant_uid"] == "acme"
    assert created["actor"]["user"]["name"] not in ("", "unknown")
    assert created["actor"]["user"]["uid"].startswith("user-")


def test_another_format_is_refused(log: Home) -> None:
    error = error_of("AW-USE-80", audit.export, output="x", format="xml")
    assert "jsonl, ocsf, rfc5424" in error.hint


@pytest.mark.nightly
@pytest.mark.parametrize("form", ["ocsf", "rfc5424"])
def test_the_libraries_of_the_formats_accept_every_line(log: Home, form: str, processes: None) -> None:
    path = export(log, form)
    judged = judge(form, path)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert int(judged.stdout.split()[-1]) == len(path.read_bytes().splitlines())


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("form", "before", "after"),
    [
        ("ocsf", '"class_uid":6003', '"class_uid":"x"'),
        ("ocsf", '"time":1000000000000,', ""),
        ("rfc5424", "<109>1 ", "<109> "),
    ],
)
def test_the_libraries_of_the_formats_refuse_a_changed_line(
    log: Home, form: str, before: str, after: str, processes: None
) -> None:
    path = export(log, form)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    assert judge(form, path).returncode != 0


def judge(form: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(tools.require_environment("ocsf")), str(JUDGE), form, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
