"""Dispatch of requests: authorisation before the handler, and one place where errors become replies."""

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
from archwright.serving.process.config_reload import ConfigWatcher, repeat_logged
from archwright.serving.process.memory_trim import trim_periodically
from archwright.serving.process.routes import RouteMatch, find_route

REQUEST_BOUNDARY = boundary("request")


class Dispatcher:
    """`changes` follows the configuration file; without it the endpoints stay as they are. `find` finds a route."""

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
        """The headers are complete: authorise the request, or refuse it before its body is read."""
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
        """Start an authorised request in the next step of the event loop."""
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._start_arrived)
        self._arrived.append(exchange)

    def _start_arrived(self) -> None:
        """Start all requests of this step of the event loop; their worst cases are reserved together."""
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
        """Run the handler; the client gets a reply in any case."""
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
        """Send the error as a reply, or as the last event of a stream that has begun."""
        refusal = to_api_error(error)
        if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            cause = describe_cause(error)
            self._gateway.journal.warning("request failed", request=exchange.id, status=refusal.status, **cause)
        if exchange.started:
            exchange.finish(refusal.encode_event(exchange.path))
        else:
            exchange.reply_error(refusal)

    def _reply_stopped(self, exchange: HttpExchange) -> None:
        """The work was stopped by the client, a deadline or the end of the process."""
        reason = exchange.ended or SHUTDOWN
        if exchange.finished:
            return
        if reason in (CLIENT_GONE, PHASE_CLIENT):
            exchange.abort()
        else:
            self._reply_error(exchange, exchange.why or early_end_error(reason))

    @asynccontextmanager
    async def run_background_tasks(self, *servers: HttpServer) -> AsyncIterator[None]:
        """Deadlines, health checks, memory trimming and changes of the configuration, beside the requests."""
        sweep_s, journal = self._gateway.config.limits.sweep_s, self._gateway.journal

        async def sweep() -> None:
            for server in servers:
                server.check_deadlines()
            self._gateway.publish_load()

        jobs = []
        if self._changes is not None:
            await self._changes.start()
            follow = self._changes.check_once
            jobs.append(repeat_logged(follow, sweep_s, journal, "change of endpoints", "change failed"))
        jobs += [repeat_logged(sweep, sweep_s, journal, "sweep", "sweep failed"), self._check_health()]
        loops = [asyncio.create_task(job) for job in (*jobs, trim_periodically())]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._gateway.close()

    async def _check_health(self) -> None:
        """Check every engine for ever; each failure is logged."""
        while True:
            try:
                with boundary("health"):
                    await self._gateway.fleet.check_health()
            except ArchwrightError as error:
                self._gateway.journal.error("health check failed", **error.as_dict())
            await asyncio.sleep(self._gateway.config.limits.health_s)


def describe_cause(error: ArchwrightError) -> dict[str, object]:
    """The codes and places of a failed request for the journal; messages may quote the prompt or a key."""
    found: dict[str, object] = {"code": error.code, "where": str(error.where)}
    if isinstance(error, EngineRefused):
        found["engine_status"] = error.status
    bug = error.__cause__
    if isinstance(error, EngineError) and isinstance(bug, OSError):
        found["reason"] = type(bug).__name__  # such as an unknown name, an untrusted certificate
    if isinstance(error, InternalError) and bug is not None:
        frame = traceback.extract_tb(bug.__traceback__)[-1]
        found["bug"] = f"{type(bug).__name__} at {frame.name}:{frame.lineno}"
    return found
