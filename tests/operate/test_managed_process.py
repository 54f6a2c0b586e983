"""The supervisor beside a service manager: what it refuses, and what it asks of the manager."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.tools.checks import refuses

from archwright.contract.plan import Bundle, Plan, ProcessSpec
from archwright.home import Home
from archwright.operate import platform_control, platform_state, supervisor_process
from archwright.operate.managed_process import EngineUnit, ManagedProcess, control_unit, end_leftovers
from archwright.operate.platform_state import PlatformState, write_state

SPEC = ProcessSpec(name="engine-a", argv=(), config={"model_sha256": "a" * 64}, ready_socket="engine-a")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: None) -> Path:
    """A service manager that writes its orders into a file; it refuses the engine `engine-no`."""
    said, tool = tmp_path / "orders", tmp_path / "bin" / "systemctl"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$3 $4" >> {said}\ncase "$4" in *engine-no*) echo denied >&2; exit 1;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return said


def test_a_version_gets_its_files_by_the_group_and_a_unit(home: Home, tmp_path: Path, systemctl: Path) -> None:
    engines = Home(tmp_path / "engines")
    engines.folder("models")
    home.model("a" * 64).write_bytes(b"weights")
    home.model("a" * 64).chmod(0o600)
    unit = EngineUnit(SPEC, home, engines, tls=False)
    unit.start(1.0)
    shared, config = engines.model("a" * 64), engines.unit_config("engine-a")
    assert shared.read_bytes() == b"weights" and shared.stat().st_mode & 0o777 == 0o640
    assert config.stat().st_mode & 0o777 == 0o640 and home.socket("engine-a").readlink() == engines.socket("engine-a")
    end_leftovers(engines, {"engine-a"})
    assert config.exists()
    end_leftovers(engines, set())
    assert not config.exists()
    unit.stop(0.0)
    name = "archwright-engine@engine-a.service"
    assert systemctl.read_text().splitlines() == [f"start {name}", f"stop {name}", f"stop {name}"]
    with refuses("AW-OPS-36", "denied"):
        control_unit("start", "engine-no")


def test_a_process_of_the_manager_is_neither_ended_nor_taken_for_silent(home: Home, tmp_path: Path) -> None:
    process = ManagedProcess(SPEC, home, Home(tmp_path / "engines"), tls=False)
    process.start(1.0)
    for _ in range(9):
        assert not process.probe(0.1)
    process.stop(0.0)
    assert process.exit_status() is None and process.pid == 0 and process.silent_probes == 0


def test_down_names_the_service_manager(home: Home) -> None:
    with platform_state.acquire_lock(home) as lock:  # type: ignore[union-attr]
        assert lock is not None
        running = PlatformState(supervisor_pid=1, standby_pid=1, url="", plan_digest="", started_at=0.0, managed=True)
        write_state(home, running)
        with refuses("AW-OPS-34", hint="systemctl stop archwright.target"):
            platform_control.stop_platform(home)


def test_a_bundle_of_another_plan_and_a_second_supervisor_are_refused(
    home: Home, null_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_process, "disable_core_dumps", lambda: None)
    plan, bundle = tmp_path / "plan.json", tmp_path / "bundle.json"
    plan.write_bytes(msgspec.json.encode(null_plan))
    bundle.write_bytes(msgspec.json.encode(Bundle(plan_digest="other", processes=(), url="", engine_home="/e")))
    mask = os.umask(0o022)
    try:
        with refuses("AW-OPS-35"):
            supervisor_process.run_managed_supervisor(str(home.root), str(bundle), str(plan))
        bundle.write_bytes(msgspec.json.encode(Bundle(plan_digest=null_plan.digest, processes=(), url="")))
        with platform_state.acquire_lock(home), refuses("AW-OPS-30"):  # type: ignore[union-attr]
            supervisor_process.run_managed_supervisor(str(home.root), str(bundle), str(plan))
    finally:
        os.umask(mask)
