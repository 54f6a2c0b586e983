"""One prediction request: returns the likeliest class and all probabilities of each item of `inputs`."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

import msgspec

from archwright.engines.onnx import BATCH_ITEMS, Item
from archwright.http_client.client import EngineRefused
from archwright.serving.admission.metering import RequestCharge, WorstCase
from archwright.serving.handlers.request_handler import HandlerContext, MeteredHandler, ServedBy
from archwright.serving.handlers.single_reply import convert_results, wrong_results
from archwright.serving.http.errors import ApiError, bad_request, redact_locations
from archwright.serving.http.http_response import JSON_CONTENT_TYPE
from archwright.serving.requests.field_checks import decode_body
from archwright.serving.requests.field_selection import MAX_NAME_CHARACTERS, unknown_field
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.typed_requests import MAX_MODEL_NAME_CHARACTERS, RequestBody, check_types
from archwright.serving.routing.attempts import Attempts, start_attempts
from archwright.serving.routing.replica import Replica, SlotRequest
from archwright.serving.settings.config import Endpoint, EndpointSpec

PATH = "/v1/predict"
PROBABILITY_DIGITS = 6  # further digits are noise of 32-bit arithmetic
INLINE_PROBABILITIES = 10_000  # a response with more is built in a thread


class PredictRequest(RequestBody):
    """POST /v1/predict/WORKLOAD."""

    inputs: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=BATCH_ITEMS)]


class ClassificationRequest(NamedTuple):
    endpoint: Endpoint
    inputs: list[Item]


class ClassificationHandler(MeteredHandler):
    """Answers one prediction request, which is charged as one request without tokens."""

    def __init__(self, context: HandlerContext, wanted: ClassificationRequest) -> None:
        usd = None if wanted.endpoint.prices is None else 0.0
        worst_case = WorstCase(0, usd, 0, 0)  # it has no tokens
        super().__init__(context, wanted.endpoint, worst_case)
        self._wanted = wanted

    async def _respond(self, charge: RequestCharge) -> None:
        endpoint = self._endpoint
        # Detection of personal data reads text only: for numbers and images, endpoint and header decide the class.
        attempts = await start_attempts(self.gateway.router, self.request, self.response, self._wanted, None)
        result, served_by = await self._query_engine(attempts)
        if len(result.probabilities) * len(result.labels) > INLINE_PROBABILITIES:
            body = await asyncio.to_thread(_build_response, result, endpoint, served_by.version)
        else:
            body = _build_response(result, endpoint, served_by.version)
        self._record("ok")
        self.response.send(HTTPStatus.OK, body, JSON_CONTENT_TYPE, [*served_by.headers(), *charge.headers()])

    async def _query_engine(self, attempts: Attempts) -> tuple[_ClassProbabilities, ServedBy]:
        inputs = self._wanted.inputs

        async def send(replica: Replica) -> tuple[_ClassProbabilities, ServedBy]:
            result = _check_reply(await replica.client.post(PATH, {"inputs": inputs}), len(inputs))
            served_by = self._served_by = ServedBy(replica.version, attempts.pool.name)
            return result, served_by

        try:
            slot = SlotRequest(len(inputs), attempts.tenant, priority=self._endpoint.priority)
            return await attempts.run(slot, send)
        except EngineRefused as error:
            if error.status != HTTPStatus.BAD_REQUEST:
                raise
            # The engine's message about an item is meant for the client.
            detail = error.body.get("error")
            message = detail.get("message") if isinstance(detail, dict) else detail
            raise bad_request(redact_locations(str(message)), "inputs", "invalid_value") from error

    def _figures(self) -> dict[str, Any]:
        return {"pool": self._endpoint.pool, "operation": "predict"}


def parse_classification_request(data: bytes, directory: ModelDirectory, name: str) -> ClassificationRequest:
    """Validate a body for the classifier `name`. Raises ApiError 404 and 400."""
    endpoint = directory.find_classifier(name)
    if endpoint is None:
        message = f"The classifier {name[:MAX_MODEL_NAME_CHARACTERS]!r} does not exist. Check the name in the path."
        if name in directory.names:
            message = f"{name!r} is no classifier. Send the request to /v1/chat/completions."
        raise ApiError(HTTPStatus.NOT_FOUND, message, "model_not_found")
    body = decode_body(data)
    for field in body:
        if field not in PredictRequest.__struct_fields__:
            raise unknown_field(field[:MAX_NAME_CHARACTERS], PredictRequest.__struct_fields__)
    return ClassificationRequest(endpoint, check_types(body, PredictRequest).inputs)


class _ClassProbabilities(msgspec.Struct):
    """An engine's reply: the classes in order, and a row of probabilities per item."""

    labels: list[str]
    probabilities: list[list[float]]


def _check_reply(reply: dict[str, Any], items: int) -> _ClassProbabilities:
    """Raises EngineError AW-ENG-03 if the engine answered with something else."""
    result = convert_results(reply, _ClassProbabilities, "predictions")
    if len(result.probabilities) != items or any(len(row) != len(result.labels) for row in result.probabilities):
        raise wrong_results("predictions do not match the inputs")
    return result


def _build_response(result: _ClassProbabilities, endpoint: EndpointSpec, version: str) -> bytes:
    predictions = []
    for row in result.probabilities:
        rounded = [round(value, PROBABILITY_DIGITS) for value in row]
        best = max(range(len(row)), key=row.__getitem__)  # before rounding, which makes ties
        probabilities = dict(zip(result.labels, rounded, strict=True))
        label = result.labels[best]
        predictions.append({"label": label, "probability": rounded[best], "probabilities": probabilities})
    body = {"object": "prediction", "model": version, "endpoint": endpoint.workload, "predictions": predictions}
    return msgspec.json.encode(body)
