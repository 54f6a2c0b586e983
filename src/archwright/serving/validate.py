"""A body becomes a question an engine can be asked: checked whole, with the endpoint it goes to.

The three tables below are the interface: a field not in them is refused by name (400, param).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archwright.contract.record import Record
from archwright.serving.config import EndpointSpec
from archwright.serving.directory import MODEL_NAME, Directory, Found
from archwright.serving.fields import (
    Check,
    boolean,
    checked,
    integer,
    label,
    length,
    logit_bias,
    metadata,
    number,
    only,
    required,
    response_format,
    seed,
    stop,
    stream_options,
    text,
    unsupported,
)
from archwright.serving.refusal import bad

MESSAGES = 4_096
PARTS = 1_024
INPUTS = 2_048
# Rough characters per token, to weigh a prompt for routing; nothing is decided on its exactness.
CHARACTERS_PER_TOKEN = 4
WORKLOAD_HEADER = "x-archwright-workload"

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Question(Record):
    """What goes to the engine (`body`) and what the client wants to see of the answer. `plain`: the client asked for
    the plan's model itself, without an adapter."""

    model: str
    endpoint: EndpointSpec
    body: dict[str, Any]
    plain: bool = False
    stream: bool = False
    include_usage: bool = False
    top_logprobs: int | None = None
    prompt_characters: int = 0
    base64: bool = False

    @property
    def work_tokens(self) -> int:
        """What this may ask of a replica at most."""
        return int(self.body.get("max_tokens", 0)) + self.prompt_characters // CHARACTERS_PER_TOKEN


