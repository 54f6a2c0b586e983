"""The ASGI application: one call per request, guard before handler, one place where errors become replies."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import suppress
from http import HTTPStatus

from archwright.engines.client import EngineRefused
from archwright.errors import ArchwrightError, InternalError, boundary
from archwright.serving.change import Changes
from archwright.serving.exchange import CLIENT, GONE, SHUTDOWN, Exchange, Message, Receive, Send, why_ended
from archwright.serving.gateway import Gateway
from archwright.serving.guard import Wish
from archwright.serving.refusal import Refusal, from_error, unavailable
from archwright.serving.routes import find
from archwright.serving.shapes import error_event

LAST_WORDS_S = 2.0


class App:
    """`changes` is where the gateway learns of other endpoints; without it those of its start stay."""

    def __init__(self, gateway: Gateway, changes: Changes | None = None) -> None:
        self._gateway = gateway
        self._changes = changes
        self._live: set[Exchange] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)

    async def _request(self, scope: Message, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._gateway.config.limits, self._gateway.now)
        self._live.add(exchange)
        try:
            await self._guarded(exchange)
        except asyncio.CancelledError:
            await self._ended(exchange)
        finally:
            self._live.discard(exchange)

    async def _guarded(self, exchange: Exchange) -> None:
        try:
            with boundary("request"):
                await self._handle(exchange)
        except ArchwrightError as error:
            await self._answer(exchange, error)

    async def _handle(self, exchange: Exchange) -> None:
        if len(self._live) > self._gateway.config.limits.connections:
            raise unavailable("too many requests at once; try again", "overloaded")
        found = find(exchange.method, exchange.path)
        if found.route is None or found.route.permission is not None:
            permission = found.route.permission if found.route else None
            self._gateway.guard.admit(exchange, Wish(permission, bool(found.methods), found.methods))
        if found.route is not None:
            await found.route.handler(self._gateway, exchange, found.name)

    async def _answer(self, exchange: Exchange, error: ArchwrightError) -> None:
        """Tell the client: as a reply where none has begun, else as the stream's last event."""
        refusal = from_error(error)
        if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._gateway.journal.warning("request failed", request=exchange.id, status=refusal.status, **cause(error))
        if exchange.started:
            await exchange.write(error_event(refusal.body()))
            await exchange.finish()
            return
        try:
            await exchange.refuse(refusal)
        except Refusal as unrecorded:
            await exchange.refuse(unrecorded)

    async def _ended(self, exchange: Exchange) -> None:
        """The work was stopped: by the client, by a deadline, or because the process shuts down."""
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        reason = exchange.ended or SHUTDOWN
        if exchange.finished:
            return
        if reason in (GONE, CLIENT):
            exchange.abort()
            return
        with suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._answer(exchange, why_ended(reason))
        if not exchange.finished:
            exchange.abort()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        loops = [asyncio.create_task(self._sweep()), asyncio.create_task(self._look())]
        if self._changes is not None:
            loops.append(asyncio.create_task(self._changes.follow(self._gateway.config.limits.sweep_s)))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                while self._live:
                    await asyncio.sleep(0.02)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await self._gateway.fleet.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _sweep(self) -> None:
        """Deadlines of every exchange."""
        while True:
            await asyncio.sleep(self._gateway.config.limits.sweep_s)
            now = self._gateway.now()
            for exchange in tuple(self._live):
                exchange.sweep(now)

    async def _look(self) -> None:
        """The health of every engine, at once and then every moment."""
        while True:
            try:
                with boundary("health"):
                    await self._gateway.fleet.check()
            except ArchwrightError as error:
                self._gateway.journal.error("health check failed", **error.as_dict())
            await asyncio.sleep(self._gateway.config.limits.health_s)


def cause(error: ArchwrightError) -> dict[str, object]:
    """What the journal keeps of a failed request: codes and places. An engine's words may quote the prompt or a key,
    and so may a bug's."""
    found: dict[str, object] = {"code": error.code, "where": str(error.where)}
    if isinstance(error, EngineRefused):
        found["engine_status"] = error.status
    bug = error.__cause__
    if isinstance(error, InternalError) and bug is not None:
        frame = traceback.extract_tb(bug.__traceback__)[-1]
        found["bug"] = f"{type(bug).__name__} at {frame.name}:{frame.lineno}"
    return found
