"""Fake OpenAI servers (real HTTP on loopback, in their own thread) and small plans."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from archwright.contract.estimate import within_factor
from archwright.contract.evidence import Prediction, Query, Statistic
from archwright.contract.needs import TokenLength
from archwright.contract.plan import Launch, LoadSpec, Plan, WorkloadPlan
from archwright.contract.record import replace
from archwright.reconcile.bench import BenchResult, BenchTarget, BenchTimeouts, run_bench

from ..small_plans import PLAN, POOL
from .fake_endpoint import Handler, Request, Response, Server, StreamResponse, json_response

Serve = Callable[..., str]
MakePlan = Callable[..., Plan]
Fault = Handler

KEY = "sk-never-shown-0123456789"
QUICK = BenchTimeouts(connect_s=2.0, idle_s=0.4, drain_s=0.4)
# The first requests of a run are the client's probes; the server's tokenizer: so many tokens a prompt, and a word.
PROBES = 2
TEMPLATE, PER_WORD = 12, 1.25


class Endpoint:
    """A correct OpenAI server with fixed timings, and optional faults; it records its requests and their times."""

    def __init__(
        self,
        *,
        ttft_s: float = 0.0,
        tpot_s: float = 0.0,
        usage: str = "stream",
        refuse: frozenset[str] = frozenset(),
        fault: Fault | None = None,
        faulty: Callable[[int], bool] = lambda n: n > PROBES,
    ) -> None:
        self.ttft_s, self.tpot_s, self.usage, self.refuse = ttft_s, tpot_s, usage, refuse
        self.fault, self.faulty = fault, faulty
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.ttfts: list[float] = []
        self.tpots: list[float] = []

    async def __call__(self, request: Request) -> Response:
        received = time.perf_counter()
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.fault is not None and self.faulty(len(self.bodies)):
            return await self.fault(request)
        if refused := self.refuse & body.keys():
            message = f"unknown {sorted(refused)} in {body['messages']}"
            return json_response({"error": {"message": message, "code": "unknown_field"}}, status=400)
        prompt = round(TEMPLATE + PER_WORD * len(body["messages"][0]["content"].split()))
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        usage = {"prompt_tokens": prompt, "completion_tokens": limit}
        if not body["stream"]:
            return json_response({"choices": [], **({} if self.usage == "none" else {"usage": usage})})
        response = await self.begin(request)
        await self.event(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(self.ttft_s)
        first = time.perf_counter()
        for number in range(limit):
            await self.event(response, {"choices": [{"delta": {"content": "word "}, "finish_reason": None}]})
            last = time.perf_counter()
            if number < limit - 1:
                await asyncio.sleep(self.tpot_s)
        self.ttfts.append(first - received)
        self.tpots += [(last - first) / (limit - 1)] if limit > 1 else []
        await self.event(response, {"choices": [{"delta": {}, "finish_reason": "length"}]})
        if self.usage == "stream":
            await self.event(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    @staticmethod
    async def begin(request: Request) -> StreamResponse:
        response = StreamResponse()
        await response.prepare(request)
        return response

    @staticmethod
    async def event(response: StreamResponse, data: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(data).encode() + b"\r\n\r\n")

    @staticmethod
    def replying(status: int, body: str, content_type: str = "application/json", **headers: str) -> Fault:
        async def reply(request: Request) -> Response:
            return Response(status=status, text=body, content_type=content_type, headers=headers)

        return reply

    @staticmethod
    async def hanging(request: Request) -> Response:
        await asyncio.sleep(3)
        return Response()

    @staticmethod
    async def chattering(request: Request) -> Response:
        response = await Endpoint.begin(request)
        for _ in range(60):
            await response.write(b": still here\n\n")
            await asyncio.sleep(0.05)
        return response

    @staticmethod
    async def stalling(request: Request) -> Response:
        response = await Endpoint.begin(request)
        await Endpoint.event(response, {"choices": [{"delta": {"content": "a"}}]})
        await asyncio.sleep(3)
        return response

    @staticmethod
    async def dying(request: Request) -> Response:
        response = await Endpoint.begin(request)
        await Endpoint.event(response, {"choices": [{"delta": {"content": "a"}}]})
        request.transport.abort()
        return response

    @staticmethod
    async def slamming(request: Request) -> Response:
        request.transport.abort()
        return Response()

    @staticmethod
    def saying(*pieces: bytes) -> Fault:
        async def say(request: Request) -> Response:
            response = await Endpoint.begin(request)
            for piece in pieces:
                await response.write(piece)
            return response

        return say


def bench(url: str, load: LoadSpec, limits: BenchTimeouts = QUICK, **target: Any) -> BenchResult:
    return run_bench(BenchTarget(url, KEY, "small", **target), load, limits=limits, rng=random.Random(5))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server for the test: `serve(handler, tls=None, metrics=None)` -> its URL, to /v1."""
    servers: list[Server] = []

    def start(handler: Handler, tls: ssl.SSLContext | None = None, metrics: Handler | None = None) -> str:
        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except ConnectionError:
                return Response()  # the client has gone: nobody reads this

        routes: dict[tuple[str, str], Handler] = {("POST", "/v1/chat/completions"): handle}
        if metrics is not None:
            routes["GET", "/metrics"] = metrics
        servers.append(Server(routes, tls))
        return servers[-1].url

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def load() -> LoadSpec:
    """Eighteen short requests in 0.3 s, then 0.3 s with three at once."""
    return LoadSpec(
        workload="chat",
        model="small",
        requests_per_second=60.0,
        input_tokens=TokenLength(mean=40, p95=80),
        output_tokens=TokenLength(mean=8, p95=12),
        concurrency=3,
        peak_s=0.3,
        closed_s=0.3,
        seed=7,
    )


