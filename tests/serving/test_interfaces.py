"""The four interfaces of a gateway by one table: a request, what the engine gets of it, and the events of the reply.

The types of the official clients check each body and each event.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from tests.serving.conftest import starting
from tests.serving.fake_provider import Script, chat_events, standing_in, whole

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Reply
    from tests.serving.fake_provider import Place

pytestmark = pytest.mark.enable_socket

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "hi"}
ENGINE_CHAT = {"model": "m", "messages": [SYSTEM, USER], "max_tokens": 2}
WITH_USAGE = {"stream_options": {"include_usage": True}}


class Interface(NamedTuple):
    """A row of the table. `events`: outlines of the events of a stream.

    `summary` of a complete reply: its kind and role, text, why it ended, tokens read and generated. `refusals`: type,
    code and field of the error by status.
    """

    path: str
    request: dict[str, Any]
    engine_request: dict[str, Any]
    reply_type: type[Any]
    summary: tuple[str, ...]
    event_type: Any
    events: tuple[str, ...]
    refusals: dict[int, tuple[str | None, ...]]


OPENAI_REFUSALS: dict[int, tuple[str | None, ...]] = {
    400: ("invalid_request_error", "invalid_value", "temperature"),
    401: ("authentication_error", "invalid_api_key", None),
    404: ("invalid_request_error", "model_not_found", "model"),
}
MESSAGES_REFUSALS: dict[int, tuple[str | None, ...]] = {
    400: ("invalid_request_error",),
    401: ("authentication_error",),
    404: ("not_found_error",),
}
INTERFACES = {
    "chat": Interface(
        path="/v1/chat/completions",
        request={"model": "m", "messages": [SYSTEM, USER], "max_tokens": 2},
        engine_request=ENGINE_CHAT,
        reply_type=ChatCompletion,
        summary=("chat.completion", "assistant", "Good day", "length", "7", "2"),
        event_type=ChatCompletionChunk,
        events=("assistant:", "Good ", "day", "length", "[DONE]"),
        refusals=OPENAI_REFUSALS,
    ),
    "completions": Interface(
        path="/v1/completions",
        request={"model": "m", "prompt": "hi", "max_tokens": 2},
        engine_request={"model": "m", "prompt": "hi", "max_tokens": 2},
        reply_type=Completion,
        summary=("text_completion", "Good day", "length", "7", "2"),
        event_type=Any,  # the client's type wants a reason to end in every event
        events=("Good ", "day", "length", "[DONE]"),
        refusals=OPENAI_REFUSALS,
    ),
    "responses": Interface(
        path="/v1/responses",
        request={"model": "m", "instructions": "Be brief.", "input": "hi", "max_output_tokens": 2},
        engine_request=ENGINE_CHAT,
        reply_type=Response,
        summary=("incomplete", "assistant", "Good day", "max_output_tokens", "7", "2"),
        event_type=ResponseStreamEvent,
        events=(
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta Good ",
            "response.output_text.delta day",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
            "[DONE]",
        ),
        refusals=OPENAI_REFUSALS,
    ),
    "messages": Interface(
        path="/v1/messages",
        request={"model": "m", "system": "Be brief.", "messages": [USER], "max_tokens": 2},
        engine_request=ENGINE_CHAT,
        reply_type=Message,
        summary=("message", "assistant", "Good day", "max_tokens", "7", "2"),
        event_type=RawMessageStreamEvent,
        events=(
            "message_start",
            "ping",
            "content_block_start",
            "content_block_delta Good ",
            "content_block_delta day",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ),
        refusals=MESSAGES_REFUSALS,
    ),
}


def answer(body: Any) -> Script:
    """Reply as an engine that is cut off after two tokens, to the interface and in the form of the request."""
    if body.get("stream"):
        return Script(chat_events(*list_engine_events(body)))
    choice = {"index": 0, "finish_reason": "length"}
    if "prompt" in body:
        return whole({"choices": [{**choice, "text": "Good day"}], "usage": USAGE})
    message = {"role": "assistant", "content": "Good day"}
    return whole({"choices": [{**choice, "message": message}], "usage": USAGE})


def list_engine_events(body: Any) -> Iterator[dict[str, Any]]:
    for text, reason in (("Good ", None), ("day", None), ("", "length")):
        part = {"text": text} if "prompt" in body else {"delta": {"content": text}}
        yield {"choices": [{"index": 0, "finish_reason": reason, **part}]}
    yield {"choices": [], "usage": USAGE}


@pytest.fixture(scope="module")
def engine(processes: None) -> Iterator[Place]:
    with standing_in() as place:
        place.choose = answer
        yield place


@pytest.fixture(scope="module")
def platform(engine: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with starting(tmp_path_factory.mktemp("interfaces")) as start:
        yield start([{"addresses": (engine.url,), "health_path": "/models"}], [])


@pytest.fixture(params=list(INTERFACES.values()), ids=list(INTERFACES))
def interface(request: pytest.FixtureRequest) -> Interface:
    assert isinstance(request.param, Interface)
    return request.param


def read_events(reply: Reply) -> list[Any]:
    """Return the data of the events, the end mark as a text."""
    events: list[Any] = []
    for line in reply.body.decode().splitlines():
        name, _, data = line.partition(": ")
        if name == "data":
            events.append(data if data == "[DONE]" else json.loads(data))
    return events


def outline(event: Any) -> str:
    """Return the kind of an event and the text that it adds."""
    if isinstance(event, str):
        return event
    if "type" in event:
        delta = event.get("delta", "")
        text = delta.get("text", "") if isinstance(delta, dict) else delta
        return f"{event['type']} {text}" if text else str(event["type"])
    if not event["choices"]:
        return f"usage {event['usage']['prompt_tokens']} {event['usage']['completion_tokens']}"
    (choice,) = event["choices"]
    delta = choice.get("delta", {})
    if "role" in delta:
        return f"{delta['role']}:"
    return str(choice["finish_reason"] or delta.get("content") or choice["text"])


def summarise(reply: Any) -> tuple[str, ...]:
    """Return what a complete reply says, from the official type of its interface."""
    said: tuple[object, ...]
    parts: tuple[object, ...]
    match reply:
        case ChatCompletion(choices=[choice], usage=usage) if usage is not None:
            said = (choice.message.role, choice.message.content, choice.finish_reason)
            parts = (reply.object, *said, usage.prompt_tokens, usage.completion_tokens)
        case Completion(choices=[choice], usage=usage) if usage is not None:
            parts = (reply.object, choice.text, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens)
        case Response(output=[item], usage=usage, incomplete_details=details) if usage is not None and details:
            assert item.type == "message"
            said = (item.role, reply.output_text, details.reason)
            parts = (reply.status, *said, usage.input_tokens, usage.output_tokens)
        case Message(content=[block], usage=usage):
            assert block.type == "text"
            said = (reply.role, block.text, reply.stop_reason)
            parts = (reply.type, *said, usage.input_tokens, usage.output_tokens)
        case _:
            raise AssertionError(reply)
    return tuple(map(str, parts))


def test_a_complete_reply(interface: Interface, platform: Platform, engine: Place) -> None:
    reply = platform.ask("POST", interface.path, interface.request)
    assert reply.status == 200 and reply.headers["x-request-id"].startswith("aw-")
    assert summarise(interface.reply_type.model_validate(reply.json)) == interface.summary
    assert engine.last.body == interface.engine_request


def test_the_events_of_a_stream(interface: Interface, platform: Platform, engine: Place) -> None:
    reply = platform.ask("POST", interface.path, {**interface.request, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = read_events(reply)
    assert tuple(map(outline, events)) == interface.events
    event_type: TypeAdapter[Any] = TypeAdapter(interface.event_type)
    for event in events:
        if outline(event) not in ("[DONE]", "ping"):
            event_type.validate_python(event)
    assert engine.last.body == {**interface.engine_request, "stream": True, **WITH_USAGE}


@pytest.mark.parametrize("name", ["chat", "completions"])
def test_the_usage_of_a_stream_on_request(name: str, platform: Platform) -> None:
    """Responses and Messages always send the usage."""
    interface = INTERFACES[name]
    reply = platform.ask("POST", interface.path, {**interface.request, "stream": True, **WITH_USAGE})
    outlines = tuple(map(outline, read_events(reply)))
    assert outlines == (*interface.events[:-1], "usage 7 2", "[DONE]")


def test_refusals(interface: Interface, platform: Platform) -> None:
    replies = {
        400: platform.ask("POST", interface.path, {**interface.request, "temperature": 9}),
        401: platform.ask("POST", interface.path, interface.request, key="aw_wrong"),
        404: platform.ask("POST", interface.path, {**interface.request, "model": "nobody"}),
    }
    for status, reply in replies.items():
        error = reply.error
        fields = (error["type"], *(error[name] for name in ("code", "param") if name in error))
        assert (reply.status, fields) == (status, interface.refusals[status])
