"""Replies of several engines that differ from OpenAI's, through the real gateway and with the official clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest
from tests.serving.fake_provider import Place, Script, chat_events, standing_in, whole

from archwright.home import Home

from .conftest import Platform, endpoint, free_port, running, table
from .official_clients import HELLO, anthropic_client, openai_client

if TYPE_CHECKING:
    from .conftest import Start

pytestmark = pytest.mark.enable_socket
NO_STORE = {"cache-control": "no-store"}
FUNCTIONS: Any = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in "fg"]
STOP = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with standing_in() as made:
        yield made


@pytest.fixture(scope="module")
def platform(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The stand-in as model m, and as one whose calls the gateway makes (by)."""
    spec: dict[str, Any] = {"addresses": (place.url,), "health_path": "", "cache": "all"}
    by = endpoint(model="by", workload="by", pool="by", tools="gateway", **spec)
    with running(Home(tmp_path_factory.mktemp("dialects")), table(endpoint(**spec), by, port=free_port())) as made:
        yield made


@pytest.fixture
def chats(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai_client(platform, default_headers=NO_STORE) as made:
        yield made


def replied(message: dict[str, Any], finish: str = "stop", **more: Any) -> Script:
    return whole({"choices": [{"index": 0, "message": message, "finish_reason": finish}], **more})


def piece(finish: str | None = None, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}


WELL = Script(chat_events(piece("stop", content="well")))


def call(known: str, name: str, arguments: str, **more: Any) -> dict[str, Any]:
    return {"id": known, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, {"object": "error", "message": "no such thing", "type": "BadRequestError", "code": 400}, "no such thing"),
        (400, [{"error": {"code": 400, "message": "no such thing", "status": "INVALID_ARGUMENT"}}], ": no such thing"),
        (422, {"detail": [{"loc": ["body", "x"], "msg": "no such thing"}]}, "no such thing"),
        (400, {"object": "error", "message": "This model's maximum context length is 9 tokens."}, "prompt is too long"),
        (400, [], "no reason given"),
    ],
)
def test_why_it_refuses_is_told_wherever_it_says_so(
    chats: openai.OpenAI, place: Place, status: int, body: Any, said: str
) -> None:
    place.script = whole(body, status)
    with pytest.raises(openai.BadRequestError, match=said):
        chats.chat.completions.create(model="m", messages=HELLO)


@contextmanager
def next_pool(start: Start, place: Place) -> Iterator[tuple[Platform, Place]]:
    """A gateway whose pool p is the place, and the place of the pool o that it falls back to."""
    with standing_in() as other:
        other.script = WELL
        more = (endpoint(pool="o", addresses=(other.url,), health_path="").pool,)
        yield start([{"addresses": (place.url,), "health_path": "", "fallback": ("o",)}], [], more=more), other


def test_what_only_an_engine_can_have_wrong_is_asked_of_the_next(start: Start, place: Place) -> None:
    """No money left, another path, moved elsewhere."""
    with next_pool(start, place) as (platform, _):
        for status in (302, 402, 405):
            place.script = whole({"error": {"message": "not here"}}, status)
            reply = platform.chat()
            assert (reply.status, reply.headers["x-archwright-route"]) == (200, "o"), status
        place.script = whole({"error": {"message": "the words are wrong"}}, 413)
        assert platform.chat().status == 502


def test_whoever_is_refused_often_and_not_mostly_is_served_by_the_next(start: Start, place: Place) -> None:
    """A provider at its limit: its breaker stays closed, the retries of a pool are few, and the next pool is idle."""
    full = whole({"error": {"message": "slow down"}}, 429)
    with next_pool(start, place) as (platform, other):
        routes = []
        for number in range(120):
            place.script = full if number % 5 in (1, 3) else WELL
            reply = platform.chat(max_tokens=1)
            assert reply.status == 200, number
            routes.append(reply.headers["x-archwright-route"])
        assert routes.count("o") == 48 and len(other.asked) == 48, "each failed once, and was asked once of the next"


def test_a_stream_without_its_mark_is_whole_where_each_choice_ended(chats: openai.OpenAI, place: Place) -> None:
    place.script = Script(chat_events(piece(content="a"), STOP)[:-1])
    *_, last = chats.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert last.choices[0].finish_reason == "stop"
    assert chats.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == "a"
    place.script = Script(chat_events(piece(content="a"))[:-1])
    with pytest.raises(openai.InternalServerError):
        chats.chat.completions.create(model="m", messages=HELLO)


