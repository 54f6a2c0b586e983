"""Predictions of a plan from its sizing, each with the query that will measure it.

Latencies are predicted at the peak load, tokens/s in the closed loop at the planned concurrency; memory, start-up and
disk for the whole platform. A latency limit (time to the last byte) is checked against
TTFT p95 + TPOT p95 x (mean output - 1).

Workloads without tokens (images, rows, vectors) have a p95 latency, whose band reaches from an idle machine to the
highest load that the machine carries; it holds at any load up to the planned peak. A tuning run has its hours: the
longest run within the time between two runs. Other batch work has no measurement, and the plan states that.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from archwright.contract.estimate import Estimate, sum_estimates
from archwright.contract.evidence import HIGHER_IS_BETTER, Prediction, Query, Statistic
from archwright.contract.needs import TEXT_KINDS, Needs
from archwright.contract.number_format import format_exact, format_number, format_quantity
from archwright.contract.plan import LimitProbability, LoadSpec
from archwright.contract.record import replace
from archwright.plan.accounting.budget import AT_RISK
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import (
    MACHINE_AVAILABILITY,
    RedundancyRequirement,
    compute_shared_availability,
)
from archwright.plan.capacity.served_load import BatchLoad, LocalLoad, NonTextLoad, PooledLoad, ServedLoad, predict_load
from archwright.plan.capacity.service_levels import assess_latency
from archwright.plan.demand.forecast import HOURS_PER_MONTH, derive_batch_job, forecast_demand
from archwright.plan.violations import Limits, list_misses
from archwright.simulate.pool_simulation import PoolPrediction
from archwright.simulate.queue_latency import QueueLatencyPrediction
from archwright.simulate.serving_simulation import ServingPrediction
from archwright.sizing.inference.open_loop import ASSUMPTION

DAY_S = 86400.0
HOUR_S = 3600.0
# Retention of the platform's records.
WEEK_S = 7 * DAY_S
PLATFORM = "platform"


class PlanPredictions(NamedTuple):
    """Predictions of the chosen option, notes, queue predictions by text workload, and limits by simulation."""

    predictions: tuple[Prediction, ...] = ()
    notes: tuple[str, ...] = ()
    queues: Mapping[str, tuple[QueueLatencyPrediction, ...]] = MappingProxyType({})
    limits: Limits = ()


def predict_served_loads(served: tuple[ServedLoad, ...], ledger: PlanProvenance) -> PlanPredictions:
    """Predict the chosen option in full, with simulated runs for each text workload."""
    own, notes, here = list[Prediction](), list[str](), dict[str, ServingPrediction]()
    limits = list[LimitProbability]()
    queues = dict[str, tuple[QueueLatencyPrediction, ...]]()
    for one in served:
        if isinstance(one, BatchLoad):
            own += _predict_run_hours(one, ledger)
            continue
        if isinstance(one, NonTextLoad):
            own.append(_predict_latency(one, ledger))
        else:
            prediction = register_prediction_bases(predict_load(one), ledger)
            own += list_workload_predictions(one.spec.load, prediction)
            p95, slo = (prediction.ttft_p95_s, prediction.tpot_p95_s), one.demand.workload.slo
            assessed = assess_latency(one.spec.load, slo, p95)
            queues[one.demand.workload.name] = (*queues.get(one.demand.workload.name, ()), prediction.queueing)
            limits += assessed
            if isinstance(prediction, ServingPrediction):
                here[one.spec.load.workload] = prediction
            else:
                notes += _describe_simulated_misses(one.spec.load.workload, prediction, assessed)
        own += _predict_availability(one, ledger)
    pools = [one for one in served if isinstance(one, PooledLoad)]
    if pools:
        ledger.add_assumptions(*(text for one in pools for text in one.spec.engine.assumptions), ASSUMPTION)
        ledger.add_not_sized("memory, start-up and disk of remote engines: not predicted; measure them in the pilot")
    elif here:
        own += list_platform_predictions(tuple(here), tuple(here.values()))
    together = {one.spec.load.workload for one in pools if one.part < 1}
    found = merge_duplicate_predictions(own, together)
    return PlanPredictions(found, tuple(dict.fromkeys(notes)), queues, tuple(limits))


def merge_duplicate_predictions(found: Iterable[Prediction], together: Collection[str] = ()) -> tuple[Prediction, ...]:
    """Merge predictions with the same id: the worst value, and a band that contains all bands.

    Pools that serve a workload `together` are as fast as the slowest pool; their tokens/s add up.
    """
    merged = dict[str, Prediction]()
    for one in found:
        other = merged.setdefault(one.id, one)
        if one is not other and one.metric == "tokens_per_s" and one.workload in together:
            a, b = other.estimate, one.estimate
            both = replace(a, value=a.value + b.value, low=a.low + b.low, high=a.high + b.high)
            merged[one.id] = replace(other, estimate=both)
        elif one is not other:
            better = one.metric in HIGHER_IS_BETTER
            worse = (min if better else max)(other.estimate, one.estimate, key=lambda estimate: estimate.value)
            low, high = min(other.estimate.low, one.estimate.low), max(other.estimate.high, one.estimate.high)
            merged[one.id] = replace(other, estimate=replace(worse, low=low, high=high))
    return tuple(merged.values())


def _predict_latency(one: NonTextLoad, ledger: PlanProvenance) -> Prediction:
    workload, steady = one.demand.workload, one.steady
    names = ledger.register_bases(steady.bases)
    basis = ledger.create_basis(
        f"{workload.name}.latency",
        "formula",
        "95th percentile over single requests of one item: request received to last byte of the response",
        formula="band: from the p95 of an idle machine at the fast end to that of a machine at its highest load",
        facts=(names.get(steady.latency_p95_s.basis, ""), *steady.assumptions),
        stratum="at any load up to the planned peak",
    )
    found = replace(steady.latency_p95_s, basis=basis)
    query = Query(metric="latency_s", labels={"workload": workload.name}, statistic="p95", window_s=HOUR_S)
    return _build_prediction(workload.name, found, query)


def _predict_run_hours(one: BatchLoad, ledger: PlanProvenance) -> list[Prediction]:
    """Hours of a run, from today's to the longest in the horizon; only for runs that this release measures."""
    job, batch = one.job, one.batch
    hours = batch.machine_hours
    share, longest = batch.hours(one.machines) / hours.value, hours.high * max(job.growth)
    taken = Estimate(value=hours.value, low=hours.low, high=longest, unit="s").scaled(share * HOUR_S)
    # `archwright train` of this release makes no other runs.
    if job.workload.kind != "finetune" or job.workload.method not in (None, "lora"):
        return []
    names = ledger.register_bases(batch.bases)
    basis = ledger.create_basis(
        f"{job.workload.name}.run",
        "formula",
        f"first to last step of one run on {one.machines} machines, without loading and export",
        formula="predicted for so many machines, or between two predicted counts; high end: in the busiest month",
        facts=(names.get(hours.basis, ""), *batch.assumptions),
    )
    between = HOURS_PER_MONTH / job.runs_per_month * HOUR_S
    query = Query(metric="train_s", labels={"name": job.workload.name}, statistic="max", window_s=between)
    return [_build_prediction(job.workload.name, replace(taken, basis=basis), query)]


