"""A killed supervisor, gateway or parent of a real platform: what answers again, and what ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.home import Home
from archwright.operate import platform_state

from ..processes import naming
from .conftest import Stage
from .test_platform_control import answers

pytestmark = pytest.mark.enable_socket


def pids_of(stage: Stage, module: str) -> set[int]:
    return set(naming(stage.home.root, module))


def is_back(stage: Stage) -> bool:
    """True if the gateway answers, and the state is that of a living supervisor."""
    current = platform_state.read_running_state(stage.home)
    alive = current is not None and platform_state.is_process_alive(current.supervisor_pid, "archwright.operate")
    return alive and answers(stage.url) == 200 and api.status().state == "running"


def is_another(stage: Stage, name: str, pid: int) -> bool:
    """True if a process of the state has another number than before."""
    return platform_state.read_running_state(stage.home) is not None and stage.pids()[name] != pid


def test_killed_processes_answer_again_no_engine_is_doubled_and_all_end_with_the_parent(stage: Stage) -> None:
    stage.up()
    for victim in ("gateway", "supervisor"):
        before = stage.pids()
        os.kill(before[victim], signal.SIGKILL)
        until(lambda before=before, victim=victim: is_another(stage, victim, before[victim]))  # type: ignore[misc]
        until(lambda: is_back(stage))
        after = stage.pids()
        assert after[victim] != before[victim]
        until(lambda after=after: pids_of(stage, "archwright.engines") == {after["engine-assistant"]})  # type: ignore[misc]
    assert "died and was restarted" in api.status().notes[0]
    assert after["engine-assistant"] != before["engine-assistant"]
    parent = stage.state().parent_pid
    pages = int(Path(f"/proc/{parent}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 20e6, "it is small"
    os.kill(parent, signal.SIGKILL)
    until(lambda: naming(stage.home.root, "archwright.") == {})
    # An ended process holds the lock for a moment after its name is gone.
    until(lambda: api.status().state == "stopped")


@pytest.mark.nightly
def test_down_right_after_a_kill_ends_everything_for_good(stage: Stage) -> None:
    stage.up()
    os.kill(stage.pids()["supervisor"], signal.SIGKILL)
    assert api.down().stopped
    time.sleep(1.0)
    until(lambda: naming(stage.home.root, "archwright.") == {})
    assert api.status().state == "stopped"
    # A gateway that is ended while it starts ends in order: exit status 0 or the signal, not that of a failure.
    config = stage.home.config("gateway")
    command = [sys.executable, "-P", "-m", "archwright.serving", str(stage.home.root), str(config)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as gateway:
        children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children")
        until(children.read_text)  # the master handles signals, and its worker is starting
        gateway.terminate()
        assert gateway.wait(WAIT_S) in (0, -signal.SIGTERM)


def child_of(pid: int) -> str:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return child


def test_serve_keeps_its_port_when_its_master_is_killed_and_ends_with_its_process(home: Home) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "archwright",
        "serve",
        "--upstream",
        "m=http://127.0.0.1:9/v1",
        "--port",
        "0",
    ]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        url = json.loads(serving.stdout.readline())["url"]
        master = child_of(serving.pid)
        os.kill(int(master), signal.SIGKILL)
        until(lambda: not Path(f"/proc/{master}").exists())
        assert answers(url, "healthz") == 200, "the port stays open, and the connection waits for the new master"
        worker = child_of(int(child_of(serving.pid)))
        serving.send_signal(signal.SIGHUP)
        until(lambda: not Path(f"/proc/{worker}").exists())
        assert answers(url, "healthz") == 200, "the new master took the signal of a reload"
        serving.kill()
    until(lambda: naming(home.root, "serve") == {})
