"""The engines of one pool: who is healthy, who has a free slot, who waits.

Decides that waiting happens here and not in the engine: a slot is given to the most urgent class first and within it
to the tenant with the fewest in hand, of it in order of arrival (policy.patience says who is passed by), a client that
leaves while waiting costs the engine nothing, who cannot be served in time any more is told so at once, and when no
replica is left everybody waiting is.

And that an engine with an adapter never works with and without it at once: llama.cpp cannot batch the two, serves its
first slot first, and lets the other kind wait as long as there is work (measured: 40 s). Here each has its turn.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

import msgspec

from archwright.policy.admission import QUEUE_SHARES, PoolLoad, Priority, Reject, decide_admission
from archwright.policy.fair_queue import FairQueue, find_wait_bucket
from archwright.policy.overflow import estimate_wait_s
from archwright.policy.routing import select_by_prefix, select_least_work
from archwright.serving.http.errors import RETRY_S, ApiError, service_unavailable
from archwright.serving.routing.replica import Replica, SlotRequest
from archwright.serving.settings.config import EnginePoolSpec

# How much one request weighs in the running mean of the time a request holds its slot.
SMOOTHING = 0.2
HEALTH_CHECK_TIMEOUT_S = 2.0
# Others' engines are looked at less often while they are well: each look is a request they count.
EXTERNAL_CHECK_INTERVAL_S = 15.0
# An engine is silent after so many times the pool's mean time to a first answer, and no sooner than this.
SILENCE_FACTOR, MIN_SILENCE_S = 4.0, 0.5


class SlotLease(msgspec.Struct, frozen=True, gc=False):
    """A slot in use since `began`; `age` is the bucket of its wait (policy.fair_queue), None without one."""

    replica: Replica
    work: SlotRequest
    began: float
    age: int | None = None


class _Waiter(NamedTuple):
    """Ended by a replica, by a Refusal, or by the one who waits."""

    slot: asyncio.Future[Replica]
    work: SlotRequest
    since: float

    @property
    def gone(self) -> bool:
        return self.slot.done()


class EnginePool:
    """Replicas of one model and the requests on them."""

    def __init__(
        self,
        spec: EnginePoolSpec,
        replicas: tuple[Replica, ...],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self.replicas = replicas
        self.slots = sum(replica.slots for replica in replicas)
        self.in_flight = 0
        self._first_s = 1.0
        self._now = now
        self._service_s = 1.0
        self._lines: dict[Priority, FairQueue[_Waiter]] = {priority: FairQueue() for priority in QUEUE_SHARES}
        self._held: dict[str, int] = {}  # slots in use, by tenant
        self._waiting = 0
        self._checking: asyncio.Task[None] | None = None
        self._looked_at = -math.inf
        self._former: tuple[Replica, ...] = ()

    @property
    def healthy(self) -> bool:
        return any(replica.healthy for replica in self.replicas)

    @property
    def silence_limit_s(self) -> float:
        """How long a replica may be silent: for ever where there is no other."""
        return max(MIN_SILENCE_S, SILENCE_FACTOR * self._first_s) if len(self.replicas) > 1 else math.inf

    def is_usable(self, now: float) -> bool:
        """Whether it has an engine that is likely to answer."""
        return any(replica.healthy and replica.is_trusted(now, self.silence_limit_s) for replica in self.replicas)

    def record_first_response(self, replica: Replica, after_s: float) -> None:
        """An answer began."""
        self._first_s += SMOOTHING * (after_s - self._first_s)
        replica.record_response()

    def estimated_wait_s(self, priority: Priority = "normal") -> float:
        """How long one more request of the class would likely wait for a slot; for ever without an engine."""
        return estimate_wait_s(self._count_ahead(priority), self.slots, self._service_s) if self.healthy else math.inf

    def try_acquire(self, work: SlotRequest) -> SlotLease | None:
        """A free slot at a replica, to `give` back; None where there is none, or others wait for it."""
        replica = None if self._waiting else self._choose_replica(work)
        if replica is None:
            return None
        self._occupy_slot(replica, work)
        self.in_flight += 1
        return SlotLease(replica, work, self._now())

    async def acquire(self, work: SlotRequest) -> SlotLease:
        """The same, waiting for it. Raises Refusal 429 (full, or late) and 503 (no engine)."""
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
        self._lines[work.priority].patience.record_start(waited)
        return SlotLease(replica, work, began, waited)

    def release(self, lease: SlotLease, *, left: bool = False) -> None:
        """The slot is free again; `left`: because its client went before anything of an answer came."""
        self._service_s += SMOOTHING * (self._now() - lease.began - self._service_s)
        self.in_flight -= 1
        if lease.age is not None:
            self._lines[lease.work.priority].patience.record_end(lease.age, left=left)
        self._free_slot(lease.replica, lease.work)

    def replace_replicas(self, spec: EnginePoolSpec, replicas: tuple[Replica, ...]) -> None:
        """Other engines from now on: whoever waits gets a slot of theirs, whoever runs stays where it is."""
        former = [replica for replica in (*self._former, *self.replicas) if replica.running]
        self._former = tuple(replica for replica in former if replica not in replicas)
        self.replicas, self.spec = replicas, spec
        for replica in replicas:
            replica.slots, replica.prices = spec.slots, spec.prices
        self.slots = sum(replica.slots for replica in replicas)
        self._serve_waiting()

    async def handle_failure(self, replica: Replica) -> None:
        """An engine broke a request off: look at it before it gets another."""
        replica.healthy, replica.broke = False, True
        await self.check_health()

    async def check_health(self) -> None:
        """Ask every replica how it is; callers at the same time share one round."""
        well = all(replica.healthy for replica in self.replicas)
        if well and not self.spec.own and self._now() < self._looked_at + EXTERNAL_CHECK_INTERVAL_S:
            return
        if self._checking is None or self._checking.done():
            self._looked_at = self._now()
            self._checking = asyncio.create_task(self._check_replicas())
        await asyncio.shield(self._checking)

    async def _check_replicas(self) -> None:
        await asyncio.gather(*(self._check_replica(replica) for replica in self.replicas))
        gone = not self.healthy
        if not gone:
            self._serve_waiting()
        now = self._now()
        for line in self._lines.values():
            line.remove_departed()
            for waiter in line:
                if not waiter.slot.done() and (gone or waiter.work.begin_by < now):
                    waiter.slot.set_exception(no_healthy_engine() if gone else queue_timeout(RETRY_S))

    async def _check_replica(self, replica: Replica) -> None:
        path = self.spec.health_path
        if not path:
            # Nothing to ask there: what requests meet decides, and after one broke off whether it can be connected to.
            replica.healthy = not replica.broke or await replica.client.healthy("", HEALTH_CHECK_TIMEOUT_S)
            replica.broke = not replica.healthy
            return
        well = await replica.client.healthy(path, HEALTH_CHECK_TIMEOUT_S)
        # An engine that works but is too busy to say so within the limit is left alone: its requests have deadlines.
        replica.healthy = well or (
            replica.running > 0 and replica.healthy and await replica.client.healthy(path, 5 * HEALTH_CHECK_TIMEOUT_S)
        )

    def _check_admission(self, work: SlotRequest) -> None:
        """Raises Refusal 429 where one more may not wait."""
        # What still runs on engines that were replaced takes no room from those who come now.
        elsewhere = sum(replica.running for replica in self._former)
        before = self._count_ahead(work.priority, work.tenant) - elsewhere
        crowd = PoolLoad(self.in_flight - elsewhere, self.slots, before, self._service_s)
        decision = decide_admission(crowd, work.priority, work.begin_by - self._now())
        if isinstance(decision, Reject):
            if decision.late:
                raise queue_timeout(decision.retry_after_s)
            other = self._lines[work.priority].find_displaceable(work.tenant)
            if other is None:
                raise queue_full(decision.retry_after_s)
            other.slot.set_exception(queue_full(decision.retry_after_s))

    def _count_ahead(self, priority: Priority, tenant: str | None = None) -> int:
        """Who is served before one more of the class: whoever runs, and who waits and is more urgent, or as urgent and
        their tenant's turn comes before (without a tenant: all of them)."""
        before = self.in_flight - self._waiting
        for one, lines in self._lines.items():
            if one == priority and tenant is not None:
                return before + lines.count_ahead(tenant)
            before += lines.count
            if one == priority:
                break
        return before

    def _choose_replica(self, work: SlotRequest) -> Replica | None:
        replicas = self.replicas
        if len(replicas) == 1:
            only = replicas[0]
            return only if only.running < only.slots and only.is_open_to(work.plain) else None
        asked = self._eligible_replicas(work.but)
        loads = [replica.load(replica in asked, work.plain) for replica in replicas]
        if work.prefix is None:
            chosen = select_least_work(loads)
        else:
            chosen = select_by_prefix(loads, [replica.seed for replica in replicas], work.prefix)
        return None if chosen is None else replicas[chosen]

    def _eligible_replicas(self, but: Replica | None) -> list[Replica]:
        """Of several replicas those that may be asked."""
        now, patience_s = self._now(), self.silence_limit_s
        well = [replica for replica in self.replicas if replica.healthy]
        trusted = [replica for replica in well if replica.is_trusted(now, patience_s)] or well
        return [replica for replica in trusted if replica is not but] or trusted

    async def _wait_for_slot(self, work: SlotRequest, since: float) -> Replica:
        if not self.healthy:
            await self.check_health()
            if not self.healthy:
                raise no_healthy_engine()
        waiter = _Waiter(asyncio.get_running_loop().create_future(), work, since)
        self._lines[work.priority].add(work.tenant, waiter)
        self._waiting += 1
        self._serve_waiting()  # a slot may have come free, or the engine back, since it was looked for
        try:
            return await waiter.slot
        except asyncio.CancelledError:
            # The slot may have been given in the very moment the client left.
            if waiter.slot.done() and not waiter.slot.cancelled() and waiter.slot.exception() is None:
                self._free_slot(waiter.slot.result(), work)
            raise
        finally:
            self._lines[work.priority].record_departure(work.tenant)
            self._waiting -= 1

    def _occupy_slot(self, replica: Replica, work: SlotRequest) -> None:
        replica.occupy(work)
        self._held[work.tenant] = self._held.get(work.tenant, 0) + 1

    def _free_slot(self, replica: Replica, work: SlotRequest) -> None:
        replica.running -= 1
        replica.work_tokens -= work.tokens
        held = self._held.pop(work.tenant) - 1
        if held:
            self._held[work.tenant] = held
        if self._waiting:
            self._serve_waiting()

    def _serve_waiting(self) -> None:
        now = self._now()
        for line in self._lines.values():
            while (waiter := line.peek_next(now, self._held)) is not None:
                slot, work = waiter.slot, waiter.work
                if work.begin_by < now:
                    line.pop()
                    slot.set_exception(queue_timeout(RETRY_S))
                    continue
                chosen = self._choose_replica(work)
                if chosen is None:
                    return
                line.pop()
                self._occupy_slot(chosen, work)
                slot.set_result(chosen)


def no_healthy_engine() -> ApiError:
    return service_unavailable("the model's engine is not available now; try again", "engine_unavailable")


def queue_full(retry_after_s: int) -> ApiError:
    message = "too many requests are waiting for this model; try again later"
    status = HTTPStatus.TOO_MANY_REQUESTS
    return ApiError(status, message, openai_code="queue_full", retry_after_s=retry_after_s)


def queue_timeout(retry_after_s: int) -> ApiError:
    message = "this request could not begin in time; try again later"
    status = HTTPStatus.TOO_MANY_REQUESTS
    return ApiError(status, message, openai_code="queue_late", retry_after_s=retry_after_s)
