"""What every handler needs: the configuration, the endpoints in force, the guard, the books it writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from archwright.contract.lineage import Edge, node
from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.commit import GroupCommit
from archwright.monitor.exposition import Exposition
from archwright.monitor.follow import Follower
from archwright.monitor.ring import Recorder
from archwright.serving.config import EndpointSpec, GatewayConfig
from archwright.serving.directory import Directory
from archwright.serving.exchange import Exchange
from archwright.serving.fleet import Fleet
from archwright.serving.guard import Guard
from archwright.serving.pools import Pool


class Books(NamedTuple):
    """What the gateway writes to: observations, the page a Prometheus scrapes, the lineage of answers."""

    recorder: Recorder
    exposition: Exposition
    answers: GroupCommit[Edge]


class Gateway:
    """Made once per process. `clock` is wall time, `now` monotonic. `directory` and `pools` change together, between
    two steps of the event loop: a handler that read its body reads both without waiting in between."""

    def __init__(
        self,
        config: GatewayConfig,
        home: Home,
        guard: Guard,
        books: Books,
        journal: Journal | None = None,
    ) -> None:
        self.config = config
        self.guard = guard
        self.exposition = books.exposition
        self.journal = journal or Journal("gateway")
        self.clock: Callable[[], float] = time.time
        self.now: Callable[[], float] = time.monotonic
        self.directory = Directory(config.endpoints)
        self.started_at = int(self.clock())
        self.fingerprint = f"aw-{config.plan_digest[:12]}" if config.plan_digest else ""
        self.follower: Follower | None = None
        self._recorder = books.recorder
        self._answers = books.answers
        self.fleet = Fleet(config.endpoints, home, self._in_flight)

    @property
    def pools(self) -> Mapping[str, Pool]:
        return self.fleet.pools

    async def change(self, endpoints: tuple[EndpointSpec, ...]) -> bool:
        """Serve these endpoints from now on; False, and nothing changed, while a new engine does not answer."""
        if not await self.fleet.change(endpoints):
            return False
        self.directory = Directory(endpoints)
        return True

    def answered(self, exchange: Exchange, version: str) -> None:
        """The reply of `exchange` comes from this model version: said in its head, on disk before its last bytes."""
        edge = Edge(
            at=self.clock(),
            child=node("answer", exchange.id),
            parent=node("model", version),
            relation="answered-by",
        )
        exchange.answered_by(version, self._answers.record(edge))

    @property
    def ready(self) -> int:
        """How many pools have a healthy engine; the service is ready when all have."""
        return sum(pool.healthy for pool in self.pools.values())

    def metrics(self) -> bytes:
        """The exposition as text, with what the supervisor recorded. Reads the store: not for the event loop."""
        if self.follower is not None:
            self.follower.catch_up()
        return self.exposition.render()

    def observe(self, quantity: str, spec: EndpointSpec, value: float) -> None:
        self._recorder.observe(quantity, _labels(spec), value, self.clock())

    def count(self, spec: EndpointSpec, status: str) -> None:
        self._recorder.observe("requests", {**_labels(spec), "status": status}, 1.0, self.clock())

    def _in_flight(self, pool: str, count: int) -> None:
        self.exposition.set("in_flight", {"pool": pool}, count)


def _labels(spec: EndpointSpec) -> dict[str, str]:
    return {"workload": spec.workload, "model": spec.model, "pool": spec.pool}
