"""The platform as real processes: started, killed, started again, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.tools.checks import WAIT_S, until

from archwright import api
from archwright.api.platform_lifecycle import PlatformHandle
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.errors import ArchwrightError
from archwright.home import Home
from archwright.operate import platform_control, platform_state
from archwright.plan.plan_file import write_plan

from ..command_line import error_of

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def plan_file(null_plan: Plan, home: Home) -> Iterator[str]:
    path = home.root.parent / "plan.json"
    write_plan(null_plan, path)
    yield str(path)
    api.down()


def pids(home: Home) -> dict[str, int]:
    current = platform_state.read_running_state(home)
    assert current is not None
    both = {"standby": current.standby_pid, "supervisor": current.supervisor_pid}
    return {**both, **{p.name: p.pid for p in current.processes}}


def up(path: str | Path, port: int = 0) -> PlatformHandle:
    return api.up(str(path), detach=True, port=port)


def answers(url: str, path: str = "readyz") -> int:
    try:
        with urllib.request.urlopen(f"{url}/{path}", timeout=WAIT_S) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_up_status_down_and_up_again(plan_file: str, home: Home) -> None:
    started = up(plan_file).started
    assert started.key is not None and started.key.startswith("aw_")
    assert answers(started.url) == 200
    status = api.status()
    assert status.state == "running" and status.ready_s is not None
    assert [p.name for p in status.processes] == ["engine-assistant", "gateway"]
    assert api.down(dry_run=True).processes == ("engine-assistant", "gateway")
    before = pids(home)
    assert api.down().stopped and api.status().state == "stopped"
    assert not any(platform_state.is_process_alive(pid, "archwright") for pid in before.values())
    again = up(plan_file).started
    assert again.key is None, "the key is shown on the first start only"
    assert not api.down(dry_run=True).stopped


def test_one_scrape_sees_the_whole_platform(plan_file: str) -> None:
    """The gateway's metrics include the supervisor's observations, and a monitor key may read them."""
    started = up(plan_file).started
    monitor = api.key.create(tenant="ops", role="monitor").key
    request = urllib.request.Request(f"{started.url}/metrics", headers={"authorization": f"Bearer {monitor}"})

    def page() -> str:
        with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
            return str(reply.read().decode())

    for series in ("archwright_memory_bytes", "archwright_startup_seconds", "archwright_disk_bytes"):
        until(lambda series=series: f'{series}{{process="platform"}}' in page())  # type: ignore[misc]


def test_running_twice_is_refused(plan_file: str) -> None:
    up(plan_file)
    error_of("AW-OPS-30", up, plan_file)
    error_of("AW-OPS-30", up, "no-such-needs.yaml")  # before a plan is read or a model is fetched


def test_a_port_in_use_is_reported(plan_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_control, "PORT_TIMEOUT_S", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in error_of("AW-OPS-03", up, plan_file, port).lines()


def test_any_address_but_loopback_needs_tls(plan_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHWRIGHT_HOST", "0.0.0.0")
    assert "TLS" in error_of("AW-OPS-11", up, plan_file).message


@pytest.mark.parametrize("victim", [pytest.param("engine-assistant", marks=pytest.mark.nightly), "gateway"])
def test_a_killed_process_is_restarted(victim: str, plan_file: str, home: Home) -> None:
    started = up(plan_file).started
    old = pids(home)[victim]
    os.kill(old, signal.SIGKILL)
    until(lambda: pids(home)[victim] != old)
    until(lambda: answers(started.url) == 200)
    until(lambda: api.status().state == "running")
    restarted = {p.name: p.restarts for p in api.status().processes}
    assert restarted[victim] == 1


def test_everything_killed_at_once_and_up_works(plan_file: str, home: Home) -> None:
    started = up(plan_file).started
    for pid in pids(home).values():
        os.kill(pid, signal.SIGKILL)
    port = int(started.url.rsplit(":", 1)[1])
    assert answers(up(plan_file, port).started.url) == 200


def rewrite(plan_file: str, plan: Plan, **launch: Any) -> None:
    """Write the plan with a changed launch of its engine."""
    pool = replace(plan.pools[0], launch=replace(plan.pools[0].launch, **launch))
    write_plan(replace(plan, pools=(pool,)), Path(plan_file))


def test_a_process_that_cannot_start_says_why(null_plan: Plan, plan_file: str) -> None:
    rewrite(plan_file, null_plan, settings={"no_such_setting": 1})
    with pytest.raises(ArchwrightError, match="no_such_setting") as caught:
        up(plan_file)
    assert caught.value.code.startswith("AW-ENG-")
    assert api.status().state == "stopped"
    rewrite(plan_file, null_plan)
    assert up(plan_file).started.key is not None, "nobody was shown one yet"


def test_an_answer_that_breaks_off_is_not_shown_as_whole(null_plan: Plan, plan_file: str, home: Home) -> None:
    rewrite(plan_file, null_plan, settings={"tpot_s": 0.2})
    up(plan_file)
    answer = api.ask("Hello?")
    assert next(piece for piece in answer if piece)
    gateway = pids(home)["gateway"]
    (worker,) = Path(f"/proc/{gateway}/task/{gateway}/children").read_text(encoding="ascii").split()
    os.kill(int(worker), signal.SIGKILL)
    assert "ended before" in error_of("AW-OPS-33", list, answer).message


def test_a_missing_model_names_the_command(null_plan: Plan, plan_file: str, home: Home) -> None:
    artefact = next(iter(load_catalog(home).artefacts.values()))
    launch = replace(null_plan.pools[0].launch, engine="llamacpp", settings={})
    pool = replace(null_plan.pools[0], artefact=artefact, launch=launch)
    write_plan(replace(null_plan, pools=(pool,)), Path(plan_file))
    assert error_of("AW-GET-02", up, plan_file).hint == f"archwright models fetch {artefact.model}"


def test_attached_it_ends_with_the_command(plan_file: str, home: Home) -> None:
    command = [sys.executable, "-P", "-m", "archwright", "up", plan_file, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as foreground:
        assert foreground.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            text += foreground.stdout.readline()
        assert set(msgspec.json.decode(text)) == {"url", "key", "console"}
        old = pids(home)
        foreground.send_signal(signal.SIGKILL)
    until(lambda: not any(platform_state.is_process_alive(pid, "archwright") for pid in old.values()))


def test_foreground_stops_in_order_on_sigterm(plan_file: str, home: Home) -> None:
    command = [sys.executable, "-P", "-m", "archwright", "up", plan_file, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as foreground:
        assert foreground.stdout is not None
        out = ""
        while "Ctrl-C" not in out:
            out += foreground.stdout.readline()
        time.sleep(0.1)
        foreground.send_signal(signal.SIGTERM)
        assert foreground.wait(WAIT_S) == 0
    assert "archwright ask" in out
    # A process that ended is seen until the system has reaped it.
    until(lambda: api.status().state == "stopped")
