"""Splits the time to first token into wait for a slot and rest: the gateway's timeouts need both."""

from collections.abc import Sequence
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.percentile import percentile
from archwright.contract.record import Record
from archwright.simulate.continuous_batching import SimulatedOutcome


class QueueLatency(NamedTuple):
    """One simulated peak: p95 of the time from slot to first token, p99 of the wait for a slot."""

    served_p95_s: float
    wait_p99_s: float


class QueueLatencyPrediction(Record):
    """The prediction of both, from the fast to the slow end of the speed band."""

    served_p95_s: Estimate
    wait_p99_s: Estimate


def measure_queue_latency(started: Sequence[SimulatedOutcome], ttft_s: Sequence[float]) -> QueueLatency:
    """`ttft_s` are those of `started`, in the same order."""
    served = [ttft - one.waited_s for one, ttft in zip(started, ttft_s, strict=True)]
    return QueueLatency(percentile(served, 0.95), percentile([one.waited_s for one in started], 0.99))


def predict_queue_latency(runs: Sequence[QueueLatency], basis: str) -> QueueLatencyPrediction:
    """Combine runs: the first one at the predicted speed, the others within its band."""
    served, waits = (
        Estimate(value=values[0], low=min(values), high=max(values), unit="s", basis=basis)
        for values in zip(*runs, strict=True)
    )
    return QueueLatencyPrediction(served_p95_s=served, wait_p99_s=waits)
