"""Personal data in columns is replaced, dropped or counted."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.errors import DataError
from archwright.lake.personal_data.span_finder import PERSONAL_KINDS, find_spans, make_finders
from archwright.lake.text_steps.redaction import Redact, RedactionWorker

from ..steps.step_runner import RecordingContext, run_step

ROWS = ["write to a@b.example", "nothing", None, "call 12 34"]


def test_redact_counts_every_change() -> None:
    run = run_step(Redact(kinds=("email", "ip")), a=ROWS, b=["203.0.113.9", "c@d.example", "x", None])
    assert run["a"] == ["write to <EMAIL>", *ROWS[1:]]
    assert run["b"] == ["<IP>", "<EMAIL>", "x", None]
    assert run.changes == {"email": 2, "ip": 1}
    assert not run.dropped


def test_only_the_chosen_kinds_and_columns_change() -> None:
    text = "a@b.example 203.0.113.9 call 4111 1111 1111 1111"
    run = run_step(Redact(kinds=("phone", "ip"), columns=("a",)), a=[text], b=[text])
    assert run["a"] == ["a@b.example <IP> call 4111 1111 1111 1111"]  # a card is no telephone number
    assert run["b"] == [text]


def test_drop_names_the_kind() -> None:
    run = run_step(Redact(action="drop"), a=ROWS, b=["203.0.113.9", "x", "x", "SSN 123-45-6789 from 203.0.113.9"])
    assert run["source_row"] == [1, 2]
    assert run.dropped == [(0, "contains personal data: email"), (3, "contains personal data: ssn")]
    assert run.changes == {}


def test_report_only_counts() -> None:
    run = run_step(Redact(action="report"), a=ROWS)
    assert run["a"] == ROWS
    assert run.changes == {"email found": 1}


def test_pseudonyms_are_the_same_in_all_data_sets_of_a_tenant(tmp_path: Path) -> None:
    step = Redact(action="pseudonym", regions=("GB",))
    spellings = ["call 020 7946 0958 x12.", "call +44 (0)20 7946 0958."]
    run = run_step(step, tmp_path, a=["From: Bob@Example.org", *spellings, "x"])
    again = run_step(step, tmp_path, a=["bob@example.org", *spellings, "x"])
    assert run["a"][0] == f"From: {again['a'][0]}"
    assert run["a"][0].startswith("From: EMAIL_")
    assert run["a"][1] == run["a"][2] == again["a"][2]
    assert run["a"] != run_step(step, tmp_path, tenant="other", a=["From: Bob@Example.org", *spellings, "x"])["a"]
    assert run.changes == {"email": 1, "phone": 2}


VALUES = (
    *("bob@example.org", "+44 20 7946 0100", "call 030 901820", "123-45-6789", "4111 1111 1111 1111", "203.0.113.9"),
    *(
        "DE89 3704 0044 0532 0130 00",
        "2001:db8::1",
        "born 1.2.1980",
        "AKIAIOSFODNN7EXAMPLE",
        "X-2482300W",
        "api_key = ",
    ),
    "(555) 234-5678",
)


@settings(max_examples=60)
@given(st.lists(st.sampled_from((*VALUES, " ", "\n", ", ", "x", "7", "-", "name: ", "password=")), max_size=12))
@pytest.mark.parametrize("action", ["replace", "pseudonym"])
def test_nothing_is_left_after_redaction(action: str, pieces: list[str]) -> None:
    step = Redact(action=action)  # type: ignore[arg-type]
    text = "".join(pieces)
    finders = make_finders(step.regions, ())
    worker, rows = RedactionWorker(step, ("a",), bytes(32)), pa.record_batch({"a": pa.array([text], pa.large_string())})
    [batch] = worker.process_rows(iter([rows]), RecordingContext())
    text = batch["a"][0].as_py()
    assert [text[span.start : span.end] for span in find_spans(text, PERSONAL_KINDS, finders)] == []


def test_columns_without_text_are_refused() -> None:
    with pytest.raises(DataError, match="does not contain text") as caught:
        run_step(Redact(columns=("n",)), n=[1, 2], a=["x", "y"])
    assert caught.value.code == "AW-DATA-22"
