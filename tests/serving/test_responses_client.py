"""The official client of the Responses interface, unchanged, before engines that know only chats and before one that
speaks the interface."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel
from tests.serving.conftest import endpoint, free_port, null_engine, running, table
from tests.serving.fake_provider import Script, chat_events, message_events, standing_in, whole
from tests.tools.checks import WAIT_S

from archwright.home import Home
from archwright.policy.usage_limits import worst_input_tokens

from .official_clients import HELLO, openai_client

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Reply
    from tests.serving.fake_provider import Place

pytestmark = pytest.mark.enable_socket
PATH = "/v1/responses"
IN_USD, OUT_USD = 1e-6, 2e-6
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}


class City(BaseModel):
    name: str
    inhabitants: int


@pytest.fixture
def client(null: Platform) -> Iterator[openai.OpenAI]:
    with openai_client(null) as made:
        yield made


@pytest.fixture(scope="module")
def module_place(processes: None) -> Iterator[Place]:
    with standing_in() as made:
        yield made


@pytest.fixture(scope="module")
def priced(module_place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Model m before null engines with prices and a cache; `chat` and `native` before a scripted engine."""
    far = {"addresses": (module_place.url,), "health_path": "/models", "engine_model": "vendor/x", "vision": True}
    chat = {**far, "model": "chat", "workload": "chat", "pool": "chat"}
    native = {**far, "model": "native", "workload": "native", "pool": "native", "responses": True}
    prices = {"price_in_usd": IN_USD, "price_out_usd": OUT_USD}
    abroad = {**native, "model": "abroad", "workload": "abroad", "pool": "abroad", "place": "US", "own": False}
    changes: list[dict[str, Any]] = [{**prices, "slots": 64, "cache": "deterministic"}, {**chat, **prices}, native]
    changes.append({**abroad, "residency_of": {"personal": ("DE",)}, "detect": True})
    config = table(*(endpoint(**one) for one in changes), port=free_port(), workers=2)
    with running(Home(tmp_path_factory.mktemp("priced")), config, null_engine(ttft_s=0.2, slots=64)) as platform:
        yield platform


def check_schema(body: Any) -> Response:
    """Every field of the response is there, and each has its type."""
    missing = set(Response.model_fields) - set(body)
    assert not missing
    return Response.model_validate(body)


def test_every_field_is_there_whatever_was_sent(null: Platform) -> None:
    plain = null.ask("POST", PATH, {"model": "m", "input": "hi"})
    check_schema(plain.json)
    assert plain.json["max_output_tokens"] == 16 and plain.json["store"] is False
    sent: dict[str, Any] = {
        "model": "m",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "instructions": "Be brief.",
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "metadata": {"a": "b"},
        "truncation": "disabled",
        "service_tier": "auto",
        "tools": [WEATHER],
        "reasoning": {"effort": "high", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "temperature": 0.5,
        "max_tool_calls": 3,
        "safety_identifier": "s",
        "user": "u",
        "background": False,
    }
    reply = null.ask("POST", PATH, sent)
    found = check_schema(reply.json)
    assert (found.metadata, found.instructions, found.temperature) == ({"a": "b"}, "Be brief.", 0.5)
    assert (found.service_tier, found.prompt_cache_key, found.user) == ("default", "k", "u")
    assert found.reasoning is not None and found.reasoning.effort is None, "our engine does not take an effort"
    assert [tool.type for tool in found.tools] == ["function"]


def test_events_are_numbered_and_have_every_field(null: Platform) -> None:
    reply = null.ask("POST", PATH, {"model": "m", "input": "hi", "stream": True})
    events = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: {")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    check_schema(events[0]["response"])
    check_schema(events[-1]["response"])


def test_a_function_is_called_and_its_result_read(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model="m", input="Weather in Rome?", tools=[WEATHER], tool_choice="required", max_output_tokens=60
    )
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather" and set(json.loads(call.arguments)) == {"city"}
    history: Any = [*HELLO, *first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "18"}]
    after = client.responses.create(model="m", input=history, tools=[WEATHER], tool_choice="none", max_output_tokens=4)
    assert after.output_text


def test_structured_output_is_parsed(client: openai.OpenAI) -> None:
    reply = client.responses.parse(model="m", input="A city.", text_format=City, max_output_tokens=200)
    assert isinstance(reply.output_parsed, City)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"tools": [WEATHER, {"type": "web_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://e"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "patch"}]}, "tools[0]"),
        ({"max_output_tokens": 99_999}, "max_output_tokens"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]},
            "input[0].content[0]",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"colour": "red"}, "colour"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_what_is_not_served_is_refused_by_name(null: Platform, fields: dict[str, Any], param: str) -> None:
    reply = null.ask("POST", PATH, {"model": "m", "input": "hi", **fields})
    assert (reply.status, reply.error["param"]) == (400, param)
    assert reply.error["type"] == "invalid_request_error" and param in reply.error["message"]


