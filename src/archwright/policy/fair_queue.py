"""Fair queue: serve the tenant with the fewest active requests, FIFO within a tenant, likely departed clients last.

Each tenant has a line of its own; if the queue is full, a new request may replace the newest one of the tenant with the
most. Design: where a queue is longer than its clients wait, FIFO gives every slot to a client about to leave. So the
queue learns, by time waited for a slot, whether clients stayed until they were answered, and passes by requests that
have waited as long as those who mostly left. Those passed by are served when nobody else waits, or when their wait has
become one that clients bear (some leave after 2 s; those who stay, stay for long). They are never refused.

An age with a bad record is tried again by one or two requests at a time, once as many others have been answered as it
takes to forget. If clients leave whatever they waited, all ages are poor and the order is FIFO again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Generic, Protocol, TypeVar

# Ages in steps of half an octave: 50 ms, 71 ms, 100 ms ... 27 minutes.
SHORTEST_WAIT_S, BUCKETS_PER_OCTAVE, WAIT_BUCKETS = 0.05, 2, 32
# How much each answer lets the ones before count less.
DECAY = 1 - 1 / 40
# An age is believed in until more than this share of its clients left; so many that stayed are taken for granted.
ABANDONED_SHARE, PRIOR_SERVED = 0.25, 4.0
# Less than this of one lost answer is forgotten. Until then so many requests of the age that are being served count as
# lost: a few are tried, not a whole engine's slots.
NEGLIGIBLE_ABANDONED, TRIAL_REQUESTS = 0.02, 2


def find_wait_bucket(waited_s: float) -> int:
    """The step of a wait."""
    if waited_s < SHORTEST_WAIT_S:
        return 0
    return min(WAIT_BUCKETS - 1, 1 + int(BUCKETS_PER_OCTAVE * math.log2(waited_s / SHORTEST_WAIT_S)))


class AbandonmentModel:
    """What is known of those who waited for a slot: of each age how many stayed and left, and how many are served."""

    __slots__ = ("_kept", "_lost", "_serving", "alert")

    def __init__(self) -> None:
        self.alert = False  # whether anybody left lately: else nothing is counted
        self._kept, self._lost = [0.0] * WAIT_BUCKETS, [0.0] * WAIT_BUCKETS
        self._serving = [0] * WAIT_BUCKETS

    def record_start(self, at: int) -> None:
        """Somebody who waited until the age `at` has a slot; `ended` follows."""
        self._serving[at] += 1

    def record_end(self, at: int, *, left: bool) -> None:
        """`left`: before anything of the answer came."""
        self._serving[at] -= 1
        if not (left or self.alert):
            return
        kept, lost = ([DECAY * count for count in counts] for counts in (self._kept, self._lost))
        (lost if left else kept)[at] += 1.0
        self.alert = max(lost) >= NEGLIGIBLE_ABANDONED
        self._kept, self._lost = (kept, lost) if self.alert else ([0.0] * WAIT_BUCKETS, [0.0] * WAIT_BUCKETS)

    def is_likely_abandoned(self, at: int) -> bool:
        """Whether those who are served after such a wait mostly leave before they are answered."""
        if self._lost[at] < NEGLIGIBLE_ABANDONED:
            return False
        lost = self._lost[at] + min(self._serving[at], TRIAL_REQUESTS)
        return lost > ABANDONED_SHARE * (lost + self._kept[at] + PRIOR_SERVED)


class QueuedRequest(Protocol):
    """A request that waits since a time of the queue's clock; `gone`: its client left."""

    @property
    def since(self) -> float: ...
    @property
    def gone(self) -> bool: ...


W = TypeVar("W", bound=QueuedRequest)


