"""Fast validation of plain chats. `request_validation` takes all other bodies.

Design: most requests are plain chats, and one typed decode checks them with a fraction of the CPU time of the field
checks. A body that the fast path does not accept is validated again by the field checks, which also write the error. A
property test proves that both return the same request.
"""

from typing import Annotated, Any, Literal

import msgspec

from archwright.serving.requests.field_checks import check_seed, decode_body
from archwright.serving.requests.message_validation import MAX_MESSAGES
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.request_validation import GenerationRequest, validate_chat

_Tokens = Annotated[int, msgspec.Meta(ge=1)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_SAMPLING_NAMES = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


class _PlainMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["system", "user", "assistant"]
    content: str


class _PlainStreamOptions(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    include_usage: bool = False


class _PlainChat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    model: str
    messages: Annotated[list[_PlainMessage], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stream: bool = False
    stream_options: _PlainStreamOptions | None = None


_decode = msgspec.json.Decoder(_PlainChat).decode


def parse_chat(data: bytes, directory: ModelDirectory, workload: str | None) -> GenerationRequest:
    """Validate the body of a chat request. Raises ApiError."""
    try:
        request = _build_plain_request(_decode(data), directory, workload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        request = None
    return validate_chat(decode_body(data), directory, workload) if request is None else request


def _build_plain_request(chat: _PlainChat, directory: ModelDirectory, workload: str | None) -> GenerationRequest | None:
    found = directory.resolve(chat.model, workload)
    endpoint = found.endpoints[0]
    length = chat.max_tokens or chat.max_completion_tokens or endpoint.default_max_tokens
    other, options = chat.max_completion_tokens, chat.stream_options
    if max(length, other or 0) > endpoint.context_tokens or (other is not None and other != length):
        return None
    if options is not None and not chat.stream:
        return None
    messages, characters = [], 0
    for message in chat.messages:
        content = message.content
        characters += len(content)
        messages.append({"role": message.role, "content": content})
    body: dict[str, Any] = {"messages": messages, "max_tokens": length, "model": endpoint.model}
    for name in _SAMPLING_NAMES:
        value = getattr(chat, name)
        if value is not None:
            body[name] = value
    if chat.seed is not None:
        body["seed"] = check_seed(chat.seed, "seed", endpoint)
    return GenerationRequest(
        model=found.name,
        endpoint=endpoint,
        body=body,
        plain=found.plain,
        stream=chat.stream,
        include_usage=options is not None and options.include_usage,
        prompt_characters=characters,
    )
