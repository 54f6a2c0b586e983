"""The parts of a gateway process that handlers use: configuration, endpoints, authorisation, accounts, records."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from archwright.contract.served import RequestRecord
from archwright.errors import ArchwrightError, StoreError, boundary
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.observation_exporter import ObservationExporter
from archwright.monitor.metrics.request_recorder import RequestRecorder
from archwright.monitor.trace_exporter import TraceContent, TraceExporter
from archwright.monitor.wal.writer import WalWriter
from archwright.policy.circuit_breaker import RetryBudget
from archwright.serving.admission.authorization import RequestAuthorizer
from archwright.serving.admission.home_metrics import measure_home
from archwright.serving.admission.metering import CostAccounting
from archwright.serving.handlers.passage_search import PassageSearch
from archwright.serving.http.errors import service_unavailable
from archwright.serving.http.http_request import HttpRequest
from archwright.serving.providers.protocol import CHAT_PATH
from archwright.serving.requests.document_text import DocumentReader
from archwright.serving.requests.image_fetch import ImageFetcher
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.routing.attempts import Attempts
from archwright.serving.routing.load_metrics import LoadExporter
from archwright.serving.routing.pool import EnginePool
from archwright.serving.routing.pool_registry import PoolRegistry
from archwright.serving.routing.prompt_caches import PromptCaches
from archwright.serving.routing.router import Router
from archwright.serving.routing.shadow_traffic import ShadowComparison, ShadowTraffic
from archwright.serving.routing.tenant_demand import DemandExchange
from archwright.serving.routing.upstream_reports import UpstreamReporter
from archwright.serving.settings.config import GatewayConfig


class Recorders(NamedTuple):
    """The ledger of requests and decisions, the metrics, the trace exporter, the supervisor's metrics."""

    ledger: WalWriter
    exposition: Exposition
    traces: TraceExporter | None = None
    supervisor: ObservationExporter | None = None


