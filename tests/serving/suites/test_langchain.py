"""The standard tests of LangChain's chat models: its clients of OpenAI and Anthropic before the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import list_differences, run_pytest

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

pytestmark = [pytest.mark.nightly, pytest.mark.enable_socket]

CASES = Path(__file__).with_name("langchain_cases.py")
LOOPS = [f"asyncio_default_{kind}_loop_scope=session" for kind in ("fixture", "test")]  # clients outlive a test
# Responses take no documents (docs/gateway.md).
REFUSED = {"TestChatOpenAIResponses::test_pdf_inputs": "invalid value 'input_file'"}


def test_langchain_chat_models(scripted: Platform, tmp_path: Path) -> None:
    options = [part for setting in ("asyncio_mode=auto", *LOOPS) for part in ("-o", setting)]
    outcomes = run_pytest(
        *("langchain", str(CASES), "--noconftest", "-c", "/dev/null", f"--rootdir={tmp_path}", *options),
        cwd=tmp_path,
        GATEWAY_URL=scripted.url,
        GATEWAY_KEY=scripted.key,
    )
    assert len(outcomes) >= 130
    problems = list_differences(outcomes, REFUSED)
    assert not problems, problems
