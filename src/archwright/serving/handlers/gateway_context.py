"""What every handler needs: the configuration, the endpoints in force, the guard, the books it writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple

from archwright.contract.served import RequestRecord
from archwright.errors import StoreError
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.observation_exporter import ObservationExporter
from archwright.monitor.metrics.request_recorder import RequestRecorder
from archwright.monitor.trace_exporter import TraceContent, TraceExporter
from archwright.monitor.wal.writer import WalWriter
from archwright.policy.circuit_breaker import RetryBudget
from archwright.serving.admission.authorization import RequestAuthorizer
from archwright.serving.admission.metering import CostAccounting
from archwright.serving.http.errors import ApiError, service_unavailable
from archwright.serving.http.http_exchange import HttpExchange
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.routing.attempts import Attempts
from archwright.serving.routing.pool import EnginePool
from archwright.serving.routing.pool_registry import PoolRegistry
from archwright.serving.routing.router import Router
from archwright.serving.routing.shadow_traffic import ShadowComparison, ShadowTraffic
from archwright.serving.settings.config import EndpointSpec, GatewayConfig


class Recorders(NamedTuple):
    """What the gateway writes to: what it served and decided, the page a Prometheus scrapes, a collector's traces."""

    ledger: WalWriter
    exposition: Exposition
    traces: TraceExporter | None = None


class GatewayContext:
    """Made once per process. `clock` is wall time, `now` monotonic. `directory`, `router` and `pools` change together,
    between two steps of the event loop: a handler reads them without waiting in between. `flush` has the
    kernel keep all that was written down; called by the event loop's thread."""

    def __init__(
        self,
        config: GatewayConfig,
        home: Home,
        guard: RequestAuthorizer,
        books: Recorders,
        till: CostAccounting,
        journal: Journal | None = None,
    ) -> None:
        self.config = config
        self.guard = guard
        self.exposition = books.exposition
        self.journal = journal or Journal("gateway")
        self.clock: Callable[[], float] = time.time
        self.now: Callable[[], float] = time.monotonic
        self.started_at = int(self.clock())
        self.fingerprint = f"aw-{config.plan_digest[:12]}" if config.plan_digest else ""
        self.follower: ObservationExporter | None = None
        self._ledger = books.ledger
        self.till = till
        self.home = home
        self.store = books.ledger.store
        self._requests = RequestRecorder(*books)
        self._traces = books.traces
        self.fleet = PoolRegistry(config.pools, home)
        self._shown: Set[str] = frozenset()  # pools whose load is on the page
        self._budget = RetryBudget()
        self._shadows = ShadowTraffic(self.now, self._record_comparison)
        self._rebuild_routing(config)

    @property
    def pools(self) -> Mapping[str, EnginePool]:
        return self.fleet.pools

    async def apply_config(self, config: GatewayConfig) -> bool:
        """Serve its endpoints from now on; False, and nothing changed, while a new engine does not answer."""
        if not await self.fleet.replace_pools(config.pools):
            return False
        self._rebuild_routing(config)
        return True

    def _rebuild_routing(self, config: GatewayConfig) -> None:
        self._endpoints = config.endpoints
        self.directory = ModelDirectory(config.pools, config.endpoints)
        self.router = Router(self.pools, config.endpoints, self._budget, self.now)

    def mirror_request(
        self, name: str, question: GenerationRequest, course: Attempts, path: str
    ) -> asyncio.Future[str] | None:
        """Ask the endpoint's shadow as well, where this request is one of its share; the future takes the answer."""
        if not question.endpoint.shadow:
            return None
        pool = self.router.select_shadow(question, course.data_class, name)
        if pool is None:
            return None
        work = self.router.build_slot_request(question, course.tenant, course.data_class, course.until)
        return self._shadows.mirror(name, pool, work, (path, question.body))

    def flush(self) -> None:
        """Into the accounts first: what a crash loses in between then counts as spent. Raises StoreError."""
        self.till.flush()
        self._ledger.flush()

    async def close(self) -> None:
        self.till.flush()
        await self._shadows.close()
        await self.fleet.close()
        self.publish_load()  # the page outlives this process

    def is_content_traced(self, exchange: HttpExchange) -> bool:
        """Whether what this request says goes along with its trace: it is sampled, and its tenant turned that on."""
        traces, principal = self._traces, exchange.principal
        if traces is None or principal is None or not traces.is_sampled(exchange.id):
            return False
        return self.till.keys.is_content_traced(principal.tenant)

    def record_request(
        self,
        exchange: HttpExchange,
        spec: EndpointSpec,
        status: str,
        figures: dict[str, Any],
        content: TraceContent | None = None,
    ) -> None:
        """Write down how a request ended, once, before its last bytes leave (`flush`); `figures` are fields of its
        record. Raises Refusal 503."""
        if exchange.recorded:
            return
        principal = exchange.principal
        if exchange.bill is not None:
            exchange.bill.settle(status, figures)
        one = RequestRecord(
            at=self.clock(),
            request_id=exchange.id,
            status=status,
            tenant=principal.tenant if principal else "",
            key_id=principal.key_id if principal else "",
            user=principal.user if principal else "",
            workload=spec.workload,
            model=spec.model,
            version=exchange.model,
            route=exchange.route or spec.pool,
            latency_s=exchange.now() - exchange.received_at,
            **figures,
        )
        try:
            self._requests.add(one, content)
            exchange.recorded = True
        except StoreError as error:
            raise service_unavailable("the answer could not be recorded; try again", "record_unavailable") from error

    def record_interrupted(
        self,
        exchange: HttpExchange,
        spec: EndpointSpec,
        status: str,
        figures: dict[str, Any],
        content: TraceContent | None = None,
    ) -> None:
        """The same for a request that is over without an answer: nobody is left to be told that it failed, and no reply
        whose turn would have it written down."""
        if exchange.recorded:
            return
        try:
            self.record_request(exchange, spec, status, figures, content)
            self.flush()
        except (ApiError, StoreError) as error:
            self.journal.error("request not recorded", request=exchange.id, **error.as_dict())

    @property
    def ready_pool_count(self) -> int:
        """How many pools have a healthy engine."""
        return sum(pool.healthy for pool in self.pools.values())

    @property
    def is_ready(self) -> bool:
        """Whether every endpoint has a pool with a healthy engine: a stand-in that is down keeps nobody waiting."""
        return all(any(self.pools[name].healthy for name in spec.serving_pools) for spec in self._endpoints)

    def render_metrics(self) -> bytes:
        """The exposition as text, with what the supervisor recorded. Reads the store: not for the event loop."""
        self.publish_load()
        if self.follower is None:
            return self.exposition.render()
        self.follower.catch_up()
        return self.exposition.render(self.follower.exposition)

    def _record_comparison(self, found: ShadowComparison) -> None:
        self.exposition.counter("shadows", {"pool": found.pool, "verdict": found.verdict}).add()
        self.journal.info("shadow", **found._asdict())

    def publish_load(self) -> None:
        """On the page that other processes of this gateway render too: every moment, and when it is asked for."""
        loads = self.fleet.in_flight()
        for pool in self._shown | loads.keys():  # one that is gone shows nothing any more
            self.exposition.record("in_flight", {"pool": pool}, loads[pool])
        self._shown = loads.keys()
