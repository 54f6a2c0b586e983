"""The pools in force, and earlier engines that only finish their requests.

Design: new engines are checked first; then the table changes within one step of the event loop. A request with a slot
keeps it, waiting and new ones get slots of the new table; a removed pool serves its last waiting requests on its old
engines. Only our own engines delay a change: for a provider that does not answer there are fallbacks.
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
    """Raises OperateError AW-OPS-15 for a missing key."""

    def __init__(self, pools: tuple[EnginePoolSpec, ...], home: Home) -> None:
        self._home = home
        self._leaving: list[Replica] = []
        self._gone: list[EnginePool] = []
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self.pools: Mapping[str, EnginePool] = {}
        self._apply_pools(pools, self._build_replicas(pools))

    async def replace_pools(self, pools: tuple[EnginePoolSpec, ...]) -> bool:
        """Serve this table from now on; False, with nothing changed, while a new engine does not answer."""
        wanted = self._build_replicas(pools)
        present = {id(replica) for replica in self._all_replicas()}
        fresh = [(replica, spec) for spec in pools for replica in wanted[spec.name] if id(replica) not in present]
        checks = (one.client.healthy(spec.health_path, HEALTH_CHECK_TIMEOUT_S) for one, spec in fresh)
        well = await asyncio.gather(*checks)
        if not all(good or not spec.own for good, (_, spec) in zip(well, fresh, strict=True)):
            for replica, _ in fresh:
                await replica.client.close()
            return False
        for good, (replica, _) in zip(well, fresh, strict=True):
            replica.healthy = good
        self._apply_pools(pools, wanted)
        return True

    async def close_drained(self) -> tuple[str, ...]:
        """Close earlier engines that are done; returns the addresses of the others."""
        self._gone = [pool for pool in self._gone if pool.in_flight]
        needed = [replica for pool in self._gone for replica in pool.replicas]
        done = [replica for replica in self._leaving if replica.running <= 0 and replica not in needed]
        self._leaving = [replica for replica in self._leaving if replica not in done]
        for replica in done:
            await replica.client.close()
        return tuple(sorted(replica.address for replica in self._leaving))

    async def check_health(self) -> None:
        """Check every engine and reread changed key files. Raises OperateError AW-OPS-15 for a missing file, whose
        engines keep their key."""
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
        """Running and waiting requests of each pool, also of removed ones."""
        found = Counter(dict.fromkeys(self.pools, 0))
        for pool in (*self.pools.values(), *self._gone):
            found[pool.name] += pool.in_flight
        return found

    async def close(self) -> None:
        for replica in self._all_replicas():
            await replica.client.close()

    def _all_replicas(self) -> Iterable[Replica]:
        return [*(replica for pool in self.pools.values() for replica in pool.replicas), *self._leaving]

    def _build_replicas(self, pools: tuple[EnginePoolSpec, ...]) -> dict[str, tuple[Replica, ...]]:
        """The replicas of each pool; an engine with a known identity stays the same object."""
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
