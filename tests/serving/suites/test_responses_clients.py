"""Clients that use the Responses interface by default: openai-agents, pydantic-ai and the AI SDK."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.deploy.tools import ROOT, require_node_program

from .conftest import SUITE_LIMIT_S, run_pytest

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]

TEXT = "Hello from the scripted engine, how are you today?"


def test_frameworks_of_agents(scripted: Platform, tmp_path: Path) -> None:
    cases = Path(__file__).with_name("agents_cases.py")
    outcomes = run_pytest(
        *("agents", str(cases), "--noconftest", "-c", "/dev/null", f"--rootdir={tmp_path}"),
        cwd=tmp_path,
        GATEWAY_URL=scripted.url,
        GATEWAY_KEY=scripted.key,
    )
    assert len(outcomes) == 6
    failed = [f"{one.name}: {one.failure[:400]}" for one in outcomes if one.failure]
    assert not failed, "\n".join(failed)


def test_the_ai_sdk(scripted: Platform) -> None:
    require_node_program("codex")
    script = shutil.copy(Path(__file__).with_name("ai_sdk_cases.mjs"), ROOT / ".venv-node")
    run = subprocess.run(
        ["node", script],
        env={"PATH": os.environ["PATH"], "GATEWAY_URL": scripted.url, "GATEWAY_KEY": scripted.key},
        capture_output=True,
        text=True,
        timeout=SUITE_LIMIT_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert (found["text"], found["streamed"], found["after"], found["finish"]) == (TEXT, TEXT, TEXT, "stop")
    assert found["usage"] > 0 and found["steps"] == 2
    assert found["results"] == ["18 degrees in Rome"]
    assert {"tool-input-delta", "tool-call", "tool-result", "text-delta", "finish"} <= set(found["parts"])
    assert found["reasoning"] == "The sum is easy."
    assert found["object"] == {"name": "Rome", "size": 3}