@pytest.mark.parametrize(
    ("method", "tail"), [("GET", "/resp_1"), ("DELETE", "/resp_1"), ("POST", "/compact"), ("POST", "/resp_1/cancel")]
)
def test_kept_responses_do_not_exist(null: Platform, method: str, tail: str) -> None:
    reply = null.ask(method, PATH + tail)
    assert reply.status == 404 and "keeps no responses" in reply.error["message"]


def test_a_web_socket_is_refused_at_once(null: Platform) -> None:
    head = f"GET {PATH} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {null.key}\r\nConnection: Upgrade, close\r\n"
    head += "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    assert null.raw(head.encode()).startswith(b"HTTP/1.1 405 ")


def test_personal_data_stay_inside_the_residency(priced: Platform, module_place: Place) -> None:
    module_place.script = _native_reply({"type": "response.output_text.delta", "output_index": 0, "delta": "ok"})
    asked = len(module_place.asked)
    output = {"type": "function_call_output", "call_id": "1", "output": "Mail ann.smith@example.com, +49 30 901820."}
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    reply = priced.ask("POST", PATH, {"model": "abroad", "input": [*HELLO, call, output]})
    assert (reply.status, reply.error["code"]) == (403, "data_class_not_served")
    assert len(module_place.asked) == asked, "nothing was sent"
    output["output"] = "18 degrees"
    assert priced.ask("POST", PATH, {"model": "abroad", "input": [*HELLO, call, output]}).status == 200


def ask_together(priced: Platform, key: str, count: int, **fields: Any) -> list[Reply]:
    body = {"model": "m", "input": "Say something.", "max_output_tokens": 8, **fields}
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: priced.ask("POST", PATH, body, key=key), range(count)))


@pytest.mark.parametrize("stream", [False, True])
def test_the_edge_of_a_budget_admits_exactly_what_fits(priced: Platform, stream: bool) -> None:
    body = json.dumps({"model": "m", "input": "Say something.", "max_output_tokens": 8, "stream": stream})
    worst = worst_input_tokens(len(body), 4096) * IN_USD + 8 * OUT_USD
    key = priced.made_key(f"edge-{stream}".lower(), budget_usd=4.5 * worst)
    replies = ask_together(priced, key, 12, stream=stream)
    assert Counter(reply.status for reply in replies) == {200: 4, 429: 8}
    served = [priced.served(reply.headers["x-request-id"]) for reply in replies if reply.status == 200]
    assert [len(records) for records in served] == [1] * 4, "each is settled once"
    cost = sum(one.cost_usd or 0.0 for (one,) in served)
    assert 0 < cost < 4 * worst
    refused = next(reply for reply in replies if reply.status == 429)
    assert refused.error["code"] == "insufficient_quota"
    again = ask_together(priced, key, 8, stream=stream)
    assert Counter(reply.status for reply in again)[200] == int((4.5 * worst - cost) / worst)


