"""An embedded engine whose steps were measured: its speed, threads, batches, bands and what the plan says of it."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.engine_measurements import MeasuredLayer, RelatedMeasurement
from archwright.catalog.tables.csv_table import DATA
from archwright.contract.engine_measurement import EngineMeasurement, StepTime
from archwright.contract.estimate import exact_estimate
from archwright.contract.plan import MachineFacts
from archwright.contract.record import replace
from archwright.simulate.local_engine import build_engine_settings, build_local_spec
from archwright.simulate.measured_speed import (
    FEW_ROUNDS_BAND,
    LEAST_BAND,
    VIRTUAL_BAND,
    build_measured_speed,
    estimate_slowdown,
)
from archwright.simulate.serving_simulation import (
    BUSY_ENGINE,
    WIDEST_BAND,
    WIDEST_TTFT_BAND,
    ServingSpec,
    build_step_times,
    estimate_engine_startup,
    estimate_use,
    list_slowdowns,
    predict_serving,
)
from archwright.simulate.step_prediction import predict_step

from ..catalog.layers.test_engine_measurements import FILE, MODEL, measurement
from ..sizing.conftest import probed_machine
from .conftest import build_load

STEPS = (
    StepTime(answering=1, context_tokens=8, step_s=0.020),
    StepTime(answering=4, context_tokens=8, step_s=0.060),
    StepTime(prompt_tokens=64, step_s=0.5),
)
FASTER = tuple(replace(step, step_s=step.step_s / 1.6) for step in STEPS)
ONE = measurement(steps=STEPS, rounds=3)
TWO = measurement(steps=FASTER, threads=2, startup_s=2.0)


def machine_now(**changes: Any) -> MachineFacts:
    return replace(probed_machine(), **changes)


def spec_with(*measured: EngineMeasurement, machine: MachineFacts | None = None, rate: float = 0.1) -> ServingSpec:
    catalog = Catalog(DATA, measured=MeasuredLayer(engines=measured))
    load = build_load("assistant", MODEL.id, rate, ((120, 400), (60, 128)), 4)
    return build_local_spec(MODEL, FILE, machine or machine_now(), catalog, load, 1280)


def test_the_measured_steps_replace_the_shipped_row() -> None:
    derived, measured = spec_with(), spec_with(ONE)
    assert derived.speed is None and derived.stratum == "measured row: llamacpp Q4_1 avx2"
    assert measured.stratum == "measured here: llamacpp Q4_1"
    assert build_step_times(measured).decode_s(1, 8) == pytest.approx(0.020)
    assert estimate_engine_startup(measured).value == 1.0
    predicted = predict_step(measured, STEPS[0])
    assert predicted.value == pytest.approx(0.020) and predicted.low < 0.020 / 1.15 and predicted.high > 0.020 * 1.15


def test_the_faster_number_of_threads_serves() -> None:
    spec = spec_with(ONE, TWO)
    assert spec.threads == 2 and build_engine_settings(spec, FILE)["threads"] == 2
    slow_pair = replace(TWO, steps=tuple(replace(step, step_s=step.step_s * 2) for step in STEPS))
    assert spec_with(ONE, slow_pair).threads == 1
    assert spec_with(ONE, replace(TWO, threads=8)).threads == 1, "this machine has two cores"


def test_the_prompt_batch_follows_from_the_measured_rate() -> None:
    slower = tuple(replace(step, step_s=step.step_s * 3) for step in STEPS)
    assert spec_with(ONE).batch_tokens == 32 and spec_with(replace(ONE, steps=slower)).batch_tokens == 16


def test_another_processor_or_build_makes_the_row_a_derived_one() -> None:
    foreign = replace(known_engine(), processor="GenuineIntel 6-207-2 Intel(R) Xeon(R) Processor")
    spec = spec_with(ONE, machine=machine_now(engine=foreign))
    assert spec.speed is None and not spec.is_measured
    assert spec.stratum == "derived row: llamacpp Q4_1 avx2"
    assert "processor GenuineIntel" in spec.efficiency.source
    unknown = spec_with(ONE, machine=machine_now(engine=None))
    assert unknown.speed is None and unknown.stratum == "derived row: llamacpp Q4_1 avx2", "not the flags of AVX-512"


def known_engine() -> Any:
    return probed_machine().engine


def test_what_was_not_measured_itself_has_a_wider_band_and_says_so() -> None:
    of_shape = replace(ONE, model_sha256="", layers=30)
    of_format = replace(ONE, model="Qwen3-0.6B", parameters=600_000_000, model_sha256="c" * 64, layers=28)
    widths = []
    for kept, said in ((ONE, "here"), (of_shape, "on random weights"), (of_format, "on another model")):
        spec = spec_with(kept)
        assert spec.stratum == f"measured {said}: llamacpp Q4_1"
        assert spec.is_measured == (said == "here")
        widths.append(list_slowdowns(spec, 2)[1])
    assert widths == [pytest.approx(LEAST_BAND[relation]) for relation in ("file", "shape", "format")]


def test_other_programs_slow_the_present_and_not_the_quiet_machine() -> None:
    disturbed = replace(ONE, slowdown=2.0)
    busy = machine_now(busy_share=0.8, probed_at=ONE.measured_at)
    assert estimate_slowdown(disturbed, machine_now(busy_share=0.01, probed_at=ONE.measured_at)) == 1.0
    assert estimate_slowdown(disturbed, busy) == 2.0
    later = machine_now(
        busy_share=0.8,
        probed_at=ONE.measured_at + 3600,
        quiet_matmul_flops_per_s=exact_estimate(150e9, "FLOP/s"),
        matmul_flops_per_s=exact_estimate(100e9, "FLOP/s"),
    )
    assert estimate_slowdown(disturbed, later) == 1.5, "an hour later the probe tells"
    spec = spec_with(disturbed, machine=busy)
    assert build_step_times(spec).decode_s(1, 8) == pytest.approx(0.040)
    assert spec.speed is not None and spec.speed.low_factor == LEAST_BAND["file"] * 2.0
    of_last_week = machine_now(busy_share=0.01, probed_at=ONE.measured_at - 7 * 86_400)
    assert estimate_slowdown(disturbed, of_last_week) == 2.0, "the measurement is of now"
    quiet = spec_with(disturbed, machine=busy.without_others())
    assert build_step_times(quiet).decode_s(1, 8) == pytest.approx(0.020)


def test_a_spread_above_the_usual_limit_shows_in_the_band() -> None:
    unsteady = spec_with(replace(ONE, spread=4.0), rate=0.01)
    band = predict_step(unsteady, STEPS[0])
    assert band.low == pytest.approx(0.020 / 4, rel=0.1) and band.high == pytest.approx(0.020 * 4, rel=0.1)
    assert predict_serving(unsteady).tpot_p50_s.factor > 2 * WIDEST_BAND


def test_few_rounds_and_a_hypervisor_widen_the_band() -> None:
    bands = {}
    for name, kept, machine in (
        ("one round", replace(ONE, rounds=1), machine_now()),
        ("many rounds", replace(ONE, rounds=5), machine_now()),
        ("virtual", replace(ONE, rounds=5), machine_now(is_virtual=True)),
    ):
        bands[name] = list_slowdowns(spec_with(kept, machine=machine), 2)[1]
    assert bands["many rounds"] == pytest.approx(LEAST_BAND["file"])
    assert bands["one round"] == pytest.approx(FEW_ROUNDS_BAND)
    assert bands["virtual"] == pytest.approx(VIRTUAL_BAND)


def test_a_format_that_was_not_measured_takes_the_error_of_a_measured_one() -> None:
    """Otherwise each plan would propose the format that nobody measured."""
    other = replace(ONE, quantisation="Q8_0", steps=tuple(replace(step, step_s=step.step_s * 4) for step in STEPS))
    foreign = replace(known_engine(), processor="GenuineIntel 6-207-2 Xeon")
    here = machine_now(engine=foreign)
    derived, corrected = spec_with(machine=here), spec_with(replace(other, report=foreign), machine=here)
    assert corrected.speed is None and corrected.stratum.startswith("derived row")
    assert corrected.correction > 1.5 and derived.correction == 1.0
    ratio = build_step_times(corrected).decode_s(1, 8) / build_step_times(derived).decode_s(1, 8)
    assert ratio == pytest.approx(corrected.correction)
    assert any("in another format" in fact for fact in predict_serving(corrected).bases[0].facts)


def test_near_its_capacity_an_engine_has_no_upper_limit_of_the_band() -> None:
    unsteady = replace(ONE, spread=1.7)
    calm, crowded = spec_with(unsteady, rate=0.05), spec_with(unsteady, rate=0.5)
    for spec, is_crowded in ((calm, False), (crowded, True)):
        found = predict_serving(spec)
        assert (estimate_use(spec, found.tokens_per_s.value) > BUSY_ENGINE) == is_crowded
        is_capped = found.tpot_p95_s.high <= unsteady.spread * found.tpot_p95_s.value * 1.0001
        assert is_capped != is_crowded
        assert (found.ttft_p95_s.high <= WIDEST_TTFT_BAND * found.ttft_p95_s.value * 1.0001) != is_crowded


def test_the_plan_names_engine_processor_threads_and_steps() -> None:
    (basis, *_) = predict_serving(spec_with(ONE)).bases
    fact = basis.facts[1]
    for part in (
        "xllamacpp 2026.10.11549",
        "avx2 code",
        "AuthenticAMD Zen 4",
        "1 thread,",
        "prompt of 64 tokens 500 ms",
    ):
        assert part in fact
    assert "measured s/FLOP" in basis.formula


def test_a_measured_model_that_the_catalog_does_not_know_says_nothing() -> None:
    related = RelatedMeasurement(replace(ONE, model="somebodys-own"), "format")
    assert build_measured_speed(related, MODEL, machine_now(), Catalog(DATA), context_s=1e-5) is None