@pytest.mark.parametrize("numbers", [(0, 0), (None, None), (1, 2), (-1, 0)])
def test_calls_without_numbers_of_their_own_stay_apart(
    platform: Platform, chats: openai.OpenAI, place: Place, numbers: tuple[int | None, int | None]
) -> None:
    """As Gemini and older Ollama send them."""
    first, second = ({} if number is None else {"index": number} for number in numbers)
    place.script = Script(
        chat_events(
            piece(tool_calls=[call("c1", "f", '{"a":', **first)]),
            piece(tool_calls=[{**first, "function": {"arguments": "1}"}}]),
            piece("tool_calls", tool_calls=[call("c2", "g", "{}", **second)]),
        )
    )
    asked: dict[str, Any] = {"model": "m", "messages": HELLO, "tools": FUNCTIONS}
    with chats.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    for reply in (streamed, chats.chat.completions.create(**asked)):
        found = [(one.id, one.function.arguments) for one in reply.choices[0].message.tool_calls or []]
        assert found == [("c1", '{"a":1}'), ("c2", "{}")]
    with anthropic_client(platform) as messages:
        tools: Any = [{"name": name, "input_schema": {"type": "object"}} for name in "fg"]
        with messages.messages.stream(model="m", max_tokens=9, messages=HELLO, tools=tools) as told:
            blocks = told.get_final_message().content
    assert [(one.id, one.input) for one in blocks if one.type == "tool_use"] == [("c1", {"a": 1}), ("c2", {})]


def test_a_call_that_had_to_be_made_ends_as_one(platform: Platform, place: Place) -> None:
    """OpenAI and vLLM say "stop" of it; who speaks the Messages interface looks for "tool_use"."""
    tools: Any = [{"name": "f", "input_schema": {"type": "object"}}]
    asked: Any = {"model": "m", "max_tokens": 9, "messages": HELLO, "tools": tools}
    asked["tool_choice"] = {"type": "tool", "name": "f"}
    with anthropic_client(platform, default_headers=NO_STORE) as messages:
        place.script = replied({"content": None, "tool_calls": [call("c1", "f", "{}")]})
        assert messages.messages.create(**asked).stop_reason == "tool_use"
        place.script = Script(chat_events(piece(tool_calls=[call("c1", "f", "{}", index=0)]), STOP))
        with messages.messages.stream(**asked) as told:
            assert told.get_final_message().stop_reason == "tool_use"
        place.script = replied({"content": "a"})
        assert messages.messages.create(**asked).stop_reason == "end_turn"


def test_what_must_come_back_with_a_call_passes_both_ways(chats: openai.OpenAI, place: Place) -> None:
    """Gemini refuses a history whose calls have lost the signatures of their thoughts."""
    signed = {"google": {"thought_signature": "c2ln"}}
    place.script = replied({"content": None, "tool_calls": [call("c1", "f", "{}", extra_content=signed)]}, "tool_calls")
    asked: dict[str, Any] = {"model": "m", "tools": FUNCTIONS}
    turns = list(HELLO)
    plain = chats.chat.completions.create(messages=turns, **asked).choices[0].message
    place.script = Script(chat_events(piece(tool_calls=[call("c1", "f", "{}", index=0, extra_content=signed)]), STOP))
    with chats.chat.completions.stream(messages=turns, **asked) as stream:
        streamed = stream.get_final_completion().choices[0].message
    for message in (plain, streamed):
        said: Any = message.model_dump(exclude_none=True)
        chats.chat.completions.create(messages=[*turns, said], **asked)
        (sent,) = place.last.body["messages"][1]["tool_calls"]
        assert sent == call("c1", "f", "{}", extra_content=signed)


