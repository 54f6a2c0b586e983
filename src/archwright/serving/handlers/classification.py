"""One prediction request: {"inputs": [...]} in, the likeliest class and all probabilities of each item out."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from archwright.engines.onnx import BATCH_ITEMS, Item
from archwright.errors import ArchwrightError, EngineError
from archwright.http_client.client import EngineRefused
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.handlers.generation import classify_failure
from archwright.serving.http.errors import ApiError, bad_request, redact_locations
from archwright.serving.http.http_exchange import JSON_CONTENT_TYPE, PHASE_FIRST_TOKEN, HttpExchange
from archwright.serving.requests.field_checks import decode_body, require_field, unknown_field
from archwright.serving.requests.model_resolution import MAX_MODEL_NAME_CHARACTERS, ModelDirectory
from archwright.serving.routing.attempts import start_attempts
from archwright.serving.routing.replica import Replica, SlotRequest
from archwright.serving.settings.config import Endpoint, EndpointSpec

PATH = "/v1/predict"
PROBABILITY_DIGITS = 6  # the next one is noise of 32-bit arithmetic
INLINE_PROBABILITIES = 10_000  # a reply with more is built in a thread


class ClassificationRequest(NamedTuple):
    endpoint: Endpoint
    inputs: list[Item]


async def serve_classification(
    gateway: GatewayContext, exchange: HttpExchange, question: ClassificationRequest
) -> None:
    """Answer the client and record the request however it ends."""
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
    except (asyncio.CancelledError, ArchwrightError) as error:
        status = classify_failure(exchange, error)
        raise
    finally:
        gateway.record_interrupted(exchange, spec, status, {"pool": spec.pool, "operation": "predict"})


def parse_classification_request(data: bytes, directory: ModelDirectory, name: str) -> ClassificationRequest:
    """The request's body and the endpoint it is for. Raises ApiError 404 and 400."""
    spec = directory.find_classifier(name)
    if spec is None:
        message = f"the classifier {name[:MAX_MODEL_NAME_CHARACTERS]!r} does not exist"
        if name in directory.names:
            message = f"{name!r} is no classifier: ask it at /v1/chat/completions"
        raise ApiError(HTTPStatus.NOT_FOUND, message, "model_not_found")
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
    """An engine's answer: the classes in order, and a row of probabilities per item."""

    labels: list[str]
    probabilities: list[list[float]]


async def _query_engine(
    gateway: GatewayContext, exchange: HttpExchange, question: ClassificationRequest
) -> _ClassProbabilities:
    # Detection reads text only: for numbers and pictures the endpoint's class and the caller's header decide.
    course = start_attempts(gateway.router, exchange, question, None)

    async def send(replica: Replica) -> _ClassProbabilities:
        found = _check_reply(await replica.client.post(PATH, {"inputs": question.inputs}), len(question.inputs))
        exchange.model, exchange.route = replica.version, course.pool.name
        return found

    try:
        work = SlotRequest(len(question.inputs), course.tenant, priority=question.endpoint.priority)
        return await course.run(work, send)
    except EngineRefused as error:
        if error.status != HTTPStatus.BAD_REQUEST:
            raise
        # The engine's message about an item is meant for the client.
        detail = error.body.get("error")
        said = detail.get("message") if isinstance(detail, dict) else detail
        raise bad_request(redact_locations(str(said)), "inputs", "invalid_value") from error


def _check_reply(reply: dict[str, Any], items: int) -> _ClassProbabilities:
    """Raises EngineError AW-ENG-03 if the engine answered with something else."""
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
    best = max(range(len(row)), key=row.__getitem__)  # before rounding, which makes ties
    probabilities = dict(zip(labels, rounded, strict=True))
    return {"label": labels[best], "probability": rounded[best], "probabilities": probabilities}
