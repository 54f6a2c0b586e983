"""The promises of a served model: their bands, what moves them, and what they were measured to be."""

from __future__ import annotations

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.record import replace
from archwright.policy.traffic import Arrival
from archwright.simulate import serving_simulation
from archwright.simulate.continuous_batching import SimulatedRequest
from archwright.sizing.hardware.roofline import Hardware

from .conftest import build_load, build_serving_spec

NAMES = tuple(
    name for name in serving_simulation.ServingPrediction.__struct_fields__ if name not in ("queueing", "bases")
)


@pytest.fixture(scope="module")
def large() -> serving_simulation.ServingSpec:
    catalog = load_catalog()
    model = catalog.models["Llama-3.1-8B-Instruct"]
    return build_serving_spec(
        model,
        Hardware(
            name="a very large machine",
            memory_bytes=256 << 30,
            bandwidth_bytes_per_s=within_factor(3.35e12, 1.1, "bytes/s"),
            compute_flops_per_s=within_factor(2e15, 1.1, "FLOP/s"),
        ),
        build_load("support", model.id, 3.0, ((1800, 4200), (220, 600)), 32),
        quantisation="Q8_0",
        bits_per_weight=8.5,
        file_bytes=None,
        context_tokens=9728,
        batch_tokens=2048,
    )


def test_the_same_spec_gives_the_same_predictions(desk: serving_simulation.ServingSpec) -> None:
    assert serving_simulation.predict_serving(desk) == serving_simulation.predict_serving(desk)


def test_every_number_has_a_band_a_unit_and_a_basis_that_is_there(
    desk: serving_simulation.ServingSpec, large: serving_simulation.ServingSpec
) -> None:
    for spec in (desk, large):
        prediction = serving_simulation.predict_serving(spec)
        known = {basis.id for basis in prediction.bases}
        for name in NAMES:
            found: Estimate = getattr(prediction, name)
            assert found.low < found.value < found.high, name
            assert found.basis in known and found.basis.startswith(spec.load.workload), name
            assert found.level == 0.9
        assert len(known) == len(prediction.bases) == 6
        for basis in prediction.bases:
            assert basis.definition and basis.formula and basis.facts
            assert spec.efficiency.engine in basis.stratum


def test_the_predictions_of_the_desk_are_what_was_measured(desk: serving_simulation.ServingSpec) -> None:
    """Measured on two cores, 24 November 2026: the small model of this catalog, four slots; bands hold around it."""
    found = serving_simulation.predict_serving(desk)
    assert found.tokens_per_s.contains(52.7)
    assert found.peak_memory_bytes.contains(361 * 2**20)
    assert found.startup_s.contains(1.50)
    assert found.startup_s.contains(1.06)
    assert found.disk_bytes.contains(94.6 * 2**20)
    assert max(found.peak_memory_bytes.factor, found.startup_s.factor, found.disk_bytes.factor) < 2.5


def test_tail_above_median(desk: serving_simulation.ServingSpec) -> None:
    found = serving_simulation.predict_serving(desk)
    assert found.ttft_p50_s.value < found.ttft_p95_s.value
    assert found.tpot_p50_s.value < found.tpot_p95_s.value


def test_a_slower_machine_is_slower_in_everything(desk: serving_simulation.ServingSpec) -> None:
    fast, slow = serving_simulation.simulate_replica(desk, 1.0), serving_simulation.simulate_replica(desk, 1.4)
    assert slow.tokens_per_s < fast.tokens_per_s
    for name in ("ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s"):
        assert getattr(slow, name) > getattr(fast, name), name


def test_overload_is_seen(desk: serving_simulation.ServingSpec) -> None:
    """Five times the desk's load exceeds what one thread can serve: the queue grows over the whole phase."""
    crowded = replace(desk, load=replace(desk.load, requests_per_second=1.5))
    assert (
        serving_simulation.simulate_replica(crowded, 1.0).ttft_p95_s
        > 5 * serving_simulation.simulate_replica(desk, 1.0).ttft_p95_s
    )


