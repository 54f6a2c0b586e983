"""From what sizing predicts to the promises of a plan, each with the query that will measure it.

Latencies are promised under the peak, tokens per second in the closed loop at the planned concurrency; memory,
start-up and disk belong to the whole platform. A latency limit (time to the last byte) is judged on
TTFT p95 + TPOT p95 x (mean output - 1).
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from archwright.contract.estimate import Estimate, total
from archwright.contract.evidence import Prediction, Query, Statistic
from archwright.contract.plan import LoadSpec, Miss
from archwright.contract.record import replace
from archwright.plan.ledger import Ledger
from archwright.plan.limits import judge_latency
from archwright.plan.serve import Here, Pooled, Served, predicted
from archwright.plan.wording import digits
from archwright.simulate.pool import PoolPrediction
from archwright.simulate.serving import ServingPrediction
from archwright.sizing.open_loop import ASSUMED

DAY_S = 86400.0
HOUR_S = 3600.0
PLATFORM = "platform"


class Promised(NamedTuple):
    """What a chosen option promises, and which limits lie inside a band."""

    predictions: tuple[Prediction, ...] = ()
    notes: tuple[str, ...] = ()


def promises(served: tuple[Served, ...], ledger: Ledger) -> Promised:
    """Only the chosen option is predicted in full: simulated runs for each workload."""
    own, notes, here = list[Prediction](), list[str](), dict[str, ServingPrediction]()
    for one in served:
        prediction = adopted(predicted(one), ledger)
        own += workload_predictions(one.spec.load, prediction)
        notes += _at_risk(one, prediction)
        if isinstance(one, Pooled):
            ledger.assume(*one.spec.engine.assumptions, ASSUMED)
        if isinstance(prediction, ServingPrediction):
            here[one.spec.load.workload] = prediction
    if any(isinstance(one, Pooled) for one in served):
        ledger.leave_out("memory, start-up and disk of engines elsewhere: not promised, nothing measures them yet")
    elif here:
        own += platform_predictions(tuple(here), tuple(here.values()))
    return Promised(tuple(own), tuple(notes))


def _at_risk(served: Served, prediction: ServingPrediction | PoolPrediction) -> list[str]:
    """Limits inside the bands. A pool was sized by formulas: where the simulation of it breaks a limit, it says so."""
    misses, notes = list[Miss](), list[str]()
    p95 = (prediction.ttft_p95_s, prediction.tpot_p95_s)
    judge_latency(served.spec.load, served.demand.workload.slo, p95, (misses, notes))
    if isinstance(served, Here):
        return notes
    return notes + [
        f"at risk: {miss.constraint} is {digits(float(miss.value or 0))} in the simulation of the peak, "
        f"above the limit {digits(float(miss.limit or 0))}"
        for miss in misses
    ]


P = TypeVar("P", bound=ServingPrediction | PoolPrediction)


def adopted(prediction: P, ledger: Ledger) -> P:
    """The prediction with its bases kept in the ledger and its estimates naming them there."""
    names = ledger.adopt_all(prediction.bases)
    renamed: dict[str, Estimate] = {}
    for field in prediction.__struct_fields__:
        estimate = getattr(prediction, field)
        if isinstance(estimate, Estimate):
            renamed[field] = replace(estimate, basis=names[estimate.basis])
    return replace(prediction, **renamed)


def workload_predictions(load: LoadSpec, prediction: ServingPrediction | PoolPrediction) -> tuple[Prediction, ...]:
    """What one workload is promised: its latencies at the peak, as many percentiles as were predicted, and tokens/s."""
    name = load.workload
    latencies: tuple[tuple[str, Statistic], ...] = (
        ("ttft", "p50"),
        ("ttft", "p95"),
        ("ttft", "p99"),
        ("tpot", "p50"),
        ("tpot", "p95"),
        ("tpot", "p99"),
    )
    found = (
        _promise(name, f"{metric}_s", statistic, estimate, load.peak_s, "peak")
        for metric, statistic in latencies
        if (estimate := getattr(prediction, f"{metric}_{statistic}_s", None)) is not None
    )
    return (*found, _promise(name, "tokens_per_s", "rate", prediction.tokens_per_s, load.closed_s, "closed"))


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
