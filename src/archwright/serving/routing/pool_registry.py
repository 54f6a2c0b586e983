"""The pools in force, and what is left of those before: engines that only finish what they began.

Decides how the table of pools changes under running requests. New engines are looked at first; then the change
is a few assignments on the event loop, with no request between them: whoever has a slot keeps it to the end on the
engine that gave it, whoever waits or comes later gets one of the new table's. A pool that is gone serves its last
waiters on the engines it had. Only engines of our own hold a change up: a provider that does not answer now is what
a fallback is for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.serving.providers import create_provider
from archwright.serving.routing.pool import HEALTH_CHECK_TIMEOUT_S, EnginePool
from archwright.serving.routing.replica import Replica, replica_identity
from archwright.serving.settings.config import EnginePoolSpec
from archwright.serving.settings.engine_secrets import read_secret, read_stamp


class PoolRegistry:
    """Raises OperateError AW-OPS-15 for a key that is not there."""

    def __init__(self, pools: tuple[EnginePoolSpec, ...], home: Home) -> None:
        self._home = home
        self._leaving: list[Replica] = []
        self._gone: list[EnginePool] = []
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self.pools: Mapping[str, EnginePool] = {}
        self._apply_pools(pools, self._build_replicas(pools))

    async def replace_pools(self, pools: tuple[EnginePoolSpec, ...]) -> bool:
        """Serve this table from now on; False, and nothing changed, while an engine new in it does not answer."""
        wanted = self._build_replicas(pools)
        present = {id(replica) for replica in self._all_replicas()}
        fresh = [(replica, spec) for spec in pools for replica in wanted[spec.name] if id(replica) not in present]
        well = await asyncio.gather(
            *(one.client.healthy(spec.health_path, HEALTH_CHECK_TIMEOUT_S) for one, spec in fresh)
        )
        if not all(good or not spec.own for good, (_, spec) in zip(well, fresh, strict=True)):
            for replica, _ in fresh:
                await replica.client.close()
            return False
        for good, (replica, _) in zip(well, fresh, strict=True):
            replica.healthy = good
        self._apply_pools(pools, wanted)
        return True

    async def close_drained(self) -> tuple[str, ...]:
        """The addresses that still work for requests of an earlier table; what is done is let go."""
        self._gone = [pool for pool in self._gone if pool.in_flight]
        done = [replica for replica in self._leaving if not self._is_busy(replica)]
        self._leaving = [replica for replica in self._leaving if replica not in done]
        for replica in done:
            await replica.client.close()
        return tuple(sorted(replica.address for replica in self._leaving))

    async def check_health(self) -> None:
        """The health of every engine, with the keys their files hold now. Raises OperateError AW-OPS-15 for a file
        that went away: its engines keep the key they had."""
        await asyncio.gather(*(pool.check_health() for pool in (*self.pools.values(), *self._gone)))
        for pool in self.pools.values():
            reference = pool.spec.key
            now = read_stamp(reference)
            if now != self._stamps[reference]:
                found = read_secret(reference)
                for other in self.pools.values():
                    for replica in other.replicas if other.spec.key == reference else ():
                        replica.client.set_headers(replica.provider.headers(found or ""))
                self._stamps[reference] = now

    def in_flight(self) -> Counter[str]:
        """How many requests each pool works for or lets wait; those that are gone but for them are there too."""
        found = Counter(dict.fromkeys(self.pools, 0))
        for pool in (*self.pools.values(), *self._gone):
            found[pool.name] += pool.in_flight
        return found

    async def close(self) -> None:
        for replica in self._all_replicas():
            await replica.client.close()

    def _is_busy(self, replica: Replica) -> bool:
        return replica.running > 0 or any(replica in pool.replicas for pool in self._gone)

    def _all_replicas(self) -> Iterable[Replica]:
        return [*(replica for pool in self.pools.values() for replica in pool.replicas), *self._leaving]

    def _build_replicas(self, pools: tuple[EnginePoolSpec, ...]) -> dict[str, tuple[Replica, ...]]:
        """The replicas of each pool; an engine that is known at its address, and asked as before, is the same one, with
        what it runs."""
        for spec in pools:
            self._stamps.setdefault(spec.key, read_stamp(spec.key))
        known = {replica.identity: replica for replica in self._all_replicas()}
        return {
            spec.name: tuple(
                known.get(replica_identity(spec, address)) or Replica(self._create_client(address, spec), spec, address)
                for address in spec.addresses
            )
            for spec in pools
        }

    def _apply_pools(self, pools: tuple[EnginePoolSpec, ...], wanted: Mapping[str, tuple[Replica, ...]]) -> None:
        """The change itself: nothing here waits."""
        before = list(self._all_replicas())
        taken: dict[str, EnginePool] = {}
        known = {pool.name: pool for pool in (*self._gone, *self.pools.values())}
        for spec in pools:
            replicas, pool = wanted[spec.name], known.get(spec.name)
            if pool is None:
                pool = EnginePool(spec, replicas)
            else:
                pool.replace_replicas(spec, replicas)
            taken[spec.name] = pool
        self._gone = [pool for name, pool in known.items() if name not in taken]
        staying = {id(replica) for replicas in wanted.values() for replica in replicas}
        self._leaving = [replica for replica in before if id(replica) not in staying]
        self.pools = taken

    def _create_client(self, address: str, spec: EnginePoolSpec) -> EngineClient:
        if address.startswith("unix:"):
            address = f"unix:{self._home.socket(address.removeprefix('unix:'))}"
        headers = create_provider(spec).headers(read_secret(spec.key) or "")
        return EngineClient(address, headers=headers, model=spec.engine_model)
