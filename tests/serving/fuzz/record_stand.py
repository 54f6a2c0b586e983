"""The stages of a request up to its bill, without sockets: validation, worst case, reservation, engine, settlement."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import msgspec

from archwright.access.reservations import Reservation
from archwright.engines.http_request_parser import parse_head
from archwright.http_client.sse import ServerSentEvent
from archwright.policy.usage_limits import LARGEST_BUDGET_USD, LARGEST_RATE
from archwright.serving.admission.metering import WorstCase, estimate_worst_case
from archwright.serving.events.response_formats import parse_usage
from archwright.serving.events.timing import RequestTiming
from archwright.serving.handlers.generation import GenerationHandler
from archwright.serving.handlers.request_handler import HandlerContext, MeteredHandler
from archwright.serving.handlers.request_preparation import parse_message
from archwright.serving.handlers.single_reply import SingleReplyHandler, count_prompt_tokens
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.http.errors import ApiError
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import HttpResponse, ResponseBuffer
from archwright.serving.messages_api.schema import CountTokensRequest
from archwright.serving.process.routes import find_route
from archwright.serving.providers.anthropic import AnthropicProvider, MessagesEventReader
from archwright.serving.providers.openai import OpenAIProvider

from ..conftest import directory, endpoint
from ..process.test_dispatcher import Stand
from ..relay_stand import RecordingPeer

PRICES = {"price_in_usd": 1e-6, "price_out_usd": 3e-6}
PRICED: dict[str, Any] = {**PRICES, "embeddings": True, "rerank": True, "context_tokens": 9_000}
COUNT = "/v1/messages/count_tokens"
TEXTS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SAMPLING = {
    **{"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 7, "stop": ["x"]},
    **{"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {"5": 1}, "user": "u", "ignore_eos": False},
    **{"stream": True, "stream_options": {"include_usage": True}, "n": 1},
}
CHAT: dict[str, Any] = {
    "messages": [
        *TEXTS,
        {"role": "user", "content": [{"type": "text", "text": "see"}, PNG], "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"},
        {"role": "tool", "content": "7", "tool_call_id": "c1"},
    ],
    **SAMPLING,
    **{"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True, "logprobs": True, "top_logprobs": 2},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    **{"metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "s"},
    "chat_template_kwargs": {"enable_thinking": False},
}
# Fields that the Messages interface lacks.
FOREIGN = ("min_p", "logit_bias", "logprobs", "top_logprobs", "chat_template_kwargs")
MESSAGE: dict[str, Any] = {
    "max_tokens": 9,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "7", "is_error": False}]},
        {"role": "user", "content": "and?"},
    ],
    **{"stop_sequences": ["x"], "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stream": False},
    **{"tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"}},
    **{"thinking": {"type": "disabled"}, "metadata": {"user_id": "u"}, "service_tier": "auto"},
}
BODIES: list[tuple[str, dict[str, Any]]] = [
    *(("/v1/chat/completions", {"model": model, "messages": TEXTS, "max_tokens": 5}) for model in ("m", "far")),
    *(("/v1/chat/completions", {"model": "far", **CHAT}) for _ in range(2)),
    ("/v1/chat/completions", {"model": "own", **{name: CHAT[name] for name in CHAT if name not in FOREIGN}}),
    ("/v1/completions", {"model": "far", "prompt": "x", **SAMPLING, "echo": True, "best_of": 1, "logprobs": 1}),
    *(("/v1/embeddings", {"model": m, "input": ["x", "yy"], "encoding_format": "base64"}) for m in ("m", "far")),
    ("/v1/embeddings", {"model": "far", "input": [[1, 2], [3]], "dimensions": 8, "user": "u"}),
    *(("/v1/rerank", {"model": m, "query": "x", "documents": ["a", {"text": "b"}], "top_n": 1}) for m in ("m", "far")),
    ("/v1/rerank", {"model": "m", "query": "x" * 90, "documents": ["a"] * 30, "return_documents": True}),
    *(("/v1/messages", {"model": model, **MESSAGE}) for model in ("own", "far", "own")),
    (COUNT, {"model": "own", "messages": MESSAGE["messages"]}),
    ("/v1/predict/wear", {"inputs": [[1, 2.5, None], {"a": 1}]}),
]


async def _make_buffer() -> ResponseBuffer:
    return ResponseBuffer(ClientLimits(), time.monotonic, lambda: None)


class RecordStand:
    """A gateway whose models have a price: m of our own engines, far behind a URL, own of the Messages interface."""

    def __init__(self, folder: Path) -> None:
        self._stand = Stand(folder)
        models: dict[str, dict[str, Any]] = {
            "m": PRICED,
            "far": {"addresses": ("https://e/v1",), "vision": True, **PRICED},
            "own": {"addresses": ("https://a/v1",), "protocol": "anthropic", "vision": True, **PRICED},
            "wear": {"kind": "predict", "version": "wear@v1", **PRICES},
        }
        entries = [endpoint(model=name, workload=name, pool=name, **spec) for name, spec in models.items()]
        self._stand.gateway.directory = directory(*entries)
        limits = {"budget_usd": LARGEST_BUDGET_USD, "tpm": LARGEST_RATE}
        self.principal = self._stand.limited_caller(**limits)[1]
        self._buffer = asyncio.run(_make_buffer())
        self._heads = {path: parse_head(f"POST {path} HTTP/1.1\r\nhost: g".encode()) for path, _ in BODIES}
        self._routes = {path: find_route("POST", path) for path, _ in BODIES}
        self._providers = {"openai": OpenAIProvider("engine"), "anthropic": AnthropicProvider()}

    def close(self) -> None:
        self._stand.close()

    def validate(self, path: str, data: bytes) -> tuple[HandlerContext, Any, WorstCase] | None:
        """Validate a body; None if it is refused by an error below 500. Any other exception is a bug."""
        request = HttpRequest("req-fuzz0", self._heads[path], 0.0, Admitted(self.principal, 0), data)
        response = HttpResponse(self._heads[path], RecordingPeer(), self._buffer)
        match = self._routes[path]
        context = HandlerContext(self._stand.gateway, request, response, match.name)
        try:
            if path == COUNT:
                generation = parse_message(context, CountTokensRequest)
                return context, generation, estimate_worst_case(generation, len(data))
            assert match.route is not None
            handler = match.route.prepare(context)
            assert isinstance(handler, MeteredHandler)
            if isinstance(handler, GenerationHandler):
                generation = handler._generation
                provider = self._providers[generation.endpoint.protocol or "openai"]
                json.dumps(provider.build_request(handler._path, generation.body, generation.native).body)
        except ApiError as error:
            assert 400 <= error.status < 500, error
            error.encode_body(path)
            return None
        return context, handler, handler.worst_case

    def check(self, path: str, data: bytes, usage: Any = None) -> bool:
        """Hold the invariant for one body and one usage figure of an engine. Returns True if it was reserved."""
        valid = self.validate(path, data)
        if valid is None:
            return False
        context, handler, worst = valid
        assert worst.tokens >= worst.output_tokens >= 0 and worst.input_estimate >= 0, worst
        assert worst.usd is not None and worst.usd >= 0, worst
        if path == COUNT or usage is None:
            return True
        accounting = self._stand.gateway.accounting
        (reservation,) = accounting.reserve([(context.request, worst, False)])
        if not isinstance(reservation, Reservation):
            return False
        charge = accounting.open_charge(context.request, handler._endpoint, worst, reservation)
        for status in ("ok", "cancelled"):
            charge.mark_sent_to_engine(stops=status == "ok")
            settled = charge.settle(status, *_count_tokens(handler, usage))
            assert settled.reserved_usd is not None and settled.cost_usd is not None
            assert 0 <= settled.cost_usd <= settled.reserved_usd + 1e-9, (settled, worst)
            assert settled.input_tokens >= 0
        accounting.flush()
        return True


def _count_tokens(handler: MeteredHandler, usage: Any) -> tuple[int, int]:
    """Return input and output tokens as the handler reads them from an engine's reply."""
    if isinstance(handler, SingleReplyHandler):
        return count_prompt_tokens({"usage": usage}), 0
    timing = RequestTiming(0.0)
    timing.set_usage(parse_usage(usage))
    if timing.used is None and isinstance(handler, GenerationHandler):
        reader = MessagesEventReader()
        said = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
        try:
            (event,) = reader.read(ServerSentEvent("message_delta", json.dumps(said).encode()))
        except msgspec.DecodeError:
            return 0, 0
        timing.set_usage(parse_usage(event.usage))
    return timing.input_tokens, timing.tokens