class GatewayContext:
    """One per process. `clock` is wall time, `now` monotonic.

    Design: `directory`, `router` and `pools` change together in one event-loop tick. A handler that reads them in one
    tick sees one configuration.
    """

    def __init__(
        self,
        config: GatewayConfig,
        home: Home,
        authorizer: RequestAuthorizer,
        recorders: Recorders,
        accounting: CostAccounting,
        journal: Journal | None = None,
    ) -> None:
        self.config = config
        self.authorizer = authorizer
        self.exposition = recorders.exposition
        self.journal = journal or Journal("gateway")
        self.clock: Callable[[], float] = time.time
        self.now: Callable[[], float] = time.monotonic
        self.started_at = int(self.clock())
        self._ledger = recorders.ledger
        self.accounting = accounting
        self.home = home
        self.store = recorders.ledger.store
        self._requests = RequestRecorder(recorders.ledger, recorders.exposition, recorders.traces)
        self._traces = recorders.traces
        self._supervisor = recorders.supervisor
        self.fleet = PoolRegistry(config.pools, home)
        self.images, self.documents = ImageFetcher(self.journal), DocumentReader()
        self.passages = PassageSearch(home, recorders.ledger.store, self.journal)
        self._demands = DemandExchange(accounting.accounts.table)
        self._upstreams = UpstreamReporter(accounting.accounts.table)
        self._loads = LoadExporter()
        self._budget = RetryBudget()
        self.prompt_caches = PromptCaches(accounting.keys)
        self._shadows = ShadowTraffic(self.now, self._record_comparison, self.prompt_caches.choose_fields)
        self._rebuild_routing(config)

    @property
    def pools(self) -> Mapping[str, EnginePool]:
        return self.fleet.pools

    async def apply_config(self, config: GatewayConfig) -> bool:
        """Serve the endpoints of `config`. Returns False, with nothing changed, while a new engine does not answer."""
        if not await self.fleet.replace_pools(config.pools):
            return False
        before = self.router
        self._rebuild_routing(config)
        before.set_successor(self.router)
        return True

    def _rebuild_routing(self, config: GatewayConfig) -> None:
        self.fingerprint = f"aw-{config.plan_digest[:12]}" if config.plan_digest else ""
        self._endpoints, self._table = config.endpoints, (config.pools, config.endpoints, config.image_hosts)
        self._contexts: dict[str, int] | None = None
        self.apply_contexts()
        self.router = Router(self.pools, config.endpoints, self._budget, self.now)

    async def inspect_upstreams(self) -> None:
        await self.fleet.inspect_upstreams(self.now())
        self.apply_contexts()

    def apply_contexts(self) -> None:
        """Validate requests by the contexts that the engines state."""
        contexts = self.fleet.list_contexts()
        if contexts != self._contexts:
            self._contexts, self.directory = contexts, ModelDirectory(*self._table, contexts)

    def exchange_demand(self) -> None:
        """Exchange the demand of tenants with the other workers, and report upstreams. Raises StoreError."""
        self._demands.exchange(self.pools.values(), self.now())
        self._upstreams.report(self.pools.values(), self.now())

    def mirror_request(
        self, request_id: str, generation: GenerationRequest, attempts: Attempts, path: str
    ) -> asyncio.Future[str] | None:
        """Send the request to the endpoint's shadow too, if it is selected; the future takes the response's text."""
        if not generation.endpoint.shadow:
            return None
        pool = attempts.router.select_shadow(generation, attempts.data_class, request_id)
        if pool is None:
            return None
        work = attempts.router.build_slot_request(generation, attempts.tenant, attempts.data_class, attempts.until)
        rules = pool.spec.field_rules["chat" if path == CHAT_PATH else "completions"].fields
        taken = {name for name, rule in rules.items() if rule.handling == "pass"}
        body = {name: value for name, value in generation.body.items() if name in taken}
        return self._shadows.mirror(request_id, pool, work, (path, body))

    async def repeat(self, act: Callable[[], Awaitable[None]], every_s: float, kind: str, failure: str) -> None:
        """Run `act` every `every_s` seconds until cancelled; a repeated error is logged once as `failure`."""
        logged = ""
        while True:
            try:
                with boundary(kind):
                    await act()
                logged = ""
            except ArchwrightError as error:
                if error.message != logged:
                    self.journal.error(failure, **error.as_dict())
                logged = error.message
            await asyncio.sleep(every_s)

    def flush(self) -> None:
        """Make all records durable. Raises StoreError.

        Design: the accounts come first, so the cost of requests whose records a crash loses counts as spent.
        """
        self.accounting.flush()
        self._ledger.flush()

    async def close(self) -> None:
        self.authorizer.write_denials(closing=True)
        self.accounting.flush()
        await self._shadows.close()
        self.passages.close()
        self.documents.close()
        await self.fleet.close()
        self.publish_load()  # the exported metrics outlive this process

    def is_content_traced(self, request: HttpRequest) -> bool:
        """True if the trace includes the content: the request is sampled and its tenant turned this on."""
        traces = self._traces
        if traces is None or not traces.is_sampled(request.id):
            return False
        return self.accounting.keys.is_content_traced(request.principal.tenant)

    def record_request(self, record: RequestRecord, content: TraceContent | None) -> None:
        """Record the end of a request; its bytes leave after the next `flush`. Raises ApiError 503."""
        try:
            self._requests.add(record, content)
        except StoreError as error:
            message = "The response could not be recorded. Retry the request."
            raise service_unavailable(message, "record_unavailable") from error

    @property
    def ready_pool_count(self) -> int:
        return sum(pool.healthy for pool in self.pools.values())

    @property
    def is_ready(self) -> bool:
        """True if every endpoint has a pool with a healthy engine, or one that a request starts."""
        pools = self.pools
        return all(any(pools[n].healthy or pools[n].spec.start_s for n in e.serving_pools) for e in self._endpoints)

    def render_metrics(self) -> bytes:
        """Render the metrics, with the supervisor's. Reads the store, so run it in a thread."""
        self.publish_load()
        beside = [measure_home(self.home, self.store, self.accounting, self.clock())]
        if self._supervisor is not None:
            self._supervisor.catch_up()
            beside.append(self._supervisor.exposition)
        return self.exposition.render(*beside)

    def _record_comparison(self, comparison: ShadowComparison) -> None:
        self.exposition.counter("shadows", {"pool": comparison.pool, "verdict": comparison.verdict}).add()
        self.journal.info("shadow", **comparison._asdict())

    def publish_load(self) -> None:
        """Export the load of every pool, for all processes that render the metrics."""
        self._loads.export(self.exposition, self.fleet)
