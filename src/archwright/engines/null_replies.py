"""Replies of the null engine: validated like a real engine's, counted in words, equal for equal requests."""

import hashlib
import json
import re
from collections.abc import Mapping
from itertools import chain, cycle, islice
from typing import Any, NamedTuple

TOKEN_PATTERN = re.compile(r"\s*\S+")
DEPTH_LIMIT = 32


class ErrorReply(Exception):
    """Becomes an error reply in OpenAI's format; `more` are the fields that llama.cpp adds."""

    def __init__(self, status: int, kind: str, message: str, **more: int) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": status, "message": message, "type": kind, **more}}


def invalid_request_error(message: str) -> ErrorReply:
    return ErrorReply(400, "invalid_request_error", message)


class NullReply(NamedTuple):
    """A complete reply, before its tokens are sent one by one."""

    prompt_tokens: int
    tokens: list[str]
    finish_reason: str


def split_tokens(text: str) -> list[str]:
    """A token is a word with the space before it."""
    return TOKEN_PATTERN.findall(text)


def build_reply(body: Mapping[str, Any], text: str, context_tokens: int, default_max_tokens: int) -> NullReply:
    """The reply to a request: `text` repeated up to the limit, or the minimal document of a schema."""
    prompt_tokens = len(split_tokens(_read_prompt(body)))
    if prompt_tokens >= context_tokens:
        message = f"the request exceeds the available context size ({prompt_tokens} of {context_tokens} tokens)"
        sizes = {"n_prompt_tokens": prompt_tokens, "n_ctx": context_tokens}
        raise ErrorReply(400, "exceed_context_size_error", message, **sizes)
    wanted = body.get("max_completion_tokens", body.get("max_tokens"))
    if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
        raise invalid_request_error("max_tokens must be a positive integer")
    limit = min(default_max_tokens if wanted is None else wanted, context_tokens - prompt_tokens)
    document = _build_document(body.get("response_format"))
    if document is None:
        words = split_tokens(text)
        source = islice(chain(words, cycle(f" {word.strip()}" for word in words)), limit)
        return _apply_stop(NullReply(prompt_tokens, list(source), "length"), body)
    whole = split_tokens(document)
    return NullReply(prompt_tokens, whole[:limit], "stop" if len(whole) <= limit else "length")


def build_vector(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    digest = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(dimensions)
    raw = [byte - 127.5 for byte in digest]
    length = sum(value * value for value in raw) ** 0.5
    return [value / length for value in raw]


def _read_prompt(body: Mapping[str, Any]) -> str:
    if "messages" not in body:
        if isinstance(body.get("prompt"), str):
            return str(body["prompt"])
        raise invalid_request_error("the request needs a prompt or messages")
    messages = body["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise invalid_request_error("messages must be a list of objects")
    return " ".join(str(message.get("content", "")) for message in messages)


def _apply_stop(reply: NullReply, body: Mapping[str, Any]) -> NullReply:
    stop = body.get("stop") or []
    wanted = [stop] if isinstance(stop, str) else stop
    text = "".join(reply.tokens)
    found = [at for at in (text.find(word) for word in wanted) if at >= 0]
    return reply._replace(tokens=split_tokens(text[: min(found)]), finish_reason="stop") if found else reply


def _build_document(form: object) -> str | None:
    if not isinstance(form, dict) or form.get("type") == "text":
        return None
    if form.get("type") == "json_object":
        return "{}"
    try:
        return json.dumps(_build_minimal_value(form["json_schema"]["schema"], DEPTH_LIMIT))
    except (KeyError, TypeError, AttributeError) as error:
        raise invalid_request_error(f"response_format is invalid: {error}") from error


def _build_minimal_value(schema: Mapping[str, Any], depth: int) -> object:
    """The smallest value that the schema allows: required fields only, at their lower bounds."""
    if depth == 0:
        raise invalid_request_error("the schema is nested too deeply")
    if "anyOf" in schema:
        return _build_minimal_value(schema["anyOf"][0], depth - 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: _build_minimal_value(fields.get(name, {}), depth - 1) for name in schema.get("required", fields)}
    if kind == "array":
        return [_build_minimal_value(schema["items"], depth - 1) for _ in range(schema.get("minItems", 0))]
    simple = {"string": "x" * schema.get("minLength", 1), "boolean": True, "null": None}
    simple |= dict.fromkeys(("integer", "number"), schema.get("minimum", 0))
    if kind not in simple:
        raise invalid_request_error(f"the schema has the unknown type {kind}")
    return simple[kind]
