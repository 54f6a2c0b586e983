"""Fair queue within one priority class.

Order: the tenant with the fewest active requests first, first-in first-out within a tenant. Tenants with equally many
take turns. If the queue is full, a request of a tenant with fewer waiting requests replaces the newest request of the
tenant with the most (the replaced request gets 429).
Abandonment: clients often disconnect before they are served. The queue learns, per waiting time (half-octave buckets
from 50 ms to 27 min), the share of clients that disconnected before the first byte. It skips requests whose waiting
time has a share above ABANDONED_SHARE. Skipped requests are served when nothing else waits, or when their waiting time
reaches a bucket with a lower share (some clients leave after 2 s; the others stay for long). They are never rejected.
A skipped bucket is retried with at most two requests at a time after its statistics have decayed. If clients abandon
all waiting times alike, the order is first-in first-out again.
Design: if the queue is longer than clients wait, first-in first-out gives every slot to a client about to leave.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Generic, Protocol, TypeVar

# Buckets of waiting time in half-octave steps: 50 ms, 71 ms, 100 ms ... 27 minutes.
SHORTEST_WAIT_S, BUCKETS_PER_OCTAVE, WAIT_BUCKETS = 0.05, 2, 32
# Factor by which each new result reduces the weight of earlier results.
DECAY = 1 - 1 / 40
# Share of abandoned requests above which a bucket is skipped, and served requests assumed for every bucket.
ABANDONED_SHARE, PRIOR_SERVED = 0.25, 4.0
# A weight of abandoned requests below the first number counts as none. Above it, up to TRIAL_REQUESTS running requests
# of the bucket count as abandoned, so that few requests try a bucket and not all slots of an engine.
NEGLIGIBLE_ABANDONED, TRIAL_REQUESTS = 0.02, 2


def find_wait_bucket(waited_s: float) -> int:
    if waited_s < SHORTEST_WAIT_S:
        return 0
    return min(WAIT_BUCKETS - 1, 1 + int(BUCKETS_PER_OCTAVE * math.log2(waited_s / SHORTEST_WAIT_S)))


class AbandonmentModel:
    """Decayed counts of served and abandoned requests, and running requests, per bucket of waiting time."""

    def __init__(self) -> None:
        self.active = False  # True if a client disconnected recently; otherwise nothing is counted
        self._served, self._abandoned = [0.0] * WAIT_BUCKETS, [0.0] * WAIT_BUCKETS
        self._running = [0] * WAIT_BUCKETS

    def record_start(self, bucket: int) -> None:
        """Record that a request got a slot after this wait. `record_end` must follow."""
        self._running[bucket] += 1

    def record_end(self, bucket: int, *, left: bool) -> None:
        """Record the end of a request. `left`: its client disconnected before the first byte."""
        self._running[bucket] -= 1
        if not (left or self.active):
            return
        served, abandoned = ([DECAY * count for count in counts] for counts in (self._served, self._abandoned))
        (abandoned if left else served)[bucket] += 1.0
        self.active = max(abandoned) >= NEGLIGIBLE_ABANDONED
        cleared = [0.0] * WAIT_BUCKETS, [0.0] * WAIT_BUCKETS
        self._served, self._abandoned = (served, abandoned) if self.active else cleared

    def is_likely_abandoned(self, bucket: int) -> bool:
        """True if clients with this wait mostly disconnect before the first byte."""
        if self._abandoned[bucket] < NEGLIGIBLE_ABANDONED:
            return False
        abandoned = self._abandoned[bucket] + min(self._running[bucket], TRIAL_REQUESTS)
        return abandoned > ABANDONED_SHARE * (abandoned + self._served[bucket] + PRIOR_SERVED)


class QueuedRequest(Protocol):
    """A request that waits since a time of the queue's clock. `gone`: its client disconnected."""

    @property
    def since(self) -> float: ...
    @property
    def gone(self) -> bool: ...


W = TypeVar("W", bound=QueuedRequest)


