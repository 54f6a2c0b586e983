"""Whether a pool takes one more request: the rule the gateway applies and the simulation predicts with.

A class may fill only its share of the queue, and a request that could not begin before its deadline is refused at once.
What is served is then in time: more load does not mean fewer useful answers.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from archwright.contract.record import Record
from archwright.policy.overflow import estimate_wait_s

# A queue of four generations per slot is about as long as people wait; the constant lets tiny pools absorb a burst.
QUEUE_PER_SLOT = 4
QUEUE_BASE = 16
LONGEST_RETRY_S = 60

Priority = Literal["interactive", "normal", "batch"]
# Most urgent first, with the share of the queue a class may fill: what is above belongs to those more urgent.
QUEUE_SHARES: dict[Priority, float] = {"interactive": 1.0, "normal": 0.75, "batch": 0.4}


class Admit(Record):
    """Taken; `queued` when it must wait for a slot."""

    queued: bool


class Reject(Record):
    """Not taken; asking again before `retry_after_s` is unlikely to help. `late`: it is refused for its deadline."""

    retry_after_s: int
    late: bool = False


class PoolLoad(NamedTuple):
    """A pool as a new request sees it: `in_flight` requests run or wait, `before` of them run or are served before it;
    `service_s`: how long a request holds a slot."""

    in_flight: int
    slots: int
    before: int
    service_s: float = 1.0


def queue_limit(slots: int) -> int:
    """How many requests may wait for a pool of `slots`."""
    return QUEUE_PER_SLOT * slots + QUEUE_BASE


def decide_admission(crowd: PoolLoad, priority: Priority = "normal", left_s: float = math.inf) -> Admit | Reject:
    """Decides on one more request; `left_s` is the time until it must have begun.

    A rejected client is told to return when a tenth of the queue should have drained, after 1 to 60 s."""
    slots, limit = crowd.slots, queue_limit(crowd.slots)
    drained_s = limit * crowd.service_s / max(slots, 1) / 10
    retry_s = min(LONGEST_RETRY_S, max(1, math.ceil(drained_s)))
    if slots <= 0 or crowd.in_flight >= slots + math.floor(limit * QUEUE_SHARES[priority]):
        return Reject(retry_after_s=retry_s)
    if crowd.in_flight < slots:
        return Admit(queued=False)
    if estimate_wait_s(crowd.before, slots, crowd.service_s) > left_s:
        return Reject(retry_after_s=retry_s, late=True)
    return Admit(queued=True)