def test_a_cached_reply_repeats_the_fields_of_its_own_request(priced: Platform) -> None:
    asked = {"model": "m", "input": "Once", "temperature": 0, "max_output_tokens": 5}
    first = priced.ask("POST", PATH, {**asked, "metadata": {"n": "1"}})
    second = priced.ask("POST", PATH, {**asked, "metadata": {"n": "2"}})
    streamed = priced.ask("POST", PATH, {**asked, "stream": True})
    assert [reply.headers["x-archwright-cache"] for reply in (first, second, streamed)] == ["miss", "hit", "hit"]
    assert second.json["metadata"] == {"n": "2"} and second.json["id"] != first.json["id"]
    last = json.loads(streamed.body.decode().split("event: response.incomplete\ndata: ")[1].splitlines()[0])
    texts = [body["output"][0]["content"][0]["text"] for body in (first.json, second.json, last["response"])]
    assert len(set(texts)) == 1 and texts[0]
    assert last["response"]["usage"] == {**second.json["usage"], "cost_usd": 0.0}


def _chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def test_reasoning_goes_out_and_comes_back(priced: Platform, module_place: Place) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    events = [_chunk(reasoning_content="Hm"), _chunk(reasoning_content="m."), _chunk(tool_calls=[call]), end]
    module_place.script = Script(chat_events(*events))
    asked: dict[str, Any] = {"model": "chat", "tools": [WEATHER]}
    with openai_client(priced) as client:
        first = client.responses.create(input="hi", **asked)
        assert [item.type for item in first.output] == ["reasoning", "function_call"]
        module_place.script = Script(chat_events(_chunk(content="Yes"), end))
        output = {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "18"}]}
        history: Any = [*HELLO, *first.output, output]
        assert client.responses.create(input=history, **asked).output_text == "Yes"
    assert module_place.last.path == "/v1/chat/completions"
    _user, assistant, tool = module_place.last.body["messages"]
    assert assistant["reasoning_content"] == "Hmm." and assistant["tool_calls"][0]["id"] == "call_1"
    assert (tool["role"], tool["tool_call_id"], tool["content"]) == ("tool", "call_1", "18")


def test_a_stream_that_fails_ends_with_an_event(priced: Platform, module_place: Place) -> None:
    module_place.script = Script(chat_events(_chunk(content="a"), {"error": {"message": "boom", "code": 500}}))
    reply = priced.ask("POST", PATH, {"model": "chat", "input": "hi", "stream": True})
    kinds = [line[7:] for line in reply.body.decode().splitlines() if line.startswith("event: ")]
    assert kinds[-2:] == ["response.output_text.delta", "response.failed"]
    failed = json.loads(reply.body.decode().split("event: response.failed\ndata: ")[1].splitlines()[0])
    assert check_schema(failed["response"]).status == "failed"
    assert failed["response"]["error"]["code"] == "server_error"


def _native_reply(*events: dict[str, Any], **end: Any) -> Script:
    usage: dict[str, Any] = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    usage |= {"input_tokens_details": {"cached_tokens": 2}, "output_tokens_details": {"reasoning_tokens": 1}}
    last = {"type": "response.completed", "response": {"status": "completed", "usage": usage, **end}}
    return Script(message_events({"type": "response.created", "response": {}}, *events, last))


