from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from tests.tools.checks import WAIT_S, join, until

from archwright.engines import __main__, null
from archwright.engines.parent_watch import exit_with_parent

from .conftest import make_config

# A supervisor, and an engine whose loader keeps the interpreter: `PyDLL` holds the GIL.
SUPERVISE = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
LOAD = f"from {__name__.rpartition('.')[0]} import test_parent_watch; test_parent_watch.load_without_end()"
RESTRICT = "from archwright.engines.process_restrictions import end_with_parent; end_with_parent(); print('lives')"
WATCH = "from archwright.engines.parent_watch import exit_with_parent; print(exit_with_parent(), flush=True)"


def test_leaves_at_the_end_of_input() -> None:
    left: list[int] = []
    said = iter([b"anything", b""])
    thread = exit_with_parent(lambda: next(said), left.append)
    assert isinstance(thread, threading.Thread) and thread.daemon
    join(thread)
    assert left == [0]


@pytest.mark.process
def test_reads_the_real_standard_input() -> None:
    command = [sys.executable, "-c", f"{WATCH}; import time; time.sleep({5 * WAIT_S})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        assert b"exit-with-parent" in child.stdout.readline()
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(WAIT_S) == 0


@pytest.mark.process
def test_a_terminal_or_no_standard_input_is_nobodys_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", WATCH], stdin=theirs, capture_output=True, timeout=WAIT_S, check=True
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout.strip() == b"None"
    monkeypatch.setattr(sys, "stdin", None)
    assert exit_with_parent(leave=lambda _: None) is None


def load_without_end() -> None:
    def serve(*_: object) -> None:
        print(os.getpid(), flush=True)
        ctypes.PyDLL(None).sleep(int(5 * WAIT_S))

    pytest.MonkeyPatch().setattr(null, "serve", serve)
    sys.exit(__main__.main(sys.argv[1:]))


@pytest.mark.process
def test_a_killed_parent_ends_an_engine_that_loads(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_bytes(msgspec.json.encode(make_config("null")))
    command = [sys.executable, "-c", SUPERVISE, sys.executable, "-c", LOAD, str(tmp_path), str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        engine = Path("/proc") / str(int(parent.stdout.readline()))
        assert "load_without_end" in (engine / "cmdline").read_text()
        parent.kill()
        until(lambda: not engine.exists() or "\nState:\tZ" in (engine / "status").read_text())


@pytest.mark.process
def test_engines_on_one_life_line_end_with_its_last_holder_even_while_they_load(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_bytes(msgspec.json.encode(make_config("null")))
    life, life_end = os.pipe()
    engines = []
    for _ in range(2):
        own = os.open(f"/dev/fd/{life}", os.O_RDONLY)
        command = [sys.executable, "-c", LOAD, str(tmp_path), str(config)]
        engines.append(subprocess.Popen(command, stdin=own, stdout=subprocess.PIPE))
        os.close(own)
    other_holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[life_end])
    for engine in engines:
        assert engine.stdout is not None and int(engine.stdout.readline()) == engine.pid
        engine.stdout.close()
    os.close(life_end)
    assert [engine.poll() for engine in engines] == [None, None], "the other process still holds the line"
    other_holder.communicate(b"\n", WAIT_S)
    assert [engine.wait(WAIT_S) for engine in engines] == [-signal.SIGKILL] * 2
    os.close(life)


@pytest.mark.process
def test_a_parent_that_ended_before_is_noticed_at_once() -> None:
    command = [sys.executable, "-c", RESTRICT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.read() == b"lives\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.close()
        assert child.stdout.read() == b"" and child.wait(WAIT_S) == 0


@pytest.mark.process
def test_nobody_is_watched_if_standard_input_is_no_pipe() -> None:
    """A service manager and a container give /dev/null, which is at its end from the start."""
    code = "from archwright.engines.parent_watch import has_supervising_parent as s; print(s())"
    for given, expected in ((subprocess.DEVNULL, "False"), (subprocess.PIPE, "True")):
        done = subprocess.run([sys.executable, "-c", code], stdin=given, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
