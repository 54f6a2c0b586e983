"""The engines of one pool: health, free slots and the queue.

A slot goes to the most urgent class, within the class to the tenant with the fewest active requests, then in order of
arrival (policy.fair_queue). A tenant leaves slots free that others need (policy.slot_share). A request that cannot
begin in time, or has no replica left, is rejected at once. If the pool's engine does not run (`start_s`), its first
request asks for it, and all wait until the pool has replicas.
Design: requests wait here and not in the engine, so a client that leaves the queue costs the engine nothing. An engine
never runs requests with and without its adapter together: llama.cpp cannot batch them, and one kind waits (measured:
40 s).
"""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from archwright.contract.record import replace
from archwright.policy.admission import QUEUE_SHARES, PoolLoad, Priority, Reject, decide_admission
from archwright.policy.fair_queue import FairQueue, find_wait_bucket
from archwright.policy.overflow import estimate_wait_s
from archwright.policy.routing import select_by_prefix, select_least_work
from archwright.policy.slot_share import SlotShares
from archwright.serving.http.errors import (
    RETRY_S,
    ApiError,
    engine_unavailable,
    model_not_loaded,
    too_many_requests,
)
from archwright.serving.routing.engine_start import EngineStart
from archwright.serving.routing.replica import Replica, SlotRequest
from archwright.serving.settings.config import EnginePoolSpec

SMOOTHING = 0.2  # weight of one request in the running means
HEALTH_CHECK_TIMEOUT_S = 2.0
EXTERNAL_CHECK_INTERVAL_S = 15.0  # for healthy external engines, where each check is a request
# An engine is silent after this multiple of the pool's mean time to first token, and at least the minimum.
SILENCE_FACTOR, MIN_SILENCE_S = 4.0, 0.5


class SlotLease(msgspec.Struct, frozen=True, gc=False):
    """A slot in use since `began`. `age`: bucket of its waiting time (policy.fair_queue), if it waited."""

    replica: Replica
    work: SlotRequest
    began: float
    age: int | None = None


