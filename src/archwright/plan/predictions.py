"""From what sizing predicts to the promises of a plan, each with the query that will measure it.

Latencies are promised under the peak, tokens per second in the closed loop at the planned concurrency; memory,
start-up and disk belong to the whole platform. A latency limit (time to the last byte) is judged on
TTFT p95 + TPOT p95 x (mean output - 1).
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.contract.estimate import Estimate, total
from archwright.contract.evidence import Prediction, Query, Statistic
from archwright.contract.plan import LoadSpec
from archwright.contract.record import replace
from archwright.plan.ledger import Ledger
from archwright.plan.limits import judge_latency
from archwright.plan.serve import Served, predicted
from archwright.simulate.serving import ServingPrediction

DAY_S = 86400.0
HOUR_S = 3600.0
PLATFORM = "platform"


class Promised(NamedTuple):
    """What a chosen option promises, and which limits lie inside a band."""

    predictions: tuple[Prediction, ...] = ()
    notes: tuple[str, ...] = ()


def promises(served: tuple[Served, ...], ledger: Ledger) -> Promised:
    """Only the chosen option is predicted in full: a dozen simulated runs for each workload."""
    if not served:
        return Promised()
    found = tuple(adopted(predicted(one), ledger) for one in served)
    own, notes = list[Prediction](), list[str]()
    for one, prediction in zip(served, found, strict=True):
        load = one.spec.load
        own += workload_predictions(load, prediction)
        judge_latency(load, one.demand.workload.slo, (prediction.ttft_p95_s, prediction.tpot_p95_s), ([], notes))
    if any(one.alone for one in served):
        ledger.leave_out("memory, start-up and disk of engines elsewhere: not promised, nothing measures them yet")
        return Promised(tuple(own), tuple(notes))
    whole = platform_predictions(tuple(one.spec.load.workload for one in served), found)
    return Promised((*own, *whole), tuple(notes))


def adopted(prediction: ServingPrediction, ledger: Ledger) -> ServingPrediction:
    """The prediction with its bases kept in the ledger and its estimates naming them there."""
    names = ledger.adopt_all(prediction.bases)

    def renamed(estimate: Estimate) -> Estimate:
        return replace(estimate, basis=names[estimate.basis])

    return replace(
        prediction,
        ttft_p50_s=renamed(prediction.ttft_p50_s),
        ttft_p95_s=renamed(prediction.ttft_p95_s),
        tpot_p50_s=renamed(prediction.tpot_p50_s),
        tpot_p95_s=renamed(prediction.tpot_p95_s),
        tokens_per_s=renamed(prediction.tokens_per_s),
        peak_memory_bytes=renamed(prediction.peak_memory_bytes),
        startup_s=renamed(prediction.startup_s),
        disk_bytes=renamed(prediction.disk_bytes),
    )


def workload_predictions(load: LoadSpec, prediction: ServingPrediction) -> tuple[Prediction, ...]:
    """What one workload is promised."""
    name = load.workload
    return (
        _promise(name, "ttft_s", "p50", prediction.ttft_p50_s, load.peak_s, "peak"),
        _promise(name, "ttft_s", "p95", prediction.ttft_p95_s, load.peak_s, "peak"),
        _promise(name, "tpot_s", "p50", prediction.tpot_p50_s, load.peak_s, "peak"),
        _promise(name, "tpot_s", "p95", prediction.tpot_p95_s, load.peak_s, "peak"),
        _promise(name, "tokens_per_s", "rate", prediction.tokens_per_s, load.closed_s, "closed"),
    )


def platform_predictions(workloads: tuple[str, ...], parts: tuple[ServingPrediction, ...]) -> tuple[Prediction, ...]:
    """What the whole platform is promised; engines start side by side, so the slowest sets the start-up time."""
    name = workloads[0] if len(workloads) == 1 else ""
    memory = _together([part.peak_memory_bytes for part in parts])
    disk = _together([part.disk_bytes for part in parts])
    slowest = max((part.startup_s for part in parts), key=lambda estimate: estimate.value)
    return (
        _promise(name, "peak_memory_bytes", "max", memory, HOUR_S, ""),
        _promise(name, "startup_s", "last", slowest, DAY_S, ""),
        _promise(name, "disk_bytes", "last", disk, DAY_S, ""),
    )


def _together(parts: list[Estimate]) -> Estimate:
    return parts[0] if len(parts) == 1 else total(parts, parts[0].unit, parts[0].basis)


def _promise(
    workload: str, metric: str, statistic: Statistic, estimate: Estimate, window_s: float, phase: str
) -> Prediction:
    labels = {"workload": workload} if phase else {}
    return Prediction(
        id=f"{workload or PLATFORM}.{metric}.{statistic}",
        metric=metric,
        workload=workload,
        estimate=estimate,
        query=Query(metric=metric, labels=labels, statistic=statistic, window_s=window_s, phase=phase),
    )
