"""Engine options: the sign of each effect, where it ends, bands that only widen, and the choice."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sizing.conftest import CATALOG

from archwright.contract.needs import SLO, TokenLength
from archwright.contract.plan import EngineOptions
from archwright.contract.record import replace
from archwright.sizing.hardware.machine import Machine, SteadyCapacity
from archwright.sizing.inference import engine_options
from archwright.sizing.inference.deployment_layout import list_engine_layouts
from archwright.sizing.inference.engine_instance import EngineInstance
from archwright.sizing.inference.option_effects import describe_options, list_flags
from archwright.sizing.inference.serving_capacity import TextLoad, size_text_serving

COSTS = engine_options.read_costs(CATALOG)
LOAD = TextLoad("w", TokenLength(mean=3000, p95=7000), TokenLength(mean=300, p95=700), SLO(ttft_p95_s=2.0))
ALL = EngineOptions(
    prefix_hits=0.5, chunk_tokens=512, draft_tokens=3, acceptance=0.67, draft="some/draft", kv_format="fp8", adapters=4
)


def machine(device: str, count: int = 1) -> Machine:
    return Machine("m", CATALOG.accelerators[device], count, 64, 5e11)


def tuned(device: str = "H100-SXM-80GB", model: str = "Qwen3-14B", **options: Any) -> EngineInstance:
    (engine,) = list_engine_layouts(machine(device), CATALOG.models[model], LOAD.requests, CATALOG)
    found = engine_options.tune_engine(engine, replace(engine.options, **options), COSTS)
    assert found is not None
    return found


def sized(load: TextLoad, device: str = "L40S", model: str = "Llama-3.1-8B-Instruct") -> SteadyCapacity:
    found = size_text_serving(machine(device), CATALOG.models[model], load, CATALOG)
    assert found is not None
    return found


def test_a_cached_prefix_saves_prefill_and_memory_but_not_the_attention_to_it() -> None:
    plain, cached = tuned(), tuned(prefix_hits=0.5)
    prompt = 3000.0
    whole = plain.pace.prefill_s(prompt, prompt**2 / 2)
    part = cached.pace.prefill_s(prompt / 2, prompt**2 / 2 * 0.75)
    assert whole / 2 < part < 0.55 * whole
    assert cached.slots >= plain.slots
    assert cached.pace.uncontended_prefill(prompt).read_s < plain.pace.uncontended_prefill(prompt).read_s
    assert cached.pace.decode_step(prompt).step_s(8) == pytest.approx(plain.pace.decode_step(prompt).step_s(8))


def test_drafts_help_small_batches_and_harm_large_ones() -> None:
    plain, drafted = tuned(), tuned(draft_tokens=3, acceptance=0.67, draft="some/draft")
    assert drafted.pace.tokens.output == pytest.approx((1 - 0.67**4) / (1 - 0.67))

    def per_token(engine: EngineInstance, batch: float) -> float:
        return engine.pace.decode_step(500).step_s(batch) / engine.pace.tokens.output

    assert per_token(drafted, 1) < 0.6 * per_token(plain, 1)
    assert per_token(drafted, 2000) > per_token(plain, 2000)
    assert drafted.slots < plain.slots, "the draft takes memory"


def test_a_narrow_cache_has_more_slots_and_adapters_slow_every_step() -> None:
    plain, narrow = tuned(), tuned(kv_format="fp8")
    one, many = (tuned(adapters=count) for count in (1, 64))
    assert narrow.slots > 1.8 * plain.slots
    steps = [engine.pace.decode_step(4000).step_s(32) for engine in (narrow, plain, one, many)]
    assert steps == sorted(steps)
    assert many.slots < one.slots <= plain.slots
    (engine,) = list_engine_layouts(machine("H100-SXM-80GB"), CATALOG.models["Qwen3-14B"], LOAD.requests, CATALOG)
    assert engine_options.tune_engine(engine, EngineOptions(adapters=100_000), COSTS) is None


@pytest.mark.parametrize("batch", [1.0, 20.0])
def test_bands_of_options_only_widen(batch: float) -> None:
    engine = tuned(**{name: getattr(ALL, name) for name in ALL.__struct_fields__})
    wide = engine_options.widen_for_options(engine, LOAD.flow, batch, CATALOG).speed
    assert wide.steps.low < engine.speed.steps.low < engine.speed.steps.high < wide.steps.high
    assert wide.first.low < engine.speed.first.low < engine.speed.first.high < wide.first.high
    plain = tuned()
    assert engine_options.widen_for_options(plain, LOAD.flow, batch, CATALOG) is plain


def test_what_requests_share_never_carries_less_and_adapters_never_more() -> None:
    rates = [sized(LOAD._replace(shared_prefix=share)).requests_per_s.value for share in (0.0, 0.3, 0.6, 0.9)]
    assert rates == sorted(rates)
    assert rates[-1] > 1.5 * rates[0]
    adapted = [sized(LOAD._replace(adapters=count)).requests_per_s.value for count in (16, 8, 1)]
    # Options that gain less than 3 % are not chosen, so a load without adapters may carry that much less.
    assert adapted == sorted(adapted) and adapted[-1] < 1.03 * rates[0]


def test_options_are_chosen_only_where_they_carry_more() -> None:
    quick = sized(LOAD._replace(slo=SLO(tpot_p95_s=0.02))).options
    assert quick.draft_tokens == 3
    assert sized(LOAD, "A100-80GB-SXM").options.kv_format != "fp8", "the device does not compute in fp8"
    assert sized(LOAD, model="Qwen3-14B").options.draft_tokens == 0, "no draft is known"
    short = LOAD._replace(input_tokens=TokenLength(mean=200, p95=400))
    assert sized(short).options.chunk_tokens == 0


def test_the_plan_names_effects_bands_and_flags() -> None:
    engine = tuned(model="Qwen3-14B", prefix_hits=0.45, kv_format="fp8")
    prefix, cache = describe_options(engine, LOAD._replace(shared_prefix=0.5), CATALOG)
    work = prefix.effects["prefill work"]
    assert 0.4 < work.low < work.value < work.high < 0.7
    assert prefix.effects["requests/s"].low > 1
    assert cache.flag == "--kv-cache-dtype=fp8"
    assert prefix.source
    assert cache.source
    assert list_flags(CATALOG.engines["sglang"], ALL)["drafts"].startswith("--speculative-algorithm=EAGLE3")
