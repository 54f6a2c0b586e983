"""Results of batches that lack lines, repeat lines or have another size, and rates that do not hold, are found."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.reconcile.fake_endpoint import Request, Response, Server, json_response

from archwright.reconcile.conformance.budget_cases import BudgetCase, Trial, decide_rate_verdict, find_problem
from archwright.reconcile.conformance.file_requests import WRONG_RESULTS, send_batch
from archwright.reconcile.conformance.gateway_client import GatewayClient
from archwright.reconcile.conformance.request_templates import Answer, RequestTemplate

pytestmark = pytest.mark.enable_socket
TEMPLATE = RequestTemplate("m", 1e-6, 4e-6, "run")
LINES = 4


def write_results(numbers: list[int]) -> str:
    body = {"usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    response = {"status_code": 200, "body": body}
    return "".join(json.dumps({"custom_id": f"{number}", "response": response}) + "\n" for number in numbers)


class BatchStandIn:
    """A gateway whose batch has these results, and states `more` bytes than they have."""

    def __init__(self, numbers: list[int], more: int) -> None:
        self.text, self.more, self.cancelled = write_results(numbers), more, 0
        routes = {("POST", "/v1/files"): self.upload, ("POST", "/v1/batches"): self.create}
        routes |= {("POST", "/v1/batches/b/cancel"): self.cancel, ("GET", "/v1/batches/b"): self.show}
        routes |= {("GET", "/v1/files/f"): self.describe, ("GET", "/v1/files/f/content"): self.read}
        self.server = Server(routes, None)

    async def upload(self, _request: Request) -> Response:
        return json_response({"id": "in"})

    async def create(self, _request: Request) -> Response:
        return json_response({"id": "b", "status": "validating"})

    async def cancel(self, _request: Request) -> Response:
        self.cancelled += 1
        return json_response({"id": "b", "status": "cancelling"})

    async def show(self, _request: Request) -> Response:
        return json_response({"id": "b", "status": "completed", "output_file_id": "f"})

    async def describe(self, _request: Request) -> Response:
        return json_response({"id": "f", "bytes": len(self.text) + self.more})

    async def read(self, _request: Request) -> Response:
        return Response(text=self.text)


async def run(url: str, *, cancelled: bool) -> list[Answer]:
    return await send_batch(TEMPLATE, GatewayClient(url, "key"), LINES, cancelled=cancelled)


@pytest.mark.parametrize(
    ("numbers", "more", "problem"),
    [
        ([0, 1, 2, 3], 0, ""),
        ([3, 1, 0, 2], 0, ""),
        ([0, 1, 3], 0, "1 lines are lost, 0 are repeated"),
        ([0, 1, 2, 2, 3], 0, "0 lines are lost, 1 are repeated"),
        ([0, 1, 2, 3], 7, "bytes"),
    ],
)
@pytest.mark.parametrize("cancelled", [False, True])
def test_results_that_are_not_complete_are_found(numbers: list[int], more: int, problem: str, cancelled: bool) -> None:
    stand_in = BatchStandIn(numbers, more)
    try:
        answers = asyncio.run(run(stand_in.server.url, cancelled=cancelled))
    finally:
        stand_in.server.stop()
    assert stand_in.cancelled == cancelled
    assert sum(answer.usd for answer in answers) == pytest.approx(len(numbers) * 30e-6)
    trial = Trial(BudgetCase("batch", TEMPLATE, LINES, edge=False, batch=True), 1.0, (), answers)
    verdict, note = find_problem(trial, None, -1.0)
    assert verdict == ("wrong results" if problem else "ok") and problem in note
    assert any(answer.reason.startswith(WRONG_RESULTS) for answer in answers) == bool(problem)


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ([200, 200, 429, 429], "ok"),
        ([429, 429], "ok"),
        ([200, 200, 200], "not limited"),
        ([404, 404], "skipped"),
        ([200, 503, 429], "inconclusive"),
    ],
)
def test_rates_of_file_requests_are_assessed(statuses: list[int], verdict: str) -> None:
    answers: list[Any] = [Answer(status, reason="" if status == 200 else f"HTTP {status}") for status in statuses]
    assert decide_rate_verdict("rates", answers).verdict == verdict