def _predict_availability(one: LocalLoad | PooledLoad | NonTextLoad, ledger: PlanProvenance) -> list[Prediction]:
    """Share of time with enough machines available; only if the needs state an availability."""
    workload = one.demand.workload
    up = RedundancyRequirement(1, 0) if isinstance(one, LocalLoad) else one.up
    if workload.slo.availability is None or up is None:
        return []
    place = (
        f"{up.place.said}, available {format_exact(up.place.up.value)} of the time"
        if up.place is not None
        else "not counted"
    )
    machines = f"{up.needed} machines needed, {up.spares} spare"
    if up.among:
        worst = min(up.among, key=compute_shared_availability)
        types = (
            f"{count} machines with {format_number(carried)} of the load each" for count, carried in worst if count
        )
        machines = f"in the worst year {' and '.join(types)}"
    basis = ledger.create_basis(
        f"{workload.name}.availability",
        "assumed",
        "share of the requests at the gateway that did not fail and were not rejected",
        formula=(
            "share of time in which the available machines carry the load (independent failures) x the availability of "
            "their place: plan/capacity/availability.py"
        ),
        facts=(
            f"{machines}; each available {format_exact(MACHINE_AVAILABILITY)} of the time",
            f"their place: {place}",
            *((up.place.up.basis,) if up.place is not None else ()),
        ),
    )
    share = up.estimate_availability(basis)
    query = Query(metric="requests", labels={"workload": workload.name}, statistic="share", window_s=WEEK_S)
    return [_build_prediction(workload.name, share, query)]


