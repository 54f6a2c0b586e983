"""The current pools, and replaced engines that finish their running requests.

Design: new engines are checked first; then the table changes within one step of the event loop. A request with a slot
keeps it; waiting and new requests get slots of the new table. A removed pool serves its waiting requests on its old
engines. Only our own engines delay a change, because an unavailable provider has fallbacks.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from urllib.parse import urlsplit

from archwright.errors import OperateError
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.serving.providers import create_provider
from archwright.serving.routing.engine_start import EngineStart
from archwright.serving.routing.model_tokens import find_special_tokens
from archwright.serving.routing.pool import HEALTH_CHECK_TIMEOUT_S, EnginePool
from archwright.serving.routing.replica import Replica, replica_identity
from archwright.serving.routing.upstream_inspection import inspect_replica
from archwright.serving.settings.config import EnginePoolSpec
from archwright.serving.settings.engine_secrets import COMMAND_PAUSE_S, read_secret, read_stamp

INSPECTION_INTERVAL_S = 60.0


class PoolRegistry:
    """Creates and replaces the pools. Raises OperateError AW-OPS-15 for a missing key."""

    def __init__(self, pools: tuple[EnginePoolSpec, ...], home: Home) -> None:
        self._home = home
        self._draining: list[Replica] = []
        self._removed: list[EnginePool] = []
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self._key_read_at: dict[str, float] = {}  # the last start of each command after the first
        self.pools: Mapping[str, EnginePool] = {}
        self._apply_pools(pools, self._build_replicas(pools))

    async def replace_pools(self, pools: tuple[EnginePoolSpec, ...]) -> bool:
        """Serve this table from now on. Return False, without any change, if a new engine does not respond."""
        by_pool = self._build_replicas(pools)
        present = {id(replica) for replica in self._all_replicas()}
        fresh = [(replica, spec) for spec in pools for replica in by_pool[spec.name] if id(replica) not in present]
        checks = (replica.client.healthy(spec.health_path, HEALTH_CHECK_TIMEOUT_S) for replica, spec in fresh)
        results = await asyncio.gather(*checks)
        if not all(healthy or not spec.own for healthy, (_, spec) in zip(results, fresh, strict=True)):
            for replica, _ in fresh:
                await replica.client.close()
            return False
        for healthy, (replica, _) in zip(results, fresh, strict=True):
            replica.healthy = healthy
        self._apply_pools(pools, by_pool)
        return True

    async def close_drained(self) -> tuple[str, ...]:
        """Close replaced engines that run no requests. Return the addresses of the others."""
        self._removed = [pool for pool in self._removed if pool.in_flight]
        needed = [replica for pool in self._removed for replica in pool.replicas]
        done = [replica for replica in self._draining if replica.running <= 0 and replica not in needed]
        self._draining = [replica for replica in self._draining if replica not in done]
        for replica in done:
            await replica.client.close()
        return tuple(sorted(replica.address for replica in self._draining))

    async def check_health(self) -> None:
        await asyncio.gather(*(pool.check_health() for pool in (*self.pools.values(), *self._removed)))

    async def refresh_keys(self) -> None:
        """Read keys again: of changed files, of commands on their schedule or after a refused key.

        Raises OperateError AW-OPS-15 for the first key that cannot be read. Its engines keep their key."""
        problems: list[OperateError] = []
        for reference in dict.fromkeys(pool.spec.key for pool in self.pools.values()):
            replicas = [one for pool in self.pools.values() if pool.spec.key == reference for one in pool.replicas]
            stamp, now, is_command = read_stamp(reference), time.monotonic(), reference.startswith("command:")
            is_due = stamp != self._stamps[reference] or (is_command and any(one.key_refused for one in replicas))
            if not is_due or now < self._key_read_at.get(reference, -math.inf) + COMMAND_PAUSE_S:
                continue
            if is_command:
                self._key_read_at[reference] = now
            try:
                secret = await asyncio.to_thread(read_secret, reference)
            except OperateError as error:
                problems.append(error)
                continue
            for replica in replicas:
                replica.client.set_headers(replica.provider.headers(secret or ""))
                replica.key_refused = False
            self._stamps[reference] = stamp
        if problems:
            raise problems[0]

    async def inspect_upstreams(self, now: float) -> None:
        """Ask each engine behind a URL whose time has come for its models and its context."""
        replicas = [(replica, pool.spec) for pool in self.pools.values() for replica in pool.replicas]
        due = [(replica, spec) for replica, spec in replicas if not replica.strict and replica.inspect_at <= now]
        for replica, _ in due:
            replica.inspect_at = now + INSPECTION_INTERVAL_S
        await asyncio.gather(*(inspect_replica(*one) for one in due))

    def list_contexts(self) -> dict[str, int]:
        """Return the smallest context that an engine of each pool states; 0: none states it."""
        contexts = {pool.name: [replica.context_tokens for replica in pool.replicas] for pool in self.pools.values()}
        return {name: min(filter(None, stated), default=0) for name, stated in contexts.items()}

    def list_problems(self) -> tuple[str, ...]:
        """Describe the upstreams whose key, model name or address is wrong."""
        return tuple(
            f"upstream {pool.name} ({urlsplit(replica.address).netloc}): {replica.problem}"
            for pool in self.pools.values()
            for replica in pool.replicas
            if replica.problem
        )

    def in_flight(self) -> Counter[str]:
        """Count the running and waiting requests of each pool, also of removed pools."""
        counts = Counter(dict.fromkeys(self.pools, 0))
        for pool in (*self.pools.values(), *self._removed):
            counts[pool.name] += pool.in_flight
        return counts

    async def close(self) -> None:
        for replica in self._all_replicas():
            await replica.client.close()

    def _all_replicas(self) -> Iterable[Replica]:
        return [*(replica for pool in self.pools.values() for replica in pool.replicas), *self._draining]

    def _build_replicas(self, pools: tuple[EnginePoolSpec, ...]) -> dict[str, tuple[Replica, ...]]:
        """Return the replicas of each pool. An engine with a known identity keeps its object."""
        for spec in pools:
            self._stamps.setdefault(spec.key, read_stamp(spec.key))
        known = {replica.identity: replica for replica in self._all_replicas()}
        read = cache(read_secret)  # a command runs once
        return {
            spec.name: tuple(
                known.get(replica_identity(spec, address)) or self._create_replica(address, spec, read)
                for address in (() if spec.start_s else spec.addresses)
            )
            for spec in pools
        }

    def _apply_pools(self, pools: tuple[EnginePoolSpec, ...], by_pool: Mapping[str, tuple[Replica, ...]]) -> None:
        before = list(self._all_replicas())
        applied: dict[str, EnginePool] = {}
        known = {pool.name: pool for pool in (*self._removed, *self.pools.values())}
        for spec in pools:
            replicas = by_pool[spec.name]
            if spec.name in known:
                known[spec.name].replace_replicas(spec, replicas)
            start = EngineStart(self._home, spec.addresses[0].removeprefix("unix:"))
            applied[spec.name] = known.get(spec.name) or EnginePool(spec, replicas, start=start)
        self._removed = [pool for name, pool in known.items() if name not in applied]
        for pool in self._removed:
            pool.give_up_start()
        staying = {id(replica) for replicas in by_pool.values() for replica in replicas}
        self._draining = [replica for replica in before if id(replica) not in staying]
        self.pools = applied

    def _create_replica(self, address: str, spec: EnginePoolSpec, read: Callable[[str], str | None]) -> Replica:
        special = find_special_tokens(spec, address, self._home)
        return Replica(self._create_client(address, spec, read), spec, address, special)

    def _create_client(self, address: str, spec: EnginePoolSpec, read: Callable[[str], str | None]) -> EngineClient:
        if address.startswith("unix:"):
            address = f"unix:{self._home.socket(address.removeprefix('unix:'))}"
        headers = create_provider(spec).headers(read(spec.key) or "")
        return EngineClient(
            address, headers=headers, model=spec.engine_model, query=spec.query, exact_url=spec.exact_url
        )
