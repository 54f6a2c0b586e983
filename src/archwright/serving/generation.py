"""One text generation: a slot, the engine's stream, the client's reply, and what it took.

Decides that the engine is always asked for a stream, also when the client wants one reply: an engine notices a
closed stream at once, and that is how work is cancelled. And that a reply names the version whose engine gave it,
which is known once a slot is: a request may wait through a change of versions.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from archwright.engines.client import EngineRefused
from archwright.errors import ArchwrightError, EngineError
from archwright.serving.exchange import FIRST, GONE, JSON, Exchange
from archwright.serving.gateway import Gateway
from archwright.serving.pools import Pool, Replica, Work
from archwright.serving.refusal import from_error
from archwright.serving.relay import Gathered, Meter, Relay, Streamed
from archwright.serving.shapes import DONE, Chunks, Envelope, Shape, Wanted, reply
from archwright.serving.validate import Question

# A request nothing was delivered of is asked once more: a replica may just have gone, a kept connection be stale.
ATTEMPTS = 2
# How an engine is told to leave its adapter out of one request.
WITHOUT_ADAPTER = {"lora": [{"id": 0, "scale": 0.0}]}


class Generation:
    def __init__(self, gateway: Gateway, exchange: Exchange, question: Question, shape: Shape) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._question = question
        self._shape = shape
        self._pool: Pool = gateway.pools[question.endpoint.pool]
        self._meter = Meter(exchange.received_at)
        self._wanted = Wanted(question.top_logprobs, question.prompt_characters)
        created = int(gateway.clock())
        self._envelope = Envelope(shape.prefix + exchange.id[3:], created, question.model, gateway.fingerprint)
        self._chunks = Chunks(shape, self._envelope, include_usage=question.include_usage) if question.stream else None

    async def run(self) -> None:
        """Answer the client; measured whatever happens."""
        status = "ok"
        try:
            self._exchange.watch()
            self._exchange.phase(FIRST, self._exchange.limits.first_token_s)
            relay = await self._ask()
            self._gateway.served(self._exchange, self._question.endpoint, status, **self._figures(status))
            self._answer(relay)
        except asyncio.CancelledError:
            status = "cancelled" if self._exchange.ended == GONE else "ended"
            raise
        except ArchwrightError as error:
            status = outcome(error)
            raise
        finally:
            self._exchange.sink = None
            if not self._exchange.recorded:
                self._gateway.ended(self._exchange, self._question.endpoint, status, **self._figures(status))

    def _answer(self, relay: Relay) -> None:
        """The one reply, or the end of the stream."""
        exchange, meter = self._exchange, self._meter
        if isinstance(relay, Gathered):
            body = reply(self._shape, self._envelope, relay.piece, self._wanted, meter.used)
            exchange.reply(HTTPStatus.OK, body, JSON, [meter.overhead(exchange.now())])
        elif self._chunks is not None and self._question.include_usage and meter.used:
            exchange.finish(self._chunks.usage(meter.used) + DONE)
        else:
            exchange.finish(DONE)

    async def _ask(self) -> Relay:
        """What the engine says, from a slot of the pool to its finish reason; asked again where nothing came."""
        meter, now, pool, question = self._meter, self._exchange.now, self._pool, self._question
        work = Work(question.work_tokens, question.plain)
        for attempt in range(1, ATTEMPTS + 1):
            queued_at = now()
            lease = await pool.take(work)
            try:
                meter.asked_at = meter.event_at = now()
                meter.queued_s += meter.asked_at - queued_at
                body, version = self._asked(lease.replica)
                relay = self._exchange.sink = self._relay(lease.replica, version)
                await lease.replica.client.ask(self._shape.path, body, relay)
                if not relay.done:
                    raise EngineError("AW-ENG-02", "the engine's stream ended without its end mark")
                if not relay.finished:
                    raise EngineError("AW-ENG-02", "the engine's stream ended without a finish reason")
                return relay
            except EngineRefused:
                raise
            except EngineError:
                await pool.failed(lease.replica)
                if relay.begun or attempt == ATTEMPTS or not pool.healthy:
                    raise
            finally:
                pool.give(lease)
        raise AssertionError("the last attempt returns or raises")

    def _relay(self, replica: Replica, version: str) -> Relay:
        exchange = self._exchange

        def first() -> None:
            exchange.model = version

        if self._chunks is None:
            return Gathered(exchange, self._meter, replica.client, first)
        relay = Streamed(exchange, self._meter, replica.client, first)
        relay.set(self._shape, self._chunks, self._wanted)
        return relay

    def _asked(self, replica: Replica) -> tuple[dict[str, Any], str]:
        """What this engine is sent, and the version that answers it."""
        question, more = self._question, replica.client.asks_more
        if question.plain and replica.tuned:
            return {**question.body, **more, **WITHOUT_ADAPTER}, question.endpoint.model
        return {**question.body, **more} if more else question.body, replica.version

    def _figures(self, status: str) -> dict[str, Any]:
        meter = self._meter
        return {
            "operation": "chat" if self._shape.path == "/chat/completions" else "text_completion",
            "output_tokens": meter.tokens if status == "ok" else meter.chunks,
            "input_tokens": meter.used.get("prompt_tokens", 0) if meter.used else 0,
            "ttft_s": meter.first_at - meter.received_at if meter.first_at is not None else None,
            "tpot_s": meter.tpot_s,
            "queue_s": meter.queued_s,
            "gateway_s": meter.own_s(self._exchange.now()),
            "engine_s": meter.event_at - meter.asked_at,
        }


def outcome(error: ArchwrightError) -> str:
    """The `status` label of a request that failed: refused (the client's doing), rejected (full), failed (ours)."""
    status = from_error(error).status
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rejected"
    return "failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"
