"""One prediction request: a slot, the classifier's probabilities, the likeliest class of each item by name.

The body is {"inputs": [...]} and nothing else; what an item must be is the model's affair, and its engine's words say
what is wrong with which.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from archwright.engines.onnx import BATCH_ITEMS, Item
from archwright.errors import ArchwrightError, EngineError
from archwright.http_client.client import EngineRefused
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.handlers.generation import classify_failure, classify_stop
from archwright.serving.http.errors import ApiError, bad_request, redact_locations
from archwright.serving.http.http_exchange import JSON_CONTENT_TYPE, PHASE_FIRST_TOKEN, HttpExchange
from archwright.serving.requests.field_checks import decode_body, require_field, unknown_field
from archwright.serving.requests.model_resolution import MAX_MODEL_NAME_CHARACTERS, ModelDirectory
from archwright.serving.routing.attempts import start_attempts
from archwright.serving.routing.replica import Replica, SlotRequest
from archwright.serving.settings.config import Endpoint, EndpointSpec

PATH = "/v1/predict"
# The next one is noise of 32-bit arithmetic.
PROBABILITY_DIGITS = 6
# Above this many probabilities a reply is put together beside the event loop.
INLINE_PROBABILITIES = 10_000


class ClassificationRequest(NamedTuple):
    endpoint: Endpoint
    inputs: list[Item]


async def serve_classification(
    gateway: GatewayContext, exchange: HttpExchange, question: ClassificationRequest
) -> None:
    """Answer the client; measured whatever happens."""
    spec, status = question.endpoint, "failed"
    try:
        exchange.watch_disconnect()
        exchange.start_phase(PHASE_FIRST_TOKEN, exchange.limits.first_token_s)
        bill = gateway.till.open_flat_charge(exchange, spec)
        found = await _query_engine(gateway, exchange, question)
        if len(found.probabilities) * len(found.labels) > INLINE_PROBABILITIES:
            body = await asyncio.to_thread(_build_response, found, spec, exchange.model)
        else:
            body = _build_response(found, spec, exchange.model)
        gateway.record_request(exchange, spec, "ok", {"pool": spec.pool, "operation": "predict"})
        exchange.reply(HTTPStatus.OK, body, JSON_CONTENT_TYPE, bill.headers())
    except asyncio.CancelledError:
        status = classify_stop(exchange)
        raise
    except ArchwrightError as error:
        status = classify_failure(error)
        raise
    finally:
        gateway.record_interrupted(exchange, spec, status, {"pool": spec.pool, "operation": "predict"})


def parse_classification_request(data: bytes, directory: ModelDirectory, name: str) -> ClassificationRequest:
    """The request's body and the endpoint it is for. Raises Refusal 404 and 400."""
    spec = directory.find_classifier(name)
    if spec is None:
        message = f"the classifier {name[:MAX_MODEL_NAME_CHARACTERS]!r} does not exist"
        if name in directory.names:
            message = f"{name!r} is no classifier: ask it at /v1/chat/completions"
        raise ApiError(HTTPStatus.NOT_FOUND, message, openai_code="model_not_found")
    body = decode_body(data)
    for field in body:
        if field != "inputs":
            raise unknown_field(field, {"inputs": None})
    inputs = require_field(body.get("inputs"), "inputs")
    try:
        items = msgspec.convert(inputs, list[Item])
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise bad_request(f"inputs{place.rstrip('`')}: {message}", "inputs", "invalid_type") from None
    if not 0 < len(items) <= BATCH_ITEMS:
        raise bad_request(f"'inputs' must be a list of 1 to {BATCH_ITEMS} items", "inputs", "invalid_value")
    return ClassificationRequest(spec, items)


class _ClassProbabilities(msgspec.Struct):
    """What the engine answers: the classes in order, a row of probabilities an item."""

    labels: list[str]
    probabilities: list[list[float]]


async def _query_engine(
    gateway: GatewayContext, exchange: HttpExchange, question: ClassificationRequest
) -> _ClassProbabilities:
    # Numbers and pictures: detection reads text, so here the endpoint's class and the caller's word decide.
    course = start_attempts(gateway.router, exchange, question, None)

    async def send(replica: Replica) -> _ClassProbabilities:
        found = _check_reply(await replica.client.post(PATH, {"inputs": question.inputs}), len(question.inputs))
        exchange.model, exchange.route = replica.version, course.pool.name
        return found

    try:
        return await course.run(
            SlotRequest(len(question.inputs), course.tenant, priority=question.endpoint.priority), send
        )
    except EngineRefused as error:
        raise _translate_refusal(error) from error


def _translate_refusal(error: EngineRefused) -> ArchwrightError:
    """The engine's words about an item are meant for the client."""
    if error.status != HTTPStatus.BAD_REQUEST:
        return error
    detail = error.body.get("error")
    said = detail.get("message") if isinstance(detail, dict) else detail
    return bad_request(redact_locations(str(said)), "inputs", "invalid_value")


def _check_reply(reply: dict[str, Any], items: int) -> _ClassProbabilities:
    """Raises EngineError AW-ENG-03 where the engine answered with something else."""
    try:
        found = msgspec.convert(reply, _ClassProbabilities)
    except msgspec.ValidationError as error:
        raise EngineError("AW-ENG-03", f"the engine's reply holds no predictions: {error}") from error
    if len(found.probabilities) != items or any(len(row) != len(found.labels) for row in found.probabilities):
        raise EngineError("AW-ENG-03", "the engine answered with other predictions than it was asked for")
    return found


def _build_response(found: _ClassProbabilities, spec: EndpointSpec, version: str) -> bytes:
    predictions = [_format_prediction(found.labels, row) for row in found.probabilities]
    body = {"object": "prediction", "model": version, "endpoint": spec.workload, "predictions": predictions}
    return msgspec.json.encode(body)


def _format_prediction(labels: list[str], row: list[float]) -> dict[str, Any]:
    rounded = [round(value, PROBABILITY_DIGITS) for value in row]
    # Of the unrounded: two that look alike are told apart as the model does.
    best = max(range(len(row)), key=row.__getitem__)
    return {
        "label": labels[best],
        "probability": rounded[best],
        "probabilities": dict(zip(labels, rounded, strict=True)),
    }
