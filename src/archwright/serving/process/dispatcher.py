"""Dispatch of requests: authorisation before the handler, and one place where errors become responses.

Design: each stage gets records and returns a record. Requests that arrive in one tick of the event loop are a list.
"""

import asyncio
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import msgspec
from msgspec.structs import replace

from archwright.access.api_keys import Principal
from archwright.access.reservations import ReserveResult
from archwright.contract.metrics import LIMITED_STATUS
from archwright.contract.served import RequestRecord
from archwright.engines.http_request_parser import RequestHead
from archwright.errors import ArchwrightError, EngineError, InternalError, boundary
from archwright.http_client.client import EngineRefused
from archwright.http_client.connection_pool import InvalidHttpReply
from archwright.monitor.metrics.exposition import OTHER_LABEL
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.handlers.request_handler import HandlerContext, MeteredHandler, RequestHandler
from archwright.serving.http.connection import HttpServer
from archwright.serving.http.errors import ApiError, CallersLimitReached, to_api_error
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import SHUTDOWN, HttpResponse, early_end_error
from archwright.serving.process.config_reload import ConfigWatcher
from archwright.serving.process.memory_trim import trim_periodically
from archwright.serving.process.route_table import METERED_PERMISSION, RouteMatch
from archwright.serving.process.routes import find_route

REQUEST_BOUNDARY = boundary("request")
MAX_SHOWN_CODING = 40
LARGE_BYTES = 256 * 1024  # a body whose decoding other requests would notice


