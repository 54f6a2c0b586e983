"""Splits a time to a first token into the wait for a slot and the rest: the gateway's bounds are made of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.percentile import percentile
from archwright.contract.record import Record
from archwright.simulate.continuous_batching import SimulatedOutcome


class QueueLatency(NamedTuple):
    """Of one run of a peak: p95 of the time to a first token once a slot is had, p99 of the wait for a slot."""

    served_p95_s: float
    wait_p99_s: float


class QueueLatencyPrediction(Record):
    """The same as predicted: from the fast end to the slow one."""

    served_p95_s: Estimate
    wait_p99_s: Estimate


def measure_queue_latency(begun: Sequence[SimulatedOutcome], ttft_s: Sequence[float]) -> QueueLatency:
    """`ttft_s` are those of `begun`, in the same order."""
    served = [ttft - one.waited_s for one, ttft in zip(begun, ttft_s, strict=True)]
    return QueueLatency(percentile(served, 0.95), percentile([one.waited_s for one in begun], 0.99))


def predict_queue_latency(runs: Sequence[QueueLatency], basis: str) -> QueueLatencyPrediction:
    """Of runs at the predicted speed and at others."""
    served, waits = (
        Estimate(value=values[0], low=min(values), high=max(values), unit="s", basis=basis)
        for values in zip(*runs, strict=True)
    )
    return QueueLatencyPrediction(served_p95_s=served, wait_p99_s=waits)
