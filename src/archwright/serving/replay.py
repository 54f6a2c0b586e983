"""A whole reply told again as a stream: what a client that asked for one gets from the cache."""

from __future__ import annotations

from typing import Any

import msgspec

from archwright.serving.shapes import DONE, ChatShape, Chunks, CompletionShape, Envelope


def replay(body: bytes, *, include_usage: bool) -> bytes:
    """The server-sent events of an OpenAI reply, chat or completion: all of it at once, in as few events as keep each
    client's parser content (for each choice its role, its text, its end)."""
    reply: dict[str, Any] = msgspec.json.decode(body)
    chat = reply["object"] == ChatShape.reply_object
    envelope = Envelope(reply["id"], reply["created"], reply["model"], reply.get("system_fingerprint") or "")
    chunks = Chunks(ChatShape() if chat else CompletionShape(), envelope, include_usage=include_usage)
    events = [chunks.choice(part) for choice in reply["choices"] for part in (_chat(choice) if chat else _text(choice))]
    if include_usage and reply.get("usage"):
        events.append(chunks.usage(reply["usage"]))
    return b"".join((*events, DONE))


def _chat(choice: dict[str, Any]) -> list[dict[str, Any]]:
    message = dict(choice["message"])
    role = {"role": message.pop("role"), "content": ""}
    delta = {name: value for name, value in message.items() if value}
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(delta["tool_calls"])]
    parts = [_part(choice, delta=role)]
    if delta:
        parts.append(_part(choice, delta=delta, logprobs=choice.get("logprobs")))
    return [*parts, _part(choice, delta={}, finish_reason=choice["finish_reason"])]


def _text(choice: dict[str, Any]) -> list[dict[str, Any]]:
    told = _part(choice, text=choice["text"], logprobs=choice.get("logprobs"))
    return [told, _part(choice, text="", finish_reason=choice["finish_reason"])]


def _part(choice: dict[str, Any], **parts: object) -> dict[str, Any]:
    return {"index": choice["index"], "logprobs": None, "finish_reason": None, **parts}
