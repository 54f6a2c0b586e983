"""A request that one post to an engine answers: a slot, the engine's reply, checked and written as a whole."""

from abc import abstractmethod
from http import HTTPStatus
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from archwright.errors import EngineError
from archwright.http_client.client import CompleteBody, EngineRefused
from archwright.http_client.connection_pool import ClientConnection
from archwright.policy.cache_key import RequestKind
from archwright.serving.admission.metering import RequestCharge, estimate_worst_case
from archwright.serving.events.response_formats import is_count
from archwright.serving.events.timing import RequestTiming
from archwright.serving.handlers.request_handler import HandlerContext, MeteredHandler, ServedBy
from archwright.serving.http.engine_refusals import describe_upstream_problem
from archwright.serving.http.errors import bad_request, redact_locations, to_api_error
from archwright.serving.http.http_response import JSON_CONTENT_TYPE, HttpResponse
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.routing.attempts import start_attempts
from archwright.serving.routing.replica import Replica, SlotRequest

T = TypeVar("T")
TOO_LONG = "context_length_exceeded"
ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)


class PaidBody(CompleteBody):
    """The body of a reply that is read to its end without its client, unless the engine `stops` then."""

    def __init__(self, response: HttpResponse, charge: RequestCharge, *, stops: bool) -> None:
        super().__init__()
        self._response, self._charge, self._stops = response, charge, stops

    def sent(self, source: ClientConnection) -> None:
        super().sent(source)
        self._charge.mark_sent_to_engine(stops=self._stops)

    def keep_reading_s(self) -> float:
        return self._response.leave_client() if self._charge.owes_rest else 0.0


class SingleReplyHandler(MeteredHandler):
    """`path`: of the engine. `field`: has the texts. `operation`, `kind`: names of the request in records and cache.

    Without a `kind` the reply is not cached."""

    path: ClassVar[str]
    field: ClassVar[str]
    operation: ClassVar[Literal["embeddings", "rerank", "transcription"]]
    kind: ClassVar[RequestKind | None] = None
    _output_tokens = 0

    def __init__(self, context: HandlerContext, generation: GenerationRequest) -> None:
        worst_case = estimate_worst_case(generation, len(context.request.body))
        super().__init__(context, generation.endpoint, worst_case)
        self._generation = generation
        self._timing = RequestTiming(self.request.received_at)
        self._input_tokens: int | None = None  # set when the engine has answered

    @abstractmethod
    def _build_response(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Return the response without its usage. Raises EngineError AW-ENG-03 for a wrong reply."""

    def _check_replica(self, replica: Replica) -> None:
        """Raise ApiError 400 if this engine cannot answer the request as it is meant."""

    async def _post(self, replica: Replica, sink: PaidBody) -> dict[str, Any]:
        """Send the request to an engine, whose reply `sink` reads."""
        body = replica.break_special_tokens(self._generation.body)
        apart = self.gateway.prompt_caches.choose_fields(replica, self.request.principal.tenant)
        return await replica.client.post(self.path, {**body, **replica.client.model_override, **apart}, sink=sink)

    def _take_usage(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Set the counts to charge, and return the usage for the client."""
        self._input_tokens = tokens = count_prompt_tokens(reply)
        return {"prompt_tokens": tokens, "total_tokens": tokens}

    async def _respond(self, charge: RequestCharge) -> None:
        generation, response = self._generation, self.response
        if self.kind is not None:
            charge.use_cache(self.gateway.accounting.look_up_cache(self.request, generation, self.kind))
        if charge.cached is not None:
            self._served_by = ServedBy(charge.cached.version, generation.endpoint.pool)
            body, self._input_tokens = charge.cached.body, 0
        else:
            reply = await self._query_engine(charge)
            body = msgspec.json.encode({**self._build_response(reply), "usage": self._take_usage(reply)})
            if not charge.covers(self._input_tokens or 0, self._output_tokens):
                self._input_tokens, self._output_tokens = 0, 0  # the reservation counts
                raise charge.exceeded_error()
        self._record("ok")
        assert self._served_by is not None and self._input_tokens is not None, (
            "a response without an engine or a cached response"
        )
        if charge.is_cacheable:
            charge.cache_response(self._served_by.version, body, self._input_tokens, 0)
        headers = [*self._served_by.headers(), self._timing.overhead_header(response.now()), *charge.headers()]
        response.send(HTTPStatus.OK, body, JSON_CONTENT_TYPE, headers)

    async def _query_engine(self, charge: RequestCharge) -> dict[str, Any]:
        generation, response, timing = self._generation, self.response, self._timing
        attempts = await start_attempts(self.gateway.router, self.request, response, generation, generation.body)

        async def send(replica: Replica) -> dict[str, Any]:
            self._check_replica(replica)
            self._served_by = ServedBy(replica.version, attempts.pool.name)
            charge.set_prices(replica.prices)
            timing.mark_sent(response.now(), attempts.queued_s)
            try:
                reply = await self._post(replica, PaidBody(response, charge, stops=replica.stops_when_left))
            except EngineRefused as error:
                charge.mark_ended()
                # Many servers lack this path: no fault that would take the engine out of service.
                if error.status in ABSENT and not describe_upstream_problem(error):
                    raise EngineRefused(HTTPStatus.NOT_IMPLEMENTED, error.body, error.where) from error
                raise
            except EngineError:
                charge.mark_ended()
                raise
            charge.mark_ended()
            timing.mark_event(response.now())
            return reply

        slot = SlotRequest(generation.work_tokens, attempts.tenant, priority=generation.endpoint.priority)
        try:
            return await attempts.run(slot, send)
        except EngineRefused as error:
            if to_api_error(error).openai_code != TOO_LONG:
                raise
            message = f"A text of {self.field!r} is too long: {redact_locations(error.message)}"
            raise bad_request(message, self.field, TOO_LONG) from error

    def _figures(self) -> dict[str, Any]:
        timing, pool, served_by = self._timing, self._endpoint.pool, self._served_by
        if self._input_tokens is None:
            return {"pool": pool, "operation": self.operation}
        return {
            "pool": pool if served_by is None else served_by.route,
            "operation": self.operation,
            "input_tokens": self._input_tokens,
            "output_tokens": self._output_tokens,
            "queue_s": timing.queued_s,
            "gateway_s": timing.gateway_time_s(self.response.now()),
            "engine_s": timing.event_at - timing.asked_at,
        }


def convert_results(found: object, kind: type[T], name: str) -> T:
    """Return the results of an engine's reply. Raises EngineError AW-ENG-03 if they have another form."""
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise wrong_results(f"reply contains no {name}: {error}") from error


def wrong_results(problem: str) -> EngineError:
    hint = "check that the engine serves this model at this address"
    return EngineError("AW-ENG-03", f"the engine's {problem}", hint=hint)


def count_prompt_tokens(reply: dict[str, Any]) -> int:
    """Return the engine's count of the input; 0 if it has none. Some rerankers report only the total."""
    usage = reply.get("usage")
    counts = (usage.get("prompt_tokens"), usage.get("total_tokens")) if isinstance(usage, dict) else ()
    return next((count for count in counts if is_count(count)), 0)