class TenantQueue(Generic[W]):
    """Waiting requests of one class and tenant; `patience` is that of the class."""

    __slots__ = ("_coming", "_next", "_passed", "patience")

    def __init__(self, patience: AbandonmentModel) -> None:
        self.patience = patience
        # Both in order of arrival; whoever was passed by came before all who are still coming.
        self._coming: deque[W] = deque()
        self._passed: deque[W] = deque()
        self._next = self._coming

    def __iter__(self) -> Iterator[W]:
        return chain(self._passed, self._coming)

    def __bool__(self) -> bool:
        return bool(self._passed or self._coming)

    def add(self, one: W) -> None:
        self._coming.append(one)

    def peek_next(self, now: float, *, whoever: bool = True) -> W | None:
        """Whose turn it is; `pop` takes it out. `whoever`: else only one who is likely to be still there."""
        coming, passed, patience = self._coming, self._passed, self.patience
        while passed and passed[0].gone:
            passed.popleft()
        self._next = passed
        if passed and not (patience.alert and patience.is_likely_abandoned(find_wait_bucket(now - passed[0].since))):
            return passed[0]
        while coming:
            one = coming[0]
            if one.gone:
                coming.popleft()
            elif patience.alert and patience.is_likely_abandoned(find_wait_bucket(now - one.since)):
                passed.append(coming.popleft())
            else:
                self._next = coming
                return one
        return passed[0] if passed and whoever else None

    def pop(self) -> W:
        return self._next.popleft()

    def newest(self) -> W | None:
        return next((one for one in chain(reversed(self._coming), reversed(self._passed)) if not one.gone), None)

    def remove_departed(self) -> None:
        """Let go of those who are gone, wherever they stand: in a line whose turn does not come nobody else does."""
        for part in (self._coming, self._passed):
            here = [one for one in part if not one.gone]
            if len(here) < len(part):
                part.clear()
                part.extend(here)


class FairQueue(Generic[W]):
    """The lines of one class, by tenant: the one whose turn is longest ago first."""

    __slots__ = ("_lines", "_next", "_waiting", "patience")

    def __init__(self) -> None:
        self.patience = AbandonmentModel()
        self._waiting: dict[str, int] = {}
        self._lines: dict[str, TenantQueue[W]] = {}
        self._next = ""

    def __iter__(self) -> Iterator[W]:
        return chain.from_iterable(self._lines.values())

    def add(self, tenant: str, one: W) -> None:
        """Somebody comes; `left` follows when they wait no more."""
        self._waiting[tenant] = self._waiting.get(tenant, 0) + 1
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = TenantQueue(self.patience)
        line.add(one)

    @property
    def count(self) -> int:
        """How many wait in all."""
        return sum(self._waiting.values())

    def record_departure(self, tenant: str) -> None:
        waiting = self._waiting.pop(tenant) - 1
        if waiting:
            self._waiting[tenant] = waiting

    def count_ahead(self, tenant: str) -> int:
        """How many are likely served before one more of the tenant: of each other as many as of itself."""
        own = self._waiting.get(tenant, 0)
        return sum(min(own + (other != tenant), count) for other, count in self._waiting.items())

    def find_displaceable(self, tenant: str) -> W | None:
        """Who came last for the tenant of whom most wait, where those are more than would then wait for this one."""
        most = max(self._waiting, key=self._waiting.__getitem__, default=tenant)
        if self._waiting.get(most, 0) <= self._waiting.get(tenant, 0) + 1 or most not in self._lines:
            return None
        return self._lines[most].newest()

    def peek_next(self, now: float, held: Mapping[str, int]) -> W | None:
        """Whose turn it is where the tenants hold so many slots; `pop` takes it out."""
        if not self._lines:
            return None
        turns = sorted(self._lines, key=lambda tenant: held.get(tenant, 0))
        for whoever in (False, True):
            for tenant in turns:
                one = self._lines[tenant].peek_next(now, whoever=whoever)
                if one is not None:
                    self._next = tenant
                    return one
        self._lines.clear()
        return None

    def pop(self) -> W:
        line = self._lines.pop(self._next)
        one = line.pop()
        if line:
            self._lines[self._next] = line
        return one

    def remove_departed(self) -> None:
        for line in self._lines.values():
            line.remove_departed()
        self._lines = {tenant: line for tenant, line in self._lines.items() if line}
