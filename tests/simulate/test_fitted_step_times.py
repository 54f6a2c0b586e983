"""The event simulation with the fitted steps gives back what the steps were fitted to: a closed loop's mean latencies.

Seen on 24 November 2026 over fifteen rounds: TPOT at 0.97 to 1.00 of the fitted, TTFT at 0.78 to 1.15, where it
matters how many rounds follow the first burst.
"""

from __future__ import annotations

from statistics import mean

import pytest

from archwright.catalog.load import load_catalog
from archwright.simulate.continuous_batching import ContinuousBatching, SimulatedRequest
from archwright.sizing.model.numeric_precision import NumericPrecision
from archwright.sizing.model.parallel_layout import ParallelLayout
from archwright.sizing.model.weight_groups import group_weights
from archwright.sizing.step_time import fitted_tables, step_time_model
from archwright.sizing.step_time.engine_step_times import CoefficientKey, FittedStepTimes
from archwright.sizing.step_time.step_work import ShardedModel, build_device_spec

CATALOG, FIT = load_catalog(), fitted_tables.load_table("serving")
ROUNDS = 15


# Model, accelerator, tensor ranks, format; requests in flight, prompt, answer.
CASES = (
    (("Llama-3.3-70B-Instruct", "H100-SXM-80GB", 4, "fp8"), (64, 1024, 512)),
    (("Llama-3.1-8B-Instruct", "H100-SXM-80GB", 1, "fp8"), (32, 1024, 256)),
    (("DeepSeek-V3", "H200-SXM-141GB", 8, "fp8"), (32, 4096, 512)),
    (("gpt-oss-120b", "B200-SXM", 1, "fp4"), (64, 1024, 1024)),
    (("Qwen3-32B", "H100-SXM-80GB", 1, "fp8"), (16, 8000, 500)),
)


@pytest.mark.parametrize(("engine", "load_"), CASES)
def test_a_closed_loop_is_as_fitted(engine: tuple[str, str, int, str], load_: tuple[int, int, int]) -> None:
    (name, device, width, number), (sent, prompt, answer) = engine, load_
    model, shape = CATALOG.models[name], group_weights(CATALOG.models[name])
    worker = ShardedModel(shape, NumericPrecision(number), ParallelLayout(tp=width, moe_tp=1, ep=width))
    row = build_device_spec(CATALOG.accelerators[device], NumericPrecision(number), shape.sparse)
    case = step_time_model.build_step_inputs(
        worker, row, "vllm", model.attention, step_time_model.RequestLoad(float(sent), prompt, answer)
    )
    assert case.requests == sent
    step = step_time_model.decode_step_s(case, FIT.coefficients["tpot"])
    tpot = step_time_model.mean_tpot_s(case, FIT.coefficients["tpot"])
    ttft = step_time_model.mean_ttft_s(case, FIT.coefficients["ttft.closed"], step, tpot)
    pace = FittedStepTimes(worker, row, CoefficientKey("vllm", model.attention), FIT.coefficients)
    found = ContinuousBatching(pace, 256, 2048).run(
        [SimulatedRequest(0.0, prompt, 0, answer) for _ in range(sent)],
        refill=lambda now: SimulatedRequest(now, prompt, 0, answer),
        until=ROUNDS * answer * tpot,
    )
    alone = pace.uncontended_prefill(float(prompt))
    beyond = alone.ttft_s(step) - alone.steps_s(step)
    assert mean(one.tpot_s for one in found if one.tpot_s is not None) == pytest.approx(tpot, rel=0.05)
    first = mean(one.ttft_s for one in found if one.finished and one.ttft_s is not None) + beyond
    # Clients of the fitted closed loops add waits that the steps of a server do not have.
    assert 0.35 < first / ttft < 1.1
