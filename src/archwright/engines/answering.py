"""What the engines that we serve ourselves have in common: an HTTP application on the home's Unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from archwright.engines.drafts import Refusal
from archwright.engines.listening import leave_on_terminate
from archwright.errors import ArchwrightError
from archwright.journal import Journal

BODY_LIMIT_BYTES = 16 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(metrics: Callable[[], str]) -> web.Application:
    """An application with its health and metrics pages; refusals become replies in OpenAI's error shape."""

    async def healthy(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def measured(_: web.Request) -> web.Response:
        return web.Response(text=metrics())

    made = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[refusals])
    made.router.add_get("/health", healthy)
    made.router.add_get("/metrics", measured)
    return made


def serve_until(
    wait: Callable[[], Awaitable[object]], made: web.Application, path: Path, journal: Journal, model: str
) -> None:
    """Serve on the socket at `path` until `wait` returns, or SIGTERM ends the process."""

    async def run() -> None:
        runner = web.AppRunner(made, handler_cancellation=True, access_log=None)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(path)).start()
            leave_on_terminate(path)
            journal.info("ready", model=model, socket=str(path))
            await wait()
        finally:
            await runner.cleanup()

    asyncio.run(run())


@web.middleware
async def refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return web.json_response(refusal.body, status=refusal.status)
    except web.HTTPException as error:
        kind = "not_found_error" if error.status == web.HTTPNotFound.status_code else "invalid_request_error"
        return _error(error.status, error.reason, kind)
    except ArchwrightError as error:
        return _error(web.HTTPInternalServerError.status_code, error.message, "server_error")


def _error(status: int, message: str, kind: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": message, "type": kind}}, status=status)
