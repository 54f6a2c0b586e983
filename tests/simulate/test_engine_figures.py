"""A calibration finds the shares that explain its figures, whichever side of the roofline binds."""

from __future__ import annotations

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.simulate.engine_figures import (
    CALIBRATED_BAND,
    EngineRun,
    calibrate_efficiency,
    measure_spread,
    predict_engine_run,
    simulate_engine_run,
)
from archwright.simulate.serving_simulation import ServingSpec

RUN = EngineRun(200, 24)


@pytest.mark.parametrize("decode", [0.4, 0.05])
@pytest.mark.parametrize("bandwidth", [0.9, 0.1])
def test_the_calibrated_row_predicts_what_was_measured(desk: ServingSpec, decode: float, bandwidth: float) -> None:
    true = replace(
        desk.efficiency,
        prefill_share_of_matmul=0.3,
        decode_share_of_matmul=decode,
        decode_share_of_matmul_batched=1.3 * decode,
        decode_share_of_bandwidth=bandwidth,
        memory_overhead_bytes=90_000_000,
        startup_s=1.4,
    )
    measured = simulate_engine_run(replace(desk, efficiency=true), RUN)
    row = calibrate_efficiency(desk, RUN, measured, 1.05)
    found = simulate_engine_run(replace(desk, efficiency=row), RUN)
    assert found == pytest.approx(measured, rel=0.02)
    before, after = predict_engine_run(desk, RUN), predict_engine_run(replace(desk, efficiency=row), RUN)
    for name, value in measured._asdict().items():
        assert after[name].contains(value), name
    for name in measured._fields[:3]:
        assert after[name].factor < before[name].factor


def test_a_noisy_run_keeps_its_spread(desk: ServingSpec) -> None:
    measured = simulate_engine_run(desk, RUN)
    assert calibrate_efficiency(desk, RUN, measured, 1.4).high_factor == 1.4
    assert calibrate_efficiency(desk, RUN, measured, 1.0).high_factor == CALIBRATED_BAND
    assert measure_spread([2.0, 2.0]) == 1.0 and measure_spread([1.0, 4.0]) == pytest.approx(2.0)


def test_without_a_batched_share_in_reach_one_slot_is_enough(desk: ServingSpec) -> None:
    one = replace(desk, slots=1, efficiency=load_catalog().efficiency("llamacpp", "Q8_0", "avx512"))
    measured = simulate_engine_run(one, RUN, 1.5)
    row = calibrate_efficiency(one, RUN, measured, 1.0)
    assert simulate_engine_run(replace(one, efficiency=row), RUN) == pytest.approx(measured, rel=0.02)
