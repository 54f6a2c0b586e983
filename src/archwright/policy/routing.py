"""Which replica of a pool takes a request: least work. Applied by the gateway, predicted with by the simulation."""

from __future__ import annotations

from collections.abc import Sequence

from archwright.contract.record import Record


class ReplicaLoad(Record):
    """A replica as the router sees it; `work_tokens` is what its running requests may still ask of it."""

    running: int
    slots: int
    work_tokens: int
    healthy: bool = True


def least_work(replicas: Sequence[ReplicaLoad]) -> int | None:
    """Index of the healthy replica with a free slot and the least work per slot; None when there is none.

    Ties go to fewer running requests, then to the earlier replica, so the choice is a function of its input.
    """
    free = [
        (load.work_tokens / load.slots, load.running / load.slots, index)
        for index, load in enumerate(replicas)
        if load.healthy and load.running < load.slots
    ]
    return min(free)[2] if free else None
