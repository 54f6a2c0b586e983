"""Prompts and responses leave in traces only for tenants that turned this on: real workers, a collector."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.monitor.test_trace_exporter import Collector, collector
from tests.serving.conftest import Platform, Reply, directory, endpoint, free_port
from tests.serving.fake_provider import Place, Script, chat_events, whole

from archwright.access.audit_log import read_entries
from archwright.access.key_cache import POLL_S
from archwright.contract.listener import TraceSpec
from archwright.contract.record import replace
from archwright.serving.events.engine_events import FunctionCall, ToolCall
from archwright.serving.events.response_formats import ResponsePiece
from archwright.serving.handlers.trace_content import MAX_CHARACTERS, MAX_PARTS, TRUNCATION_MARK, build_trace_content
from archwright.serving.messages_api import request_translation
from archwright.serving.requests.request_validation import GenerationRequest, validate_chat

if TYPE_CHECKING:
    from tests.serving.conftest import Start

__all__ = ["collector"]
pytestmark = pytest.mark.enable_socket

SECRET, ANSWER = "marmalade-7731", "tangerine-4402"
SAID = Script(
    chat_events(
        {"choices": [{"delta": {"reasoning_content": "hm"}}]},
        {"choices": [{"delta": {"content": ANSWER}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    )
)
KEYS = ("gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages")


class Scene:
    """Two tenants before two workers; `acme` has an administrator."""

    def __init__(self, platform: Platform, collector: Collector) -> None:
        self.platform = platform
        self.collector = collector
        self.keys = {"acme": platform.made_key("acme"), "bolt": platform.made_key("bolt")}
        self.admin = platform.made_key("acme", "admin")

    def turn(self, key: str, traced: bool, tenant: str = "acme") -> Reply:
        return self.platform.ask("PUT", f"/admin/tenants/{tenant}/content", {"traced": traced}, key=key, admin=True)

    def chat(self, tenant: str = "acme", **fields: Any) -> str:
        """Its id."""
        said = [{"role": "system", "content": "brief"}, {"role": "user", "content": SECRET}]
        reply = self.platform.chat(self.keys[tenant], messages=said, **fields)
        assert reply.status == 200, reply.body
        return reply.headers["x-request-id"]

    def told(self, request_id: str) -> dict[str, Any]:
        """The attributes of the request's span, once the collector has it; those of content decoded."""
        self.platform.until(lambda: request_id in self._spans())
        said = {pair["key"]: next(iter(pair["value"].values())) for pair in self._spans()[request_id]["attributes"]}
        return {name: json.loads(value) if name in KEYS else value for name, value in said.items()}

    def _spans(self) -> dict[str, Any]:
        whole = [span for span in self.collector.spans if "parentSpanId" not in span]
        return {
            pair["value"]["stringValue"]: span
            for span in whole
            for pair in span["attributes"]
            if pair["key"] == "gen_ai.response.id"
        }


def set_tracing(platform: Platform, *, on: bool) -> None:
    with platform.keys() as keys:
        keys.set_content_tracing("acme", on)
    time.sleep(POLL_S)


@pytest.fixture
def scene(start: Start, place: Place, collector: Collector) -> Iterator[Scene]:
    place.script = SAID
    spec = {"addresses": (place.url,), "health_path": "/models"}
    cached = {**spec, "model": "kept", "workload": "kept", "pool": "kept", "cache": "all"}
    traces = TraceSpec(url=collector.url, share=1.0)
    yield Scene(start([spec, cached], [], traces=traces, admin_port=free_port(), workers=2), collector)


