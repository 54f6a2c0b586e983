"""What is promised of work that answers without tokens and of work with an end, and what is said to be unmeasured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.evidence import Prediction, Query
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.needs import SLO, Needs, TokenLength, Workload
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import MACHINE_AVAILABILITY_LOW, RedundancyRequirement, compute_availability
from archwright.plan.capacity.candidates import CandidateMachine, WorkloadTask
from archwright.plan.capacity.machine_count import RUN_START_H, assess_deadline
from archwright.plan.capacity.served_load import BatchLoad, NonTextLoad, build_served_load, list_load_specs
from archwright.plan.demand.forecast import BatchJob, Demand
from archwright.plan.evidence.predictions import merge_duplicate_predictions, predict_served_loads, report_unpredicted
from archwright.plan.options.option_builder import build_batch_loads, build_provisioned_loads
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.training.cluster_training import size_finetuning
from archwright.sizing.workloads.embedding import size_embedding_serving
from archwright.sizing.workloads.tabular import size_tabular_serving
from archwright.sizing.workloads.vision import size_image_serving

Make = Callable[..., Plan]
Read = Callable[..., tuple[Needs, Any]]
NO_TOKENS = TokenLength(mean=0.0, p95=0.0)
HOST = Machine("host", None, 0, 16, 64e9)


def load_of(kind: Any, slo: SLO, name: str = "xray") -> Demand:
    return Demand(Workload(name=name, kind=kind, slo=slo), 1.0, 3.0, NO_TOKENS, NO_TOKENS, (1.0, 1.2), 1e6)


def device(catalog: Catalog) -> Machine:
    return Machine("m", catalog.accelerators["H100-SXM-80GB"], 2, 64, 5e11)


ALONE = RedundancyRequirement(1, 0)


def answering(catalog: Catalog, slo: SLO, up: RedundancyRequirement = ALONE) -> NonTextLoad:
    steady = size_image_serving(device(catalog), "xray", 1e6, 25e6, slo, catalog)
    return NonTextLoad(load_of("image-classification", slo), steady, up)


def tuning(catalog: Catalog, **changes: Any) -> BatchLoad:
    model = catalog.models["Llama-3.1-8B-Instruct"]
    batch = size_finetuning(device(catalog), model, "lora", 2e7, "tone", catalog)
    assert batch is not None
    workload = Workload(name="tone", kind="finetune", method="lora", tokens=2e7, every="month")
    return BatchLoad(BatchJob(workload, 2e7, 1.0, changes.pop("deadline_h", 1e6), (1.0, 1.5)), batch, 1)._replace(
        **changes
    )


# --- steady loads


def test_images_are_predicted_by_the_latency_sizing_found(catalog: Catalog) -> None:
    ledger, one = PlanProvenance(), answering(catalog, SLO(latency_p95_s=1.0))
    found = predict_served_loads((one,), ledger)
    (prediction,) = found.predictions
    known, sized = prediction.estimate, one.steady.latency_p95_s
    assert (known.value, known.low, known.high, known.unit) == (sized.value, sized.low, sized.high, "s")
    assert prediction.id == "xray.latency_s.p95" and prediction.metric in METRIC_BY_QUANTITY
    assert prediction.query == Query(
        metric="latency_s", labels={"workload": "xray"}, statistic="p95", window_s=3600.0, phase=""
    )
    assert 'archwright_request_seconds_bucket{workload="xray"}' in prediction.query.promql()
    (basis, capacity) = ledger.collect_bases(found.predictions)
    assert {basis.id, capacity.id} == {"xray.latency", "xray.m.capacity"}
    assert found.notes == () and list_load_specs((one,)) == ()


def test_a_providers_workers_have_no_availability_of_ours(catalog: Catalog) -> None:
    one = answering(catalog, SLO(availability=0.999))._replace(up=None)
    (prediction,) = predict_served_loads((one,), PlanProvenance()).predictions
    assert prediction.metric == "latency_s"


@pytest.mark.parametrize("kind", ["tabular-prediction", "forecast", "embedding"])
def test_rows_and_vectors_are_predicted_alike(catalog: Catalog, kind: str) -> None:
    slo, words = SLO(latency_p95_s=0.5), TokenLength(mean=200, p95=400)
    load, steady = load_of(kind, slo, "w"), size_tabular_serving(HOST, "w", 40, slo, catalog)
    if kind == "embedding":
        embedded = size_embedding_serving(
            device(catalog), catalog.embedders["bge-small-en-v1.5"], "w", words, slo, catalog
        )
        assert embedded is not None
        steady = embedded
    served = (
        NonTextLoad(load, steady) if kind == "embedding" else build_served_load(load, steady, HOST, catalog, replicas=2)
    )
    (prediction,) = predict_served_loads((served,), PlanProvenance()).predictions
    assert (prediction.id, prediction.estimate.value) == ("w.latency_s.p95", steady.latency_p95_s.value)


@pytest.mark.parametrize("up", [RedundancyRequirement(1, 0), RedundancyRequirement(4, 1)])
def test_availability_is_predicted_where_it_is_asked_for(catalog: Catalog, up: RedundancyRequirement) -> None:
    found = predict_served_loads((answering(catalog, SLO(availability=0.999), up),), PlanProvenance()).predictions
    share = next(one for one in found if one.metric == "requests")
    assert (share.id, share.query.statistic, share.estimate.unit) == ("xray.requests.share", "share", "share")
    assert (share.estimate.value, share.estimate.low, share.estimate.high) == (
        compute_availability(up.needed, up.spares),
        compute_availability(up.needed, up.spares, MACHINE_AVAILABILITY_LOW),
        1.0,
    )


def test_a_workload_at_several_places_is_asked_about_once() -> None:
    def made(metric: str, value: float) -> Prediction:
        query = Query(metric=metric, labels={}, statistic="p95", window_s=1.0)
        return Prediction(
            id=metric, metric=metric, workload="w", estimate=within_factor(value, 2, "s", f"b{value}"), query=query
        )

    pair = [made("latency_s", 1.0), made("latency_s", 3.0), made("requests", 0.5), made("requests", 0.25)]
    slow, rare = merge_duplicate_predictions(pair)
    assert slow.estimate == Estimate(value=3.0, low=0.5, high=6.0, unit="s", basis="b3.0")
    assert rare.estimate == Estimate(value=0.25, low=0.125, high=1.0, unit="s", basis="b0.25")


def test_workers_that_start_cold_have_no_prediction_of_warm_latency(catalog: Catalog) -> None:
    slo = SLO(latency_p95_s=1.0)
    demand, steady = load_of("image-classification", slo), answering(catalog, slo).steady
    task = WorkloadTask("xray", demand.workload, demand, None)
    for placement, count in (("serverless", 0), ("cloud", 1)):
        host = CandidateMachine(Location(placement, "p", "r", "DE"), device(catalog))  # type: ignore[arg-type]
        assert len(build_provisioned_loads(task, host, steady, RedundancyRequirement(2, 1))) == count
        assert build_provisioned_loads(task._replace(follows="other"), host, steady, RedundancyRequirement(2, 1)) == ()
    said = replace(demand.workload, kind="chat")
    chat = task._replace(workload=said, demand=demand._replace(workload=said, output_tokens=TokenLength(mean=9, p95=9)))
    for placement, up in (("serverless", None), ("cloud", RedundancyRequirement(2, 1))):
        host = CandidateMachine(Location(placement, "p", "r", "DE"), device(catalog))  # type: ignore[arg-type]
        assert [one.up for one in build_provisioned_loads(chat, host, steady, RedundancyRequirement(2, 1))] == [up]
    assert build_provisioned_loads(chat._replace(demand=demand), host, steady, RedundancyRequirement(2, 1)) == ()
    assert build_batch_loads(task, None, 1) == ()


# --- work with an end


def test_a_tuning_run_is_predicted_by_its_hours(catalog: Catalog) -> None:
    ledger, one = PlanProvenance(), tuning(catalog)
    found = predict_served_loads((one,), ledger)
    (prediction,) = found.predictions
    hours = one.batch.machine_hours
    assert prediction.id == "tone.train_s.max"
    assert prediction.estimate.value == pytest.approx(one.batch.hours(1) * 3600)
    assert prediction.estimate.low == pytest.approx(hours.low * 3600)
    assert prediction.estimate.high == pytest.approx(hours.high * 1.5 * 3600)
    assert prediction.query.labels == {"name": "tone"}
    assert prediction.query.window_s == pytest.approx(730 * 3600)
    assert prediction.estimate.basis in {basis.id for basis in ledger.collect_bases(found.predictions)}
    assert found.notes == ()


def test_more_machines_end_a_run_sooner(catalog: Catalog) -> None:
    one = tuning(catalog)
    wide = one._replace(machines=4, batch=one.batch._replace(most=8))
    slow, fast = (predict_served_loads((each,), PlanProvenance()).predictions[0].estimate for each in (one, wide))
    assert fast.value == pytest.approx(wide.batch.hours(4) * 3600) and fast.value < slow.value


@pytest.mark.parametrize(
    ("kind", "method"),
    [("finetune", "lora"), ("finetune", "full"), ("pretrain", None), ("data-processing", None)],
)
def test_a_deadline_has_a_probability_also_of_runs_that_nothing_records(
    catalog: Catalog, kind: Any, method: Any
) -> None:
    one = tuning(catalog)
    job = one.job._replace(workload=replace(one.job.workload, kind=kind, method=method))
    assert len(predict_served_loads((one._replace(job=job),), PlanProvenance()).predictions) == (method == "lora")
    hours = one.batch.machine_hours.scaled(max(job.growth))
    for at, chance in ((hours.value, 0.5), (hours.high, 0.95), (hours.low, 0.05)):
        (limit,) = assess_deadline(one.batch, job._replace(deadline_h=at + RUN_START_H), 1)
        assert limit.limit == "tone.deadline_h" and limit.probability == pytest.approx(chance)


# --- whole plans


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("startup", "latency and throughput of support-chat: not predicted"),
        ("startup", "availability of support-chat: not predicted"),
        ("startup", "hours of a run of tone, index: sized, not predicted"),
        ("clinic", "latency of xray: not predicted"),
    ],
)
def test_what_nothing_measures_is_named(needs_of: Read, name: str, said: str) -> None:
    ledger = PlanProvenance()
    report_unpredicted(needs_of(name)[0], (), ledger)
    assert any(line.startswith(said) for line in ledger.not_sized)


def test_the_startups_tuning_run_is_predicted_and_its_index_is_not(startup: Plan) -> None:
    assert "tone.train_s.max" in {prediction.id for prediction in startup.predictions}
    assert any("hours of a run of index: sized, not predicted" in line for line in startup.not_sized)


@pytest.mark.parametrize(("name", "workload", "limit"), [("clinic", "xray", 1.0), ("manufacturer", "downtime", 0.05)])
def test_every_limit_of_work_without_text_has_its_prediction(
    plan_of: Make, name: str, workload: str, limit: float
) -> None:
    plan = plan_of(name)
    held = {prediction.id: prediction for prediction in plan.predictions}
    assert len(held) == len(plan.predictions)
    latency = held[f"{workload}.latency_s.p95"]
    assert latency.estimate.value <= limit
    assert latency.estimate.basis in {basis.id for basis in plan.bases}
    assert f"{workload}.requests.share" in held
    assert workload not in {load.workload for load in plan.loads}
    assert any(f"highest requests/s of {workload}: sized, not predicted" in line for line in plan.not_sized)
