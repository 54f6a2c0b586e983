"""The engines of one pool: who is healthy, who has a free slot, who waits.

Decides that waiting happens here and not in the engine: a slot is given in order of arrival, a client that leaves
while waiting costs the engine nothing, and when no replica is left everybody waiting is told at once. And that an
engine with an adapter never works with and without it at once: llama.cpp cannot batch the two, serves its first slot
first, and lets the other kind wait as long as there is work (measured: 40 s). Here each has its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple

from archwright.engines.client import EngineClient
from archwright.policy.admission import Reject, admit, queue_limit
from archwright.policy.routing import ReplicaLoad, least_work
from archwright.serving.config import EndpointSpec
from archwright.serving.providers import provider_of
from archwright.serving.refusal import Refusal, unavailable

# How much one request weighs in the running mean of the time a request holds its slot.
SMOOTHING = 0.2
CHECK_S = 2.0


class Work(NamedTuple):
    """What a request may ask of a replica at most, and whether it wants the model without an adapter."""

    tokens: int
    plain: bool


class Replica:
    """One engine at one address, which serves one model version; `tuned`: an adapter over the plan's model. `plain`:
    what runs there now was asked without the adapter."""

    def __init__(self, client: EngineClient, spec: EndpointSpec, address: str) -> None:
        self.client = client
        self.address = address
        self.provider = provider_of(spec)
        self.slots = spec.slots
        self.version = spec.serves
        self.tuned = spec.tuned
        self.plain = False
        self.running = 0
        self.work_tokens = 0
        self.healthy = False

    def load(self, plain: bool) -> ReplicaLoad:
        """As a request sees it that wants the model without (`plain`) or with its adapter."""
        open_to = self.healthy and (not self.tuned or not self.running or self.plain == plain)
        return ReplicaLoad(running=self.running, slots=self.slots, work_tokens=self.work_tokens, healthy=open_to)

    def take(self, work: Work) -> None:
        if not self.running:
            self.plain = work.plain
        self.running += 1
        self.work_tokens += work.tokens


class Lease(NamedTuple):
    """A slot in use since `began`."""

    replica: Replica
    work: Work
    began: float


class Pool:
    """Replicas of one model and the requests on them. `on_change` learns the number in flight."""

    def __init__(
        self,
        name: str,
        replicas: tuple[Replica, ...],
        health_path: str,
        on_change: Callable[[str, int], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.replicas = replicas
        self.slots = sum(replica.slots for replica in replicas)
        self.in_flight = 0
        self._health_path = health_path
        self._on_change = on_change
        self._now = now
        self._service_s = 1.0
        self._waiting: deque[asyncio.Future[Replica]] = deque()
        self._works: dict[asyncio.Future[Replica], Work] = {}
        self._checking: asyncio.Task[None] | None = None
        self._former: tuple[Replica, ...] = ()

    @property
    def healthy(self) -> bool:
        return any(replica.healthy for replica in self.replicas)

    async def take(self, work: Work) -> Lease:
        """A slot at a replica, to `give` back. Raises Refusal 429 (full) and 503 (no engine)."""
        # What still runs on engines that were replaced takes no room from those who come now.
        elsewhere = sum(replica.running for replica in self._former) if self._former else 0
        slots = self.slots
        decision = admit(self.in_flight - elsewhere, slots, queue_limit(slots), self._service_s)
        if isinstance(decision, Reject):
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many requests are waiting for this model; try again later",
                openai_code="queue_full",
                retry_after_s=decision.retry_after_s,
            )
        self._count(+1)
        try:
            replica = await self._take(work)
        except BaseException:
            self._count(-1)
            raise
        return Lease(replica, work, self._now())

    def give(self, lease: Lease) -> None:
        """The slot is free again."""
        self._give(lease.replica, lease.work)
        self._service_s += SMOOTHING * (self._now() - lease.began - self._service_s)
        self._count(-1)

    @asynccontextmanager
    async def lease(self, work_tokens: int, plain: bool = False) -> AsyncIterator[Replica]:
        """A slot for as long as the block lasts; `plain`: for work without an adapter."""
        lease = await self.take(Work(work_tokens, plain))
        try:
            yield lease.replica
        finally:
            self.give(lease)

    def replace(self, replicas: tuple[Replica, ...], health_path: str) -> None:
        """Other engines from now on: whoever waits gets a slot of theirs, whoever runs stays where it is."""
        former = [replica for replica in (*self._former, *self.replicas) if replica.running]
        self._former = tuple(replica for replica in former if replica not in replicas)
        self.replicas, self._health_path = replicas, health_path
        self.slots = sum(replica.slots for replica in replicas)
        self._serve_waiting()

    async def failed(self, replica: Replica) -> None:
        """An engine broke a request off: look at it before it gets another."""
        replica.healthy = False
        await self.check()

    async def check(self) -> None:
        """Ask every replica how it is; callers at the same time share one round."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        await asyncio.shield(self._checking)

    async def _check(self) -> None:
        await asyncio.gather(*(self._look_at(replica) for replica in self.replicas))
        if self.healthy:
            self._serve_waiting()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(no_engine())

    async def _look_at(self, replica: Replica) -> None:
        well = await replica.client.healthy(self._health_path, CHECK_S)
        # An engine that works but is too busy to say so within the limit is left alone: its requests have deadlines.
        replica.healthy = well or (replica.running > 0 and replica.healthy and await self._slow(replica))

    async def _slow(self, replica: Replica) -> bool:
        return await replica.client.healthy(self._health_path, 5 * CHECK_S)

    async def _take(self, work: Work) -> Replica:
        if not self.healthy:
            await self.check()
            if not self.healthy:
                raise no_engine()
        chosen = None if self._waiting else least_work([replica.load(work.plain) for replica in self.replicas])
        if chosen is not None:
            replica = self.replicas[chosen]
            replica.take(work)
            return replica
        return await self._wait(work)

    async def _wait(self, work: Work) -> Replica:
        waiter: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._works[waiter] = work
        try:
            return await waiter
        except asyncio.CancelledError:
            # The slot may have been given in the very moment the client left.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give(waiter.result(), work)
            raise
        finally:
            del self._works[waiter]

    def _give(self, replica: Replica, work: Work) -> None:
        replica.running -= 1
        replica.work_tokens -= work.tokens
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting:
            waiter = self._waiting[0]
            if waiter.done():
                self._waiting.popleft()
                continue
            work = self._works[waiter]
            chosen = least_work([replica.load(work.plain) for replica in self.replicas])
            if chosen is None:
                return
            self._waiting.popleft()
            self.replicas[chosen].take(work)
            waiter.set_result(self.replicas[chosen])

    def _count(self, change: int) -> None:
        self.in_flight += change
        self._on_change(self.name, self.in_flight)


def no_engine() -> Refusal:
    return unavailable("the model's engine is not available now; try again", "engine_unavailable")
