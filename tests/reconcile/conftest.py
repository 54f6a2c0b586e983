"""Stand-ins for foreign OpenAI servers (real HTTP on loopback, in their own thread) and small hand-made plans."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest
from aiohttp import web

from archwright.contract.estimate import within_factor
from archwright.contract.evidence import Prediction, Query, Statistic
from archwright.contract.needs import Length
from archwright.contract.plan import Launch, LoadSpec, Plan, Pool, WorkloadPlan

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., str]
MakePlan = Callable[..., Plan]


class _Server:
    """One aiohttp application on a free port; `url` ends in /v1."""

    def __init__(self, routes: list[web.RouteDef], tls: ssl.SSLContext | None) -> None:
        self._routes = routes
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.add_routes(self._routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server for the test: `serve(handler, tls=None, metrics=None)` -> its URL, to /v1."""
    servers: list[_Server] = []

    def start(handler: Handler, tls: ssl.SSLContext | None = None, metrics: Handler | None = None) -> str:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except ConnectionError:
                return web.Response()  # the client has gone: nobody reads this

        routes = [web.post("/v1/chat/completions", handle)]
        if metrics is not None:
            routes.append(web.get("/metrics", metrics))
        servers.append(_Server(routes, tls))
        return servers[-1].url

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def load() -> LoadSpec:
    """Twenty short requests in half a second, then half a second with three at once."""
    return LoadSpec(
        workload="chat",
        model="small",
        requests_per_second=40.0,
        input_tokens=Length(mean=40, p95=80),
        output_tokens=Length(mean=8, p95=12),
        concurrency=3,
        peak_s=0.5,
        closed_s=0.5,
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
        pool = Pool(
            name="p",
            model="small",
            workloads=workloads,
            placement="this-machine",
            provider="this-machine",
            region="DE",
            machine="here",
            accelerator="cpu",
            accelerator_count=0,
            replicas=1,
            slots=3,
            context_tokens=2048,
            default_max_tokens=256,
            quantisation="Q4_1",
            launch=Launch(engine="external", metrics=metrics or {}),
        )
        predictions = (
            _prediction("ttft_s", "p50", "peak", ttft_s, "chat"),
            _prediction("ttft_s", "p95", "peak", ttft_s, "chat"),
            _prediction("tpot_s", "p50", "peak", tpot_s, "chat"),
            _prediction("tpot_s", "p95", "peak", tpot_s, "chat"),
            _prediction("tokens_per_s", "rate", "closed", tokens_per_s, "chat"),
            *extra,
        )
        return Plan(
            needs_file="needs.yaml",
            needs_digest="n",
            catalog_digest="c",
            created_at="2026-11-24T00:00:00Z",
            organisation="o",
            currency="EUR",
            horizon_months=12,
            chosen=None,
            options=(),
            workloads=tuple(WorkloadPlan(name=name, model="small", pool="p") for name in workloads),
            pools=(pool,),
            predictions=predictions,
            controls=(),
            assumptions=(),
            bases=(),
            loads=(load,) if loads is None else loads,
        )

    return make


@pytest.fixture
def predict() -> Callable[[str, Statistic, str, float, str], Prediction]:
    """Make one prediction: metric, statistic, phase, value, workload; its band is a factor of 1.5 each way."""
    return _prediction
