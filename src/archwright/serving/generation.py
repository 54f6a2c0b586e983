"""One text generation: a slot, the engine's stream, the client's reply, and what it took.

Decides that the engine is always asked for a stream, also when the client wants one reply: an engine notices a
closed stream at once, and that is how work is cancelled. And that a reply names the version whose engine gave it,
which is known once a slot is: a request may wait through a change of versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from archwright.engines.client import EngineRefused
from archwright.errors import ArchwrightError, EngineError
from archwright.serving.exchange import FIRST, GONE, STALL, Exchange
from archwright.serving.gateway import Gateway
from archwright.serving.pools import Pool, Replica
from archwright.serving.refusal import from_error
from archwright.serving.shapes import DONE, Chunks, Envelope, Piece, Shape, Wanted, reply, usage
from archwright.serving.validate import Question

# A request nothing was delivered of is asked once more: a replica may just have gone, a kept connection be stale.
ATTEMPTS = 2
# How an engine is told to leave its adapter out of one request.
WITHOUT_ADAPTER = {"lora": [{"id": 0, "scale": 0.0}]}
STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Meter:
    """When things happened, on the exchange's clock; what was counted."""

    def __init__(self, received_at: float) -> None:
        self.received_at = received_at
        self.asked_at = received_at
        self.queued_s = 0.0
        self.event_at = received_at
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.chunks = 0
        self.used: dict[str, Any] | None = None

    def saw(self, piece: Piece, at: float) -> None:
        """The end counts as a token's time: the last token is often the invisible end mark, which usage counts."""
        if piece.text or piece.reasoning:
            self.chunks += 1
            self.last_at = at
            if self.first_at is None:
                self.first_at = at
        elif piece.finish and self.first_at is not None:
            self.last_at = at

    @property
    def tokens(self) -> int:
        """Generated tokens: by the engine's count, else by the pieces delivered."""
        return int(self.used["completion_tokens"]) if self.used else self.chunks

    @property
    def tpot_s(self) -> float | None:
        if self.first_at is None or self.last_at is None or self.tokens < 2:
            return None
        return (self.last_at - self.first_at) / (self.tokens - 1)

    def overhead_us(self, now: float) -> int:
        """Our own share so far: before the engine was asked, less the wait for a slot, and since its last word."""
        return round((self.asked_at - self.received_at - self.queued_s + now - self.event_at) * 1e6)