def test_what_limits_an_answer_decides_which_rate_counts(
    desk: serving_simulation.ServingSpec, large: serving_simulation.ServingSpec
) -> None:
    for spec, compute_counts in ((desk, True), (large, False)):
        unsure = within_factor(spec.hardware.compute_flops_per_s.value, 3.0, "FLOP/s")
        widened = replace(spec, hardware=replace(spec.hardware, compute_flops_per_s=unsure))
        before, after = (serving_simulation.list_slowdowns(one, 2)[1] for one in (spec, widened))
        assert (after > before) == compute_counts


def test_a_less_certain_machine_widens_speeds_only(desk: serving_simulation.ServingSpec) -> None:
    unsure = replace(desk, hardware=replace(desk.hardware, compute_flops_per_s=within_factor(100e9, 2.0, "FLOP/s")))
    sure, less = serving_simulation.predict_serving(desk), serving_simulation.predict_serving(unsure)
    assert less.tokens_per_s.factor > sure.tokens_per_s.factor
    assert 1.6 + 1e-9 > less.tpot_p50_s.factor >= sure.tpot_p50_s.factor
    assert less.peak_memory_bytes == sure.peak_memory_bytes


def test_replicas_share_the_load_and_add_their_memory(large: serving_simulation.ServingSpec) -> None:
    four = replace(large, replicas=4, load=replace(large.load, requests_per_second=12.0, concurrency=128))
    assert serving_simulation.scale_to_replica(four).load == large.load
    assert serving_simulation.scale_to_replica(large) is large
    one, found = serving_simulation.predict_serving(large), serving_simulation.predict_serving(four)
    assert found.tokens_per_s.value == pytest.approx(4 * one.tokens_per_s.value)
    assert found.ttft_p95_s == one.ttft_p95_s
    assert found.peak_memory_bytes.value > 3.5 * one.peak_memory_bytes.value
    assert found.startup_s.value > one.startup_s.value
    assert found.disk_bytes == one.disk_bytes


def test_more_slots_and_longer_contexts_need_more_memory(desk: serving_simulation.ServingSpec) -> None:
    values = [
        serving_simulation.predict_serving(replace(desk, slots=slots)).peak_memory_bytes.value for slots in (1, 2, 4, 8)
    ]
    assert values == sorted(values)
    assert values[3] - values[2] == pytest.approx(4 * 1280 * 23_040 * 1.06, rel=0.01)
    assert (
        serving_simulation.replica_memory(replace(desk, context_tokens=2560)).cache
        == 2 * serving_simulation.replica_memory(desk).cache
    )


def test_what_fits_is_about_memory(desk: serving_simulation.ServingSpec, large: serving_simulation.ServingSpec) -> None:
    assert serving_simulation.fits_hardware(desk)
    assert serving_simulation.fits_hardware(large)
    assert not serving_simulation.fits_hardware(replace(desk, hardware=replace(desk.hardware, memory_bytes=200 << 20)))


def test_a_prompt_holds_its_template_and_the_cached_start_is_not_read(desk: serving_simulation.ServingSpec) -> None:
    assert serving_simulation.build_request(Arrival(1.0, 120, 60), 3.0, desk) == SimulatedRequest(3.0, 96, 24, 60)
    assert serving_simulation.build_request(Arrival(1.0, 5, 60), 3.0, desk) == SimulatedRequest(3.0, 7, 24, 60)
    assert serving_simulation.build_request(Arrival(1.0, 241, 60), 3.0, desk) == SimulatedRequest(3.0, 241, 0, 60)


def test_a_machine_too_slow_for_a_single_token_has_no_prediction(desk: serving_simulation.ServingSpec) -> None:
    hardware = replace(desk.hardware, compute_flops_per_s=within_factor(1e8, 1.1, "FLOP/s"))
    found = serving_simulation.predict_serving(replace(desk, hardware=hardware))
    assert found.tokens_per_s.low == 0.0
    assert found.ttft_p50_s.value > 60
