"""The questions of `archwright init`: checked as they are answered; the file is written at the end, and only then."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.catalog.load import load_catalog
from archwright.errors import NeedsError, UsageError
from archwright.needs.interview import NEEDS_FILE, interview_user, read_parts, read_questions, write_needs
from archwright.needs.reader import parse_needs

EVERY_CASE = ", ".join(name for name in read_parts() if name != NEEDS_FILE)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def hold_interview(answers: Sequence[str]) -> tuple[str, list[str]]:
    """Answer in order, then with the defaults; return the file and the prompts."""
    prompts, rest = list[str](), iter(answers)

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return next(rest, "")

    return interview_user(load_catalog(), ask), prompts


def test_defaults_make_a_valid_file_with_at_most_twelve_questions() -> None:
    text, prompts = hold_interview(["", EVERY_CASE])
    assert len(prompts) == len(read_questions()) <= 12
    assert all("because" in prompt and "[" in prompt for prompt in prompts)
    needs, source = parse_needs(text.encode(), "needs.yaml", load_catalog())
    kinds = {workload.kind for workload in needs.workloads}
    assert kinds == {"chat", "rag", "embedding", "batch-text", "completion", "speech-to-text", "vision-language"}
    assert needs.data[0].languages == ("de", "en") and needs.regulations == ("eu-ai-act",) and source.loads


def test_a_question_that_no_use_case_needs_is_not_asked() -> None:
    _, prompts = hold_interview(["", "assistant"])
    assert len(prompts) == len(read_questions()) - 1 and not any("Documents" in one for one in prompts)


@pytest.mark.parametrize(
    ("before", "answer", "reason"),
    [
        ([], "Acme", "three parts with commas"),
        ([], "Acme, Germany, 20", 'did you mean "DE"'),
        ([], "Acme, DE, many", "1 number is needed"),
        ([], f"Acme, DE, {'9' * 400}", "1 number is needed"),
        ([""], "assistent", "did you mean assistant"),
        (["", ""], "0", "users cannot be 0"),
        (["", "", ""], "german", 'did you mean "de"'),
        (["", "", "", ""], "persnal", 'did you mean "personal"'),
        (["", "", "", "", ""], "Eurpe", "no place"),
        (["", "", "", "", "", ""], "fast", "write one of: background, interactive, reading"),
        (["", "", "", "", "", "", ""], "8 L40S", "is not a machine"),
        (["", "", "", "", "", "", "", ""], "securty 1", 'did you mean "security"'),
        (["", "", "", "", "", "", "", "", ""], "8000 a month, 0 to buy, EURO", "currency"),
        (["", "", "", "", "", "", "", "", ""], "8.000 a month, 0 to buy, EUR", "8.000 can be read in two ways"),
        (["", "", "", "", "", "", "", "", "", ""], "0 months, 20 %", "horizon_months cannot be 0"),
    ],
)
def test_an_answer_that_is_not_valid_is_asked_again_with_the_reason(
    before: list[str], answer: str, reason: str
) -> None:
    text, prompts = hold_interview([*before, answer])
    assert reason in prompts[len(before) + 1], prompts[len(before) + 1]
    assert text == hold_interview([])[0]


def test_thousands_and_years_are_read_as_people_write_them() -> None:
    answers = {"budget": "10k a month, 1.5M to buy, EUR", "horizon": "3 years, 20 % a year"}
    needs, _ = parse_needs(write_needs(answers, load_catalog()).encode(), "answers", load_catalog())
    assert (needs.budget.per_month, needs.budget.capex, needs.budget.horizon_months) == (10_000, 1_500_000, 36)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from([one.key for one in read_questions()]), st.text(max_size=30)))
def test_any_answers_are_a_file_or_a_reason(answers: dict[str, str]) -> None:
    """No answer can add a field: the file has the workloads, data sets and fields of its use cases."""
    try:
        needs, _ = parse_needs(write_needs(answers, load_catalog()).encode(), "answers", load_catalog())
    except (NeedsError, ValueError) as error:
        assert str(error)
    else:
        assert len(needs.data) == 1 and needs.existing == () and needs.goals == ()


def test_answers_follow_earlier_answers() -> None:
    text, _ = hold_interview(["Ward: a 'clinic', US, 1000", "search", "", "9000", "", "health"])
    needs, _ = parse_needs(text.encode(), "needs.yaml", load_catalog())
    assert (needs.organisation.name, needs.organisation.employees) == ("Ward: a 'clinic'", 1000)
    assert needs.budget.currency == "USD" and needs.data[0].languages == ("en",) and needs.regulations == ("hipaa",)
    traffic = needs.workloads[1].traffic
    assert traffic is not None and traffic.documents == 9000


def test_init_asks_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    path, answers = tmp_path / "needs.yaml", "\n" * 20
    monkeypatch.setattr(sys, "stdin", Terminal(answers))
    assert api.init(output=str(path)) == path and "1/12" in shown.getvalue()
    parse_needs(path.read_bytes(), "needs.yaml", load_catalog())
    monkeypatch.setattr(sys, "stdin", Terminal("Acme, DE, 20\n"))
    with pytest.raises(UsageError) as caught:
        api.init(output=str(tmp_path / "other.yaml"))
    assert caught.value.code == "AW-USE-09" and not (tmp_path / "other.yaml").exists()


def test_init_without_a_terminal_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.init(output=str(tmp_path / "needs.yaml"))
    assert "wrote the template desk" in capsys.readouterr().err
    api.init(template="clinic", output=str(tmp_path / "clinic.yaml"))
    assert capsys.readouterr().err == ""


PRESS_AGAIN_S = 3.0


def interrupt(started: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C until the process ends: a signal just before the read begins interrupts nothing."""
    pressed_at = float("-inf")

    def has_ended() -> bool:
        nonlocal pressed_at
        if started.poll() is None and time.monotonic() > pressed_at + PRESS_AGAIN_S:
            pressed_at = time.monotonic()
            started.send_signal(signal.SIGINT)
        return started.poll() is not None

    until(has_ended)


@contextmanager
def run_init(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `archwright init` in a pseudo-terminal, of which the block gets our side."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-P", "-m", "archwright", "init"]
    environment = {**os.environ, "ARCHWRIGHT_HOME": str(folder / "home")}
    try:
        with subprocess.Popen(
            command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, cwd=folder, env=environment
        ) as started:
            os.close(theirs)
            try:
                yield started, ours
            finally:
                started.kill()
    finally:
        os.close(ours)


@pytest.mark.process
@pytest.mark.parametrize("interrupted", [False, True])
def test_init_in_a_pseudo_terminal(tmp_path: Path, interrupted: bool) -> None:
    """Ctrl-C at the third question writes nothing."""
    shown = b""
    with run_init(tmp_path) as (started, ours):
        for number, answer in enumerate([b"Acme, AT, 50\n", b"assistent\n", b"assistant\n", *[b"\n"] * 9]):
            while not shown.endswith(b"] "):
                shown += os.read(ours, 1000)
            if interrupted and number == 3:
                interrupt(started)
                break
            shown += b"> "
            os.write(ours, answer)
        output, _ = started.communicate(timeout=WAIT_S)
    path = tmp_path / "needs.yaml"
    if interrupted:
        assert started.returncode == 130 and not path.exists()
    else:
        assert started.returncode == 0 and b"needs.yaml" in output and b"did you mean assistant" in shown
        needs, _ = parse_needs(path.read_bytes(), "needs.yaml", load_catalog())
        assert needs.organisation.name == "Acme" and needs.workloads[0].languages == ("de", "en")
