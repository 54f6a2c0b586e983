"""A field reaches an engine behind a URL only if a row of the engine or its operator names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.fake_provider import Script, chat_events, message_end, message_events, message_start, whole, words

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start
    from tests.serving.fake_provider import Place

pytestmark = pytest.mark.enable_socket
HELLO = [{"role": "user", "content": "hi"}]
HOST = "http://169.254.169.254/"
ANSWER = Script(chat_events({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}))
MESSAGE = Script(message_events(message_start(input_tokens=1), *words(0, "a"), *message_end("end_turn", 1)))
FOREIGN: dict[str, Any] = {
    "api_base": HOST,
    "extra_headers": {"x": "y"},
    "prompt_embeds": "AAAA",
    "lora_request": {"lora_path": "/x"},
    "mm_processor_kwargs": {"num_crops": 512},
    "extra_body": {"api_base": HOST},
    "chat_template_kwargs": {"chat_template": "{{ x }}"},
    "provider": {"order": ["other"]},
    "messages.content.video_url": 1,
    "": 1,
}
PARTS: list[dict[str, Any]] = [
    {"type": "image_embeds", "image_embeds": "AAAA"},
    {"type": "video_url", "video_url": {"url": HOST}},
    {"type": "audio_url", "audio_url": {"url": HOST}},
    {"type": "input_audio", "input_audio": {"data": HOST, "format": "wav"}},
    {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav", "url": HOST}},
    {"type": "file", "file": {"file_id": "file-of-another-tenant"}},
    {"type": "file", "file": {"file_data": HOST}},
]
TOOLS: list[dict[str, Any]] = [
    {"type": "mcp", "server_url": HOST},
    {"type": "custom", "custom": {"name": "x"}, "server_url": HOST},
]
BLOCKS: list[dict[str, Any]] = [
    {"type": "document", "source": {"type": "url", "url": HOST}},
    {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    {"type": "container_upload", "file_id": "file_1"},
    {"type": "text", "text": "x", "url": HOST},
    {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "document", "source": {"type": "url"}}]},
]


REFUSALS = ("unknown_parameter", "unsupported_parameter", "unsupported_value", "invalid_value", "invalid_type")


def said(**fields: Any) -> dict[str, Any]:
    return {"messages": [{**HELLO[0], **fields}]}


@pytest.fixture
def platform(start: Start, place: Place) -> Platform:
    """Model m behind a URL, model by whose operator allows some fields, model own of the Messages interface."""
    spec = {"addresses": (place.url,), "health_path": "", "embeddings": True}
    allowed = ("provider", "messages.content.video_url", "messages.prefix")
    by = {**spec, "model": "by", "workload": "by", "pool": "by", "allow_fields": allowed}
    own = {**spec, "model": "own", "workload": "own", "pool": "own", "protocol": "anthropic"}
    uploads = ("context_hint", "messages.content.container_upload", "messages.prefix", "tools.web_1")
    ours = {**own, "model": "ours", "workload": "ours", "pool": "ours", "allow_fields": uploads}
    return start([spec, by, own, ours], [])


def test_no_foreign_field_reaches_an_engine(platform: Platform, place: Place) -> None:
    place.script = ANSWER
    bodies = [(f"/v1/{path}", body) for path, body in REQUESTS.items()]
    for path, body in [(path, {**body, name: value}) for path, body in bodies for name, value in FOREIGN.items()]:
        refused(platform, path, body)
    chats = [said(**{name: HOST}) for name in ("api_base", "audio", "prefix")]
    chats += [said(content=[part]) for part in PARTS]
    chats += [{"messages": HELLO, "tools": [tool]} for tool in TOOLS]
    for body in chats:
        refused(platform, "/v1/chat/completions", {"model": "m", **body})
    for body in (*(said(content=[block]) for block in BLOCKS), said(x=1), {**said(), "system": [{"type": "image"}]}):
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            refused(platform, path, {"model": "own", "max_tokens": 5, **body})
    for message in NOT_ALLOWED:
        refused(platform, "/v1/messages", {"model": "ours", "max_tokens": 5, "messages": [message]})
    for field in ("content.input_audio", "content.video_url"):
        refused(platform, "/v1/chat/completions", {"model": "by", **said(**{field: 1})})
    assert not place.asked


# An allowed name allows neither a message or a block of this kind, nor an inner field of this name.
NOT_ALLOWED: list[dict[str, Any]] = [
    {"type": "prefix", "role": "user", "content": BLOCKS[:1]},
    {"role": "user", "content": "x", "content.container_upload": 1},
    {"role": "user", "content": [{"type": "text", "text": "x", "container_upload": 1}]},
    {"role": "user", "content": [{"type": "prefix", "url": HOST}]},
]


REQUESTS: dict[str, dict[str, Any]] = {
    "chat/completions": {"model": "m", "messages": HELLO},
    "completions": {"model": "m", "prompt": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
    "messages": {"model": "own", "messages": HELLO, "max_tokens": 5},
}


def refused(platform: Platform, path: str, body: dict[str, Any]) -> None:
    reply = platform.ask("POST", path, body)
    assert reply.status == 400, (path, body)
    assert reply.error.get("code", "unknown_parameter") in REFUSALS, (path, body)


def test_an_operator_allows_a_field(platform: Platform, place: Place) -> None:
    reply = platform.ask("POST", "/v1/chat/completions", {"model": "m", "messages": HELLO, "provider": {}})
    assert "--allow-field NAME=provider" in reply.error["message"]
    place.script = ANSWER
    video = {"type": "video_url", "video_url": {"url": HOST}}
    asked: dict[str, Any] = {
        "model": "by",
        "messages": [{**HELLO[0], "content": [video], "prefix": True}],
        "provider": {"order": [1]},
    }
    assert platform.ask("POST", "/v1/chat/completions", asked).status == 200
    assert (place.last.body["messages"], place.last.body["provider"]) == (asked["messages"], asked["provider"])
    place.script = MESSAGE
    blocks = [{"type": "container_upload", "file_id": "f"}]
    asked = {"model": "ours", "max_tokens": 5, "messages": [{"role": "user", "content": blocks}], "context_hint": 1}
    assert platform.ask("POST", "/v1/messages", asked).status == 200
    assert (place.last.body["messages"], place.last.body["context_hint"]) == (asked["messages"], 1)
    place.script = whole({"data": [{"index": 0, "embedding": [1.0]}]})
    assert platform.ask("POST", "/v1/embeddings", {"model": "by", "input": "x", "provider": {}}).status == 200
    assert place.last.body["provider"] == {}