class PoolRemovedError(ApiError):
    """The pool has no engine any more; another pool may serve the endpoint."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, engine_unavailable().message, "engine_unavailable")


class _Waiter(NamedTuple):
    """A queued request. `slot` ends with a replica, with an ApiError, or cancelled."""

    slot: asyncio.Future[Replica]
    work: SlotRequest
    since: float

    @property
    def gone(self) -> bool:
        return self.slot.done()


class EnginePool:
    def __init__(
        self,
        spec: EnginePoolSpec,
        replicas: tuple[Replica, ...],
        now: Callable[[], float] = time.monotonic,
        start: EngineStart | None = None,
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self.replicas = replicas
        self.slots = spec.slots * len(spec.addresses)
        self.in_flight = 0
        self._start = start
        self._first_s = 1.0
        self._now = now
        self._service_s = 1.0
        self._queues: dict[Priority, FairQueue[_Waiter]] = {priority: FairQueue() for priority in QUEUE_SHARES}
        self._active_by_tenant: dict[str, int] = {}  # slots in use
        self.shares = SlotShares()
        self.events: Counter[str] = Counter()  # by metric, since they were last exported
        self._waiting = 0
        self._checking: asyncio.Task[None] | None = None
        self._checked_at = -math.inf
        self._former: tuple[Replica, ...] = ()

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def healthy(self) -> bool:
        return any(replica.healthy for replica in self.replicas)

    @property
    def has_free_slot(self) -> bool:
        """True if a request without an adapter's restrictions begins at once, or starts the pool's engine."""
        starts = bool(self.spec.start_s) and not self.healthy
        return not self._waiting and (starts or self._choose_replica(SlotRequest(0)) is not None)

    @property
    def silence_limit_s(self) -> float:
        """Seconds that a replica may be silent; unlimited if the pool has no other replica."""
        return max(MIN_SILENCE_S, SILENCE_FACTOR * self._first_s) if len(self.replicas) > 1 else math.inf

    def take_events(self) -> Counter[str]:
        """Return the events since the last call."""
        events, self.events = self.events, Counter()
        return events

    def is_usable(self, now: float) -> bool:
        return any(replica.healthy and replica.is_trusted(now, self.silence_limit_s) for replica in self.replicas)

    def record_first_response(self, replica: Replica, after_s: float) -> None:
        self._first_s += SMOOTHING * (after_s - self._first_s)
        replica.record_response()

    def estimated_wait_s(self, priority: Priority = "normal") -> float:
        """Estimate the wait of one more request of the class; infinite without a healthy engine."""
        return estimate_wait_s(self._count_ahead(priority), self.slots, self._service_s) if self.healthy else math.inf

    def try_acquire(self, work: SlotRequest) -> SlotLease | None:
        """Take a free slot, to be released; None if no slot is free or other requests wait."""
        replica = None if self._waiting or not self._has_share(work) else self._choose_replica(work)
        if replica is None:
            return None
        self._occupy_slot(replica, work)
        self.in_flight += 1
        now = self._now()
        self.shares.record_demand(work.tenant, self._active_by_tenant[work.tenant], now)
        return SlotLease(replica, work, now)

    async def acquire(self, work: SlotRequest) -> SlotLease:
        """Wait for a slot and take it. Raises ApiError 429 (queue full, too late) and 503 (no engine)."""
        lease = self.try_acquire(work)
        if lease is not None:
            return lease
        self._check_admission(work)
        self.in_flight += 1
        since = self._now()
        try:
            replica = await self._wait_for_slot(work, since)
        except BaseException:
            self.in_flight -= 1
            raise
        began = self._now()
        waited = find_wait_bucket(began - since)
        self._queues[work.priority].abandonment.record_start(waited)
        return SlotLease(replica, work, began, waited)

    def release(self, lease: SlotLease, *, left: bool = False) -> None:
        """Free the slot. `left`: its client disconnected before any output."""
        self._service_s += SMOOTHING * (self._now() - lease.began - self._service_s)
        self.in_flight -= 1
        if lease.age is not None:
            self._queues[lease.work.priority].abandonment.record_end(lease.age, left=left)
        self._free_slot(lease.replica, lease.work)

    def replace_replicas(self, spec: EnginePoolSpec, replicas: tuple[Replica, ...]) -> None:
        """Use other engines for waiting and new requests. Running requests keep their engines."""
        former = [replica for replica in (*self._former, *self.replicas) if replica.running]
        self._former = tuple(replica for replica in former if replica not in replicas)
        self.replicas, self.spec = replicas, spec
        for replica in replicas:
            replica.slots, replica.prices = spec.slots, spec.prices
            replica.stops_when_left = spec.stops_when_left
        self.slots = spec.slots * len(spec.addresses)
        self._serve_waiting()
        if self._waiting:
            self._ask_for_engine()

    def give_up_start(self) -> None:
        """Send the requests that wait for the engine of a removed pool to the pool that replaced it."""
        if self.spec.start_s:
            self.spec = replace(self.spec, start_s=0.0)
            for waiter in itertools.chain(*self._queues.values()):
                if not waiter.slot.done():
                    waiter.slot.set_exception(PoolRemovedError())

    async def handle_failure(self, replica: Replica) -> None:
        """Check an engine that disconnected, before it gets another request."""
        replica.healthy, replica.broke = False, True
        await self.check_health()

    async def check_health(self) -> None:
        """Check every replica. Simultaneous callers share one check."""
        all_healthy = all(replica.healthy for replica in self.replicas)
        if all_healthy and not self.spec.own and self._now() < self._checked_at + EXTERNAL_CHECK_INTERVAL_S:
            return
        if self._checking is None or self._checking.done():
            self._checked_at = self._now()
            self._checking = asyncio.create_task(self._check_replicas())
        await asyncio.shield(self._checking)

    async def _check_replicas(self) -> None:
        await asyncio.gather(*(self._check_replica(replica) for replica in self.replicas))
        if self.healthy:
            self._serve_waiting()
        failed = bool(self._start is not None and self.spec.start_s and self._waiting and self._start.has_failed())
        for queue in self._queues.values():
            queue.remove_departed()
            for waiter in queue:
                refusal = None if waiter.slot.done() else self._find_refusal(waiter, failed)
                if refusal is not None:
                    waiter.slot.set_exception(refusal)

    def _find_refusal(self, waiter: _Waiter, start_failed: bool) -> ApiError | None:
        """Return the reason why a request waits no longer."""
        now, start_s = self._now(), self.spec.start_s
        if start_s and (start_failed or waiter.since + start_s < now):
            return model_not_loaded()
        if not start_s and not self.healthy:
            return engine_unavailable()
        return queue_timeout(RETRY_S) if waiter.work.begin_by < now else None

    def _ask_for_engine(self) -> None:
        if self._start is not None and self.spec.start_s:
            self._start.ask()

    async def _check_replica(self, replica: Replica) -> None:
        path = self.spec.health_path
        if not path:
            # Without a health path, requests decide; after a disconnection, a successful connect decides.
            replica.healthy = not replica.broke or await replica.client.healthy("", HEALTH_CHECK_TIMEOUT_S)
            replica.broke = not replica.healthy
            return
        responded = await replica.client.healthy(path, HEALTH_CHECK_TIMEOUT_S)
        # A busy engine may respond late; its requests have deadlines.
        replica.healthy = responded or (
            replica.running > 0 and replica.healthy and await replica.client.healthy(path, 5 * HEALTH_CHECK_TIMEOUT_S)
        )

    def _check_admission(self, work: SlotRequest) -> None:
        """Raise ApiError 429 if the request may not wait; it may displace one of another tenant."""
        # Requests that still run on replaced engines do not count.
        on_former = sum(replica.running for replica in self._former)
        before = self._count_ahead(work.priority, work.tenant) - on_former
        load = PoolLoad(self.in_flight - on_former, self.slots, before, self._service_s)
        decision = decide_admission(load, work.priority, work.begin_by - self._now())
        if isinstance(decision, Reject):
            if decision.late:
                raise queue_timeout(decision.retry_after_s)
            other = self._queues[work.priority].find_displaceable(work.tenant)
            if other is None:
                raise queue_full(decision.retry_after_s)
            other.slot.set_exception(queue_full(decision.retry_after_s))

    def _count_ahead(self, priority: Priority, tenant: str | None = None) -> int:
        """Count the requests served before one more of the class: running, more urgent, and of the class.

        With `tenant`, count only those of the class that precede its next request."""
        before = self.in_flight - self._waiting
        for other, queue in self._queues.items():
            if other == priority:
                return before + (queue.count if tenant is None else queue.count_ahead(tenant))
            before += queue.count
        return before

    def _choose_replica(self, work: SlotRequest) -> Replica | None:
        replicas = self.replicas
        if len(replicas) == 1:
            only = replicas[0]
            return only if only.running < only.slots and only.is_open_to(work.plain) else None
        now, limit_s = self._now(), self.silence_limit_s
        healthy = [replica for replica in replicas if replica.healthy]
        trusted = [replica for replica in healthy if replica.is_trusted(now, limit_s)] or healthy
        eligible = [replica for replica in trusted if replica is not work.but] or trusted
        loads = [replica.load(replica in eligible, work.plain) for replica in replicas]
        if work.prefix is None:
            chosen = select_least_work(loads)
        else:
            chosen = select_by_prefix(loads, [replica.seed for replica in replicas], work.prefix)
        return None if chosen is None else replicas[chosen]

    async def _wait_for_slot(self, work: SlotRequest, since: float) -> Replica:
        if not self.healthy and not self.spec.start_s:
            await self.check_health()
            if not self.healthy and not self.spec.start_s:
                raise engine_unavailable()
        waiter = _Waiter(asyncio.get_running_loop().create_future(), work, since)
        self._queues[work.priority].add(work.tenant, waiter)
        self._waiting += 1
        waiting = sum(queue.count_of(work.tenant) for queue in self._queues.values())
        self.shares.record_demand(work.tenant, self._active_by_tenant.get(work.tenant, 0) + waiting, since)
        self._serve_waiting()  # a slot may have become free
        try:
            if not waiter.slot.done():
                self._ask_for_engine()
            return await waiter.slot
        except asyncio.CancelledError:
            # The slot may have been assigned while the client disconnected.
            if waiter.slot.done() and not waiter.slot.cancelled() and waiter.slot.exception() is None:
                self._free_slot(waiter.slot.result(), work)
            raise
        finally:
            self._queues[work.priority].record_departure(work.tenant)
            self._waiting -= 1

    def _has_share(self, work: SlotRequest) -> bool:
        """True if the tenant may take a free slot, because enough slots are left for others."""
        active = self._active_by_tenant
        if work.tenant not in active:
            return True
        slots = 0
        for replica in self.replicas:
            if replica.healthy:
                slots += replica.slots
        return self.shares.may_take(work.tenant, active, slots)

    def _occupy_slot(self, replica: Replica, work: SlotRequest) -> None:
        replica.occupy(work)
        self._active_by_tenant[work.tenant] = self._active_by_tenant.get(work.tenant, 0) + 1

    def _free_slot(self, replica: Replica, work: SlotRequest) -> None:
        replica.running -= 1
        replica.work_tokens -= work.tokens
        active = self._active_by_tenant.pop(work.tenant) - 1
        if active:
            self._active_by_tenant[work.tenant] = active
        if self._waiting:
            for queue in self._queues.values():
                queue.move_to_end(work.tenant)
            self._serve_waiting()

    def _serve_waiting(self) -> None:
        now = self._now()
        for queue in self._queues.values():
            while (waiter := queue.peek_next(now, self._active_by_tenant)) is not None:
                slot, work = waiter.slot, waiter.work
                if work.begin_by < now:
                    queue.pop()
                    slot.set_exception(queue_timeout(RETRY_S))
                    continue
                if not self._has_share(work):
                    break  # a tenant with fewer slots may wait in another class
                chosen = self._choose_replica(work)
                if chosen is None:
                    return
                queue.pop()
                self._occupy_slot(chosen, work)
                slot.set_result(chosen)


def queue_full(retry_after_s: int) -> ApiError:
    message = f"the queue of this model is full; retry after {retry_after_s} s"
    return too_many_requests(message, "queue_full", retry_after_s)


def queue_timeout(retry_after_s: int) -> ApiError:
    message = f"this request could not start before its deadline; retry after {retry_after_s} s"
    return too_many_requests(message, "queue_late", retry_after_s)
