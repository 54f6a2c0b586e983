"""`doctor --deep` beside a gateway and engines that run, called as a timer calls it: without their settings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serving.conftest import certified
from tests.tools.checks import WAIT_S

from archwright import api
from archwright.contract.plan import Plan
from archwright.home import Home
from archwright.plan.plan_file import write_plan
from archwright.settings import child_environment

from ..command_line import CommandLine

COMMAND = (sys.executable, "-P", "-m", "archwright")


def read_checks(cli: CommandLine, status: int) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads(cli.text("doctor --deep --json", status))}


@pytest.mark.enable_socket
def test_the_exit_status_is_that_of_the_worst_check(cli: CommandLine, home: Home) -> None:
    checks = read_checks(cli, 2)
    assert checks["model"]["state"] == "failure" and "archwright models fetch" in checks["model"]["hint"]
    names = {"modes", "database", "pepper", "audit log", "second place", "clock", "tls", "backup", "disk encryption"}
    assert names <= set(checks)
    assert all(check["hint"] for check in checks.values() if check["state"] in ("warning", "failure"))
    text = cli.text("doctor --deep", 2)
    assert "FAIL  model: none fetched\n      -> archwright models fetch" in text
    assert "database" not in cli.text("doctor", 2)


@pytest.fixture
def gateway(home: Home, tmp_path: Path, processes: None) -> Iterator[str]:
    """The URL of a gateway with TLS and a second place, which only its own environment names."""
    certificate, key = certified(tmp_path)
    own = {
        "ARCHWRIGHT_TLS_CERTIFICATE": certificate,
        "ARCHWRIGHT_TLS_KEY": key,
        "ARCHWRIGHT_AUDIT_CHECKPOINTS": str(tmp_path / "second.jsonl"),
    }
    command = [*COMMAND, "serve", "--upstream", "m=http://127.0.0.1:9/v1", "--port", "0", "--json"]
    with subprocess.Popen(command, env=child_environment(own), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()
        assert process.wait(WAIT_S) == 0


@pytest.mark.enable_socket
def test_a_gateway_is_assessed_by_its_own_settings(cli: CommandLine, gateway: str) -> None:
    checks = read_checks(cli, 1)
    assert [name for name, check in checks.items() if check["state"] == "failure"] == []
    assert gateway in checks["port"]["detail"], "its port is in use, by the gateway itself"
    (served,) = (check for name, check in checks.items() if name.startswith("tls "))
    assert served["state"] == "ok" and f"{gateway} sends a certificate that is valid for 2 days" in served["detail"]
    assert "second.jsonl" in checks["second place"]["detail"] + checks["audit"]["detail"]
    assert checks["sandbox of m"]["state"] == "unknown"


@pytest.mark.enable_socket
def test_engines_are_restricted(cli: CommandLine, home: Home, null_plan: Plan, processes: None) -> None:
    write_plan(null_plan, Path("plan.json"))
    with api.up("plan.json", detach=True, port=0):
        checks = read_checks(cli, 1)
        assert [name for name, check in checks.items() if check["state"] == "failure"] == []
        (engine,) = (check for name, check in checks.items() if name.startswith("sandbox of "))
        assert engine["state"] == "ok" and "system calls are filtered" in engine["detail"]
        assert checks["pepper"]["detail"] == "it verifies 1 row(s) of keys"
