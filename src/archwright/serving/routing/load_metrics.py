"""Metrics of pools and upstreams as one worker sees them. Prometheus gets their sum over the workers."""

from collections import Counter
from collections.abc import Set
from typing import NamedTuple

from archwright.monitor.metrics.exposition import Exposition
from archwright.serving.routing.pool import EnginePool
from archwright.serving.routing.pool_registry import PoolRegistry


class _Series(NamedTuple):
    quantity: str
    pool: str
    upstream: str = ""


class LoadExporter:
    """Exports gauges and counts of the pools of one process. A removed pool's gauges become 0."""

    def __init__(self) -> None:
        self._exported: Set[_Series] = frozenset()

    def export(self, exposition: Exposition, fleet: PoolRegistry) -> None:
        gauges: Counter[_Series] = Counter()
        for name, in_flight in fleet.in_flight().items():
            gauges[_Series("in_flight", name)] = in_flight
        for pool in fleet.pools.values():
            self._measure_pool(pool, gauges)
            for quantity, count in pool.take_events().items():
                exposition.record(quantity, {"pool": pool.name}, count)
        for series in self._exported | gauges.keys():
            exposition.record(series.quantity, series._asdict(), gauges[series])
        self._exported = gauges.keys()

    def _measure_pool(self, pool: EnginePool, gauges: Counter[_Series]) -> None:
        gauges[_Series("queue_length", pool.name)] = pool.waiting
        gauges[_Series("pool_tenants", pool.name)] = pool.shares.tenants
        for replica in pool.replicas:
            gauges[_Series("upstream_healthy", pool.name, replica.name)] += replica.healthy
            gauges[_Series("breaker_open", pool.name, replica.name)] += replica.breaker.state != "closed"
