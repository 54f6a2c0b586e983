"""Loads of pools on other machines, their predictions, and checks of service levels."""

from __future__ import annotations

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import exact_estimate
from archwright.contract.needs import SLO, TokenLength, Workload
from archwright.contract.record import replace
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import RedundancyRequirement
from archwright.plan.capacity.served_load import (
    PooledLoad,
    build_served_load,
    compute_peak_seconds,
    count_context_tokens,
    derive_seed,
    predict_load,
)
from archwright.plan.capacity.service_levels import CheckedLevel, assess_latency, check_availability
from archwright.plan.demand.forecast import Demand
from archwright.plan.evidence.predictions import predict_served_loads, register_prediction_bases
from archwright.plan.violations import list_misses
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.inference.open_loop import ASSUMPTION
from archwright.sizing.inference.serving_capacity import TextLoad, size_text_serving

MODEL = "Llama-3.1-8B-Instruct"


def demand(peak: float, name: str = "support", slo: SLO | None = None) -> Demand:
    return Demand(
        workload=Workload(name=name, kind="chat", slo=slo or SLO(ttft_p95_s=2.0, tpot_p95_s=0.1)),
        mean=peak / 3,
        peak=peak,
        input_tokens=TokenLength(mean=1800, p95=4200),
        output_tokens=TokenLength(mean=220, p95=600),
        growth=(1.0, 1.1),
        requests_per_month=1e6,
    )


def pooled(catalog: Catalog, asked: Demand, replicas: int, device: str = "H100-SXM-80GB", count: int = 2) -> PooledLoad:
    machine = Machine("m", catalog.accelerators[device], count, 64, 5e11)
    load = TextLoad(asked.workload.name, asked.input_tokens, asked.output_tokens, asked.workload.slo)
    steady = size_text_serving(machine, catalog.models[MODEL], load, catalog)
    assert steady is not None
    found = build_served_load(asked, steady, machine, catalog, replicas=replicas)
    assert isinstance(found, PooledLoad)
    return found


def test_all_engines_of_all_machines_share_the_busiest_months_peak(catalog: Catalog) -> None:
    spec = pooled(catalog, demand(20.0), replicas=3).spec
    assert (spec.model, spec.load.seed) == (MODEL, derive_seed("support"))
    assert spec.engines == 3 * spec.engine.copies == 6
    assert spec.load.requests_per_second == pytest.approx(22.0)
    assert 1 <= spec.load.concurrency / spec.engines <= spec.engine.slots
    assert pooled(catalog, demand(20.0), replicas=0).spec.engines == 2


def test_more_load_runs_more_at_once_up_to_the_places(catalog: Catalog) -> None:
    few, many = (pooled(catalog, demand(rate), 1).spec for rate in (1.0, 1e6))
    assert few.load.concurrency < many.load.concurrency == many.engines * many.engine.slots


def test_peak_seconds_and_context(catalog: Catalog) -> None:
    assert [compute_peak_seconds(rate) for rate in (1e9, 40.0, 20.0, 0.01, 5e-324)] == [15.0, 15.0, 30.0, 45.0, 45.0]
    assert count_context_tokens(demand(1.0), catalog.models[MODEL]) == 9728


def test_a_pool_is_predicted_to_the_ninety_ninth_percentile(catalog: Catalog) -> None:
    ledger, one = PlanProvenance(), pooled(catalog, demand(20.0), 2)
    found = predict_served_loads((one,), ledger)
    latencies = [f"support.{name}.{quantile}" for name in ("ttft_s", "tpot_s") for quantile in ("p50", "p95", "p99")]
    assert [prediction.id for prediction in found.predictions] == [*latencies, "support.tokens_per_s.rate"]
    assert predict_served_loads((), PlanProvenance()).predictions == ()
    assert {prediction.query.phase for prediction in found.predictions} == {"peak", "closed"}
    bases = {basis.id for basis in ledger.collect_bases(found.predictions)}
    assert {prediction.estimate.basis for prediction in found.predictions} == bases
    assert any("remote engines" in sentence for sentence in ledger.not_sized)
    assert ledger.assumptions == (*one.spec.engine.assumptions, ASSUMPTION)


def test_bases_of_two_pools_are_kept_apart(catalog: Catalog) -> None:
    ledger, prediction = PlanProvenance(), predict_load(pooled(catalog, demand(20.0), 2))
    other = predict_load(pooled(catalog, demand(30.0), 2))
    first, second = register_prediction_bases(prediction, ledger), register_prediction_bases(other, ledger)
    assert first.ttft_p95_s.basis == "support.serving.latency"
    assert second.ttft_p95_s.basis == "support.serving.latency.2"
    assert replace(second, **{n: getattr(other, n) for n in other.__struct_fields__}) == other


def test_limits_that_the_simulation_breaks_are_reported(catalog: Catalog) -> None:
    assert predict_served_loads((pooled(catalog, demand(2.0), 2),), PlanProvenance()).notes == ()
    slo = SLO(tpot_p95_s=0.015)
    over = predict_served_loads((pooled(catalog, demand(100.0, slo=slo), 2),), PlanProvenance())
    assert any("above the limit 0.015" in note and "simulation" in note for note in over.notes)


def test_latency_is_assessed_by_its_parts(catalog: Catalog) -> None:
    load = pooled(catalog, demand(2.0), 1).spec.load
    slo = SLO(ttft_p95_s=0.5, tpot_p95_s=0.1, latency_p95_s=10.0)
    assessed = assess_latency(load, slo, (exact_estimate(1.0, "s"), exact_estimate(0.05, "s")))
    assert [one.probability for one in assessed] == [0, 1, 0]
    assert [(miss.constraint, miss.value) for miss in list_misses(assessed)] == [
        ("support.ttft_p95_s", 1.0),
        ("support.latency_p95_s", pytest.approx(1.0 + 0.05 * 219)),
    ]


def test_availability_is_assessed_the_other_way_round() -> None:
    workload = replace(demand(2.0).workload, name="w", slo=SLO(availability=0.999))
    found = [check_availability(workload, RedundancyRequirement(*up)) for up in ((1, 0), (2, 1), (1, 2))]
    (miss,) = (miss for one in found for miss in one.misses)
    assert (miss.constraint, miss.limit) == ("w.availability", 0.999) and miss.value == pytest.approx(0.995)
    alone, spared, safe = (one.limits[0].probability for one in found)
    assert alone < 0.5 < spared < 0.95 < safe < 1
    assert check_availability(replace(workload, slo=SLO()), RedundancyRequirement(9, 0)) == CheckedLevel()