def test_an_engine_that_speaks_the_interface_gets_the_body(priced: Platform, module_place: Place) -> None:
    reasoning = {"type": "reasoning", "id": "rs_9", "summary": [], "encrypted_content": "SECRET"}
    call = {"type": "function_call", "id": "fc_9", "call_id": "call_9", "name": "get_weather", "arguments": ""}
    module_place.script = _native_reply(
        {"type": "response.output_item.added", "output_index": 0, "item": {**reasoning, "encrypted_content": None}},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "Thinking"},
        {"type": "response.output_item.done", "output_index": 0, "item": reasoning},
        {"type": "response.output_item.added", "output_index": 1, "item": call},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": "{}"},
        {"type": "response.output_item.done", "output_index": 1, "item": {**call, "arguments": "{}"}},
    )
    asked: dict[str, Any] = {"model": "native", "tools": [WEATHER], "include": ["reasoning.encrypted_content"]}
    asked |= {"reasoning": {"effort": "high", "summary": "auto"}, "store": True, "max_output_tokens": 9}
    with openai_client(priced) as client:
        first = client.responses.create(input="hi", **asked)
        sent = module_place.last.body
        assert module_place.last.path == "/v1/responses" and sent["store"] is False and sent["stream"] is True
        assert (sent["model"], sent["input"], sent["max_output_tokens"]) == ("vendor/x", "hi", 9)
        assert sent["reasoning"] == asked["reasoning"] and sent["include"] == asked["include"]
        assert first.usage is not None and (first.usage.input_tokens, first.usage.output_tokens) == (7, 3)
        thought, called = first.output
        assert thought.type == "reasoning" and thought.encrypted_content == "SECRET"
        assert [part.text for part in thought.summary] == ["Thinking"] and thought.id != "rs_9"
        assert called.type == "function_call" and called.call_id == "call_9"
        module_place.script = _native_reply({"type": "response.output_text.delta", "output_index": 0, "delta": "ok"})
        output = {"type": "function_call_output", "call_id": "call_9", "output": "18"}
        history: Any = [*HELLO, *first.output, output]
        with client.responses.stream(input=history, **asked) as stream:
            assert stream.get_final_response().output_text == "ok"
    items = module_place.last.body["input"]
    assert [item.get("type") for item in items] == ["message", "reasoning", "function_call", "function_call_output"]
    assert items[1]["encrypted_content"] == "SECRET" and not any("id" in item for item in items)


def test_an_engine_that_speaks_the_interface_is_limited_too(priced: Platform, module_place: Place) -> None:
    deltas = [{"type": "response.output_text.delta", "output_index": 0, "delta": "x"}] * 6
    module_place.script = Script(message_events(*deltas), hangs=True)
    key = priced.made_key("tpm", tpm=100_000)
    body = {"model": "native", "input": "hi", "max_output_tokens": 4, "stream": True}
    reply = priced.ask("POST", PATH, body, key=key)
    assert b"event: response.failed" in reply.body and module_place.gone.wait(WAIT_S)
    (one,) = priced.served(reply.headers["x-request-id"])
    assert one.output_tokens <= 6


def test_a_failure_of_an_engine_that_speaks_the_interface(priced: Platform, module_place: Place) -> None:
    error = {"code": "rate_limit_exceeded", "message": "slow down"}
    module_place.script = Script(message_events({"type": "response.failed", "response": {"error": error}}))
    reply = priced.ask("POST", PATH, {"model": "native", "input": "hi"})
    assert reply.status == 429
    module_place.script = whole({"error": {"message": "no such tool", "type": "invalid_request_error"}}, 400)
    reply = priced.ask("POST", PATH, {"model": "native", "input": "hi"})
    assert (reply.status, reply.error["code"]) == (400, "engine_refused")


@pytest.mark.nightly
def test_a_real_model_answers_calls_and_follows_a_schema(llama: Platform) -> None:
    asked: dict[str, Any] = {"model": "smol", "temperature": 0, "max_output_tokens": 120}
    with openai_client(llama) as client:
        plain = client.responses.create(input="What is the capital of France? Answer with one word.", **asked)
        assert "Paris" in plain.output_text and plain.status == "completed"
        parsed = client.responses.parse(input="Describe a city.", text_format=City, **asked).output_parsed
        assert parsed is None or isinstance(parsed, City), "the model may reach the limit"
        first = client.responses.create(input="Weather in Rome?", tools=[WEATHER], tool_choice="required", **asked)
        (call,) = [item for item in first.output if item.type == "function_call"]
        assert set(json.loads(call.arguments)) == {"city"}
        with client.responses.stream(input="Say hello.", **asked) as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
            assert "".join(deltas) == stream.get_final_response().output_text
