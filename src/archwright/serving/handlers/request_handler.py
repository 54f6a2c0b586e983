"""Handlers of admitted requests: the interface for the dispatcher, and the frame of every charged request."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from archwright.access.reservations import LimitDenial, ReserveResult
from archwright.contract.metrics import LIMITED_STATUS
from archwright.contract.served import RequestRecord
from archwright.errors import ArchwrightError
from archwright.monitor.trace_exporter import TraceContent
from archwright.serving.admission.metering import RequestCharge, Settlement, WorstCase
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.http.errors import to_api_error
from archwright.serving.http.http_request import HttpRequest
from archwright.serving.http.http_response import (
    JSON_CONTENT_TYPE,
    PHASE_FIRST_TOKEN,
    SHUTDOWN,
    HeaderField,
    HttpResponse,
    early_end_error,
)
from archwright.serving.settings.config import Endpoint

CLIENT_CLOSED_STATUS = 499  # as nginx records it: the client left before the response


class HandlerContext(msgspec.Struct, frozen=True, gc=False):
    """The arguments of every handler; `name`: the decoded name in the path, if the route has a name."""

    gateway: GatewayContext
    request: HttpRequest
    response: HttpResponse
    name: str


class HttpReply(msgspec.Struct, frozen=True, gc=False):
    """A complete response of a handler that streams nothing."""

    body: bytes
    status: int = HTTPStatus.OK
    content_type: str = JSON_CONTENT_TYPE
    headers: tuple[HeaderField, ...] = ()


def json_reply(value: object, status: int = HTTPStatus.OK) -> HttpReply:
    return HttpReply(msgspec.json.encode(value), status)


class RequestHandler(ABC):
    """Answers a request. `worst_case` is reserved before `run` starts; None: nothing is reserved."""

    worst_case: WorstCase | None = None
    is_cached = False  # True: `run` waits for nothing

    def __init__(self, context: HandlerContext) -> None:
        self.gateway, self.request, self.response = context.gateway, context.request, context.response

    def look_up(self) -> None:  # noqa: B027
        """Set `is_cached` if the cache has the response."""

    @abstractmethod
    async def run(self, reservation: ReserveResult | None) -> None:
        """Write the response. Raises ArchwrightError for an error that is still to be written."""


class ReplyHandler(RequestHandler):
    """Sends the reply of a function that costs nothing."""

    def __init__(self, make_reply: Callable[[HandlerContext], Awaitable[HttpReply]], context: HandlerContext) -> None:
        super().__init__(context)
        self._make_reply, self._context = make_reply, context

    async def run(self, _reservation: ReserveResult | None) -> None:
        reply = await self._make_reply(self._context)
        self.response.send(reply.status, reply.body, reply.content_type, reply.headers)


class ServedBy(msgspec.Struct, frozen=True, gc=False):
    """The model version that gave a response, and the pool whose engine did."""

    version: str
    route: str

    def headers(self) -> list[HeaderField]:
        return [(b"x-archwright-model", self.version.encode()), (b"x-archwright-route", self.route.encode())]


class RequestLedger(Protocol):
    """Takes the records of requests, and makes them durable (`GatewayContext`)."""

    def record_request(self, record: RequestRecord, content: TraceContent | None) -> None: ...

    def flush(self) -> None: ...


class MeteredHandler(RequestHandler):
    """Answers a request that is charged, and records it once in `ledger` however it ends."""

    worst_case: WorstCase

    def __init__(self, context: HandlerContext, endpoint: Endpoint, worst_case: WorstCase) -> None:
        super().__init__(context)
        self.worst_case = worst_case
        self._endpoint = endpoint
        self.ledger: RequestLedger = context.gateway
        self._charge: RequestCharge | None = None
        self._served_by: ServedBy | None = None  # set when the first bytes of an engine or a cached response are there
        self._recorded = False

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    async def run(self, reservation: ReserveResult | None) -> None:
        gateway, response = self.gateway, self.response
        status, http_status = "failed", int(HTTPStatus.INTERNAL_SERVER_ERROR)  # a bug, unless set otherwise
        try:
            response.watch_disconnect()
            response.start_phase(PHASE_FIRST_TOKEN, response.limits.first_token_s)
            if isinstance(reservation, LimitDenial):
                reservation = self._fit_budget(reservation)
            charge = gateway.accounting.open_charge(self.request, self._endpoint, self.worst_case, reservation)
            self._charge = charge
            response.check_regularly(charge.check_if_due)
            await self._respond(charge)
            status = "ok"
        except (asyncio.CancelledError, ArchwrightError) as error:
            status, http_status = classify_failure(response, error)
            raise
        finally:
            try:
                if not self._recorded:
                    self._record(status, http_status)
                    self.ledger.flush()
                elif response.is_client_gone:
                    self.ledger.flush()  # no response follows that would flush
            except ArchwrightError as error:
                gateway.journal.error("request not recorded", request=self.request.id, **error.as_dict())
            finally:
                self._close(status)

    def _fit_budget(self, denial: LimitDenial) -> ReserveResult:
        """Return the reservation of a smaller request, or the denial of this one. Raises StoreError."""
        return denial

    @abstractmethod
    async def _respond(self, charge: RequestCharge) -> None:
        """Do the work, `_record` it as "ok", then write the last bytes of the response."""

    @abstractmethod
    def _figures(self) -> dict[str, Any]:
        """Return the fields of the request's record that only this kind of request knows.

        `usage`: not of the record, but the engine's usage, which states the kinds of the tokens for the charge."""

    def _trace_content(self) -> TraceContent | None:
        """Return what the trace includes of prompt and response."""
        return None

    def _close(self, status: str) -> None:
        """Release what the work held, after it was recorded."""

    def _record(self, status: str, http_status: int = 200) -> None:
        """Settle the charge and record the end of the request, before its last bytes leave. Raises ApiError 503.

        `http_status`: of a response that has not begun; a stream that fails after its head has 200."""
        request, endpoint, charge, figures = self.request, self._endpoint, self._charge, self._figures()
        served_by, principal, content = self._served_by, request.principal, self._trace_content()
        input_tokens, output_tokens = figures.pop("input_tokens", 0), figures.pop("output_tokens", 0)
        usage: dict[str, Any] | None = figures.pop("usage", None)
        if status == "ok" and self.response.is_client_gone:  # its reply was read to the end without it
            status, http_status = "cancelled", CLIENT_CLOSED_STATUS
        settled = Settlement(input_tokens, output_tokens)
        if charge is not None:
            settled = charge.settle(status, input_tokens, output_tokens, usage)
        record = RequestRecord(
            at=self.gateway.clock(),
            request_id=request.id,
            status=status,
            tenant=principal.tenant,
            key_id=principal.key_id,
            user=principal.user,
            workload=endpoint.workload,
            model=endpoint.model,
            version="" if served_by is None else served_by.version,
            route=endpoint.pool if served_by is None else served_by.route,
            input_tokens=settled.input_tokens,
            output_tokens=settled.output_tokens,
            cost_usd=settled.cost_usd,
            reserved_usd=settled.reserved_usd,
            saved_usd=settled.saved_usd,
            cache=settled.cache,
            latency_s=self.response.now() - request.received_at,
            http_status=200 if self.response.started else http_status,
            **figures,
        )
        self.ledger.record_request(record, content)
        self._recorded = True


def classify_failure(response: HttpResponse, error: BaseException) -> tuple[str, int]:
    """Return `status` and HTTP status of a request that did not succeed.

    Stopped: cancelled (by its client), ended. Failed: refused (the client's fault), limited (by a limit of the caller),
    rejected (no room), failed (ours).
    """
    if not isinstance(error, ArchwrightError):
        if response.stop_error is None:
            if response.is_client_gone:
                return "cancelled", CLIENT_CLOSED_STATUS
            return "ended", early_end_error(response.stop_reason or SHUTDOWN, response.limits).status
        error = response.stop_error
    refusal = to_api_error(error)
    status = refusal.status
    if refusal.is_callers_limit:
        return LIMITED_STATUS, status
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rejected", status
    return "failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused", status