NUMBERS = (0, -1, 1, 1.5, -0.0, 2**31, 2**63, -(2**63), 2**64, 10**30, 1e308, -1e308, True, False)
TEXTS_AND_OBJECTS: tuple[Any, ...] = (
    None,
    "",
    "x" * 600,
    "\ud800",
    [],
    {},
    [[]],
    [{}],
    {"a": None},
    ["a"],
    {"type": "text"},
)
WRONG: tuple[Any, ...] = (*NUMBERS, *TEXTS_AND_OBJECTS)
NAMES = (
    "max_tokens",
    "n",
    "best_of",
    "api_base",
    "type",
    "url",
    "x",
    "messages.name",
    "stop",
    "",
    "model",
    "input",
    "text",
)


def mutate_value(value: Any, draw: random.Random) -> Any:
    """Return a copy of a JSON value with one place replaced, removed, repeated or added."""
    if type(value) is dict and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        if draw.random() < 0.1:
            return {key: inner for key, inner in value.items() if key != name}
        if draw.random() < 0.12:
            return {**value, draw.choice(NAMES): draw.choice(WRONG)}
        return {**value, name: mutate_value(value[name], draw)}
    if type(value) is list and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        if draw.random() < 0.1:
            return [*value, *value[at:]]
        return [*value[:at], mutate_value(value[at], draw), *value[at + 1 :]]
    return draw.choice(WRONG)


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """Return the bytes with one byte changed, removed or inserted, or cut, or a part repeated."""
    at, kind = draw.randrange(len(data)), draw.random()
    if kind < 0.4:
        return data[:at] + bytes([draw.choice(b'{}[]",:\\0-e.x\xff\x00')]) + data[at + 1 :]
    if kind < 0.6:
        return data[:at] + data[at + 1 :]
    if kind < 0.8:
        return data[:at] + draw.choice((b"[", b"{", b'"', b"-", b"1e999", b"null", b"NaN", b"\\ud800")) + data[at:]
    return data[:at] if kind < 0.9 else data[:at] + data[draw.randrange(at + 1) :]
