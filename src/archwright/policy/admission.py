"""Admission to a pool's queue, used by the gateway and by the simulation.

A priority class may fill only its share of the queue. A request that cannot begin before its deadline is rejected at
once.
Design: every served request is then in time, so more load does not reduce the number of useful replies.
"""

import math
from typing import Literal, NamedTuple

from archwright.contract.record import Record
from archwright.policy.overflow import estimate_wait_s

# Four waiting requests per slot take about as long as clients wait. The constant lets small pools absorb a burst.
QUEUE_PER_SLOT = 4
QUEUE_BASE = 16
LONGEST_RETRY_S = 60

Priority = Literal["interactive", "normal", "batch"]
# Classes, most urgent first, with the share of the queue that a class may fill. More urgent classes may use the rest.
QUEUE_SHARES: dict[Priority, float] = {"interactive": 1.0, "normal": 0.75, "batch": 0.4}


class Admit(Record):
    """The request is admitted. `queued`: it must wait for a slot."""

    queued: bool


class Reject(Record):
    """The request is rejected; a retry may help after `retry_after_s`. `late`: it would miss its deadline."""

    retry_after_s: int
    late: bool = False


class PoolLoad(NamedTuple):
    """A pool's load for a new request. `in_flight`: requests that run or wait.

    `before`: those that run or are served before the new request. `service_s`: mean time that a request uses a slot."""

    in_flight: int
    slots: int
    before: int
    service_s: float = 1.0


def queue_limit(slots: int) -> int:
    return QUEUE_PER_SLOT * slots + QUEUE_BASE


def decide_admission(load: PoolLoad, priority: Priority = "normal", left_s: float = math.inf) -> Admit | Reject:
    """Decide on one more request. `left_s`: time until the request must have begun.

    A rejected client should retry when about a tenth of the queue has drained, after 1 to 60 s."""
    slots, limit = load.slots, queue_limit(load.slots)
    drained_s = limit * load.service_s / max(slots, 1) / 10
    retry_s = min(LONGEST_RETRY_S, max(1, math.ceil(drained_s)))
    if slots <= 0 or load.in_flight >= slots + math.floor(limit * QUEUE_SHARES[priority]):
        return Reject(retry_after_s=retry_s)
    if load.in_flight < slots:
        return Admit(queued=False)
    if estimate_wait_s(load.before, slots, load.service_s) > left_s:
        return Reject(retry_after_s=retry_s, late=True)
    return Admit(queued=True)