def test_a_tool_that_takes_any_text_is_called_and_answered(chats: openai.OpenAI, place: Place) -> None:
    tools: Any = [{"type": "custom", "custom": {"name": "run"}}]
    made = {"id": "c1", "type": "custom", "custom": {"name": "run", "input": "print(1)"}}
    place.script = replied({"content": None, "tool_calls": [made]}, "tool_calls")
    message = chats.chat.completions.create(model="m", messages=HELLO, tools=tools).choices[0].message
    said: Any = message.model_dump(exclude_none=True)
    assert said["tool_calls"] == [made]
    begun = {**made, "index": 0, "custom": {"name": "run", "input": "print"}}
    rest = {"index": 0, "custom": {"input": "(1)"}}
    place.script = Script(chat_events(piece(tool_calls=[begun]), piece("tool_calls", tool_calls=[rest])))
    assert chats.chat.completions.create(model="m", messages=HELLO, tools=tools).choices[0].message == message
    pieces = chats.chat.completions.create(model="m", messages=HELLO, tools=tools, stream=True)
    deltas = [one.choices[0].delta.to_dict() for one in pieces]
    inputs: list[Any] = [one["custom"]["input"] for delta in deltas for one in delta.get("tool_calls", ())]  # type: ignore[attr-defined]
    assert inputs == ["print", "(1)"]
    turns = [*HELLO, said, {"role": "tool", "tool_call_id": "c1", "content": "1"}]
    chats.chat.completions.create(model="m", messages=turns, tools=tools)
    assert place.last.body["messages"][1]["tool_calls"] == [made]
    for fields in ({"messages": HELLO, "tools": tools}, {"messages": turns}):
        with pytest.raises(openai.BadRequestError, match="function tools"):
            chats.chat.completions.create(model="by", **fields)


def test_a_token_without_text_keeps_its_probability(chats: openai.OpenAI, place: Place) -> None:
    """vLLM holds a text back until its characters are whole; the tokens come when they come."""

    def token(text: str) -> dict[str, Any]:
        return {"content": [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}]}

    tokens = piece(content="", logprobs=token("x")), piece(content="xy", logprobs=token("y"))
    place.script = Script(chat_events(*tokens, STOP))
    asked: dict[str, Any] = {"model": "m", "messages": HELLO, "logprobs": True}
    with chats.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    for reply in (streamed, chats.chat.completions.create(**asked)):
        found = reply.choices[0].logprobs
        assert found is not None and [one.token for one in found.content or []] == ["x", "y"]


def test_a_refusal_goes_back_as_history(chats: openai.OpenAI, place: Place) -> None:
    place.script = replied({"content": None, "refusal": "no"})
    message: Any = chats.chat.completions.create(model="m", messages=HELLO).choices[0].message
    assert (message.content, message.refusal) == (None, "no")
    chats.chat.completions.create(model="m", messages=[*HELLO, message, *HELLO])
    assert place.last.body["messages"][1] == {"role": "assistant", "content": None, "refusal": "no"}
    for silent in ({"role": "assistant", "content": None}, {"role": "user", "content": None, "refusal": "no"}):
        bad: Any = [*HELLO, silent]
        with pytest.raises(openai.BadRequestError):
            chats.chat.completions.create(model="m", messages=bad)


def test_tokens_of_thought_and_no_limit_of_words(chats: openai.OpenAI, place: Place) -> None:
    used: dict[str, Any] = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    used["completion_tokens_details"] = {"reasoning_tokens": 7, "x": 1}
    place.script = replied({"content": "a"}, usage=used)
    reply = chats.chat.completions.create(model="m", messages=HELLO, extra_body={"top_k": -1, "top_logprobs": 0})
    assert place.last.body["top_k"] == -1
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 7


def test_offsets_are_the_same_from_the_cache(platform: Platform, place: Place) -> None:
    def said(text: str, finish: str | None, top: Any) -> dict[str, Any]:
        logprobs = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [top], "text_offset": [0]}
        return {"choices": [{"index": 0, "text": text, "finish_reason": finish, "logprobs": logprobs}]}

    place.script = Script(chat_events(said("ab", None, {"ab": -0.5}), said("c", "stop", {"c": -0.5})))
    for fields, offsets in (({"prompt": "hello"}, [5, 7]), ({"prompt": "ab", "echo": True}, [0, 2])):
        found = []
        for stream in (True, True, False):
            body = {"model": "m", "logprobs": 1, "stream": stream, **fields}
            reply = platform.ask("POST", "/v1/completions", body)
            events = [one for one in reply.events if one != "[DONE]"] if stream else [reply.json]
            told = [choice["logprobs"] for one in events for choice in one["choices"] if choice["logprobs"]]
            found.append((reply.headers["x-archwright-cache"], [at for one in told for at in one["text_offset"]]))
        assert found == [("miss", offsets), ("hit", offsets), ("hit", offsets)]


