"""One text generation: a slot, the engine's stream, the client's reply, and what it took.

Decides that an engine is asked for one reply where the client wants one and nothing is lost by it: an engine of our
own notices a closed connection only while it streams, and where there is another to turn to, or a limit for the first
token, the first token must be seen. And that a reply names the version whose engine gave it, which is known
once a slot is: a request may wait through a change of versions.
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
    EngineRelay,
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
# How an engine is told to leave its adapter out of one request.
WITHOUT_ADAPTER = {"lora": [{"id": 0, "scale": 0.0}]}


class GenerationHandler:
    """`path` is what an OpenAI engine is asked at; `writer` writes the reply in the client's language."""

    _tells = False  # what is said goes along with the trace

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
        self._relayed: BufferedRelay | None = None  # whose words go along with the trace

    async def run(self) -> None:
        """Answer the client; measured whatever happens."""
        status = "failed"  # a bug, where nothing else is said
        try:
            self._exchange.watch_disconnect()
            self._exchange.start_phase(PHASE_FIRST_TOKEN, self._exchange.limits.first_token_s)
            self._tells = self._gateway.is_content_traced(self._exchange)
            self._bill = bill = self._gateway.till.open_charge(self._exchange, self._question, self._interface_kind)
            relay = None if bill.known is not None else await self._run_attempts()
            content = self._build_trace_content() if self._tells else None
            self._gateway.record_request(
                self._exchange, self._question.endpoint, "ok", self._request_figures(), content
            )
            self._send_response(relay)
            status = "ok"
            if relay is not None and self._shadow is not None and not self._shadow.done():
                self._shadow.set_result("".join(relay.heard or ()))
        except asyncio.CancelledError:
            status = classify_stop(self._exchange)
            raise
        except ArchwrightError as error:
            status = classify_failure(error)
            raise
        finally:
            sink, self._exchange.sink = self._exchange.sink, None
            if self._shadow is not None:
                self._shadow.cancel()  # without effect where it has the answer
            if not self._exchange.recorded:
                content = self._build_trace_content() if self._tells else None
                self._gateway.record_interrupted(
                    self._exchange, self._question.endpoint, status, self._request_figures(), content
                )
            if status != "ok" and isinstance(sink, BufferedRelay):
                sink.clear()

    def _build_trace_content(self) -> TraceContent:
        """For the trace: what was asked, and what came of an answer."""
        bill, principal = self._exchange.bill, self._exchange.principal
        assert principal is not None, "let in without a principal"
        said: Sequence[ResponsePiece] | bytes = self._relayed.pieces if self._relayed is not None else ()
        if isinstance(bill, RequestCharge) and bill.known is not None:
            said = bill.known.body
        return build_trace_content(principal.tenant, self._question, said, apart=self._interface_kind == "messages")

    @property
    def _interface_kind(self) -> RequestKind:
        if self._exchange.path.startswith(MESSAGES_PATH):
            return "messages"
        return "chat" if self._path == CHAT_PATH else "completion"

    def _send_response(self, relay: EngineRelay | None) -> None:
        """The one reply, or the end of the stream; without a relay what the cache holds."""
        exchange, meter, bill = self._exchange, self._meter, self._bill
        body = b""
        if relay is None:
            assert bill.known is not None, "neither asked nor known"
            body = bill.known.body
        elif isinstance(relay, BufferedRelay) and (bill.is_cacheable or not self._question.stream):
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

    async def _run_attempts(self) -> EngineRelay:
        """What the engine says, from a slot of a pool to its finish reason; asked again where nothing came."""
        question, router = self._question, self._gateway.router
        course = self._course = start_attempts(router, self._exchange, question, question.native or question.body)
        self._shadow = self._gateway.mirror_request(self._exchange.id, question, course, self._path)
        return await course.run(
            router.build_slot_request(question, course.tenant, course.data_class, course.until), self._query_replica
        )

    async def _query_replica(self, replica: Replica) -> EngineRelay:
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

    def _create_relay(self, replica: Replica, version: str, whole: bool) -> EngineRelay:
        exchange, meter, course, bill = self._exchange, self._meter, self._course, self._bill
        assert course is not None, "nothing is sent before a course is set"
        meter.queued_s = course.queued_s

        def first() -> None:
            exchange.model, exchange.route = version, course.pool.name
            bill.set_prices(replica.prices)
            course.mark_started()

        relay: BufferedRelay | StreamingRelay
        if self._question.stream:
            relay = StreamingRelay(exchange, self._meter, replica.client, first)
            relay.configure(
                self._writer,
                logprobs=self._question.top_logprobs is not None,
                keeps=self._bill.is_cacheable or self._tells,
            )
        else:
            relay = BufferedRelay(exchange, self._meter, replica.client, first)
            if whole:
                tokens = int(self._question.body["max_tokens"]) * self._question.choices
                exchange.start_phase(PHASE_FIRST_TOKEN, exchange.limits.complete_reply_timeout_s(tokens))
        self._relayed = relay if self._tells else None
        relay.choices = self._question.choices
        relay.heard = [] if self._shadow is not None else None
        return relay

    def _build_engine_request(self, replica: Replica) -> tuple[EngineRequest, str]:
        """What this engine is sent, and the version that answers it."""
        question, course, more = self._question, self._course, replica.client.extra_fields
        assert course is not None, "nothing is asked before a course is set"
        whole = not question.stream and not replica.strict and course.is_only_engine
        asked = replica.provider.build_request(
            self._path, question.body, question.native, whole=whole, betas=question.betas
        )
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


def classify_stop(exchange: HttpExchange) -> str:
    """The same for a request whose work was stopped."""
    if exchange.why is not None:
        return classify_failure(exchange.why)
    return "cancelled" if exchange.ended == CLIENT_GONE else "ended"


def classify_failure(error: ArchwrightError) -> str:
    """The `status` label of a request that failed: refused (the client's doing), rejected (full), failed (ours)."""
    status = to_api_error(error).status
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rejected"
    return "failed" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "refused"