def messages(value: Any, name: str, _endpoint: EndpointSpec) -> list[dict[str, str]]:
    if type(value) is not list or not 0 < len(value) <= MESSAGES:
        raise bad(f"{name!r} must be a list of 1 to {MESSAGES} messages", name, "invalid_value")
    return [_message(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _message(value: Any, name: str) -> dict[str, str]:
    if type(value) is not dict:
        raise bad(f"{name!r} must be an object", name, "invalid_type")
    for field, inner in value.items():
        if field in ("role", "content"):
            continue
        if field == "name":
            text(inner, f"{name}.name", MODEL_NAME)
        elif field in ("tool_calls", "function_call", "audio", "refusal", "annotations", "tool_call_id"):
            # Replies sent back as history carry these, empty.
            if inner not in (None, []):
                raise bad(
                    f"'{name}.{field}' is not supported in this release", f"{name}.{field}", "unsupported_parameter"
                )
        else:
            raise bad(f"unknown field '{name}.{field[:80]}'", f"{name}.{field[:80]}", "unknown_parameter")
    role = value.get("role")
    if role in ("tool", "function"):
        raise bad(f"'{name}.role': tools are not supported in this release", f"{name}.role", "unsupported_value")
    if type(role) is not str or role not in ROLES:
        raise bad(f"'{name}.role' must be one of {', '.join(ROLES)}", f"{name}.role", "invalid_value")
    return {"role": ROLES[role], "content": _content(value.get("content"), f"{name}.content")}


def _content(value: Any, name: str) -> str:
    if type(value) is str:
        return value
    if type(value) is not list or not 0 < len(value) <= PARTS:
        raise bad(f"{name!r} must be a string or a list of text parts", name, "invalid_type")
    pieces = []
    for index, part in enumerate(value):
        at = f"{name}[{index}]"
        kind = part.get("type") if type(part) is dict else None
        if type(kind) is str and kind != "text":
            raise bad(f"{at!r}: this model takes text only, not {kind[:40]!r}", at, "unsupported_value")
        if kind is None or set(part) != {"type", "text"}:
            raise bad(f"{at!r} must be {{'type': 'text', 'text': ...}}", at, "invalid_value")
        pieces.append(text(part["text"], f"{at}.text"))
    return "".join(pieces)


def prompt(value: Any, name: str, _endpoint: EndpointSpec) -> str:
    one = value[0] if type(value) is list and len(value) == 1 else value
    if type(one) is not str or not one:
        message = (
            f"{name!r} must be one non-empty string; several prompts or token ids are not supported in this release"
        )
        raise bad(message, name, "unsupported_value")
    return one


def inputs(value: Any, name: str, _endpoint: EndpointSpec) -> list[str]:
    found = [value] if type(value) is str else value
    if type(found) is not list or not 0 < len(found) <= INPUTS or not all(type(i) is str and i for i in found):
        message = f"{name!r} must be a non-empty string or 1 to {INPUTS} of them; token ids are not supported"
        raise bad(message, name, "invalid_value")
    return found


def encoding(value: Any, name: str, _endpoint: EndpointSpec) -> str:
    if value not in ("float", "base64"):
        raise bad(f"{name!r} must be 'float' or 'base64'", name, "invalid_value")
    return str(value)


ONE_CHOICE = only((1,), "this release makes one choice a request; send the request again for another")

SAMPLING: dict[str, Check] = {
    "max_tokens": length,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "top_k": integer(0, 1_000_000),
    "min_p": number(0, 1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "logit_bias": logit_bias,
    "seed": seed,
    "stop": stop,
    "n": ONE_CHOICE,
    "stream": boolean,
    "stream_options": stream_options,
    "user": label,
    "ignore_eos": boolean,
    "cache_prompt": boolean,
}

CHAT: dict[str, Check] = {
    **SAMPLING,
    "messages": messages,
    "max_completion_tokens": length,
    "response_format": response_format,
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "safety_identifier": label,
    "prompt_cache_key": label,
    "metadata": metadata,
    "store": only((False,), "replies are not stored"),
    "service_tier": only(("auto", "default"), "there is one tier"),
    "modalities": only((["text"],), "this model writes text only"),
    **dict.fromkeys(
        (
            "tools",
            "tool_choice",
            "functions",
            "function_call",
            "parallel_tool_calls",
            "audio",
            "prediction",
            "reasoning_effort",
            "verbosity",
            "web_search_options",
        ),
        unsupported,
    ),
}

COMPLETION: dict[str, Check] = {
    **SAMPLING,
    "prompt": prompt,
    "logprobs": integer(0, 5),
    "echo": only((False,), "the prompt is not echoed in this release"),
    "best_of": only((1,), "this release makes one choice a request"),
    "suffix": only(("",), "inserting text is not supported in this release"),
}

EMBEDDING: dict[str, Check] = {
    "input": inputs,
    "encoding_format": encoding,
    "dimensions": unsupported,
    "user": label,
}


def chat(body: Mapping[str, Any], directory: Directory, workload: str | None) -> Question:
    found = directory.find(body.get("model"), workload)
    fields = checked(_but_model(body), CHAT, found.endpoints[0])
    required(fields.get("messages"), "messages")
    top = _chat_logprobs(fields)
    characters = sum(len(message["content"]) for message in fields["messages"])
    return _question(found, fields, top, characters)


def completion(body: Mapping[str, Any], directory: Directory, workload: str | None) -> Question:
    found = directory.find(body.get("model"), workload)
    fields = checked(_but_model(body), COMPLETION, found.endpoints[0])
    required(fields.get("prompt"), "prompt")
    top = fields.pop("logprobs", None)
    if top is not None:
        # An engine reads 0 as "none at all"; OpenAI means the chosen token alone. The surplus is cut from the reply.
        fields["logprobs"] = max(1, top)
    return _question(found, fields, top, len(fields["prompt"]))


def embedding(body: Mapping[str, Any], directory: Directory, workload: str | None) -> Question:
    found = directory.find(body.get("model"), workload)
    able = next((spec for spec in found.endpoints if spec.embeddings), None)
    if able is None:
        raise bad(f"the model {found.name!r} cannot make embeddings", "model", "unsupported_model")
    fields = checked(_but_model(body), EMBEDDING, able)
    texts: list[str] = required(fields.get("input"), "input")
    asked = fields.get("encoding_format", "float")
    sent = {"model": able.engine_model or able.model, "input": texts, "encoding_format": "float"}
    return Question(
        model=found.name,
        endpoint=able,
        body=sent,
        plain=found.plain,
        prompt_characters=sum(map(len, texts)),
        base64=asked == "base64",
    )


def _but_model(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "model"}


def _chat_logprobs(fields: dict[str, Any]) -> int | None:
    """How many alternatives the client wants; None for no log-probabilities at all."""
    top = fields.pop("top_logprobs", None)
    if not fields.pop("logprobs", False):
        if top is not None:
            raise bad("'top_logprobs' needs 'logprobs': true", "top_logprobs", "invalid_value")
        return None
    fields["logprobs"] = True
    fields["top_logprobs"] = max(1, top or 0)
    return top or 0


def _question(found: Found, fields: dict[str, Any], top: int | None, characters: int) -> Question:
    endpoint = found.endpoints[0]
    wanted = fields.pop("max_completion_tokens", None)
    if wanted is not None and fields.setdefault("max_tokens", wanted) != wanted:
        message = "'max_tokens' and 'max_completion_tokens' disagree: send one of them"
        raise bad(message, "max_completion_tokens", "invalid_value")
    fields.setdefault("max_tokens", endpoint.default_max_tokens)
    stream = bool(fields.pop("stream", False))
    options = fields.pop("stream_options", None)
    if options is not None and not stream:
        raise bad("'stream_options' needs 'stream': true", "stream_options", "invalid_value")
    body = {
        **fields,
        "model": endpoint.engine_model or endpoint.model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Question(
        model=found.name,
        endpoint=endpoint,
        body=body,
        plain=found.plain,
        stream=stream,
        include_usage=bool(options and options.get("include_usage")),
        top_logprobs=top,
        prompt_characters=characters,
    )