def _prediction(metric: str, statistic: Statistic, phase: str, value: float, workload: str) -> Prediction:
    unit = {"tokens_per_s": "tokens/s", "peak_memory_bytes": "bytes"}.get(metric, "s")
    return Prediction(
        id=f"{workload}.{metric}.{statistic}",
        metric=metric,
        workload=workload,
        estimate=within_factor(value, 1.5, unit, "b"),
        query=Query(metric=metric, labels={"workload": workload}, statistic=statistic, window_s=60, phase=phase),
    )


@pytest.fixture
def make_plan(load: LoadSpec) -> MakePlan:
    """A plan of one pool "p" with the usual serving predictions; `values` are of TTFT, TPOT and tokens/s."""

    def make(
        *,
        values: tuple[float, float, float] = (0.06, 0.01, 100.0),
        metrics: dict[str, str] | None = None,
        workloads: tuple[str, ...] = ("chat",),
        loads: tuple[LoadSpec, ...] | None = None,
        extra: tuple[Prediction, ...] = (),
    ) -> Plan:
        ttft_s, tpot_s, tokens_per_s = values
        launch = Launch(engine="external", metrics=metrics or {})
        pool = replace(POOL, name="p", model="small", workloads=workloads, launch=launch)
        statistics: tuple[Statistic, ...] = ("p50", "p95")
        predictions = (
            *(_prediction("ttft_s", statistic, "peak", ttft_s, "chat") for statistic in statistics),
            *(_prediction("tpot_s", statistic, "peak", tpot_s, "chat") for statistic in statistics),
            _prediction("tokens_per_s", "rate", "closed", tokens_per_s, "chat"),
            *extra,
        )
        return replace(
            PLAN,
            workloads=tuple(WorkloadPlan(name=name, model="small", pools=("p",)) for name in workloads),
            pools=(pool,),
            predictions=predictions,
            loads=(load,) if loads is None else loads,
        )

    return make


@pytest.fixture
def predict() -> Callable[[str, Statistic, str, float, str], Prediction]:
    """Make one prediction: metric, statistic, phase, value, workload; its band is a factor of 1.5 each way."""
    return _prediction
