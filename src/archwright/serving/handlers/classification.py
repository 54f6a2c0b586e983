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
from archwright.serving.handlers.gateway_context import Gateway
from archwright.serving.handlers.generation import outcome, stopped
from archwright.serving.http.errors import Refusal, bad, without_places
from archwright.serving.http.http_exchange import FIRST, JSON, Exchange
from archwright.serving.requests.field_checks import decode, required, unknown
from archwright.serving.requests.model_resolution import MODEL_NAME, Directory
from archwright.serving.routing.attempts import set_out
from archwright.serving.routing.replica import Replica, Work
from archwright.serving.settings.config import Endpoint, EndpointSpec

PATH = "/v1/predict"
# The next one is noise of 32-bit arithmetic.
DIGITS = 6
# Above this many probabilities a reply is put together beside the event loop.
SMALL_REPLY = 10_000


class Question(NamedTuple):
    endpoint: Endpoint
    inputs: list[Item]


async def predict(gateway: Gateway, exchange: Exchange, question: Question) -> None:
    """Answer the client; measured whatever happens."""
    spec, status = question.endpoint, "failed"
    try:
        exchange.watch()
        exchange.phase(FIRST, exchange.limits.first_token_s)
        bill = gateway.till.plain(exchange, spec)
        found = await _ask(gateway, exchange, question)
        if len(found.probabilities) * len(found.labels) > SMALL_REPLY:
            body = await asyncio.to_thread(_reply, found, spec, exchange.model)
        else:
            body = _reply(found, spec, exchange.model)
        gateway.served(exchange, spec, "ok", {"pool": spec.pool, "operation": "predict"})
        exchange.reply(HTTPStatus.OK, body, JSON, bill.headers())
    except asyncio.CancelledError:
        status = stopped(exchange)
        raise
    except ArchwrightError as error:
        status = outcome(error)
        raise
    finally:
        gateway.ended(exchange, spec, status, {"pool": spec.pool, "operation": "predict"})


def question_of(data: bytes, directory: Directory, name: str) -> Question:
    """The request's body and the endpoint it is for. Raises Refusal 404 and 400."""
    spec = directory.predictor(name)
    if spec is None:
        message = f"the classifier {name[:MODEL_NAME]!r} does not exist"
        if name in directory.names:
            message = f"{name!r} is no classifier: ask it at /v1/chat/completions"
        raise Refusal(HTTPStatus.NOT_FOUND, message, openai_code="model_not_found")
    body = decode(data)
    for field in body:
        if field != "inputs":
            raise unknown(field, {"inputs": None})
    inputs = required(body.get("inputs"), "inputs")
    try:
        items = msgspec.convert(inputs, list[Item])
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise bad(f"inputs{place.rstrip('`')}: {message}", "inputs", "invalid_type") from None
    if not 0 < len(items) <= BATCH_ITEMS:
        raise bad(f"'inputs' must be a list of 1 to {BATCH_ITEMS} items", "inputs", "invalid_value")
    return Question(spec, items)


class _Found(msgspec.Struct):
    """What the engine answers: the classes in order, a row of probabilities an item."""

    labels: list[str]
    probabilities: list[list[float]]


async def _ask(gateway: Gateway, exchange: Exchange, question: Question) -> _Found:
    # Numbers and pictures: detection reads text, so here the endpoint's class and the caller's word decide.
    course = set_out(gateway.router, exchange, question, None)

    async def send(replica: Replica) -> _Found:
        found = _checked(await replica.client.post(PATH, {"inputs": question.inputs}), len(question.inputs))
        exchange.model, exchange.route = replica.version, course.pool.name
        return found

    try:
        return await course.answer(Work(len(question.inputs), course.tenant, priority=question.endpoint.priority), send)
    except EngineRefused as error:
        raise _refused(error) from error


def _refused(error: EngineRefused) -> ArchwrightError:
    """The engine's words about an item are meant for the client."""
    if error.status != HTTPStatus.BAD_REQUEST:
        return error
    detail = error.body.get("error")
    said = detail.get("message") if isinstance(detail, dict) else detail
    return bad(without_places(str(said)), "inputs", "invalid_value")


def _checked(reply: dict[str, Any], items: int) -> _Found:
    """Raises EngineError AW-ENG-03 where the engine answered with something else."""
    try:
        found = msgspec.convert(reply, _Found)
    except msgspec.ValidationError as error:
        raise EngineError("AW-ENG-03", f"the engine's reply holds no predictions: {error}") from error
    if len(found.probabilities) != items or any(len(row) != len(found.labels) for row in found.probabilities):
        raise EngineError("AW-ENG-03", "the engine answered with other predictions than it was asked for")
    return found


def _reply(found: _Found, spec: EndpointSpec, version: str) -> bytes:
    predictions = [_prediction(found.labels, row) for row in found.probabilities]
    body = {"object": "prediction", "model": version, "endpoint": spec.workload, "predictions": predictions}
    return msgspec.json.encode(body)


def _prediction(labels: list[str], row: list[float]) -> dict[str, Any]:
    rounded = [round(value, DIGITS) for value in row]
    # Of the unrounded: two that look alike are told apart as the model does.
    best = max(range(len(row)), key=row.__getitem__)
    return {
        "label": labels[best],
        "probability": rounded[best],
        "probabilities": dict(zip(labels, rounded, strict=True)),
    }
