"""One text generation: a slot, the engine's stream, the client's response, and its usage.

Design: an engine streams to the gateway, so that it notices a closed connection and its first token can be timed. It
sends a complete reply only if the client asked for a complete response, the engine is not our own, and the time of the
first token decides nothing. The response names the version whose engine gave it. This version is known when there is a
slot, since versions may change while a request waits.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec.structs import replace

from archwright.access.reservations import LimitDenial, ReserveResult
from archwright.contract.record import replace as copy_record
from archwright.errors import ArchwrightError, EngineError
from archwright.http_client.client import EngineRefused
from archwright.monitor.trace_exporter import TraceContent
from archwright.policy.cache_key import RequestKind
from archwright.serving.admission.metering import CacheLookUp, RequestCharge, estimate_worst_case
from archwright.serving.admission.output_shortening import is_single, shorten_output
from archwright.serving.admission.response_cache import CachedResponse
from archwright.serving.events.response_formats import (
    ChatFormat,
    CompletionFormat,
    ResponsePiece,
    ResponseWriter,
    hide_cached_tokens,
)
from archwright.serving.events.stream_replay import decode_stored, encode_stream
from archwright.serving.events.timing import RequestTiming
from archwright.serving.handlers.request_handler import HandlerContext, MeteredHandler, ServedBy
from archwright.serving.handlers.stream_relay import (
    EVENT_STREAM_TYPE,
    STREAM_HEADERS,
    BufferedRelay,
    StreamingRelay,
)
from archwright.serving.handlers.trace_content import build_trace_content
from archwright.serving.http.engine_refusals import parse_length_refusal
from archwright.serving.http.errors import ApiError
from archwright.serving.http.http_response import JSON_CONTENT_TYPE, PHASE_FIRST_TOKEN, HeaderField
from archwright.serving.providers.protocol import EngineRequest
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.routing.attempts import Attempts, start_attempts
from archwright.serving.routing.replica import Replica

CHAT_PATH = ChatFormat.path
SHORTENED_HEADER = b"x-archwright-max-tokens"
# Engines whose complete reply counts the tokens of its first choice only. Their streams count each choice.
COUNTING_FIRST_CHOICE = ("llamacpp", "llama-server")
# Makes an engine leave its adapter out of one request.
WITHOUT_ADAPTER = {"lora": [{"id": 0, "scale": 0.0}]}


class GenerationHandler(MeteredHandler):
    """Answers one generation; `kind` is the client's interface, `writer` writes its format.

    Design: the cache keeps a chat or a completion as it was sent. For other interfaces it keeps the pieces, since their
    replies repeat fields of the request that do not affect the reply."""

    def __init__(
        self, context: HandlerContext, generation: GenerationRequest, kind: RequestKind, writer: ResponseWriter
    ) -> None:
        worst_case = estimate_worst_case(generation, len(context.request.body))
        endpoint, principal = generation.endpoint, context.request.principal
        if endpoint.stops and principal.limited and is_single(generation):
            worst_case = context.gateway.accounting.expect_output(principal, endpoint.model, worst_case)
        super().__init__(context, endpoint, worst_case)
        self._generation = generation
        self._kind = kind
        self._keeps_pieces = kind in ("messages", "responses")
        self._path = CompletionFormat.path if kind == "completion" else CHAT_PATH
        self._writer = writer
        self._timing = RequestTiming(self.request.received_at)
        self._traces_content = self.gateway.is_content_traced(self.request)
        self._found: CacheLookUp | None = None  # set by `look_up`
        self._attempts: Attempts | None = None
        self._shadow: asyncio.Future[str] | None = None
        self._relay: BufferedRelay | None = None  # of the last attempt
        self._hides_hits = False
        self._shortened: int | None = None  # the output tokens that the budget paid, if fewer than requested

    def look_up(self) -> None:
        generation = self._generation
        if not (generation.parts.urls or generation.documents):
            self._found = found = self.gateway.accounting.look_up_cache(self.request, generation, self._kind)
            self.is_cached = found[-1] is not None

    def _fit_budget(self, denial: LimitDenial) -> ReserveResult:
        """Shorten the output of a provider to what the rest of the budget pays, if that is its usual length."""
        generation = self._generation
        if denial.limit != "budget" or self.is_cached:
            return denial
        # A line of a batch has no header that tells of a shorter output.
        in_batch = self.ledger is not self.gateway
        if in_batch or self._endpoint.stops or not is_single(generation):
            return denial
        accounting = self.gateway.accounting
        rest = accounting.reserve_rest(self.request, self._endpoint.model, self.worst_case)
        if rest is None:
            return denial
        length = rest.worst_case.output_tokens
        shorter = shorten_output(generation, length)
        if shorter is None:
            accounting.release(rest.reservation)
            return denial
        self._generation, self._shortened = shorter, length
        self._found = None  # the cached response of the longer request
        self.worst_case = rest.worst_case
        return rest.reservation

    async def _respond(self, charge: RequestCharge) -> None:
        request, generation = self.request, self._generation
        if generation.parts.urls:  # first, so that a cached response is one to the same images
            await self.gateway.images.insert_images(generation.parts.urls, self.response, request.principal.tenant)
        if generation.documents:
            messages = generation.body["messages"]
            reading = self.gateway.documents.insert_texts(generation.documents, messages, request.principal.tenant)
            charge.add_input_text(await reading)
        charge.use_cache(self._found or self.gateway.accounting.look_up_cache(request, generation, self._kind))
        if charge.cached is not None:
            self._served_by = ServedBy(charge.cached.version, self._endpoint.pool)
            self._record("ok")
            self._send_cached(charge, charge.cached, self._served_by)
            return
        content, router = generation.native or generation.body, self.gateway.router
        attempts = self._attempts = await start_attempts(router, request, self.response, generation, content)
        self._shadow = self.gateway.mirror_request(request.id, generation, attempts, self._path)
        slot = router.build_slot_request(generation, attempts.tenant, attempts.data_class, attempts.until)
        relay = await attempts.run(slot, partial(self._query_replica, charge, attempts))
        self._record("ok")
        if self.gateway.accounting.lengths is not None and not relay.cut and is_single(generation):
            self.gateway.accounting.lengths.add(request.principal.tenant, self._endpoint.model, self._timing.tokens)
        self._send_response(charge, relay)
        if self._shadow is not None and not self._shadow.done():
            self._shadow.set_result("".join(relay.texts or ()))

    def _close(self, status: str) -> None:
        self.response.attach_source(None)
        if self._shadow is not None:
            self._shadow.cancel()  # without effect if it has the response's text
        if status != "ok" and self._relay is not None:
            self._relay.clear()
        self._relay = None  # it refers to this handler, a cycle that the garbage collector finds late

    def _trace_content(self) -> TraceContent | None:
        if not self._traces_content:
            return None
        charge, relay = self._charge, self._relay
        output: Sequence[ResponsePiece] = () if relay is None else relay.pieces
        if charge is not None and charge.cached is not None:
            output = decode_stored(charge.cached.body)[0]
        return build_trace_content(self.request.principal.tenant, self._generation, output, apart=self._keeps_pieces)

    def _send_cached(self, charge: RequestCharge, cached: CachedResponse, served_by: ServedBy) -> None:
        response, body = self.response, self._encode_cached(charge, cached.body)
        headers = [self._timing.overhead_header(response.now()), *charge.headers()]
        if not self._generation.stream:
            response.send(HTTPStatus.OK, body, JSON_CONTENT_TYPE, [*served_by.headers(), *headers])
            return
        response.start_stream(HTTPStatus.OK, EVENT_STREAM_TYPE, [*served_by.headers(), *STREAM_HEADERS, *headers])
        response.finish(body)

    def _encode_cached(self, charge: RequestCharge, body: bytes) -> bytes:
        if not (self._generation.stream or self._keeps_pieces):
            return body
        pieces, usage = decode_stored(body)
        if self._generation.stream:
            return encode_stream(self._writer, pieces, charge.add_cost(usage))
        return self._writer.encode_response(pieces, usage)

    def _send_response(self, charge: RequestCharge, relay: BufferedRelay) -> None:
        """Send the engine's reply, or the end of the stream; cache it if possible."""
        response, timing, served_by, stream = self.response, self._timing, self._served_by, self._generation.stream
        assert served_by is not None, "a reply without its first piece"
        used = timing.used
        if self._hides_hits:
            used = hide_cached_tokens(used)
        body = b""
        if not stream or (charge.is_cacheable and not self._keeps_pieces):
            body = self._writer.encode_response(relay.pieces, used)
        if charge.is_cacheable and not relay.cut:
            stored = msgspec.json.encode((relay.pieces, used)) if self._keeps_pieces else body
            charge.cache_response(served_by.version, stored, timing.input_tokens, timing.tokens)
        if stream:
            response.finish(self._writer.encode_end(charge.add_cost(used)))
        else:
            headers = [*self._describe(served_by), timing.overhead_header(response.now()), *charge.headers()]
            response.send(HTTPStatus.OK, body, JSON_CONTENT_TYPE, headers)

    async def _query_replica(self, charge: RequestCharge, attempts: Attempts, replica: Replica) -> BufferedRelay:
        self._hides_hits = self.gateway.prompt_caches.hides_hits(replica)
        self._timing.mark_sent(self.response.now(), attempts.queued_s)
        while True:
            engine_request, version = self._build_engine_request(attempts, replica)
            relay = self._relay = self._create_relay(charge, attempts, replica, version)
            relay.expect(
                self._generation.choices,
                engine_request.reader,
                prompts=self._generation.contexts,
                keeps_text=self._shadow is not None,
                stops=replica.stops_when_left,
            )
            self.response.attach_source(relay)
            if engine_request.whole:
                tokens = self._generation.max_tokens * self._generation.choices
                limit_s = self.response.limits.complete_reply_timeout_s(tokens)
                self.response.start_phase(PHASE_FIRST_TOKEN, limit_s)
            try:
                await replica.client.send_request(
                    engine_request.path, engine_request.body, relay, engine_request.headers
                )
                relay.finish_reply()
            except ApiError:
                if not relay.cut:
                    raise
                await self._end_at_budget(replica, relay)
            except EngineError as error:
                charge.mark_ended()
                if not isinstance(error, EngineRefused) or not self._adapt_request(replica, engine_request, error):
                    raise
                continue
            charge.mark_ended()
            return relay

    def _adapt_request(self, replica: Replica, request: EngineRequest, error: EngineRefused) -> bool:
        """True if the engine refused the request's form or length, and another one may pass."""
        if self.response.is_client_gone:
            return False
        return replica.provider.adapt_request(request, error) or self._shorten_output(replica, error)

    async def _end_at_budget(self, replica: Replica, relay: BufferedRelay) -> None:
        """End the reply of an engine that was stopped. It reports no usage, so the gateway has its prompt counted."""
        relay.end_at_budget()
        timing, generation = self._timing, self._generation
        delivered = self._shortened = timing.chunks
        try:
            read = await replica.provider.count_tokens(replica.client, generation.body, generation.native)
        except ArchwrightError:
            return  # the estimate of the input is charged
        if read:
            total = {"prompt_tokens": read, "completion_tokens": delivered, "total_tokens": read + delivered}
            timing.set_usage(total)

    def _describe(self, served_by: ServedBy) -> list[HeaderField]:
        shortened = self._shortened
        headers = served_by.headers()
        if shortened is not None:
            headers.append((SHORTENED_HEADER, b"%d" % shortened))
        return headers

    def _shorten_output(self, replica: Replica, error: EngineRefused) -> bool:
        """Learn an engine's context from its refusal. True if a shorter output may fit; once per request.

        The reservation stays, since it bounds the shorter output too."""
        refusal, generation = parse_length_refusal(error), self._generation
        if refusal is None or replica.strict:
            return False
        if replica.learn_context(refusal.context):
            self.gateway.apply_contexts()
        length = refusal.fit_length(generation.max_tokens)
        if length < 1 or not generation.may_shorten:
            return False
        shorter = shorten_output(generation, length)
        if shorter is None:
            return False
        self._generation = copy_record(shorter, may_shorten=False)
        return True

    def _create_relay(self, charge: RequestCharge, attempts: Attempts, replica: Replica, version: str) -> BufferedRelay:
        served_by = ServedBy(version, attempts.pool.name)

        def on_first() -> None:
            self._served_by = served_by
            charge.set_prices(replica.prices)
            attempts.mark_started()

        if not self._generation.stream:
            return BufferedRelay(self.response, charge, self._timing, replica.client, on_first)
        relay = StreamingRelay(self.response, charge, self._timing, replica.client, on_first)
        logprobs, keeps = self._generation.top_logprobs is not None, charge.is_cacheable or self._traces_content
        relay.configure(self._writer, self._describe(served_by), logprobs=logprobs, keeps=keeps)
        return relay

    def _build_engine_request(self, attempts: Attempts, replica: Replica) -> tuple[EngineRequest, str]:
        """Return the request for this engine, and the version that answers it."""
        generation = self._generation
        apart = self.gateway.prompt_caches.choose_fields(replica, attempts.tenant)
        more = replica.client.extra_fields
        if apart:
            more = {**more, **apart}
        whole = not generation.stream and not replica.strict and attempts.is_only_engine
        if generation.choices > 1 and attempts.pool.spec.engine in COUNTING_FIRST_CHOICE:
            whole = False
        build = replica.provider.build_request
        body, native = replica.break_special_tokens(generation.body), generation.native
        if native is not None:
            native = replica.break_special_tokens(native)
        built = build(self._path, body, native, whole=whole, betas=generation.betas)
        if generation.plain and replica.tuned:
            return replace(built, body={**built.body, **more, **WITHOUT_ADAPTER}), generation.endpoint.model
        tuned = generation.endpoint.tuned_model
        if tuned and not generation.plain:
            return replace(built, body={**built.body, **more, "model": tuned}), generation.endpoint.tuned_version
        if more:
            built = replace(built, body={**built.body, **more})
        return built, replica.version

    def _figures(self) -> dict[str, Any]:
        timing, attempts = self._timing, self._attempts
        return {
            "usage": timing.used,
            "pool": attempts.pool.name if attempts is not None else self._endpoint.pool,
            "tries": attempts.tries if attempts is not None else 0,
            "data_class": attempts.data_class if attempts is not None else "",
            "operation": "chat" if self._path == CHAT_PATH else "text_completion",
            "output_tokens": timing.tokens,
            "input_tokens": timing.input_tokens,
            "cached_tokens": timing.cached_tokens,
            "ttft_s": timing.first_at - timing.received_at if timing.first_at is not None else None,
            "tpot_s": timing.tpot_s,
            "queue_s": timing.queued_s,
            "gateway_s": timing.gateway_time_s(self.response.now()),
            "engine_s": timing.event_at - timing.asked_at,
        }