class Dispatcher:
    """Takes a request through its stages: route, authorise, validate, reserve, handle.

    `changes` follows the configuration file; without it the endpoints stay as they are. `find` finds a route.
    `shared`: web pages of `cors_origins` may call it.
    """

    def __init__(
        self,
        gateway: GatewayContext,
        changes: ConfigWatcher | None = None,
        find: Callable[[str, str], RouteMatch] = find_route,
        *,
        shared: bool = True,
    ) -> None:
        self._gateway = gateway
        self._origins = frozenset(origin.encode() for origin in gateway.config.cors_origins if shared)
        self._find = find
        self._changes = changes
        self._arrived: list[tuple[HttpRequest, HttpResponse]] = []
        self._large: dict[str, deque[tuple[HttpRequest, HttpResponse]]] = {}  # by tenant, whose turn it is first

    def on_headers(self, head: RequestHead, response: HttpResponse, *, complete: bool) -> Admitted | None:
        """Admit the request, or write an error. A request counts here unless its small body is `complete`.

        Design: a complete request is counted by its reservation in the same tick, without another transaction.
        """
        if self._origins and head.headers.get(b"origin", b"").lower() in self._origins and response.share(head):
            return None
        try:
            with REQUEST_BOUNDARY:
                requirement = self._find(head.method, head.path).requirement
                if requirement is None:
                    return Admitted(principal=None, keys_version=0)
                admitted = self._gateway.authorizer.authorize(head, response, requirement)
                if b"content-encoding" in head.headers:
                    check_content_encoding(head.headers[b"content-encoding"])
                if complete or requirement.permission != METERED_PERMISSION:
                    return admitted
                principal = admitted.principal
                if principal is None or not principal.limited:
                    return admitted
                self._count_request(principal, response)
                return replace(admitted, counted=True)
        except ArchwrightError as error:
            self._send_error(response, error, head)
            return None

    def _count_request(self, principal: Principal, response: HttpResponse) -> None:
        """Count a request without a reservation. If a limit of its caller refuses it, record it without a model.

        Raises ApiError 429 and 503, StoreError.
        """
        try:
            self._gateway.accounting.count_request(principal)
        except CallersLimitReached as error:
            record = RequestRecord(
                at=self._gateway.clock(),
                request_id=response.id,
                status=LIMITED_STATUS,
                tenant=principal.tenant,
                key_id=principal.key_id,
                user=principal.user,
                latency_s=response.now() - response.received_at,
                http_status=error.status,
            )
            self._gateway.record_request(record, None)
            raise

    def on_refused(self, head: RequestHead | None, status: int) -> None:
        """Count a request that no handler records, by the template of its route; without a head it was no HTTP."""
        route = None if head is None else self._find(head.method, head.path).route
        labels = {"route": OTHER_LABEL if route is None else route.template, "http_status": str(int(status))}
        with suppress(OSError):  # the disk is full
            self._gateway.exposition.counter("refusals", labels).add()

    def on_request(self, request: HttpRequest, response: HttpResponse) -> None:
        """The body is complete: start the request in the next tick of the event loop."""
        if len(request.body) > LARGE_BYTES:
            if not self._large:
                asyncio.get_running_loop().call_soon(self._start_large)
            self._large.setdefault(request.principal.tenant, deque()).append((request, response))
            return
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._start_arrived)
        self._arrived.append((request, response))

    def _start_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._start(arrived)

    def _start_large(self) -> None:
        """Start one request with a large body per tick, so that other requests get the event loop in between.

        Tenants take turns, because a body of sound or images takes long to read and to check."""
        tenant = next(iter(self._large))
        requests = self._large.pop(tenant)
        request, response = requests.popleft()
        if requests:
            self._large[tenant] = requests
        if self._large:
            asyncio.get_running_loop().call_soon(self._start_large)
        self._start([(request, response)])

    def _start(self, arrived: list[tuple[HttpRequest, HttpResponse]]) -> None:
        """Start requests that arrived in one tick; their worst cases are reserved in one transaction."""
        handlers = [one for request, response in arrived if (one := self._prepare(request, response)) is not None]
        wanted = [(one.request, worst, one.is_cached) for one in handlers if (worst := one.worst_case) is not None]
        reservations: list[ReserveResult | None] = [None] * len(wanted)
        try:
            reservations = self._gateway.accounting.reserve(wanted)
        finally:  # a handler without a reservation reserves by itself
            results = iter(reservations)
            works = [self._run_handler(one, None if one.worst_case is None else next(results)) for one in handlers]
            for handler, work in zip(handlers, works, strict=True):
                if not handler.is_cached:
                    handler.response.start_work(work)
            self._answer_cached([work for one, work in zip(handlers, works, strict=True) if one.is_cached])

    def _answer_cached(self, works: list[Coroutine[object, None, None]]) -> None:
        """Run works that wait for nothing, without the cost of a task."""
        try:
            while works:
                try:
                    works.pop().send(None)
                except StopIteration:
                    continue
                raise AssertionError("the work of a cached response waited")
        finally:
            if works:  # a bug in one does not affect the others
                asyncio.get_running_loop().call_soon(self._answer_cached, works)

    def _prepare(self, request: HttpRequest, response: HttpResponse) -> RequestHandler | None:
        """Authorise again, since the body may have taken long, and validate. None if an error was written."""
        if response.finished:
            return None  # the client is gone
        try:
            with REQUEST_BOUNDARY:
                match = self._find(request.head.method, request.head.path)
                assert match.route is not None, "a request was admitted without a route"
                if match.requirement is not None:
                    request = self._gateway.authorizer.reauthorize(request, match.requirement)
                try:
                    handler = match.route.prepare(HandlerContext(self._gateway, request, response, match.name))
                    handler.look_up()
                    return handler
                except ApiError:
                    if match.route.permission == METERED_PERMISSION and not request.admitted.counted:
                        self._count_request(request.principal, response)  # it gets no reservation
                    raise
        except ArchwrightError as error:
            self._send_error(response, error, request.head)
            return None

    async def _run_handler(self, handler: RequestHandler, reservation: ReserveResult | None) -> None:
        """Run the handler; the client gets a response in any case."""
        response = handler.response
        try:
            if response.begin_work():
                with REQUEST_BOUNDARY:
                    await handler.run(reservation)
            else:
                self._gateway.accounting.release(reservation)
                self._send_stopped(response)
        except ArchwrightError as error:
            self._send_error(response, error, None if isinstance(handler, MeteredHandler) else handler.request.head)
        except asyncio.CancelledError:
            self._send_stopped(response)
        finally:
            response.end_work()

    def _send_error(self, response: HttpResponse, error: ArchwrightError, head: RequestHead | None = None) -> None:
        """Send the error; count it as a refusal of the request with this `head`, unless its handler records it."""
        refusal = to_api_error(error)
        if head is not None:
            self.on_refused(head, refusal.status)
        if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            cause = describe_cause(error)
            self._gateway.journal.warning("request failed", request=response.id, status=refusal.status, **cause)
        response.send_error(refusal)

    def _send_stopped(self, response: HttpResponse) -> None:
        """Answer a request whose work was stopped by the client, a deadline or the end of the process."""
        if response.finished:
            return
        if response.is_client_gone:
            response.abort()
        else:
            reason = response.stop_reason or SHUTDOWN
            self._send_error(response, response.stop_error or early_end_error(reason, response.limits))

    @asynccontextmanager
    async def run_background_tasks(self, *servers: HttpServer) -> AsyncIterator[None]:
        """Run deadlines, health checks, memory trimming and changes of the configuration beside the requests."""
        gateway, limits = self._gateway, self._gateway.config.limits

        async def sweep() -> None:
            for server in servers:
                server.check_deadlines()
                for reason, count in server.slots.take_dropped().items():
                    gateway.exposition.record("connections_dropped", {"reason": reason}, count)
            if gateway.authorizer.write_denials():
                gateway.flush()
            gateway.publish_load()
            gateway.passages.drop_changed()
            gateway.exchange_demand()

        async def follow_keys() -> None:
            """Record keys that expire while no request comes."""
            await asyncio.to_thread(gateway.accounting.keys.refresh_version)

        jobs: list[tuple[Callable[[], Awaitable[None]], float, str, str]] = [
            (follow_keys, limits.health_s, "keys", "keys not read"),
            (gateway.fleet.refresh_keys, limits.health_s, "keys of engines", "engine key not read"),
            (gateway.fleet.check_health, limits.health_s, "health", "health check failed"),
            (gateway.inspect_upstreams, limits.health_s, "inspection", "upstreams not inspected"),
            (sweep, limits.sweep_s, "sweep", "sweep failed"),
        ]
        if self._changes is not None:
            await self._changes.start()
            jobs.append((self._changes.check_once, limits.sweep_s, "change of endpoints", "change failed"))
        running = [gateway.repeat(act, every_s, *names) for act, every_s, *names in jobs]
        loops = [asyncio.create_task(job) for job in (*running, trim_periodically())]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await gateway.close()


