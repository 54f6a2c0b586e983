"""The null engine: a real OpenAI-speaking server whose every time is a setting.

It replaces an engine when the engine is not what is measured: the gateway's own cost, a plan's arithmetic, a test of
cancellation. Its times are exact and its replies repeatable. With an adapter its text begins with the adapter's digest.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from archwright.contract.record import Record
from archwright.engines.engine_config import EngineConfig, adapter_file, adapter_settings
from archwright.engines.engine_server import (
    EngineReply,
    Routes,
    ServerRequest,
    SlotCounter,
    make_json_reply,
    serve_until,
)
from archwright.engines.null_replies import (
    ErrorReply,
    NullReply,
    build_reply,
    build_vector,
    invalid_request_error,
    split_tokens,
)
from archwright.engines.unix_socket import claim_socket
from archwright.home import Home
from archwright.journal import Journal

ADAPTER_MARK_CHARACTERS = 12  # characters of its adapter's digest that it says


class NullSettings(Record):
    """First token after `ttft_s`, each further one `tpot_s` later; `text` is what it says, a word a token."""

    ttft_s: float = 0.0
    tpot_s: float = 0.0
    text: str = "The null engine says the same words to everyone."
    embeddings: bool = False
    dimensions: int = 8

    def __post_init__(self) -> None:
        if self.ttft_s < 0 or self.tpot_s < 0 or self.dimensions < 1 or not self.text.strip():
            raise ValueError("times must not be negative, dimensions at least 1, text not empty")


def serve(
    config: EngineConfig,
    home: Home,
    journal: Journal,
    wait: Callable[[], Awaitable[object]] = lambda: asyncio.Event().wait(),
) -> None:
    """Serve on the home's socket until killed; returns only if `wait` does."""
    settings = adapter_settings(config, NullSettings)
    adapter_file(config, home)
    engine = NullEngine(config, settings)
    serve_until(wait, engine.routes(), claim_socket(home, config.socket), journal, config.alias)


class NullEngine:
    """`config.slots` requests at once, the others wait in the order they came."""

    def __init__(self, config: EngineConfig, settings: NullSettings) -> None:
        self._config = config
        self._settings = settings
        counts = ("requests_cancelled_total", "prompt_tokens_total", "tokens_predicted_total")
        self._slots = SlotCounter("null", config.slots, counts)

    def routes(self) -> Routes:
        own: Routes = {
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completion,
            ("POST", "/v1/embeddings"): self._embeddings,
        }
        return self._slots.build_routes(own)

    async def _models(self, _: ServerRequest) -> EngineReply:
        model = {"id": self._config.alias, "object": "model", "created": 0, "owned_by": "null"}
        return make_json_reply({"object": "list", "data": [model]})

    async def _embeddings(self, request: ServerRequest) -> EngineReply:
        if not self._settings.embeddings:
            raise ErrorReply(501, "not_supported_error", "this engine was started without embeddings")
        given = _parse_body(request).get("input")
        found: list[Any] = given if isinstance(given, list) else [given]
        # Token ids of a text are as good as words.
        texts = [" ".join(map(str, text)) if isinstance(text, list) else text for text in found]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise invalid_request_error("input must be a text, a list of texts or lists of token ids")
        vectors = enumerate(build_vector(text, self._settings.dimensions) for text in texts)
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in vectors]
        count = sum(len(split_tokens(text)) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return make_json_reply({"object": "list", "model": self._config.alias, "data": data, "usage": usage})

    async def _chat(self, request: ServerRequest) -> EngineReply | None:
        return await self._generate(request, _ChatFormat(self._config.alias))

    async def _completion(self, request: ServerRequest) -> EngineReply | None:
        return await self._generate(request, _CompletionFormat(self._config.alias))

    async def _generate(self, request: ServerRequest, form: _ReplyFormat) -> EngineReply | None:
        body = _parse_body(request)
        reply = build_reply(body, self._reply_text(body), self._config.context_tokens, self._config.default_max_tokens)
        try:
            async with self._slots.hold_slot():
                if not body.get("stream"):
                    async for _ in self._timed_tokens(reply):
                        pass
                    return make_json_reply(form.complete_reply(reply))
                options = body.get("stream_options") or {}
                return await self._stream_reply(request, form, reply, bool(options.get("include_usage")))
        except (asyncio.CancelledError, ConnectionError):
            self._slots.counts["requests_cancelled_total"] += 1
            raise

    def _reply_text(self, body: dict[str, Any]) -> str:
        """What it says: its adapter's mark first, unless the request leaves the adapter out."""
        adapter = self._config.adapter_sha256
        left_out = any(given == {"id": 0, "scale": 0} for given in body.get("lora") or ())
        mark = "" if adapter is None or left_out else f"{adapter[:ADAPTER_MARK_CHARACTERS]} "
        return mark + self._settings.text

    async def _stream_reply(
        self, request: ServerRequest, form: _ReplyFormat, reply: NullReply, include_usage: bool
    ) -> EngineReply | None:
        async for token in self._timed_tokens(reply):
            await request.write(_encode_event(form.stream_chunk(token, None)))
        await request.write(_encode_event(form.stream_chunk("", reply.finish_reason)))
        if include_usage:
            await request.write(_encode_event(form.usage_chunk(reply)))
        await request.write(b"data: [DONE]\n\n")
        return None

    async def _timed_tokens(self, reply: NullReply) -> AsyncIterator[str]:
        """Each token at its due time, counted from the start, so that lateness does not add up."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        self._slots.counts["prompt_tokens_total"] += reply.prompt_tokens
        for index, token in enumerate(reply.tokens):
            due = begin + self._settings.ttft_s + index * self._settings.tpot_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._slots.counts["tokens_predicted_total"] += 1
            yield token


class _ReplyFormat(ABC):
    """The shape of OpenAI's replies; the two endpoints differ in a choice."""

    object_name = ""
    chunk_name = ""

    def __init__(self, model: str) -> None:
        self._model = model

    @abstractmethod
    def choice(self, text: str, finish_reason: str | None, *, streamed: bool) -> dict[str, Any]:
        """One choice: a piece of it when streamed, else the whole."""

    def complete_reply(self, reply: NullReply) -> dict[str, Any]:
        choice = self.choice("".join(reply.tokens), reply.finish_reason, streamed=False)
        return {**self._wrap_choices(self.object_name, [choice]), "usage": _count_usage(reply)}

    def stream_chunk(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return self._wrap_choices(self.chunk_name, [self.choice(text, finish_reason, streamed=True)])

    def usage_chunk(self, reply: NullReply) -> dict[str, Any]:
        return {**self._wrap_choices(self.chunk_name, []), "usage": _count_usage(reply)}

    def _wrap_choices(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": "null-1", "object": name, "created": 0, "model": self._model, "choices": choices}


class _ChatFormat(_ReplyFormat):
    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def choice(self, text: str, finish_reason: str | None, *, streamed: bool) -> dict[str, Any]:
        message = {"role": "assistant", "content": text} if text or not streamed else {}
        return {"index": 0, "delta" if streamed else "message": message, "finish_reason": finish_reason}


class _CompletionFormat(_ReplyFormat):
    object_name = chunk_name = "text_completion"

    def choice(self, text: str, finish_reason: str | None, *, streamed: bool) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _count_usage(reply: NullReply) -> dict[str, int]:
    read, written = reply.prompt_tokens, len(reply.tokens)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _encode_event(message: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(message).encode() + b"\n\n"


def _parse_body(request: ServerRequest) -> dict[str, Any]:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise invalid_request_error(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise invalid_request_error("the body must be a JSON object")
    return body
