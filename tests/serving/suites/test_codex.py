"""Codex, OpenAI's coding agent, with its default settings before an engine that knows only chats."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.deploy.tools import require_node_program
from tests.serving.fake_provider import Script, chat_events

from .conftest import SUITE_LIMIT_S

if TYPE_CHECKING:
    from tests.serving.conftest import Start
    from tests.serving.fake_provider import Place

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]

CONFIG = """
model = "m"
model_provider = "gateway"
[model_providers.gateway]
name = "gateway"
base_url = "{url}"
env_key = "GATEWAY_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


def _chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    usage = {} if finish is None else {"usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **usage}


def test_codex_runs_a_command_and_reads_its_output(start: Start, place: Place, tmp_path: Path) -> None:
    arguments = json.dumps({"cmd": "echo $((6 * 7)) > answer; cat answer"})
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "exec_command", "arguments": arguments},
    }
    place.script = Script(
        chat_events(_chunk(reasoning_content="I run it."), _chunk(tool_calls=[call]), _chunk("tool_calls"))
    )
    place.after_tool = Script(chat_events(_chunk(content="It is "), _chunk(content="done."), _chunk("stop")))
    platform = start([{"addresses": (place.url,), "health_path": "/models", "context_tokens": 128_000}], [])
    home, project = tmp_path / "codex", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    (home / "config.toml").write_text(CONFIG.format(url=platform.url))
    command = [*require_node_program("codex"), "exec", "--skip-git-repo-check", "--json"]
    run = subprocess.run(
        [*command, "--dangerously-bypass-approvals-and-sandbox", "Compute the answer."],
        cwd=project,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CODEX_HOME": str(home), "GATEWAY_KEY": platform.key},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SUITE_LIMIT_S,
        check=False,
    )
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    assert (project / "answer").read_text() == "42\n" and "It is done." in run.stdout, said
    last = place.last.body["messages"]
    assert last[-1]["tool_call_id"] == "call_1" and "42" in last[-1]["content"]
    assert last[-2]["tool_calls"][0]["function"]["name"] == "exec_command"
    names = {tool["function"]["name"] for tool in place.last.body["tools"]}
    assert "exec_command" in names and any("__" in name for name in names), "functions of a namespace too"
