"""Who takes a request: which replica of a pool, which pool of several. Applied by the gateway, predicted with by the
simulation. Every choice is a function of its input: the same request goes the same way in every process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

from archwright.contract.record import Record

# Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018): no replica beyond this times the mean.
AFFINITY_BOUND = 1.25
_WORD = (1 << 64) - 1


class ReplicaLoad(Record):
    """A replica as the router sees it; `work_tokens` is what its running requests may still ask of it."""

    running: int
    slots: int
    work_tokens: int
    healthy: bool = True


def select_least_work(replicas: Sequence[ReplicaLoad]) -> int | None:
    """Index of the healthy replica with a free slot and the least work per slot; None if there is none.

    Ties go to fewer running requests, then to the earlier replica."""
    free = [
        (load.work_tokens / load.slots, load.running / load.slots, index)
        for index, load in enumerate(replicas)
        if load.healthy and load.running < load.slots
    ]
    return min(free)[2] if free else None


def select_by_prefix(replicas: Sequence[ReplicaLoad], seeds: Sequence[int], prefix: int) -> int | None:
    """Index of the replica that has likely read this beginning before; None when no slot is free.

    `prefix` is a hash of the prompt's beginning, `seeds` one number a replica (`hash_replica_name`). Replicas
    are ranked by rendezvous hashing, so that one that comes or goes moves only its own share. A replica beyond
    AFFINITY_BOUND times the mean share of all slots passes the request to the next in rank; if all are beyond,
    least work decides."""
    running = sum(load.running for load in replicas if load.healthy)
    slots = sum(load.slots for load in replicas if load.healthy)
    if not slots:
        return None
    share = AFFINITY_BOUND * (running + 1) / slots
    ranked = sorted(range(len(replicas)), key=lambda index: mix_bits(prefix ^ seeds[index]), reverse=True)
    for index in ranked:
        load = replicas[index]
        if load.healthy and load.running < min(load.slots, math.ceil(share * load.slots)):
            return index
    return select_least_work(replicas)


def hash_replica_name(name: str) -> int:
    """A number for a name, alike in every process."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def mix_bits(value: int) -> int:
    """Every bit of the result depends on every bit of `value` (the finaliser of SplitMix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _WORD
    return value ^ (value >> 31)


def hash_to_fraction(request_id: str, purpose: str) -> float:
    """A uniform number in [0, 1), alike in every process and independent of those for other purposes."""
    digest = blake2b(request_id.encode(), digest_size=8, person=purpose.encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def select_weighted_index(weights: Sequence[float], at: float) -> int:
    """The index whose share of the weights holds `at` in [0, 1). Weights are >= 0, one at least above it."""
    left = at * sum(weights)
    last = 0
    for index, weight in enumerate(weights):
        if weight > 0:
            last = index
            if left < weight:
                return index
        left -= weight
    return last  # what rounding left over belongs to the last that has a share