def report_unpredicted(needs: Needs, found: tuple[Prediction, ...], ledger: PlanProvenance) -> None:
    """Record what the plan sizes without a prediction, by workload, because nothing will measure it."""
    predicted = {(prediction.workload, prediction.metric) for prediction in found}
    months, texts, others, capacity, runs, up = needs.budget.horizon_months, *(list[str]() for _ in range(5))
    for workload in needs.workloads:
        name = workload.name
        if forecast_demand(workload, months) is not None:
            if workload.kind in TEXT_KINDS:
                texts += [] if (name, "ttft_s") in predicted else [name]
            else:
                (capacity if (name, "latency_s") in predicted else others).append(name)
            if workload.slo.availability is not None and (name, "requests") not in predicted:
                up.append(name)
        if derive_batch_job(workload, months) is not None and (name, "train_s") not in predicted:
            runs.append(name)
    for names, text in (
        (texts, "latency and throughput of {}: not predicted, because no engine of the plan serves these texts"),
        (others, "latency of {}: not predicted, because no permanent machine of the plan serves it"),
        (capacity, "highest requests/s of {}: sized, not predicted; measure it in the pilot"),
        (runs, "hours of a run of {}: sized, not predicted; measure the first run"),
        (up, "availability of {}: not predicted, because no part of the plan controls it"),
    ):
        if names:
            ledger.add_not_sized(text.format(", ".join(names)))


def _describe_simulated_misses(name: str, prediction: PoolPrediction, assessed: Limits) -> list[str]:
    """Pools are sized by formulas: say if their simulation at the expected speed breaks a limit or fills the queue."""
    refused = (
        f"at the peak, {format_quantity(prediction.refused, 'share')} of {name} would find a full queue at the gateway"
    )
    return [f"{AT_RISK}{refused}"] * (prediction.refused > 0) + [
        f"{AT_RISK}{miss.constraint} is {format_number(float(miss.value or 0))} in the simulation of the peak, "
        f"above the limit {format_number(float(miss.limit or 0))}"
        for miss in list_misses(assessed)
    ]


P = TypeVar("P", bound=ServingPrediction | PoolPrediction)


def register_prediction_bases(prediction: P, ledger: PlanProvenance) -> P:
    """Register the bases in the ledger. Return the prediction with estimates that name the registered bases."""
    names = ledger.register_bases(prediction.bases)
    fields = {name: getattr(prediction, name) for name in prediction.__struct_fields__}
    estimates = {name: one for name, one in fields.items() if isinstance(one, Estimate)}
    return replace(prediction, **{name: replace(one, basis=names[one.basis]) for name, one in estimates.items()})


def list_workload_predictions(load: LoadSpec, prediction: ServingPrediction | PoolPrediction) -> tuple[Prediction, ...]:
    name = load.workload
    percentiles: tuple[Statistic, ...] = ("p50", "p95", "p99")
    found = (
        _build_phase_prediction(name, f"{metric}_s", statistic, estimate, load.peak_s, "peak")
        for metric in ("ttft", "tpot")
        for statistic in percentiles
        if (estimate := getattr(prediction, f"{metric}_{statistic}_s", None)) is not None
    )
    rate = _build_phase_prediction(name, "tokens_per_s", "rate", prediction.tokens_per_s, load.closed_s, "closed")
    return (*found, rate)


def list_platform_predictions(
    workloads: tuple[str, ...], parts: tuple[ServingPrediction, ...]
) -> tuple[Prediction, ...]:
    """Predictions of the whole platform. Engines start in parallel, so the slowest sets the start-up time."""
    name = workloads[0] if len(workloads) == 1 else ""

    def add(estimates: list[Estimate]) -> Estimate:
        first = estimates[0]
        return first if len(estimates) == 1 else sum_estimates(estimates, first.unit, first.basis)

    memory, disk = add([part.peak_memory_bytes for part in parts]), add([part.disk_bytes for part in parts])
    slowest = max((part.startup_s for part in parts), key=lambda estimate: estimate.value)
    return (
        _build_phase_prediction(name, "peak_memory_bytes", "max", memory, HOUR_S, ""),
        _build_phase_prediction(name, "startup_s", "last", slowest, DAY_S, ""),
        _build_phase_prediction(name, "disk_bytes", "last", disk, DAY_S, ""),
    )


def _build_phase_prediction(
    workload: str, metric: str, statistic: Statistic, estimate: Estimate, window_s: float, phase: str
) -> Prediction:
    labels = {"workload": workload} if phase else {}
    query = Query(metric=metric, labels=labels, statistic=statistic, window_s=window_s, phase=phase)
    return _build_prediction(workload, estimate, query)


def _build_prediction(workload: str, estimate: Estimate, query: Query) -> Prediction:
    return Prediction(
        id=f"{workload or PLATFORM}.{query.metric}.{query.statistic}",
        metric=query.metric,
        workload=workload,
        estimate=estimate,
        query=query,
    )
