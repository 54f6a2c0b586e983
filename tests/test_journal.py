"""The journal: one JSON object per line, and a lost entry never fails the caller."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from archwright.journal import Journal, listen_to_steps, report_step


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_entry_is_a_line() -> None:
    stream = io.StringIO()
    Journal("gateway", stream, clock=lambda: 12.34567).info("started", port=8470, path=Path("/x"), text="a\nb")
    assert entries(stream) == [
        {
            "at": 12.346,
            "level": "info",
            "process": "gateway",
            "event": "started",
            "port": 8470,
            "path": "/x",
            "text": "a\nb",
        }
    ]


def test_levels_are_a_floor_and_an_unknown_one_means_info() -> None:
    stream = io.StringIO()
    journal = Journal("p", stream, "warning")
    journal.write("debug", "a")
    journal.info("b")
    journal.warning("c")
    journal.error("d")
    journal.write("loud", "e")
    assert [entry["event"] for entry in entries(stream)] == ["c", "d"]
    other = io.StringIO()
    Journal("p", other, "verbose").info("kept")
    assert len(entries(other)) == 1


def test_without_a_stream_it_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Journal("p").info("hello")
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "hello"
    assert captured.out == ""


def test_a_full_disk_costs_the_entry_and_not_the_work() -> None:
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - closing it must fail, see below
    journal = Journal("p", full)
    journal.info("one")
    assert journal.lost == 1
    with pytest.raises(OSError, match="No space"):
        full.close()


def test_a_closed_stream_costs_the_entry_and_not_the_work() -> None:
    stream = io.StringIO()
    journal = Journal("p", stream)
    stream.close()
    journal.info("one")
    journal.info("two")
    assert journal.lost == 2


def test_steps_reach_the_listener_of_this_context() -> None:
    steps: list[str] = []
    report_step("nobody listens")
    with listen_to_steps(steps.append):
        report_step("probing")
    report_step("over")
    assert steps == ["probing"]
