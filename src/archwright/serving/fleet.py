"""The pools in force, and what is left of those before: engines that only finish what they began.

Decides how the table of endpoints changes under running requests. New engines are looked at first; then the change
is a few assignments on the event loop, with no request between them: whoever has a slot keeps it to the end on the
engine that gave it, whoever waits or comes later gets one of the new table's. A pool that is gone serves its last
waiters on the engines it had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from archwright.engines.client import EngineClient
from archwright.home import Home
from archwright.serving.config import EndpointSpec
from archwright.serving.pools import CHECK_S, Pool, Replica
from archwright.serving.providers import provider_of
from archwright.settings import variable


class Fleet:
    """`on_change` learns how many requests a pool has in flight."""

    def __init__(self, endpoints: tuple[EndpointSpec, ...], home: Home, on_change: Callable[[str, int], None]) -> None:
        self._home = home
        self._on_change = on_change
        self._leaving: list[Replica] = []
        self._gone: list[Pool] = []
        self.pools: Mapping[str, Pool] = {}
        self._take(endpoints, self._wanted(endpoints))

    async def change(self, endpoints: tuple[EndpointSpec, ...]) -> bool:
        """Serve this table from now on; False, and nothing changed, while an engine new in it does not answer."""
        wanted = self._wanted(endpoints)
        present = {id(replica) for replica in self._replicas()}
        fresh = [
            (replica, spec.health_path)
            for spec in _first_of_pools(endpoints)
            for replica in wanted[spec.pool]
            if id(replica) not in present
        ]
        well = await asyncio.gather(*(replica.client.healthy(path, CHECK_S) for replica, path in fresh))
        if not all(well):
            for replica, _ in fresh:
                await replica.client.close()
            return False
        for replica, _ in fresh:
            replica.healthy = True
        self._take(endpoints, wanted)
        return True

    async def leaving(self) -> tuple[str, ...]:
        """The addresses that still work for requests of an earlier table; what is done is let go."""
        self._gone = [pool for pool in self._gone if pool.in_flight]
        done = [replica for replica in self._leaving if not self._busy(replica)]
        self._leaving = [replica for replica in self._leaving if replica not in done]
        for replica in done:
            await replica.client.close()
        return tuple(sorted(replica.address for replica in self._leaving))

    async def check(self) -> None:
        await asyncio.gather(*(pool.check() for pool in (*self.pools.values(), *self._gone)))

    async def close(self) -> None:
        for replica in self._replicas():
            await replica.client.close()

    def _busy(self, replica: Replica) -> bool:
        return replica.running > 0 or any(replica in pool.replicas for pool in self._gone)

    def _replicas(self) -> Iterable[Replica]:
        return [*(replica for pool in self.pools.values() for replica in pool.replicas), *self._leaving]

    def _wanted(self, endpoints: tuple[EndpointSpec, ...]) -> dict[str, tuple[Replica, ...]]:
        """The replicas of each pool; an engine that is known at its address is the same one, with what it runs."""
        known = {(replica.address, replica.version): replica for replica in self._replicas()}
        return {
            spec.pool: tuple(
                known.get((address, spec.serves)) or Replica(self._client(address, spec), spec, address)
                for address in spec.addresses
            )
            for spec in _first_of_pools(endpoints)
        }

    def _take(self, endpoints: tuple[EndpointSpec, ...], wanted: Mapping[str, tuple[Replica, ...]]) -> None:
        """The change itself: nothing here waits."""
        before = list(self._replicas())
        pools: dict[str, Pool] = {}
        known = {pool.name: pool for pool in (*self._gone, *self.pools.values())}
        for spec in _first_of_pools(endpoints):
            replicas, pool = wanted[spec.pool], known.get(spec.pool)
            if pool is None:
                pool = Pool(spec.pool, replicas, spec.health_path, self._on_change)
            else:
                pool.replace(replicas, spec.health_path)
            pools[spec.pool] = pool
        self._gone = [pool for name, pool in known.items() if name not in pools]
        staying = {id(replica) for replicas in wanted.values() for replica in replicas}
        self._leaving = [replica for replica in before if id(replica) not in staying]
        self.pools = pools

    def _client(self, address: str, spec: EndpointSpec) -> EngineClient:
        if address.startswith("unix:"):
            address = f"unix:{self._home.socket(address.removeprefix('unix:'))}"
        key = variable(spec.key_env) if spec.key_env else None
        return EngineClient(address, headers=provider_of(spec).headers(key or ""))


def _first_of_pools(endpoints: tuple[EndpointSpec, ...]) -> list[EndpointSpec]:
    """One endpoint of each pool: all of a pool describe it alike."""
    return list({spec.pool: spec for spec in reversed(endpoints)}.values())[::-1]