def check_content_encoding(coding: bytes) -> None:
    """Raise ApiError 415 for a compressed body: its size would say nothing about its memory."""
    if coding.strip().lower() not in (b"", b"identity"):
        shown = coding[:MAX_SHOWN_CODING].decode("latin-1")
        message = f"The content-encoding is {shown!r}, and compressed bodies are not read. Send the body as it is."
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message, "unsupported_content_encoding")


def describe_cause(error: ArchwrightError) -> dict[str, object]:
    """Return the codes of a failed request for the journal, without messages, which may quote the prompt or a key."""
    fields: dict[str, object] = {"code": error.code, "where": str(error.where)}
    if isinstance(error, EngineRefused):
        fields["engine_status"] = error.status
    bug = error.__cause__
    if isinstance(error, EngineError) and isinstance(bug, OSError):
        fields["reason"] = type(bug).__name__  # such as an unknown name, an untrusted certificate
    if isinstance(bug, msgspec.DecodeError | InvalidHttpReply):
        fields["reason"] = str(bug)  # the place of the fault in the reply, and nothing of its content
    if isinstance(error, InternalError) and bug is not None:
        frame = traceback.extract_tb(bug.__traceback__)[-1]
        fields["bug"] = f"{type(bug).__name__} at {frame.name}:{frame.lineno}"
    return fields
