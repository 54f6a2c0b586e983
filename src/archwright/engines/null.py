"""The null engine: an OpenAI-compatible server without a model, whose response times are settings.

It replaces a real engine when something else is measured: the gateway's cost, a plan's arithmetic, cancellation. Its
times are exact and its replies repeatable. With an adapter its text begins with the adapter's digest.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

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
from archwright.home import Home
from archwright.journal import Journal

ADAPTER_MARK_CHARACTERS = 12  # characters of the adapter's digest at the beginning of a reply


class NullSettings(Record):
    """The first token is sent after `ttft_s`, each further one `tpot_s` later; tokens are words of `text`."""

    ttft_s: float = 0.0
    tpot_s: float = 0.0
    text: str = "The null engine says the same words to everyone."
    embeddings: bool = False
    rerank: bool = False
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
    """Serve on the home's socket until SIGTERM; returns only if `wait` does."""
    settings = adapter_settings(config, NullSettings)
    adapter_file(config, home)
    engine = NullEngine(config, settings)
    serve_until(wait, engine.routes(), home.engine_socket(config.socket), journal, config.alias)


class NullEngine:
    """Runs `config.slots` requests at once; the others wait in order of arrival."""

    def __init__(self, config: EngineConfig, settings: NullSettings) -> None:
        self._config = config
        self._settings = settings
        counts = ("requests_cancelled_total", "prompt_tokens_total", "tokens_predicted_total")
        self._slots = SlotCounter("null", config.slots, counts)

    def routes(self) -> Routes:
        own: Routes = {
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): partial(self._generate, form=_ReplyFormat(self._config.alias, True)),
            ("POST", "/v1/completions"): partial(self._generate, form=_ReplyFormat(self._config.alias, False)),
            ("POST", "/v1/embeddings"): self._embeddings,
            ("POST", "/v1/rerank"): self._rerank,
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
        # A list of token ids is treated as a text whose words are the ids.
        texts = [" ".join(map(str, text)) if isinstance(text, list) else text for text in found]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise invalid_request_error("input must be a text, a list of texts or lists of token ids")
        vectors = enumerate(build_vector(text, self._settings.dimensions) for text in texts)
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in vectors]
        count = sum(len(split_tokens(text)) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return make_json_reply({"object": "list", "model": self._config.alias, "data": data, "usage": usage})

    async def _rerank(self, request: ServerRequest) -> EngineReply:
        """The score of a document is the share of the query's words in it."""
        if not self._settings.rerank:
            raise ErrorReply(501, "not_supported_error", "this engine was started without reranking")
        body = _parse_body(request)
        query, documents = body.get("query"), body.get("documents")
        if not isinstance(documents, list) or not all(isinstance(text, str) for text in (query, *documents)):
            raise invalid_request_error("query must be a text, and documents a list of texts")
        words = str(query).lower().split()
        shares = [sum(word in text.lower().split() for word in words) / max(len(words), 1) for text in documents]
        best = sorted(range(len(shares)), key=lambda index: -shares[index])
        results = [{"index": index, "relevance_score": shares[index]} for index in best]
        count = sum(len(words) + len(split_tokens(text)) for text in documents)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return make_json_reply({"object": "list", "model": self._config.alias, "results": results, "usage": usage})

    async def _generate(self, request: ServerRequest, form: _ReplyFormat) -> EngineReply | None:
        body = _parse_body(request)
        adapter = self._config.adapter_sha256
        disabled = any(given == {"id": 0, "scale": 0} for given in body.get("lora") or ())
        mark = "" if adapter is None or disabled else f"{adapter[:ADAPTER_MARK_CHARACTERS]} "
        limits = self._config.context_tokens, self._config.default_max_tokens
        reply = build_reply(body, mark + self._settings.text, *limits)
        try:
            async with self._slots.hold_slot():
                if not body.get("stream"):
                    async for _ in self._timed_tokens(reply):
                        pass
                    return make_json_reply(form.complete_reply(reply))
                options = body.get("stream_options") or {}
                async for token in self._timed_tokens(reply):
                    await request.write(_encode_event(form.stream_chunk(token, None)))
                await request.write(_encode_event(form.stream_chunk("", reply.finish_reason)))
                if bool(options.get("include_usage")):
                    await request.write(_encode_event(form.usage_chunk(reply)))
                await request.write(b"data: [DONE]\n\n")
                return None
        except (asyncio.CancelledError, ConnectionError):
            self._slots.counts["requests_cancelled_total"] += 1
            raise

    async def _timed_tokens(self, reply: NullReply) -> AsyncIterator[str]:
        """Yield each token at its due time after the start, so that delays do not add up."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        self._slots.counts["prompt_tokens_total"] += reply.prompt_tokens
        for index, token in enumerate(reply.tokens):
            due = begin + self._settings.ttft_s + index * self._settings.tpot_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._slots.counts["tokens_predicted_total"] += 1
            yield token


class _ReplyFormat(NamedTuple):
    """OpenAI's format of replies: of the chat endpoint if `chat` is true, else of the completion endpoint."""

    model: str
    chat: bool

    def complete_reply(self, reply: NullReply) -> dict[str, Any]:
        name = "chat.completion" if self.chat else "text_completion"
        choice = self._choice("".join(reply.tokens), reply.finish_reason, "message")
        return {**self._wrap_choices(name, [choice]), "usage": _count_usage(reply)}

    def stream_chunk(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return self._wrap_choices(self._chunk_name, [self._choice(text, finish_reason, "delta")])

    def usage_chunk(self, reply: NullReply) -> dict[str, Any]:
        return {**self._wrap_choices(self._chunk_name, []), "usage": _count_usage(reply)}

    @property
    def _chunk_name(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _choice(self, text: str, finish_reason: str | None, field: str) -> dict[str, Any]:
        if not self.chat:
            return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        message = {"role": "assistant", "content": text} if text or field == "message" else {}
        return {"index": 0, field: message, "finish_reason": finish_reason}

    def _wrap_choices(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": "null-1", "object": name, "created": 0, "model": self.model, "choices": choices}


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