class Generation:
    def __init__(self, gateway: Gateway, exchange: Exchange, question: Question, shape: Shape) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._question = question
        self._shape = shape
        self._pool: Pool = gateway.pools[question.endpoint.pool]
        self._meter = Meter(exchange.received_at)
        self._wanted = Wanted(question.top_logprobs, question.prompt_characters)
        self._finished = False
        created = int(gateway.clock())
        self._envelope = Envelope(shape.prefix + exchange.id[3:], created, question.model, gateway.fingerprint)

    async def run(self) -> None:
        """Answer the client; measured whatever happens."""
        status = "ok"
        try:
            async with self._exchange.watched():
                self._exchange.phase(FIRST, self._gateway.config.limits.first_token_s)
                await (self._stream() if self._question.stream else self._plain())
        except asyncio.CancelledError:
            status = "cancelled" if self._exchange.ended == GONE else "ended"
            raise
        except ArchwrightError as error:
            status = outcome(error)
            raise
        finally:
            self._gateway.ended(self._exchange, self._question.endpoint, status, **self._figures(status))

    async def _plain(self) -> None:
        pieces: list[Piece] = []
        async with aclosing(self._pieces()) as found:
            async for piece in found:
                pieces.append(piece)
                self._exchange.phase(STALL, self._gateway.config.limits.stall_s)
        body = reply(self._shape, self._envelope, pieces, self._wanted, self._meter.used)
        self._served()
        await self._exchange.reply(HTTPStatus.OK, body, "application/json", [self._overhead()])

    async def _stream(self) -> None:
        exchange, shape = self._exchange, self._shape
        chunks = Chunks(shape, self._envelope, include_usage=self._question.include_usage)
        async with aclosing(self._pieces()) as found:
            async for piece in found:
                if not exchange.started:
                    await self._open(chunks)
                if piece.text or piece.reasoning or piece.finish:
                    await exchange.write(chunks.choice(shape.chunk(piece, self._wanted)))
        tail = DONE
        if self._question.include_usage and self._meter.used:
            tail = chunks.usage(self._meter.used) + DONE
        self._served()
        await exchange.write(tail)
        await exchange.finish()

    async def _open(self, chunks: Chunks) -> None:
        headers = [*STREAM_HEADERS, self._overhead()]
        await self._exchange.start(HTTPStatus.OK, "text/event-stream; charset=utf-8", headers)
        first = self._shape.first()
        if first is not None:
            await self._exchange.write(chunks.choice(first))

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        """What the engine says, from a slot of the pool to its finish reason; asked again where nothing came."""
        meter, now = self._meter, self._exchange.now
        for attempt in range(1, ATTEMPTS + 1):
            queued_at = now()
            async with self._pool.lease(self._question.work_tokens, self._question.plain) as replica:
                meter.asked_at = meter.event_at = now()
                meter.queued_s += meter.asked_at - queued_at
                begun = False
                body, version = self._asked(replica)
                try:
                    async with aclosing(replica.client.stream(self._shape.path, body)) as events:
                        async for event in events:
                            if not begun:
                                begun = True
                                self._exchange.model = version
                            piece = self._take(event)
                            if piece is not None:
                                yield piece
                    if not self._finished:
                        raise EngineError("AW-ENG-02", "the engine's stream ended without a finish reason")
                    return
                except EngineRefused:
                    raise
                except EngineError:
                    await self._pool.failed(replica)
                    if begun or attempt == ATTEMPTS or not self._pool.healthy:
                        raise

    def _asked(self, replica: Replica) -> tuple[dict[str, Any], str]:
        """What this engine is sent, and the version that answers it."""
        question = self._question
        if question.plain and replica.tuned:
            return {**question.body, **WITHOUT_ADAPTER}, question.endpoint.model
        return question.body, replica.version

    def _take(self, event: dict[str, Any]) -> Piece | None:
        """The one choice of an event, if it has any; its time and the count of tokens noted."""
        meter = self._meter
        meter.event_at = self._exchange.now()
        if event.get("usage"):
            meter.used = usage(event) or meter.used
        choices = event.get("choices")
        if type(choices) is not list or not choices or type(choices[0]) is not dict:
            return None
        piece = self._shape.read(choices[0])
        meter.saw(piece, meter.event_at)
        if piece.finish:
            self._finished = True
        return piece

    def _overhead(self) -> tuple[bytes, bytes]:
        return (b"x-archwright-overhead-us", str(self._meter.overhead_us(self._exchange.now())).encode())

    def _served(self) -> None:
        self._gateway.served(self._exchange, self._question.endpoint, "ok", **self._figures("ok"))

    def _figures(self, status: str) -> dict[str, Any]:
        meter = self._meter
        tokens = meter.tokens if status == "ok" else meter.chunks
        return {
            "operation": "chat" if self._shape.path == "/chat/completions" else "text_completion",
            "output_tokens": tokens,
            "input_tokens": meter.used.get("prompt_tokens", 0) if meter.used else 0,
            "ttft_s": meter.first_at - meter.received_at if meter.first_at is not None else None,
            "tpot_s": meter.tpot_s,
            "queue_s": meter.queued_s,
            "gateway_s": meter.overhead_us(self._exchange.now()) / 1e6,
            "engine_s": meter.event_at - meter.asked_at,
        }


def outcome(error: ArchwrightError) -> str:
    """The `status` label of a request that failed: refused (the client's doing), rejected (full), failed (ours)."""
    status = from_error(error).status
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rejected"
    return "failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"
