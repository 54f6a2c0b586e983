"""The capacity formulas against the event simulation of the same steps.

Over three models, three accelerators and three loads, with a limit on TPOT and one on TTFT each set midway between an
idle engine and one at its unlimited capacity: at 0.95 of the capacity the simulated p95 holds the limit, at 1.6 times
it breaks it. Seen on 28 November 2026, in parts of the limit: 0.85 to 1.05 and 0.97 to 13.5.
HOLDS and BREAKS are the tolerances: a p95 of 1,200 requests is itself uncertain by some percent, and an engine with few
places carries somewhat more than the formulas say (2 of 54 cases hold at 1.6 times).
"""

from __future__ import annotations

from itertools import product

import pytest
from tests.sizing.conftest import CATALOG

from archwright.contract.needs import SLO, TokenLength
from archwright.contract.plan import EngineOptions, LoadSpec
from archwright.simulate import pool_simulation
from archwright.simulate.pool_simulation import PoolScenario, simulate_peak
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.inference import engine_options
from archwright.sizing.inference.deployment_layout import list_engine_layouts
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths
from archwright.sizing.inference.open_loop import build_request_profile

MODELS = ("Llama-3.1-8B-Instruct", "Qwen3-32B", "gpt-oss-120b")
DEVICES = ("A100-80GB-SXM", "H100-SXM-80GB", "MI300X")
LOADS = {
    "chat": (TokenLength(mean=600, p95=1500), TokenLength(mean=250, p95=600)),
    "documents": (TokenLength(mean=3500, p95=6000), TokenLength(mean=300, p95=700)),
    "writing": (TokenLength(mean=1200, p95=2500), TokenLength(mean=900, p95=1800)),
}
HOLDS, BREAKS = 1.07, 0.95
P95 = 1


def engine_for(model: str, device: str, lengths: tuple[TokenLength, TokenLength]) -> EngineInstance:
    accelerator = CATALOG.accelerators[device]
    for count in (1, 2, 4, 8):
        machine = Machine("m", accelerator, count, 64, 5e11)
        found = list_engine_layouts(machine, CATALOG.models[model], RequestLengths(*lengths), CATALOG)
        if found:
            return found[-1]
    raise AssertionError(f"{model} fits no {device}")


def simulated(engine: EngineInstance, lengths: tuple[TokenLength, TokenLength], rate: float) -> tuple[float, float]:
    """TTFT and TPOT at p95 of one engine at a rate, steady."""
    spec = LoadSpec(
        workload="w",
        model="m",
        requests_per_second=rate,
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        concurrency=1,
        peak_s=pool_simulation.REQUESTS / rate,
    )
    found = simulate_peak(PoolScenario("m", engine, 1, spec), 1.0)
    return found.ttft_s[P95], found.tpot_s[P95]


@pytest.mark.parametrize(("model", "device", "kind"), list(product(MODELS, DEVICES, LOADS)))
def test_the_capacity_is_where_the_simulation_says(
    model: str, device: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_simulation, "REQUESTS", 1200)
    lengths = LOADS[kind]
    engine = engine_for(model, device, lengths)
    check_capacity(engine, lengths)


def check_capacity(engine: EngineInstance, lengths: tuple[TokenLength, TokenLength]) -> None:
    loop = engine_options.open_loop_of(engine, build_request_profile(*lengths))
    idle, free = loop.idle, loop.find_max_load(SLO()).point
    for place, name in enumerate(("ttft_p95_s", "tpot_p95_s")):
        limit = (getattr(idle, name) + getattr(free, name)) / 2
        rate = loop.find_max_load(SLO(**{name: limit})).point.rate
        assert simulated(engine, lengths, 0.95 * rate)[place] <= limit * HOLDS, name
        assert simulated(engine, lengths, 1.6 * rate)[place] >= limit * BREAKS, name


OPTIONS = (
    ("Llama-3.1-8B-Instruct", "H100-SXM-80GB", "documents", EngineOptions(prefix_hits=0.5)),
    ("Llama-3.1-8B-Instruct", "L40S", "documents", EngineOptions(prefix_hits=0.4, chunk_tokens=8192)),
    (
        "Llama-3.1-8B-Instruct",
        "A100-80GB-SXM",
        "writing",
        EngineOptions(draft_tokens=3, acceptance=0.67, draft="some/draft"),
    ),
    ("DeepSeek-V3", "B200-SXM", "chat", EngineOptions(draft_tokens=1, acceptance=0.85, draft="mtp")),
    ("Qwen3-32B", "H100-SXM-80GB", "documents", EngineOptions(chunk_tokens=512, kv_format="fp8", adapters=4)),
)


@pytest.mark.parametrize(("model", "device", "kind", "options"), OPTIONS)
def test_the_capacity_with_options_is_where_the_simulation_says(
    model: str, device: str, kind: str, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_simulation, "REQUESTS", 1200)
    lengths, costs = LOADS[kind], engine_options.read_costs(CATALOG)
    engine = engine_options.tune_engine(engine_for(model, device, lengths), options, costs)
    assert engine is not None
    check_capacity(engine, lengths)
