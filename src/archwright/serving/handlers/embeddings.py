"""One embedding request: a slot, the engine's vectors, in the encoding the client wants."""

from __future__ import annotations

import asyncio
import base64
from array import array
from http import HTTPStatus
from typing import Any

import msgspec

from archwright.errors import ArchwrightError, EngineError
from archwright.serving.admission.metering import RequestCharge
from archwright.serving.events.response_formats import is_count
from archwright.serving.events.timing import RequestTiming
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.handlers.generation import classify_failure
from archwright.serving.http.errors import bad_request
from archwright.serving.http.http_exchange import JSON_CONTENT_TYPE, PHASE_FIRST_TOKEN, HttpExchange
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.routing.attempts import start_attempts
from archwright.serving.routing.replica import Replica, SlotRequest

PATH = "/embeddings"


async def serve_embeddings(gateway: GatewayContext, exchange: HttpExchange, question: GenerationRequest) -> None:
    """Answer the client and record the request however it ends."""
    spec, status, meter = question.endpoint, "failed", RequestTiming(exchange.received_at)
    try:
        exchange.watch_disconnect()
        exchange.start_phase(PHASE_FIRST_TOKEN, exchange.limits.first_token_s)
        bill = gateway.till.open_charge(exchange, question, "embedding")
        if bill.known is not None:
            body, tokens = bill.known.body, 0
        else:
            bill.asked = True
            found = await _query_engine(gateway, exchange, question, bill, meter)
            body, tokens = msgspec.json.encode(_build_response(found, question)), _prompt_tokens(found)
        figures = {
            "pool": exchange.route or spec.pool,
            "operation": "embeddings",
            "input_tokens": tokens,
            "queue_s": meter.queued_s,
            "gateway_s": meter.gateway_time_s(exchange.now()),
            "engine_s": meter.event_at - meter.asked_at,
        }
        gateway.record_request(exchange, spec, "ok", figures)
        if bill.is_cacheable:
            bill.cache_response(body, tokens, 0)
        exchange.reply(HTTPStatus.OK, body, JSON_CONTENT_TYPE, [meter.overhead_header(exchange.now()), *bill.headers()])
    except (asyncio.CancelledError, ArchwrightError) as error:
        status = classify_failure(exchange, error)
        raise
    finally:
        gateway.record_interrupted(exchange, spec, status, {"pool": spec.pool, "operation": "embeddings"})


async def _query_engine(
    gateway: GatewayContext,
    exchange: HttpExchange,
    question: GenerationRequest,
    bill: RequestCharge,
    meter: RequestTiming,
) -> dict[str, Any]:
    course = start_attempts(gateway.router, exchange, question, question.body)

    async def send(replica: Replica) -> dict[str, Any]:
        if question.plain and replica.tuned:
            # Engines leave an adapter out of a generation, not out of embeddings: other vectors would spoil an index.
            message = f"{question.model!r} makes no embeddings while {replica.version!r} is served over it; "
            message += f"name {question.endpoint.workload!r} to have them from that version"
            raise bad_request(message, "model", "unsupported_model")
        exchange.model, exchange.route = replica.version, course.pool.name
        bill.set_prices(replica.prices)
        meter.queued_s, meter.asked_at = course.queued_s, exchange.now()
        found = await replica.client.post(PATH, {**question.body, **replica.client.model_override})
        meter.event_at = exchange.now()
        return found

    return await course.run(SlotRequest(question.work_tokens, course.tenant, priority=question.endpoint.priority), send)


class _EmbeddingVector(msgspec.Struct):
    """One vector as an engine sends it; other fields are ignored."""

    index: int
    embedding: list[float]


def _build_response(found: dict[str, Any], question: GenerationRequest) -> dict[str, Any]:
    """The engine's vectors in the order of the inputs. Raises EngineError AW-ENG-03 for others."""
    try:
        given = {item.index: item.embedding for item in msgspec.convert(found.get("data"), list[_EmbeddingVector])}
    except msgspec.ValidationError as error:
        raise EngineError("AW-ENG-03", f"the engine's reply holds no vectors: {error}") from error
    expected = range(len(question.body["input"]))
    if set(given) != set(expected):
        raise EngineError("AW-ENG-03", "the engine answered with other vectors than it was asked for")
    vectors = {index: _encode_base64(given[index]) for index in expected} if question.base64 else given
    data = [{"object": "embedding", "index": index, "embedding": vectors[index]} for index in expected]
    tokens = _prompt_tokens(found)
    used = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": question.model, "usage": used}


def _encode_base64(vector: list[float]) -> str:
    """Little-endian 32-bit floats, the official client's default encoding."""
    return base64.b64encode(array("f", vector).tobytes()).decode()


def _prompt_tokens(found: dict[str, Any]) -> int:
    used = found.get("usage")
    count = used.get("prompt_tokens") if isinstance(used, dict) else None
    return count if is_count(count) else 0
