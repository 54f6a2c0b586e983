"""What becomes of a request: guard before handler, one place where errors become replies."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from archwright.errors import ArchwrightError, EngineError, InternalError, boundary
from archwright.http_client.client import EngineRefused
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.http.connection import HttpServer
from archwright.serving.http.errors import to_api_error
from archwright.serving.http.http_exchange import CLIENT_GONE, PHASE_CLIENT, SHUTDOWN, HttpExchange, early_end_error
from archwright.serving.process import memory_trim
from archwright.serving.process.config_reload import ConfigWatcher
from archwright.serving.process.routes import RouteMatch, find_route

REQUEST_BOUNDARY = boundary("request")


class Dispatcher:
    """`changes` is where the gateway learns of other endpoints; without it those of its start stay. `find_route`
    is the table of what there is."""

    def __init__(
        self,
        gateway: GatewayContext,
        changes: ConfigWatcher | None = None,
        find: Callable[[str, str], RouteMatch] = find_route,
    ) -> None:
        self._gateway = gateway
        self._find = find
        self._changes = changes
        self._arrived: list[HttpExchange] = []

    def on_headers(self, exchange: HttpExchange) -> bool:
        """The headers are whole: let the request in, or say no before its body is read."""
        try:
            with REQUEST_BOUNDARY:
                exchange.found = found = self._find(exchange.method, exchange.path)
                if found.wish is not None:
                    self._gateway.guard.authorize(exchange, found.wish)
        except ArchwrightError as error:
            self._reply_error(exchange, error)
            return False
        return True

    def on_request(self, exchange: HttpExchange) -> None:
        """Answer a request that was let in."""
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._start_arrived)
        self._arrived.append(exchange)

    def _start_arrived(self) -> None:
        """What arrived in this turn of the event loop begins; what it may cost is reserved for all of it together."""
        arrived, self._arrived = self._arrived, []
        work: list[tuple[HttpExchange, Coroutine[Any, Any, None]]] = []
        for exchange in arrived:
            if exchange.finished:
                continue  # the client is gone
            try:
                with REQUEST_BOUNDARY:
                    found = exchange.found
                    assert found is not None and found.route is not None, "let in without a route"
                    if found.wish is not None:
                        self._gateway.guard.reauthorize(exchange, found.wish)
                    work.append((exchange, found.route.handler(self._gateway, exchange, found.name)))
            except ArchwrightError as error:
                self._reply_error(exchange, error)
        loop = asyncio.get_running_loop()
        try:
            self._gateway.till.reserve([exchange for exchange, _ in work if exchange.asks is not None])
        finally:
            for exchange, handling in work:
                exchange.task = loop.create_task(self._run_handler(exchange, handling))

    async def _run_handler(self, exchange: HttpExchange, work: Coroutine[Any, Any, None]) -> None:
        """Answer, whatever happens."""
        exchange.begun = True
        if exchange.ended is not None:
            work.close()
            self._gateway.till.release(exchange)
            self._reply_stopped(exchange)
            exchange.task = None
            return
        try:
            with REQUEST_BOUNDARY:
                await work
        except ArchwrightError as error:
            self._reply_error(exchange, error)
        except asyncio.CancelledError:
            self._reply_stopped(exchange)
        finally:
            exchange.task = None

    def _reply_error(self, exchange: HttpExchange, error: ArchwrightError) -> None:
        """Tell the client: as a reply where none has begun, else as the stream's last event."""
        refusal = to_api_error(error)
        if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._gateway.journal.warning(
                "request failed", request=exchange.id, status=refusal.status, **describe_cause(error)
            )
        if exchange.started:
            exchange.finish(refusal.encode_event(exchange.path))
        else:
            exchange.reply_error(refusal)

    def _reply_stopped(self, exchange: HttpExchange) -> None:
        """The work was stopped: by the client, by a deadline, or because the process shuts down."""
        reason = exchange.ended or SHUTDOWN
        if exchange.finished:
            return
        if reason in (CLIENT_GONE, PHASE_CLIENT):
            exchange.abort()
        elif exchange.why is not None:
            self._reply_error(exchange, exchange.why)
        else:
            self._reply_error(exchange, early_end_error(reason))

    @asynccontextmanager
    async def run_background_tasks(self, *servers: HttpServer) -> AsyncIterator[None]:
        """What goes on beside the requests: deadlines, the engines' health, memory, changes of endpoints."""
        limits = self._gateway.config.limits
        if self._changes is not None:
            await self._changes.start()
        loops = [
            asyncio.create_task(self._sweep_deadlines(servers, limits.sweep_s)),
            asyncio.create_task(self._check_health()),
        ]
        loops.append(asyncio.create_task(memory_trim.trim_periodically()))
        if self._changes is not None:
            loops.append(asyncio.create_task(self._changes.watch_file(limits.sweep_s)))
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._gateway.close()

    async def _sweep_deadlines(self, servers: tuple[HttpServer, ...], every_s: float) -> None:
        """For ever, whatever goes wrong (the page may find a full disk): without it nothing has a deadline."""
        said = ""
        while True:
            await asyncio.sleep(every_s)
            try:
                with boundary("sweep"):
                    for server in servers:
                        server.check_deadlines()
                    self._gateway.publish_load()
                said = ""
            except ArchwrightError as error:
                if error.message != said:
                    self._gateway.journal.error("sweep failed", **error.as_dict())
                said = error.message

    async def _check_health(self) -> None:
        """The health of every engine, at once and then every moment."""
        while True:
            try:
                with boundary("health"):
                    await self._gateway.fleet.check_health()
            except ArchwrightError as error:
                self._gateway.journal.error("health check failed", **error.as_dict())
            await asyncio.sleep(self._gateway.config.limits.health_s)


def describe_cause(error: ArchwrightError) -> dict[str, object]:
    """What the journal keeps of a failed request: codes and places. An engine's words may quote the prompt or a key,
    and so may a bug's."""
    found: dict[str, object] = {"code": error.code, "where": str(error.where)}
    if isinstance(error, EngineRefused):
        found["engine_status"] = error.status
    bug = error.__cause__
    if isinstance(error, EngineError) and isinstance(bug, OSError):
        found["reason"] = type(bug).__name__  # a name not known, a certificate not trusted, a connection refused
    if isinstance(error, InternalError) and bug is not None:
        frame = traceback.extract_tb(bug.__traceback__)[-1]
        found["bug"] = f"{type(bug).__name__} at {frame.name}:{frame.lineno}"
    return found
