"""What of a time to a first token is the wait for a slot, and what is left without it: the gateway's bounds are made of
both. A wait for a slot is the gateway's to shorten, by sending a request elsewhere or refusing it; the rest is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.percentile import percentile
from archwright.contract.record import Record
from archwright.simulate.continuous_batching import SimulatedOutcome


class QueueLatency(NamedTuple):
    """Of one run of a peak: the 95th percentile of the time to a first token once a slot is had, the 99th of the wait
    for one."""

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
    served, waits = ([run[part] for run in runs] for part in range(2))
    return QueueLatencyPrediction(
        served_p95_s=Estimate(value=served[0], low=min(served), high=max(served), unit="s", basis=basis),
        wait_p99_s=Estimate(value=waits[0], low=min(waits), high=max(waits), unit="s", basis=basis),
    )
