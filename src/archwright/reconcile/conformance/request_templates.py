"""Requests of the budget suite, and the cost of each answer: its usage times the stated prices."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from .gateway_client import GatewayClient, GatewayError, GatewayRefused, encode_json

MAX_TOKENS, REQUEST_LIMIT_S = 32, 120.0
TEMPLATE_TOKENS = 512  # more than the chat template of a model adds
CHAT, EMBEDDINGS, MESSAGES = "/v1/chat/completions", "/v1/embeddings", "/v1/messages"
CACHED_SENTENCES = 300  # some 5,000 tokens: providers cache no short prompts


class Answer(NamedTuple):
    """The outcome of one request. `status` 0: no HTTP reply; `reason`: the error of a refused request.

    `usd`: its cost by the suite's count; `exact`: the reply states its usage, else `usd` is a lower bound."""

    status: int
    usd: float = 0.0
    tokens: int = 0
    reason: str = ""
    exact: bool = True

    @property
    def over_budget(self) -> bool:
        """True if the gateway refused the request because of the budget."""
        return self.status != 200 and any(word in self.reason.lower() for word in ("budget", "quota"))


class CachePrices(NamedTuple):
    """USD per token of a prompt that is read from the provider's cache, or written to it for `ttl`.

    `shared`: all prompts have the same marked beginning."""

    read_usd: float
    write_usd: float
    ttl: Literal["5m", "1h"] = "5m"
    shared: bool = False


class RequestTemplate(NamedTuple):
    """Requests of one kind. Each has a prompt of its own, so that no cache answers it, unless they are `repeated`.

    `input_usd`, `output_usd`: the price of a token; `leave_after`: pieces of a stream before the client disconnects;
    `fields`: changes of the body; `prompt_tokens`: as measured; `caches`: of prompts that are marked to be cached."""

    model: str
    input_usd: float
    output_usd: float
    run: str
    path: str = CHAT
    prompt_tokens: int = 0
    leave_after: int = 0
    repeated: bool = False
    fields: MappingProxyType[str, Any] = MappingProxyType({})
    caches: CachePrices | None = None

    def build_body(self, number: int) -> dict[str, Any]:
        text = (
            f"Run {self.run}, request {0 if self.repeated else number:06d}. Write the numbers from 1 to 500 as words."
        )
        if self.path == EMBEDDINGS:
            return {"model": self.model, "input": text * 16}
        if self.caches is not None:
            mark = {"type": "ephemeral", "ttl": self.caches.ttl}
            beginning = f"Run {self.run}. " if self.caches.shared else text
            marked = {"type": "text", "text": beginning * CACHED_SENTENCES, "cache_control": mark}
            message = {"role": "user", "content": [marked, {"type": "text", "text": text}]}
            return {"model": self.model, "messages": [message], "max_tokens": MAX_TOKENS}
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": MAX_TOKENS}
        return body | self.fields

    def worst_usd(self) -> float:
        """Bound the cost from outside: a token per byte of the body and a chat template, and `max_tokens` of output."""
        body = self.build_body(0)
        tokens = len(encode_json(body)) + TEMPLATE_TOKENS
        input_usd = self.input_usd if self.caches is None else max(self.input_usd, *self.caches[:2])
        output_tokens: int = body.get("max_tokens", 0)
        return tokens * input_usd + output_tokens * self.output_usd

    async def send(self, client: GatewayClient, number: int) -> Answer:
        body = self.build_body(number)
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                if "stream" in body:
                    return await self._stream(client, body)
                headers = {"Idempotency-Key": f"conformance-{self.run}"} if self.repeated else {}
                return self._count(await client.post(self.path, body, headers))
        except (GatewayError, TimeoutError) as error:
            return describe_failure(error)

    async def _stream(self, client: GatewayClient, body: dict[str, Any]) -> Answer:
        pieces, usage = 0, None
        try:
            async with aclosing(client.stream(self.path, body)) as events:
                async for event in events:
                    usage = event.get("usage") or usage
                    pieces += any((one.get("delta") or {}).get("content") for one in event.get("choices") or ())
                    if pieces == self.leave_after > 0:  # the least that is fair: a token for each piece
                        return Answer(200, pieces * self.output_usd, exact=False)
        except GatewayError:
            if not pieces:
                raise
        least = {"prompt_tokens": self.prompt_tokens, "completion_tokens": pieces}
        return self._count({"usage": usage or least})._replace(exact=usage is not None)

    def _count(self, reply: dict[str, Any]) -> Answer:
        usage = reply.get("usage") or {}
        if self.caches is not None:
            return count_messages(usage, self, self.caches)
        tokens, output = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        return Answer(200, tokens * self.input_usd + output * self.output_usd, tokens, exact=bool(usage))

    def read_row(self, row: dict[str, Any]) -> Answer:
        """Return the answer of a line of a batch's results."""
        response = row.get("response") or {}
        if response.get("status_code") == 200:
            return self._count(response["body"])
        return Answer(response.get("status_code") or 0, reason=f"{row.get('error')} {response.get('body')}")


def count_messages(usage: dict[str, Any], template: RequestTemplate, caches: CachePrices) -> Answer:
    """Return the cost of a message, whose `input_tokens` are neither read from a cache nor written to it."""
    plain, output = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    read, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    usd = plain * template.input_usd + read * caches.read_usd + written * caches.write_usd
    return Answer(200, usd + output * template.output_usd, plain + read + written, exact=bool(usage))


def describe_failure(error: Exception) -> Answer:
    if isinstance(error, GatewayRefused):
        return Answer(error.status, reason=str(error))
    return Answer(0, reason=str(error) or f"no answer within {REQUEST_LIMIT_S:g} s")
