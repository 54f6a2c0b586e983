"""Splits the time to first token into wait for a slot and rest: the gateway's timeouts need both."""

from collections.abc import Sequence
from operator import sub
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
    waited_s = [outcome.waited_s for outcome in started]
    served_s = list(map(sub, ttft_s, waited_s))
    return QueueLatency(percentile(served_s, 0.95), percentile(waited_s, 0.99))


def predict_queue_latency(runs: Sequence[QueueLatency], basis: str) -> QueueLatencyPrediction:
    """Combine runs: the first one at the predicted speed, the others within its band."""
    served_s, waits_s = zip(*runs, strict=True)
    return QueueLatencyPrediction(served_p95_s=_span_runs(served_s, basis), wait_p99_s=_span_runs(waits_s, basis))


def _span_runs(values: Sequence[float], basis: str) -> Estimate:
    return Estimate(value=values[0], low=min(values), high=max(values), unit="s", basis=basis)
