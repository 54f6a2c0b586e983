"""llm-comply: the published schemas of the interfaces, and what their replies and streams must contain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import Outcome, list_differences, run_program

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]

# Chats have no field `reasoning`, only `reasoning_effort`.
FORMATS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "openai-chat": ("gpt-5-scripted", (), {"chat-reasoning-summary": "HTTP 400"}),
    "anthropic": ("claude-sonnet-4-scripted", ("--auth-header", "x-api-key", "--no-bearer"), {}),
    "open-responses": ("gpt-5-scripted", (), {}),
}


@pytest.mark.parametrize("interface", FORMATS)
def test_llm_comply(scripted: Platform, tmp_path: Path, interface: str) -> None:
    model, options, refused = FORMATS[interface]
    arguments = ("--format", interface, "-u", scripted.url, "-k", scripted.key, "-m", model, "--json", *options)
    run = run_program("comply", "-m", "llm_comply.cli", *arguments, cwd=tmp_path)
    results = json.loads(run.stdout)["results"]
    outcomes = [
        Outcome(one["id"], " ".join(one.get("errors", ()))) for one in results if one["status"] in ("passed", "failed")
    ]
    assert len(outcomes) >= 9
    problems = list_differences(outcomes, refused)
    assert not problems, problems