class TenantQueue(Generic[W]):
    """Waiting requests of one class and tenant. `abandonment` is the model of the class."""

    def __init__(self, abandonment: AbandonmentModel) -> None:
        self.abandonment = abandonment
        # Both in order of arrival. Every skipped request arrived before every waiting request.
        self._waiting: deque[W] = deque()
        self._skipped: deque[W] = deque()
        self._next = self._waiting

    def __iter__(self) -> Iterator[W]:
        return chain(self._skipped, self._waiting)

    def __bool__(self) -> bool:
        return bool(self._skipped or self._waiting)

    def add(self, request: W) -> None:
        self._waiting.append(request)

    def peek_next(self, now: float, *, include_skipped: bool = True) -> W | None:
        """Return the next request, which `pop` removes. `include_skipped`: also likely abandoned requests."""
        waiting, skipped, model = self._waiting, self._skipped, self.abandonment
        while skipped and skipped[0].gone:
            skipped.popleft()
        self._next = skipped
        if skipped and not (model.active and model.is_likely_abandoned(find_wait_bucket(now - skipped[0].since))):
            return skipped[0]
        while waiting:
            request = waiting[0]
            if request.gone:
                waiting.popleft()
            elif model.active and model.is_likely_abandoned(find_wait_bucket(now - request.since)):
                skipped.append(waiting.popleft())
            else:
                self._next = waiting
                return request
        return skipped[0] if skipped and include_skipped else None

    def pop(self) -> W:
        return self._next.popleft()

    def newest(self) -> W | None:
        return next((r for r in chain(reversed(self._waiting), reversed(self._skipped)) if not r.gone), None)

    def remove_departed(self) -> None:
        """Remove requests whose clients disconnected. Otherwise they stay until the class gets a slot."""
        for part in (self._waiting, self._skipped):
            present = [request for request in part if not request.gone]
            if len(present) < len(part):
                part.clear()
                part.extend(present)


class FairQueue(Generic[W]):
    """The queues of one class by tenant, ordered by the time of their last slot, oldest first."""

    def __init__(self) -> None:
        self.abandonment = AbandonmentModel()
        self._waiting: dict[str, int] = {}
        self._queues: dict[str, TenantQueue[W]] = {}
        self._next = ""

    def __iter__(self) -> Iterator[W]:
        return chain.from_iterable(self._queues.values())

    def add(self, tenant: str, request: W) -> None:
        """Add a request. `record_departure` must follow when it no longer waits."""
        self._waiting[tenant] = self._waiting.get(tenant, 0) + 1
        queue = self._queues.get(tenant)
        if queue is None:
            queue = self._queues[tenant] = TenantQueue(self.abandonment)
        queue.add(request)

    @property
    def count(self) -> int:
        """Waiting requests of all tenants."""
        return sum(self._waiting.values())

    def count_of(self, tenant: str) -> int:
        """Waiting requests of one tenant."""
        return self._waiting.get(tenant, 0)

    def record_departure(self, tenant: str) -> None:
        waiting = self._waiting.pop(tenant) - 1
        if waiting:
            self._waiting[tenant] = waiting

    def count_ahead(self, tenant: str) -> int:
        """Estimate the requests ahead of one more of the tenant: as many of each other tenant as of its own."""
        own = self._waiting.get(tenant, 0)
        return sum(min(own + (other != tenant), count) for other, count in self._waiting.items())

    def find_displaceable(self, tenant: str) -> W | None:
        """Return the newest request of the tenant with the most waiting requests.

        None if that tenant does not have more than `tenant` would have with one more request."""
        most = max(self._waiting, key=self._waiting.__getitem__, default=tenant)
        if self._waiting.get(most, 0) <= self._waiting.get(tenant, 0) + 1 or most not in self._queues:
            return None
        return self._queues[most].newest()

    def peek_next(self, now: float, active: Mapping[str, int]) -> W | None:
        """Return the next request, which `pop` removes. `active`: slots in use by tenant."""
        if not self._queues:
            return None
        tenants = sorted(self._queues, key=lambda tenant: active.get(tenant, 0))
        for include_skipped in (False, True):
            for tenant in tenants:
                request = self._queues[tenant].peek_next(now, include_skipped=include_skipped)
                if request is not None:
                    self._next = tenant
                    return request
        self._queues.clear()
        return None

    def pop(self) -> W:
        queue = self._queues.pop(self._next)
        request = queue.pop()
        if queue:
            self._queues[self._next] = queue
        return request

    def move_to_end(self, tenant: str) -> None:
        """Let the other tenants with as many active requests come first: a slot of this one is free again."""
        queue = self._queues.pop(tenant, None)
        if queue is not None:
            self._queues[tenant] = queue

    def remove_departed(self) -> None:
        for queue in self._queues.values():
            queue.remove_departed()
        self._queues = {tenant: queue for tenant, queue in self._queues.items() if queue}
