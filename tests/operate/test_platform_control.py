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
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from archwright import api
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.errors import ArchwrightError
from archwright.home import Home
from archwright.operate import platform_control, platform_state
from archwright.plan.plan_file import write_plan

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def plan_file(null_plan: Plan, home: Home) -> Iterator[str]:
    path = home.root.parent / "plan.json"
    write_plan(null_plan, path)
    yield str(path)
    api.down()


def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def pids(home: Home) -> dict[str, int]:
    current = platform_state.read_running_state(home)
    assert current is not None
    return {"supervisor": current.supervisor_pid, **{p.name: p.pid for p in current.processes}}


def answers(url: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_up_status_down_and_up_again(plan_file: str, home: Home) -> None:
    started = api.up(plan_file, detach=True, port=0).started
    assert started.key is not None and started.key.startswith("aw_")
    assert answers(started.url) == 200
    status = api.status()
    assert status.state == "running" and status.ready_s is not None
    assert [p.name for p in status.processes] == ["engine-assistant", "gateway"]
    assert api.down(dry_run=True).processes == ("engine-assistant", "gateway")
    before = pids(home)
    assert api.down().stopped and api.status().state == "stopped"
    assert not any(platform_state.is_process_alive(pid, "archwright") for pid in before.values())
    again = api.up(plan_file, detach=True, port=0).started
    assert again.key is None, "the key is shown on the first start only"
    assert not api.down(dry_run=True).stopped


def test_one_scrape_sees_the_whole_platform(plan_file: str) -> None:
    """The gateway's metrics include the supervisor's observations, and a monitor key may read them."""
    started = api.up(plan_file, detach=True, port=0).started
    monitor = api.key.create(tenant="ops", role="monitor").key
    request = urllib.request.Request(f"{started.url}/metrics", headers={"authorization": f"Bearer {monitor}"})

    def page() -> str:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return str(reply.read().decode())

    for series in ("archwright_memory_bytes", "archwright_startup_seconds", "archwright_disk_bytes"):
        until(lambda series=series: f'{series}{{process="platform"}}' in page())  # type: ignore[misc]


def test_running_twice_is_refused(plan_file: str) -> None:
    api.up(plan_file, detach=True, port=0)
    with pytest.raises(ArchwrightError) as caught:
        api.up(plan_file, detach=True, port=0)
    assert caught.value.code == "AW-OPS-30"


def test_a_port_in_use_is_said(plan_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform_control, "PORT_TIMEOUT_S", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ArchwrightError) as caught:
            api.up(plan_file, detach=True, port=port)
    assert caught.value.code == "AW-OPS-03" and str(port) in caught.value.lines()


def test_any_address_but_loopback_needs_tls(plan_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHWRIGHT_HOST", "0.0.0.0")
    with pytest.raises(ArchwrightError) as caught:
        api.up(plan_file, detach=True, port=0)
    assert "TLS" in caught.value.message


@pytest.mark.parametrize("victim", ["engine-assistant", "gateway"])
def test_a_killed_process_is_restarted(victim: str, plan_file: str, home: Home) -> None:
    started = api.up(plan_file, detach=True, port=0).started
    old = pids(home)[victim]
    os.kill(old, signal.SIGKILL)
    until(lambda: pids(home)[victim] != old)
    until(lambda: answers(started.url) == 200)
    until(lambda: api.status().state == "running")
    restarted = {p.name: p.restarts for p in api.status().processes}
    assert restarted[victim] == 1


def test_a_killed_supervisor_leaves_nothing_and_up_works(plan_file: str, home: Home) -> None:
    api.up(plan_file, detach=True, port=0)
    old = pids(home)
    os.kill(old["supervisor"], signal.SIGKILL)
    until(lambda: not any(platform_state.is_process_alive(pid, "archwright") for pid in old.values()))
    assert api.status().state == "stopped"
    assert answers(api.up(plan_file, detach=True, port=0).started.url) == 200


def test_everything_killed_at_once_and_up_works(plan_file: str, home: Home) -> None:
    started = api.up(plan_file, detach=True, port=0).started
    for pid in pids(home).values():
        os.kill(pid, signal.SIGKILL)
    port = int(started.url.rsplit(":", 1)[1])
    assert answers(api.up(plan_file, detach=True, port=port).started.url) == 200


def test_a_process_that_cannot_start_says_why(null_plan: Plan, home: Home) -> None:
    launch = replace(null_plan.pools[0].launch, settings={"no_such_setting": 1})
    broken = replace(null_plan, pools=(replace(null_plan.pools[0], launch=launch),))
    path = home.root.parent / "broken.json"
    write_plan(broken, path)
    with pytest.raises(ArchwrightError) as caught:
        api.up(str(path), detach=True, port=0)
    assert caught.value.code.startswith("AW-ENG-") and "no_such_setting" in caught.value.message
    assert api.status().state == "stopped"
    write_plan(null_plan, path)
    try:
        assert api.up(str(path), detach=True, port=0).started.key is not None, "nobody was shown one yet"
    finally:
        api.down()


def test_an_answer_that_breaks_off_is_not_shown_as_whole(null_plan: Plan, home: Home) -> None:
    launch = replace(null_plan.pools[0].launch, settings={"tpot_s": 0.2})
    path = home.root.parent / "plan.json"
    write_plan(replace(null_plan, pools=(replace(null_plan.pools[0], launch=launch),)), path)
    api.up(str(path), detach=True, port=0)
    try:
        answer = api.ask("Hello?")
        assert next(piece for piece in answer if piece)
        gateway = pids(home)["gateway"]
        (worker,) = Path(f"/proc/{gateway}/task/{gateway}/children").read_text(encoding="ascii").split()
        os.kill(int(worker), signal.SIGKILL)
        with pytest.raises(ArchwrightError) as caught:
            list(answer)
    finally:
        api.down()
    assert caught.value.code == "AW-OPS-33" and "ended before" in caught.value.message


def test_a_missing_model_names_the_command(null_plan: Plan, home: Home) -> None:
    artefact = next(iter(load_catalog(home).artefacts.values()))
    launch = replace(null_plan.pools[0].launch, engine="llamacpp", settings={})
    pool = replace(null_plan.pools[0], artefact=artefact, launch=launch)
    path = home.root.parent / "plan.json"
    write_plan(replace(null_plan, pools=(pool,)), path)
    with pytest.raises(ArchwrightError) as caught:
        api.up(str(path), detach=True, port=0)
    assert caught.value.hint == f"archwright models fetch {artefact.model}"


def test_attached_it_ends_with_the_command(plan_file: str, home: Home) -> None:
    command = [sys.executable, "-m", "archwright", "up", plan_file, "--port", "0", "--json"]
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
    command = [sys.executable, "-m", "archwright", "up", plan_file, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as foreground:
        assert foreground.stdout is not None
        out = ""
        while "Ctrl-C" not in out:
            out += foreground.stdout.readline()
        time.sleep(0.1)
        foreground.send_signal(signal.SIGTERM)
        assert foreground.wait(20) == 0
    assert "archwright ask" in out and api.status().state == "stopped"
