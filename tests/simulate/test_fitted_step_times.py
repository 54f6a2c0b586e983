"""The event simulation with the fitted steps gives back what the steps were fitted to: a closed loop's mean latencies.

Seen on 24 November 2026 over fifteen rounds: TPOT at 0.97 to 1.00 of the fitted, TTFT at 0.78 to 1.15, where it
matters how many rounds follow the first burst.
"""

from __future__ import annotations

from statistics import mean

import pytest

from archwright.catalog.load import load_catalog
from archwright.simulate.continuous_batching import Batching, Request
from archwright.sizing.model.numeric_precision import Format
from archwright.sizing.model.parallel_layout import Layout
from archwright.sizing.model.weight_groups import shape_of
from archwright.sizing.step_time import fitted_tables, step_time_model
from archwright.sizing.step_time.engine_step_times import Fitted, Kind
from archwright.sizing.step_time.step_work import Worker, device_of

CATALOG, FIT = load_catalog(), fitted_tables.load("serving")
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
    model, shape = CATALOG.models[name], shape_of(CATALOG.models[name])
    worker = Worker(shape, Format(number), Layout(tp=width, moe_tp=1, ep=width))
    row = device_of(CATALOG.accelerators[device], Format(number), shape.sparse)
    case = step_time_model.case_of(
        worker, row, "vllm", model.attention, step_time_model.Traffic(float(sent), prompt, answer)
    )
    assert case.requests == sent
    step = step_time_model.step_s(case, FIT.coefficients["tpot"])
    tpot = step_time_model.tpot_s(case, FIT.coefficients["tpot"])
    ttft = step_time_model.ttft_s(case, FIT.coefficients["ttft"], step, tpot)
    pace = Fitted(worker, row, Kind("vllm", model.attention), FIT.coefficients)
    found = Batching(pace, 256, 2048).run(
        [Request(0.0, prompt, 0, answer) for _ in range(sent)],
        refill=lambda now: Request(now, prompt, 0, answer),
        until=ROUNDS * answer * tpot,
    )
    alone = pace.alone(float(prompt))
    beyond = alone.ttft_s(step) - alone.steps_s(step)
    assert mean(one.tpot_s for one in found if one.tpot_s is not None) == pytest.approx(tpot, rel=0.05)
    first = mean(one.ttft_s for one in found if one.finished and one.ttft_s is not None) + beyond
    assert 0.7 < first / ttft < 1.3
