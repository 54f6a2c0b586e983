"""Tool calls and reasoning in the form of the model's chat template, through the gateway, with a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.home import Home
from archwright.serving.providers.openai import OpenAIProvider
from archwright.serving.providers.protocol import CHAT_PATH

from ..tools.chat_examples import COLOURS, TOOLS, WEATHER
from ..tools.gguf_models import TOOL_TEMPLATE, copy_with_template
from .conftest import endpoint, free_port, null_engine, running, table

if TYPE_CHECKING:
    from .conftest import Platform

FORM = {"type": "json_object"}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize(
    ("side", "changes", "native"),
    [
        ("engine", {"tool_choice": "required"}, True),
        ("gateway", {}, False),
        ("template", {}, True),
        ("template", {"tool_choice": "auto"}, True),
        ("template", {"tool_choice": "required"}, False),
        ("template", {"tool_choice": NAMED}, False),
        ("template", {"tool_choice": "none"}, False),
        ("template", {"response_format": FORM}, False),
    ],
)
def test_the_template_gets_what_the_model_may_choose(side: Any, changes: dict[str, Any], native: bool) -> None:
    body = {"messages": WEATHER, "tools": TOOLS, "max_tokens": 100, **changes}
    request = OpenAIProvider(side).build_request(CHAT_PATH, body, None)
    assert ("tools" in request.body, request.body["messages"] is WEATHER) == (native, native)


@pytest.fixture(scope="module")
def talker(model_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home, digest = Home(tmp_path_factory.mktemp("talker")), "d" * 64
    copy_with_template(
        model_home.model(load_catalog().artefacts["SmolLM2-135M-Instruct"].sha256), home.model(digest), TOOL_TEMPLATE
    )
    spec = endpoint(addresses=("unix:llama",), context_tokens=768, slots=1, default_max_tokens=384, model="smol")
    config = table(spec, port=free_port())
    config = replace(config, pools=tuple(replace(pool, tools="template") for pool in config.pools))
    engine = replace(null_engine("llama"), engine="llamacpp", model_sha256=digest, alias="smol", context_tokens=768)
    with running(home, config, replace(engine, slots=1, default_max_tokens=384)) as platform:
        yield platform


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_calls_and_thoughts_arrive_in_their_own_fields(talker: Platform) -> None:
    asked: dict[str, Any] = {"model": "smol", "messages": WEATHER, "tools": TOOLS, "max_tokens": 60, "temperature": 0}
    chunks = [event for event in talker.chat(**asked, stream=True).events if event != "[DONE]"]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["function"]["name"] for call in calls if "name" in call["function"]] == ["get_weather"]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "Paris"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

    reply = talker.chat(model="smol", messages=COLOURS, temperature=0, max_tokens=40).json
    message = reply["choices"][0]["message"]
    assert "Green is a colour." in message["reasoning_content"] and len(message["content"]) < 20
    assert reply["usage"]["completion_tokens"] > 10

    quiet = talker.chat(model="smol", messages=COLOURS, chat_template_kwargs={"enable_thinking": False}, max_tokens=8)
    assert "reasoning_content" not in quiet.json["choices"][0]["message"]
