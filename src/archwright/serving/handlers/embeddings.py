"""One embedding request: a slot and the engine's vectors, in the encoding that the client requested."""

import base64
from array import array
from http import HTTPStatus
from typing import Any

import msgspec

from archwright.errors import EngineError
from archwright.serving.admission.metering import RequestCharge, estimate_worst_case
from archwright.serving.events.response_formats import is_count
from archwright.serving.events.timing import RequestTiming
from archwright.serving.handlers.request_handler import HandlerContext, MeteredHandler, ServedBy
from archwright.serving.http.errors import bad_request
from archwright.serving.http.http_response import JSON_CONTENT_TYPE
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.routing.attempts import start_attempts
from archwright.serving.routing.replica import Replica, SlotRequest

PATH = "/embeddings"


class EmbeddingsHandler(MeteredHandler):
    """Answers one embedding request."""

    def __init__(self, context: HandlerContext, generation: GenerationRequest) -> None:
        worst_case = estimate_worst_case(generation, len(context.request.body))
        super().__init__(context, generation.endpoint, worst_case)
        self._generation = generation
        self._timing = RequestTiming(self.request.received_at)
        self._input_tokens: int | None = None  # set when the engine has answered

    async def _respond(self, charge: RequestCharge) -> None:
        generation, response = self._generation, self.response
        charge.look_up_cache(self.request, generation, "embedding")
        if charge.cached is not None:
            self._served_by = ServedBy(charge.cached.version, generation.endpoint.pool)
            body, self._input_tokens = charge.cached.body, 0
        else:
            charge.mark_sent_to_engine()
            reply = await self._query_engine(charge)
            body = msgspec.json.encode(_build_response(reply, generation))
            self._input_tokens = _prompt_tokens(reply)
        self._record("ok")
        assert self._served_by is not None, "a response without an engine or a cached response"
        if charge.is_cacheable:
            charge.cache_response(self._served_by.version, body, self._input_tokens, 0)
        headers = [*self._served_by.headers(), self._timing.overhead_header(response.now()), *charge.headers()]
        response.send(HTTPStatus.OK, body, JSON_CONTENT_TYPE, headers)

    async def _query_engine(self, charge: RequestCharge) -> dict[str, Any]:
        generation, response, timing = self._generation, self.response, self._timing
        attempts = await start_attempts(self.gateway.router, self.request, response, generation, generation.body)

        async def send(replica: Replica) -> dict[str, Any]:
            if generation.plain and replica.tuned:
                # Engines leave an adapter out of a generation, not out of embeddings: other vectors would spoil an
                # index.
                message = (
                    f"{generation.model!r} makes no embeddings while {replica.version!r} is served over it. "
                    f"Request {generation.endpoint.workload!r} to get the embeddings of that version."
                )
                raise bad_request(message, "model", "unsupported_model")
            self._served_by = ServedBy(replica.version, attempts.pool.name)
            charge.set_prices(replica.prices)
            timing.mark_sent(response.now(), attempts.queued_s)
            reply = await replica.client.post(PATH, {**generation.body, **replica.client.model_override})
            timing.mark_event(response.now())
            return reply

        priority = generation.endpoint.priority
        return await attempts.run(SlotRequest(generation.work_tokens, attempts.tenant, priority=priority), send)

    def _figures(self) -> dict[str, Any]:
        timing, pool, served_by = self._timing, self._endpoint.pool, self._served_by
        if self._input_tokens is None:
            return {"pool": pool, "operation": "embeddings"}
        return {
            "pool": pool if served_by is None else served_by.route,
            "operation": "embeddings",
            "input_tokens": self._input_tokens,
            "queue_s": timing.queued_s,
            "gateway_s": timing.gateway_time_s(self.response.now()),
            "engine_s": timing.event_at - timing.asked_at,
        }


class _EmbeddingVector(msgspec.Struct):
    """One vector as an engine sends it; other fields are ignored."""

    index: int
    embedding: list[float]


def _build_response(reply: dict[str, Any], generation: GenerationRequest) -> dict[str, Any]:
    """Return the engine's vectors in the order of the inputs. Raises EngineError AW-ENG-03 for others."""
    try:
        vectors = {item.index: item.embedding for item in msgspec.convert(reply.get("data"), list[_EmbeddingVector])}
    except msgspec.ValidationError as error:
        raise EngineError(
            "AW-ENG-03",
            f"the engine's reply contains no vectors: {error}",
            hint="check that the engine serves this model at this address",
        ) from error
    expected = range(generation.contexts)
    if set(vectors) != set(expected):
        raise EngineError(
            "AW-ENG-03",
            "the engine's vectors do not match the inputs",
            hint="check that the engine serves this model at this address",
        )
    encoded: dict[int, Any] = {**vectors}
    if generation.base64:  # little-endian 32-bit floats, the official client's default encoding
        encoded = {at: base64.b64encode(array("f", vector).tobytes()).decode() for at, vector in vectors.items()}
    data = [{"object": "embedding", "index": index, "embedding": encoded[index]} for index in expected]
    tokens = _prompt_tokens(reply)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": generation.model, "usage": usage}


def _prompt_tokens(reply: dict[str, Any]) -> int:
    usage = reply.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if is_count(count) else 0
