"""Assigns the arrivals of a peak to the engines of a pool by the gateway's own rules (`policy`).

Design: the time for which a request occupies a slot is an input, so each engine is simulated with its own part alone.
Requests that the gateway would refuse are counted and stay, so refusals do not improve the latencies of an overload.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from archwright.policy.admission import PoolLoad, Reject, decide_admission
from archwright.policy.routing import ReplicaLoad, select_least_work
from archwright.policy.traffic import Arrival


class DispatchResult(NamedTuple):
    """Each engine's arrivals in order, and the number of requests that found the queue full."""

    parts: tuple[list[Arrival], ...]
    refused: int


def dispatch_arrivals(
    arrivals: Sequence[Arrival], engines: int, slots: int, holds_s: Callable[[Arrival], float]
) -> DispatchResult:
    """Spread `arrivals`, sorted by time, over equal engines of `slots` slots each."""
    queue = _GatewayQueue(engines, slots, holds_s)
    for arrival in arrivals:
        queue.release_slots(arrival.at_s)
        queue.accept(arrival)
    queue.release_slots(float("inf"))
    return DispatchResult(tuple(queue.parts), queue.refused)


class _GatewayQueue:
    def __init__(self, engines: int, slots: int, holds_s: Callable[[Arrival], float]) -> None:
        self.parts: list[list[Arrival]] = [[] for _ in range(engines)]
        self.refused = 0
        self._slots = slots
        self._holds_s = holds_s
        self._loads = [ReplicaLoad(running=0, slots=slots, work_tokens=0)] * engines
        self._ends: list[tuple[float, int, int]] = []  # time at which a slot is free again, its engine, its tokens
        self._queue: deque[Arrival] = deque()
        self._held_s = 0.0

    def release_slots(self, now: float) -> None:
        """Free the slots of requests that end by `now` and give them to waiting requests."""
        while self._ends and self._ends[0][0] <= now:
            end, engine, tokens = heapq.heappop(self._ends)
            self._update_load(engine, -1, -tokens)
            if self._queue:
                self._assign(self._queue.popleft(), engine, end)

    def accept(self, arrival: Arrival) -> None:
        chosen = None if self._queue else select_least_work(self._loads)
        if chosen is not None:
            self._assign(arrival, chosen, arrival.at_s)
            return
        admitted, started = len(self._ends) + len(self._queue), sum(map(len, self.parts))
        load = PoolLoad(admitted, self._slots * len(self.parts), admitted, self._held_s / max(started, 1))
        self.refused += isinstance(decide_admission(load), Reject)
        self._queue.append(arrival)

    def _assign(self, arrival: Arrival, engine: int, at_s: float) -> None:
        holds_s, tokens = self._holds_s(arrival), arrival.input_tokens + arrival.output_tokens
        self.parts[engine].append(arrival)
        self._held_s += holds_s
        self._update_load(engine, +1, tokens)
        heapq.heappush(self._ends, (at_s + holds_s, engine, tokens))

    def _update_load(self, engine: int, running: int, tokens: int) -> None:
        load = self._loads[engine]
        work = load.work_tokens + tokens
        self._loads[engine] = ReplicaLoad(running=load.running + running, slots=load.slots, work_tokens=work)
