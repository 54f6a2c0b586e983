"""What every handler needs: the configuration, the pools, the guard, the measurements."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from archwright.home import Home
from archwright.journal import Journal
from archwright.monitor.exposition import Exposition
from archwright.monitor.follow import Follower
from archwright.monitor.ring import Recorder
from archwright.serving.config import EndpointSpec, GatewayConfig
from archwright.serving.guard import Guard
from archwright.serving.pools import Pool, make_pools
from archwright.serving.validate import Directory


class Gateway:
    """Made once per process. `clock` is wall time, `now` monotonic."""

    def __init__(
        self,
        config: GatewayConfig,
        home: Home,
        guard: Guard,
        recorder: Recorder,
        exposition: Exposition,
        journal: Journal | None = None,
    ) -> None:
        self.config = config
        self.guard = guard
        self.exposition = exposition
        self.journal = journal or Journal("gateway")
        self.clock: Callable[[], float] = time.time
        self.now: Callable[[], float] = time.monotonic
        self.directory = Directory(config.endpoints)
        self.started_at = int(self.clock())
        self.fingerprint = f"aw-{config.plan_digest[:12]}" if config.plan_digest else ""
        self.follower: Follower | None = None
        self._recorder = recorder
        self.pools: Mapping[str, Pool] = make_pools(config, home, self._in_flight)

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