def test_a_call_without_an_id_is_told_again_as_a_stream(platform: Platform, place: Place) -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    place.script = replied({"content": None, "tool_calls": [call]}, "tool_calls")
    asked = {"model": "m", "messages": HELLO, "tools": FUNCTIONS}
    assert platform.chat(**asked).headers["x-archwright-cache"] == "miss"
    again = platform.chat(**asked, stream=True)
    assert again.headers["x-archwright-cache"] == "hit" and again.events[-1] == "[DONE]"
    (told,) = [one["choices"][0]["delta"] for one in again.events[:-1] if "tool_calls" in one["choices"][0]["delta"]]
    assert told["tool_calls"] == [{"index": 0, **call}]


def test_what_no_reply_has_a_place_for_is_refused_before_it_is_paid(chats: openai.OpenAI, place: Place) -> None:
    place.script = replied({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, "function_call")
    before = len(place.asked)
    unserved: dict[str, Any] = {
        "functions": [{"name": "f", "parameters": {}}],
        "modalities": ["text", "audio"],
        "audio": {"voice": "alloy", "format": "wav"},
        "web_search_options": {"search_context_size": "low"},
    }
    for param, value in unserved.items():
        fields: Any = {param: value}
        with pytest.raises(openai.BadRequestError) as caught:
            chats.chat.completions.create(model="m", messages=HELLO, **fields)
        code = "unsupported_value" if param in ("functions", "modalities") else "unsupported_parameter"
        assert (caught.value.param, caught.value.code) == (param, code)
    assert len(place.asked) == before
    chats.chat.completions.create(model="m", messages=HELLO, modalities=["text"])


DEEP = "[" * 3000 + "]" * 3000
BESIDE = json.dumps({**piece("stop", content="a"), "x": "DEEP"}).replace('"DEEP"', DEEP)


@pytest.mark.parametrize(
    "script",
    [
        Script([f"data: {BESIDE}\n\n".encode(), b"data: [DONE]\n\n"]),
        Script([f": first\n\ndata: {BESIDE}\n\n".encode()]),
        Script([BESIDE.replace("delta", "message").encode()], 200, "application/json"),
        Script([DEEP.encode()], 500, "application/json"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_json_without_end_is_the_engines_nonsense(
    platform: Platform, place: Place, script: Script, stream: bool
) -> None:
    """And not a bug of ours, which no breaker would hear of and no other engine be asked for."""
    place.script = script
    reply = platform.chat(stream=stream, headers={"cache-control": "no-store"})
    assert reply.error["code"] in ("engine_reply_invalid", "engine_failed"), reply.body


@pytest.mark.parametrize("depth", [201, 900, 975, 978, 981, 984, 5000])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"])
def test_a_body_nested_too_deeply_is_the_callers_doing(platform: Platform, depth: int, path: str) -> None:
    inner = "[" * depth + "]" * depth
    content = '[{"type": "tool_use", "id": "a", "name": "b", "input": {"x": INNER}}]'
    body = '{"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": CONTENT}], "more": INNER}'
    reply = platform.ask("POST", path, body.replace("CONTENT", content).replace("INNER", inner).encode())
    assert (reply.status, "nested too deeply" in reply.error["message"]) == (400, True)


@pytest.mark.parametrize("part", ["{}", "[]", '{"a":{}}'])
def test_a_body_of_small_change_is_refused(platform: Platform, part: str) -> None:
    """Parts of three bytes each take a hundred times their size in memory once decoded."""
    body = '{"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "CONTENT"}], "more": [MORE]}'
    many = ",".join([part] * 150_000)
    reply = platform.ask("POST", "/v1/chat/completions", body.replace("MORE", many).encode())
    assert (reply.status, "objects and lists" in reply.error["message"]) == (400, True)
    quoted = json.dumps(many)[1:-1]
    said = platform.ask("POST", "/v1/chat/completions", body.replace("CONTENT", quoted).replace("MORE", "").encode())
    assert "objects and lists" not in said.body.decode(), "of text it may hold as many as it likes"
