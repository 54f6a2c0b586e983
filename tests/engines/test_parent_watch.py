from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from archwright.engines.parent_watch import exit_with_parent

WATCH = "from archwright.engines.parent_watch import exit_with_parent; print(exit_with_parent(), flush=True)"


def test_leaves_at_the_end_of_input() -> None:
    left: list[int] = []
    said = iter([b"anything", b""])
    thread = exit_with_parent(lambda: next(said), left.append)
    assert isinstance(thread, threading.Thread) and thread.daemon
    thread.join(5)
    assert left == [0]


@pytest.mark.process
def test_reads_the_real_standard_input() -> None:
    command = [sys.executable, "-c", f"{WATCH}; import time; time.sleep(60)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        assert b"exit-with-parent" in child.stdout.readline()
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(10) == 0


@pytest.mark.process
def test_a_terminal_or_no_standard_input_is_nobodys_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    try:
        done = subprocess.run([sys.executable, "-c", WATCH], stdin=theirs, capture_output=True, timeout=20, check=True)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout.strip() == b"None"
    monkeypatch.setattr(sys, "stdin", None)
    assert exit_with_parent(leave=lambda _: None) is None
