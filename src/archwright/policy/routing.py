"""Selection of a pool and of a replica in a pool, used by the gateway and the simulation.

Design: a choice depends only on its input, so every process routes the same request the same way.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

from archwright.contract.record import Record

# Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018): maximum load as a multiple of the mean.
AFFINITY_BOUND = 1.25
_WORD = (1 << 64) - 1


class ReplicaLoad(Record):
    """Load of a replica. `work_tokens`: upper bound of the work of its running requests."""

    running: int
    slots: int
    work_tokens: int
    healthy: bool = True


def select_least_work(replicas: Sequence[ReplicaLoad]) -> int | None:
    """Return the index of the healthy replica with a free slot and the least work per slot, or None.

    Ties go to fewer running requests, then to the earlier replica."""
    free = [
        (load.work_tokens / load.slots, load.running / load.slots, index)
        for index, load in enumerate(replicas)
        if load.healthy and load.running < load.slots
    ]
    return min(free)[2] if free else None


def select_by_prefix(replicas: Sequence[ReplicaLoad], seeds: Sequence[int], prefix: int) -> int | None:
    """Return the index of the replica that probably has this prefix in its cache; None if no slot is free.

    `prefix`: hash of the prompt's beginning. `seeds`: one number per replica (`hash_replica_name`). Replicas are ranked
    by rendezvous hashing, so an added or removed replica moves only its own share. A replica above AFFINITY_BOUND times
    the mean share of all slots is skipped. If all are above it, least work decides."""
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
    """Hash a name to a number that is equal in every process."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def mix_bits(value: int) -> int:
    """Mix bits so that each result bit depends on every bit of `value` (finaliser of SplitMix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _WORD
    return value ^ (value >> 31)


def hash_to_fraction(request_id: str, purpose: str) -> float:
    """Hash to a uniform number in [0, 1), equal in every process and independent of other purposes."""
    digest = blake2b(request_id.encode(), digest_size=8, person=purpose.encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def select_weighted_index(weights: Sequence[float], at: float) -> int:
    """Return the index whose share of the weights contains `at` in [0, 1). Weights are >= 0, one is > 0."""
    left = at * sum(weights)
    last = 0
    for index, weight in enumerate(weights):
        if weight > 0:
            last = index
            if left < weight:
                return index
        left -= weight
    return last  # a rounding remainder belongs to the last index with a weight
