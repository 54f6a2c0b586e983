"""Killed processes of a real platform: what goes on, what answers again, and what ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.tools.checks import WAIT_S, until
from tests.tools.client_threads import ClientThreads

from archwright import api
from archwright.contract.record import replace
from archwright.home import Home
from archwright.monitor.wal.compaction import read_served
from archwright.operate import platform_state

from ..processes import naming
from .conftest import Clients, Stage
from .test_platform_control import answers

pytestmark = pytest.mark.enable_socket
KILLS = 100


def pids_of(stage: Stage, module: str) -> set[int]:
    return set(naming(stage.home.root, module))


def processes_of(stage: Stage) -> dict[str, int]:
    """Return the numbers of all processes by name; `worker` is the first one of the gateway."""
    found = {**stage.pids(), "standby": stage.state().standby_pid}
    workers = children_of(found["gateway"])
    return {**found, "worker": workers[0]} if workers else found


def children_of(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_child(pid: int) -> int:
    """Return the only child that is alive: one that has ended stays a child until its parent reaps it."""
    alive: list[int] = []

    def has_one() -> bool:
        alive[:] = filter(is_alive, children_of(pid))
        return len(alive) == 1

    until(has_one)
    return alive[0]


def is_replaced(stage: Stage, victim: str, before: int) -> bool:
    """True if another process does the work of the dead one, and all of the state are alive and ready."""
    state = platform_state.read_running_state(stage.home)
    if state is None or not state.processes:
        return False
    now = processes_of(stage)
    is_whole = "worker" in now and now["standby"] != now["supervisor"] and all(map(is_alive, now.values()))
    return is_whole and now[victim] != before and api.status().state == "running"


class Connections(ClientThreads):
    """Opens one connection after the other, and counts those that the system refused."""

    def __init__(self, url: str) -> None:
        super().__init__(2)
        self.refused: list[float] = []
        self.answered = 0
        host, port = urlsplit(url).netloc.split(":")
        self._address = host, int(port)

    def _ask(self, _number: int) -> None:
        while not self._stop.is_set():
            try:
                with socket.create_connection(self._address, WAIT_S) as connection:
                    connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    self.answered += connection.recv(12) == b"HTTP/1.1 200"
            except ConnectionRefusedError:
                self.refused.append(time.monotonic())
            except OSError:  # the worker that had accepted it was killed
                pass
            time.sleep(0.01)


def kill_under_load(stage: Stage, clients: Clients, victims: Sequence[str]) -> None:
    """Kill each of the victims, one after the other, when the platform is whole again and requests were answered."""
    for victim in victims:
        before = processes_of(stage)
        os.kill(before[victim], signal.SIGKILL)
        until(lambda victim=victim, before=before: is_replaced(stage, victim, before[victim]))  # type: ignore[misc]
        after = processes_of(stage)
        if victim in ("supervisor", "standby"):
            kept = ("gateway", "worker", "engine-assistant")
            assert [after[name] for name in kept] == [before[name] for name in kept], f"they outlive the {victim}"
        answered = len(clients.answered)
        until(lambda answered=answered: len(clients.answered) > answered + 2)  # type: ignore[misc]


def check_nothing_lost(stage: Stage, clients: Clients, connections: Connections) -> None:
    """Each answered request has one usage record, no connection was refused, and no process is left over."""
    assert connections.refused == [] and connections.answered > 0
    assert not [reply for reply in clients.failures if "ConnectionRefused" in reply.failure]
    recorded = [one.request_id for one in read_served(stage.store, stage.home) if one.status == "ok"]
    assert len(set(recorded)) == len(recorded), "none is recorded twice"
    answered = {reply.request for reply in clients.answered}
    assert answered <= set(recorded), f"{len(answered - set(recorded))} of {len(answered)} are lost"
    assert pids_of(stage, "archwright.engines") == {stage.pids()["engine-assistant"]}
    until(lambda: pids_of(stage, "archwright.serving") == {stage.pids()["gateway"], processes_of(stage)["worker"]})
    assert api.down().stopped
    assert naming(stage.home.root, "archwright.") == {}, "`down` returns when all have ended"


def test_each_process_is_killed_under_load_and_nothing_is_lost(stage: Stage) -> None:
    stage.up()
    with Connections(stage.url) as connections, Clients(stage.url, stage.key, 4) as clients:
        kill_under_load(stage, clients, ("supervisor", "standby", "supervisor", "gateway"))
        assert clients.failures == [], "only the process that answers or works on a request can lose it"
        # The supervisor is no parent of the engine, which it adopted, and yet notices its end.
        kill_under_load(stage, clients, ("worker", "engine-assistant"))
    standby = Path(f"/proc/{stage.state().standby_pid}/statm").read_text().split()[1]
    assert int(standby) * os.sysconf("SC_PAGE_SIZE") < 20e6, "it is small"
    assert "died and was restarted: 2 times" in api.status().notes[0]
    check_nothing_lost(stage, clients, connections)


@pytest.mark.nightly
@pytest.mark.parametrize("victim", ["supervisor", "standby", "gateway", "worker", "engine-assistant"])
def test_a_hundred_kills_of_each_process_lose_nothing(stage: Stage, victim: str) -> None:
    stage.up()
    with Connections(stage.url) as connections, Clients(stage.url, stage.key, 4) as clients:
        kill_under_load(stage, clients, [victim] * KILLS)
    failed = len(clients.failures)
    print(f"{victim}: {KILLS} kills, {len(clients.answered)} answered, {failed} cut off, ", end="")
    print(f"{connections.answered} connections, {len(connections.refused)} refused")
    assert victim in ("worker", "engine-assistant") or clients.failures == []
    check_nothing_lost(stage, clients, connections)


@pytest.mark.nightly
def test_processes_that_are_not_those_of_the_record_are_replaced(stage: Stage) -> None:
    """A changed launch, or another process by a reused number, is never adopted; the latter lives on."""
    stage.up()
    before = processes_of(stage)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        state = stage.state()
        changed: dict[str, dict[str, Any]] = {
            "engine-assistant": {"launch": "of another plan"},
            "gateway": {"pid": stranger.pid},
        }
        launched = tuple(replace(one, **changed[one.name]) for one in state.launched)
        os.kill(before["supervisor"], signal.SIGSTOP)  # it writes nothing more
        platform_state.write_state(stage.home, replace(state, launched=launched))
        os.kill(before["supervisor"], signal.SIGKILL)
        until(lambda: is_replaced(stage, "engine-assistant", before["engine-assistant"]))
        until(lambda: is_replaced(stage, "gateway", before["gateway"]))
        assert not is_alive(before["engine-assistant"]) and not is_alive(before["gateway"])
        assert stranger.poll() is None
        stranger.kill()


def test_a_platform_without_its_state_goes_on_and_ends(stage: Stage) -> None:
    """A supervisor writes a state that is gone; the next one finds none and replaces the processes."""
    stage.up()
    before = processes_of(stage)
    stage.home.state.write_bytes(b"{")
    until(lambda: platform_state.read_running_state(stage.home) is not None)
    assert processes_of(stage) == before
    os.kill(before["supervisor"], signal.SIGSTOP)  # it writes nothing more
    stage.home.state.unlink()
    os.kill(before["supervisor"], signal.SIGKILL)
    until(lambda: is_replaced(stage, "supervisor", before["supervisor"]))
    assert not is_alive(before["engine-assistant"]) and not is_alive(before["gateway"])
    stage.home.state.unlink()
    assert api.down().stopped
    assert naming(stage.home.root, "archwright.") == {}


def test_all_processes_end_with_supervisor_and_standby(stage: Stage) -> None:
    stage.up()
    found = processes_of(stage)
    for victim in ("standby", "supervisor"):
        os.kill(found[victim], signal.SIGKILL)
    until(lambda: not any(map(is_alive, found.values())))
    # An ended process holds the lock for a moment after its name is gone.
    until(lambda: api.status().state == "stopped")
    assert not api.down().stopped
    stage.up()


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


def read_restarts(url: str, key: str) -> dict[str, float]:
    """Return the restarts that the gateway's metrics count, by process."""
    request = urllib.request.Request(f"{url}/metrics", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
        page = reply.read().decode()
    found = re.findall(r'^archwright_restarts_total\{process="(\w+)"\} (\S+)$', page, re.MULTILINE)
    return {process: float(count) for process, count in found}


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
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as serving, ExitStack() as stack:
        stack.callback(serving.kill)  # a failure must not wait for a process that serves
        assert serving.stdout is not None
        started = json.loads(serving.stdout.readline())
        url = started["url"]
        master = wait_for_child(serving.pid)
        worker = wait_for_child(master)
        with Connections(url) as connections:
            os.kill(master, signal.SIGKILL)
            until(lambda: not is_alive(master))
            assert is_alive(worker) and answers(url, "healthz") == 200, "it serves without its master"
            until(lambda: not is_alive(worker))  # the workers of the next master serve
            until(lambda: [child for one in children_of(serving.pid) for child in children_of(one)])
            successor = wait_for_child(serving.pid)
            worker = wait_for_child(successor)
            serving.send_signal(signal.SIGHUP)
            until(lambda: not is_alive(worker))
            assert answers(url, "healthz") == 200, "the next master took the signal of a reload"
            assert read_restarts(url, started["key"]) == {"master": 1.0}
            worker = wait_for_child(successor)
            os.kill(worker, signal.SIGKILL)
            until(
                lambda: (
                    not is_alive(worker) and children_of(successor) and "worker" in read_restarts(url, started["key"])
                )
            )
            assert read_restarts(url, started["key"]) == {"master": 1.0, "worker": 1.0}
        assert connections.refused == []
    until(lambda: naming(home.root, "serve") == {})
