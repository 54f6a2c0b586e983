"""One text generation: a slot, the engine's stream, the client's reply, and its usage.

An engine is asked for a whole reply only if the client wants one, the engine is not our own (which notices a closed
connection only while it streams), and the time of the first token decides nothing. The reply names the version whose
engine gave it, known once there is a slot: versions may change while a request waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from msgspec.structs import replace

from archwright.errors import ArchwrightError
from archwright.http_client.client import EngineRefused
from archwright.monitor.trace_exporter import TraceContent
from archwright.policy.cache_key import RequestKind
from archwright.serving.admission.metering import RequestCharge
from archwright.serving.events.response_formats import ChatFormat, ResponsePiece, ResponseWriter
from archwright.serving.events.stream_replay import has_truncated_call, replay_response
from archwright.serving.events.timing import RequestTiming
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.handlers.stream_relay import (
    EVENT_STREAM_TYPE,
    STREAM_HEADERS,
    BufferedRelay,
    StreamingRelay,
)
from archwright.serving.handlers.trace_content import build_trace_content
from archwright.serving.http.errors import MESSAGES_PATH, to_api_error
from archwright.serving.http.http_exchange import CLIENT_GONE, JSON_CONTENT_TYPE, PHASE_FIRST_TOKEN, HttpExchange
from archwright.serving.providers.protocol import EngineRequest
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.routing.attempts import Attempts, start_attempts
from archwright.serving.routing.replica import Replica

CHAT_PATH = ChatFormat.path
# Makes an engine leave its adapter out of one request.
WITHOUT_ADAPTER = {"lora": [{"id": 0, "scale": 0.0}]}


class GenerationHandler:
    """`path` is the path at an OpenAI engine; `writer` writes the reply in the client's format."""

    _tells = False  # the trace includes the content

    def __init__(
        self,
        gateway: GatewayContext,
        exchange: HttpExchange,
        question: GenerationRequest,
        path: str,
        writer: ResponseWriter,
    ) -> None:
        self._gateway = gateway
        self._exchange = exchange
        self._question = question
        self._path = path
        self._writer = writer
        self._course: Attempts | None = None
        self._shadow: asyncio.Future[str] | None = None
        self._meter = RequestTiming(exchange.received_at)
        self._relayed: BufferedRelay | None = None  # its content goes into the trace

    async def run(self) -> None:
        """Answer the client and record the request however it ends."""
        gateway, exchange, spec = self._gateway, self._exchange, self._question.endpoint
        status = "failed"  # a bug, unless set otherwise
        try:
            exchange.watch_disconnect()
            exchange.start_phase(PHASE_FIRST_TOKEN, exchange.limits.first_token_s)
            self._tells = gateway.is_content_traced(exchange)
            self._bill = bill = gateway.till.open_charge(exchange, self._question, self._interface_kind)
            relay = None if bill.known is not None else await self._run_attempts()
            content = self._build_trace_content() if self._tells else None
            gateway.record_request(exchange, spec, "ok", self._request_figures(), content)
            self._send_response(relay)
            status = "ok"
            if relay is not None and self._shadow is not None and not self._shadow.done():
                self._shadow.set_result("".join(relay.heard or ()))
        except (asyncio.CancelledError, ArchwrightError) as error:
            status = classify_failure(exchange, error)
            raise
        finally:
            sink, exchange.sink = exchange.sink, None
            if self._shadow is not None:
                self._shadow.cancel()  # without effect if it has the answer
            if not exchange.recorded:
                content = self._build_trace_content() if self._tells else None
                gateway.record_interrupted(exchange, spec, status, self._request_figures(), content)
            if status != "ok" and isinstance(sink, BufferedRelay):
                sink.clear()

    def _build_trace_content(self) -> TraceContent:
        """The request and what came of an answer, for the trace."""
        bill, tenant = self._exchange.bill, self._exchange.require_principal().tenant
        said: Sequence[ResponsePiece] | bytes = self._relayed.pieces if self._relayed is not None else ()
        if isinstance(bill, RequestCharge) and bill.known is not None:
            said = bill.known.body
        return build_trace_content(tenant, self._question, said, apart=self._interface_kind == "messages")

    @property
    def _interface_kind(self) -> RequestKind:
        if self._exchange.path.startswith(MESSAGES_PATH):
            return "messages"
        return "chat" if self._path == CHAT_PATH else "completion"

    def _send_response(self, relay: BufferedRelay | None) -> None:
        """Send the reply or the end of the stream; without a relay the cached answer."""
        exchange, meter, bill = self._exchange, self._meter, self._bill
        body = b""
        if relay is None:
            assert bill.known is not None, "neither asked nor known"
            body = bill.known.body
        elif bill.is_cacheable or not self._question.stream:
            body = self._writer.encode_response(relay.pieces, meter.used)
            if bill.is_cacheable and not has_truncated_call(relay.pieces):
                bill.cache_response(body, meter.input_tokens, meter.tokens)
        headers = [meter.overhead_header(exchange.now()), *bill.headers()]
        if not self._question.stream:
            exchange.reply(HTTPStatus.OK, body, JSON_CONTENT_TYPE, headers)
        elif relay is None:
            exchange.start_stream(HTTPStatus.OK, EVENT_STREAM_TYPE, [*STREAM_HEADERS, *headers])
            exchange.finish(replay_response(body, include_usage=self._question.include_usage, told=bill.add_cost))
        else:
            exchange.finish(self._writer.encode_end(bill.add_cost(meter.used)))

    async def _run_attempts(self) -> BufferedRelay:
        """The engine's reply, complete or relayed; retried if nothing came."""
        question, router = self._question, self._gateway.router
        course = self._course = start_attempts(router, self._exchange, question, question.native or question.body)
        self._shadow = self._gateway.mirror_request(self._exchange.id, question, course, self._path)
        work = router.build_slot_request(question, course.tenant, course.data_class, course.until)
        return await course.run(work, self._query_replica)

    async def _query_replica(self, replica: Replica) -> BufferedRelay:
        meter = self._meter
        self._bill.asked = True
        meter.asked_at = meter.event_at = self._exchange.now()
        while True:
            asked, version = self._build_engine_request(replica)
            relay = self._exchange.sink = self._create_relay(replica, version, asked.whole)
            relay.reader = asked.reader
            try:
                await replica.client.send_request(asked.path, asked.body, relay, asked.headers)
            except EngineRefused as error:
                if not replica.provider.adapt_request(asked, error):
                    raise
                continue
            relay.finish_reply()
            return relay

    def _create_relay(self, replica: Replica, version: str, whole: bool) -> BufferedRelay:
        exchange, question, course, bill = self._exchange, self._question, self._course, self._bill
        assert course is not None, "nothing is sent before a course is set"
        self._meter.queued_s = course.queued_s

        def first() -> None:
            exchange.model, exchange.route = version, course.pool.name
            bill.set_prices(replica.prices)
            course.mark_started()

        relay: BufferedRelay | StreamingRelay
        if question.stream:
            relay = StreamingRelay(exchange, self._meter, replica.client, first)
            keeps = bill.is_cacheable or self._tells
            relay.configure(self._writer, logprobs=question.top_logprobs is not None, keeps=keeps)
        else:
            relay = BufferedRelay(exchange, self._meter, replica.client, first)
            if whole:
                tokens = int(question.body["max_tokens"]) * question.choices
                exchange.start_phase(PHASE_FIRST_TOKEN, exchange.limits.complete_reply_timeout_s(tokens))
        self._relayed = relay if self._tells else None
        relay.choices = question.choices
        relay.heard = [] if self._shadow is not None else None
        return relay

    def _build_engine_request(self, replica: Replica) -> tuple[EngineRequest, str]:
        """The request for this engine, and the version that answers it."""
        question, course, more = self._question, self._course, replica.client.extra_fields
        assert course is not None, "nothing is asked before a course is set"
        whole = not question.stream and not replica.strict and course.is_only_engine
        build = replica.provider.build_request
        asked = build(self._path, question.body, question.native, whole=whole, betas=question.betas)
        if question.plain and replica.tuned:
            return replace(asked, body={**asked.body, **more, **WITHOUT_ADAPTER}), question.endpoint.model
        return replace(asked, body={**asked.body, **more}) if more else asked, replica.version

    def _request_figures(self) -> dict[str, Any]:
        meter, course = self._meter, self._course
        return {
            "pool": course.pool.name if course is not None else self._question.endpoint.pool,
            "tries": course.tries if course is not None else 0,
            "data_class": course.data_class if course is not None else "",
            "operation": "chat" if self._path == CHAT_PATH else "text_completion",
            "output_tokens": meter.tokens,
            "input_tokens": meter.input_tokens,
            "cached_tokens": meter.cached_tokens,
            "ttft_s": meter.first_at - meter.received_at if meter.first_at is not None else None,
            "tpot_s": meter.tpot_s,
            "queue_s": meter.queued_s,
            "gateway_s": meter.gateway_time_s(self._exchange.now()),
            "engine_s": meter.event_at - meter.asked_at,
        }


def classify_failure(exchange: HttpExchange, error: BaseException) -> str:
    """The `status` label of a request that was stopped (cancelled by its client, ended) or failed: refused (client's
    fault), rejected (full), failed (ours)."""
    if not isinstance(error, ArchwrightError):
        if exchange.why is None:
            return "cancelled" if exchange.ended == CLIENT_GONE else "ended"
        error = exchange.why
    status = to_api_error(error).status
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rejected"
    return "failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"
