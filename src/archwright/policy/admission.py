"""Whether a pool takes one more request: the rule the gateway applies and the simulation predicts with."""

from __future__ import annotations

import math

from archwright.contract.record import Record

# A queue of four generations per slot is about as long as people wait; the constant lets tiny pools absorb a burst.
QUEUE_PER_SLOT = 4
QUEUE_BASE = 16
LONGEST_RETRY_S = 60


class Admit(Record):
    """Taken; `queued` when it must wait for a slot."""

    queued: bool


class Reject(Record):
    """Not taken; asking again before `retry_after_s` is unlikely to help."""

    retry_after_s: int


def queue_limit(slots: int) -> int:
    """How many requests may wait for a pool of `slots`."""
    return QUEUE_PER_SLOT * slots + QUEUE_BASE


def admit(in_flight: int, slots: int, queue_limit: int, service_s: float = 1.0) -> Admit | Reject:
    """Decides on one more request beside `in_flight` (running and waiting) ones.

    A rejected client is told to return when a tenth of the queue should have drained: queue * service / slots / 10,
    between 1 and 60 s. `service_s` is how long one request holds a slot.
    """
    if slots > 0 and in_flight < slots + queue_limit:
        return Admit(queued=in_flight >= slots)
    drained_s = queue_limit * service_s / max(slots, 1) / 10
    return Reject(retry_after_s=min(LONGEST_RETRY_S, max(1, math.ceil(drained_s))))