def test_content_leaves_only_where_its_tenant_turned_that_on(scene: Scene) -> None:
    platform = scene.platform
    ids = [scene.chat(tenant, stream=tenant == "acme") for tenant in ("acme", "bolt")]
    assert not any(set(KEYS) & set(told) for told in map(scene.told, ids))
    assert scene.turn(scene.keys["acme"], traced=True).status == 403, "a member may not"
    assert scene.turn(scene.admin, traced=True, tenant="bolt").status == 404, "nor another's administrator"
    assert scene.turn(scene.admin, traced=True).json["content_traced"] is True
    time.sleep(POLL_S)
    ids = [scene.chat(stream=number % 2 == 0) for number in range(8)]
    for told in map(scene.told, ids):
        assert told["gen_ai.input.messages"] == [
            {"role": "system", "parts": [{"type": "text", "content": "brief"}]},
            {"role": "user", "parts": [{"type": "text", "content": SECRET}]},
        ]
        parts = [{"type": "reasoning", "content": "hm"}, {"type": "text", "content": ANSWER}]
        expected = [{"role": "assistant", "parts": parts, "finish_reason": "stop"}]
        assert told["gen_ai.output.messages"] == expected
        assert "archwright.content.truncated" not in told
    assert not set(KEYS) & set(scene.told(scene.chat("bolt"))), "each for itself"
    set_tracing(platform, on=False)
    ids = [scene.chat(stream=number % 2 == 0) for number in range(8)]
    assert not any(set(KEYS) & set(told) for told in map(scene.told, ids))
    acts = [(one.action, one.effect) for one in read_entries(platform.store, platform.home, tenant="acme", limit=200)]
    assert ("content.trace", "allow") in acts
    platform.close()
    for path in platform.home.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET.encode() not in data and ANSWER.encode() not in data, f"in {path}"


def test_whatever_the_interface_and_however_it_ends(scene: Scene, place: Place) -> None:
    platform = scene.platform
    set_tracing(platform, on=True)
    asked = {"model": "m", "max_tokens": 9, "system": "brief", "messages": [{"role": "user", "content": SECRET}]}
    reply = platform.ask("POST", "/v1/messages", asked, key=scene.keys["acme"])
    told = scene.told(reply.headers["x-request-id"])
    assert told["gen_ai.system_instructions"] == [{"type": "text", "content": "brief"}]
    assert [one["role"] for one in told["gen_ai.input.messages"]] == ["user"]
    asked = {"model": "kept", "instructions": "brief", "input": SECRET}
    for cache in ("miss", "hit"):
        reply = platform.ask("POST", "/v1/responses", asked, key=scene.keys["acme"])
        told = scene.told(reply.headers["x-request-id"])
        assert told["gen_ai.system_instructions"] == [{"type": "text", "content": "brief"}]
        assert told["gen_ai.output.messages"][0]["parts"][-1] == {"type": "text", "content": ANSWER}
        assert told["archwright.cache"] == cache
    for _ in range(2):
        told = scene.told(scene.chat(model="kept", stream=True))
        assert told["gen_ai.output.messages"][0]["parts"][-1] == {"type": "text", "content": ANSWER}
    assert told["archwright.cache"] == "hit"
    place.script = Script(chat_events({"choices": [{"delta": {"content": ANSWER}}]})[:1])
    reply = platform.chat(scene.keys["acme"], stream=True)
    told = scene.told(reply.headers["x-request-id"])
    (answer,) = told["gen_ai.output.messages"]
    assert (answer["parts"], answer["finish_reason"]) == ([{"type": "text", "content": ANSWER}], "error")
    place.script = whole({"error": "boom"}, 500)
    reply = platform.chat(scene.keys["acme"])
    told = scene.told(reply.headers["x-request-id"])
    assert told["gen_ai.input.messages"] and told["gen_ai.output.messages"] == []
    reply = platform.ask("POST", "/v1/completions", {"model": "m", "prompt": SECRET * 9_000}, key=scene.keys["acme"])
    told = scene.told(reply.headers["x-request-id"])
    (part,) = told["gen_ai.input.messages"][0]["parts"]
    assert len(part["content"]) == MAX_CHARACTERS + len(TRUNCATION_MARK) and part["content"].endswith(TRUNCATION_MARK)
    assert told["archwright.content.truncated"] is True


HERE = directory(endpoint(addresses=("http://e/v1",), vision=True), endpoint(model="own", workload="own", pool="own"))
ABROAD = directory(endpoint(addresses=("http://e/v1",), protocol="anthropic"))


def asked(*said: dict[str, Any]) -> GenerationRequest:
    return validate_chat({"model": "m", "messages": list(said)}, HERE, None)


def test_calls_results_and_what_is_no_text() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    question = asked(
        {"role": "user", "content": [{"type": "text", "text": "what?"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "7"},
    )
    reply = ResponsePiece("", "", None, "tool_calls", [ToolCall(0, "d", FunctionCall("g", "{}"))])
    made = build_trace_content("t", question, [reply], apart=False)
    first, second, third = json.loads(made.input)
    assert first["parts"] == [{"type": "text", "content": "what?"}, {"type": "image_url"}]
    assert second["parts"] == [{"type": "tool_call", "id": "c", "name": "f", "arguments": '{"a":1}'}]
    assert third == {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "7"}]}
    (answer,) = json.loads(made.output)
    assert answer["parts"] == [{"type": "tool_call", "id": "d", "name": "g", "arguments": "{}"}]
    assert answer["finish_reason"] == "tool_call" and not made.missing


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


def test_in_the_words_of_who_speaks_messages() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "tool_use", "id": "u", "name": "f", "input": {"a": 1}},
        {"type": "tool_result", "tool_use_id": "u", "content": [{"type": "text", "text": "7"}, IMAGE]},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 9}},
    ]
    body = {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        "messages": [{"role": "user", "content": blocks}],
    }
    generation = request_translation.translate_request(body, ABROAD, None)
    made = build_trace_content("t", generation, [ResponsePiece("", "", None, "stop")], apart=True)
    assert json.loads(made.system) == [{"type": "text", "content": "one\ntwo"}]
    ((parts),) = [one["parts"] for one in json.loads(made.input)]
    assert parts == [
        {"type": "reasoning", "content": "hm"},
        {"type": "tool_call", "id": "u", "name": "f", "arguments": '{"a":1}'},
        {"type": "tool_call_response", "id": "u", "response": "7"},
        {"type": "document"},
    ]
    assert json.loads(made.output) == [{"role": "assistant", "parts": [], "finish_reason": "stop"}]


WORD = st.sampled_from(["text", "tool_use", "tool_result", "thinking", "tool"])
NAME = st.sampled_from(
    ["type", "text", "content", "role", "id", "name", "input", "tool_calls", "function", "arguments"]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | WORD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAME, inner, max_size=5),
    max_leaves=30,
)


@given(ANYTHING, st.lists(ANYTHING, max_size=5), st.booleans())
def test_no_nonsense_of_a_client_is_too_much_for_it(system: Any, said: list[Any], apart: bool) -> None:
    """Values of fields that the operator allows pass the gateway unchecked."""
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    generation = request_translation.translate_request(body, ABROAD, None)
    generation = replace(generation, native={**body, "system": system, "messages": said})
    made = build_trace_content("t", generation, (), apart=apart)
    for told in (made.input, made.output, made.system):
        assert type(json.loads(told)) is list


def test_it_is_bounded_and_the_newest_is_kept() -> None:
    question = asked(*({"role": "user", "content": f"{number} " + "x" * 5_000} for number in range(20)))
    made = build_trace_content("t", question, [ResponsePiece("y" * 50_000, "", None, "stop")], apart=False)
    told = json.loads(made.input)
    assert told[-1]["parts"][0]["content"].startswith("19 ") and len(told) == 4
    assert told[0]["parts"][0]["content"].endswith(TRUNCATION_MARK) and made.missing
    assert len(json.loads(made.output)[0]["parts"][0]["content"]) == MAX_CHARACTERS + len(TRUNCATION_MARK)
    many = asked(*({"role": "user", "content": "x"} for _ in range(2 * MAX_PARTS)))
    made = build_trace_content("t", many, (), apart=False)
    assert len(json.loads(made.input)) == MAX_PARTS and made.missing and made.output == "[]"
