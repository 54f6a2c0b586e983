"""Capacity of one machine for a text workload: formats, layouts, limits, bands, and properties of any of them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, catalog_with, catalog_without_rates, known

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import BAND
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.sizing.hardware.machine import Machine, SteadyCapacity
from archwright.sizing.inference.deployment_layout import list_engine_layouts
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths
from archwright.sizing.inference.open_loop import ASSUMPTION, LIMITED_LATENCIES
from archwright.sizing.inference.serving_capacity import TextLoad, size_text_serving
from archwright.sizing.model.numeric_precision import NumericPrecision
from archwright.sizing.model.parallel_layout import ParallelLayout
from archwright.sizing.model.weight_groups import group_weights
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.step_time.step_work import USABLE_MEMORY_SHARE, WORKSPACE_BYTES, ShardedModel

CHAT = TextLoad(
    "support", TokenLength(mean=1800, p95=4200), TokenLength(mean=220, p95=600), SLO(ttft_p95_s=1.0, tpot_p95_s=0.05)
)
FREE = CHAT._replace(slo=SLO())
SMALL, LARGE = "Llama-3.1-8B-Instruct", "Llama-3.3-70B-Instruct"


def machine(accelerator: str | None, count: int = 1, *, cores: int = 32, ram: float = 256e9) -> Machine:
    device = CATALOG.accelerators[accelerator] if accelerator else None
    return Machine(f"{count}x {accelerator}", device, count if accelerator else 0, cores, ram)


def carried(where: Machine, model: str = SMALL, load_: TextLoad = CHAT, catalog: Catalog = CATALOG) -> SteadyCapacity:
    return known(size_text_serving(where, catalog.models[model], load_, catalog))


def layouts(
    where: Machine, model: str, requests: RequestLengths = CHAT.requests, catalog: Catalog = CATALOG
) -> tuple[EngineInstance, ...]:
    return list_engine_layouts(where, catalog.models[model], requests, catalog)


def test_a_machine_with_what_it_runs() -> None:
    found = carried(machine("H100-SXM-80GB", 8), LARGE)
    assert (found.model, found.engine, found.quantisation) == (LARGE, "vllm", "fp8")
    assert found.engines * found.devices == 8
    assert found.parallelism.tensor == found.devices
    assert found.parallelism.expert == 1
    assert found.misses == ()
    assert 1 <= found.slots <= 256
    assert found.context_tokens == 9728
    assert 3000 < found.busy_w < 8000
    assert any("keep the quality" in said for said in found.assumptions)


def test_every_number_has_a_band_a_unit_and_a_basis_that_is_there() -> None:
    for found in (carried(machine("H100-SXM-80GB")), carried(machine(None), "SmolLM2-135M-Instruct")):
        known = {basis.id for basis in found.bases}
        for estimate, unit in (
            (found.requests_per_s, "requests/s"),
            (found.latency_p95_s, "s"),
            (found.ttft_p95_s, "s"),
            (found.tpot_p95_s, "s"),
        ):
            assert estimate is not None
            assert estimate.low < estimate.value < estimate.high
            assert (estimate.unit, estimate.basis in known) == (unit, True)
        assert all(basis.formula and basis.facts and basis.stratum for basis in found.bases)
        assert len(known) == 2


def test_eight_bits_where_engine_and_device_multiply_them_and_narrower_only_where_nothing_else_fits() -> None:
    assert carried(machine("L4")).quantisation == "fp8"
    assert carried(machine("A10G")).quantisation == "bf16"
    assert carried(machine("A100-80GB-SXM")).quantisation == "bf16"
    assert carried(machine("T4")).quantisation == "int4"
    assert carried(machine("T4"), "Phi-4-mini-instruct").quantisation == "fp16"
    assert carried(machine("A10G"), "Gemma-3-12B-it").quantisation == "fp8"
    tight = carried(machine("H100-SXM-80GB"), LARGE)
    assert tight.quantisation == "int4"
    assert tight.assumptions[1] == "on H100-SXM-80GB weights are in int4, because they do not fit in fp8"
    assert carried(machine("H100-SXM-80GB", 2), LARGE).quantisation == "fp8"
    wide = catalog_with(engines={"vllm": replace(CATALOG.engines["vllm"], quantisations=("bf16", "odd"))})
    assert carried(machine("H100-SXM-80GB"), catalog=wide).quantisation == "bf16"
    assert size_text_serving(machine("H100-SXM-80GB"), CATALOG.models[LARGE], CHAT, wide) is None


def test_a_model_published_in_four_bits_stays_so() -> None:
    one, old = carried(machine("H100-SXM-80GB"), "gpt-oss-120b"), carried(machine("A100-80GB-SXM"), "gpt-oss-20b")
    assert (one.quantisation, one.devices, old.quantisation) == ("fp4", 1, "fp4")
    assert size_text_serving(machine("V100-32GB-SXM2"), CATALOG.models["gpt-oss-20b"], CHAT, CATALOG) is None
    assert one.assumptions == ("weights in fp4 keep the quality that was reported for the model", ASSUMPTION)


def test_experts_and_heads_are_spread_over_the_devices_of_an_engine() -> None:
    found = carried(machine("H200-SXM-141GB", 8), "DeepSeek-V3")
    assert (found.devices, found.parallelism.tensor, found.parallelism.expert) == (8, 8, 8)
    groups = [
        (engine.devices, engine.copies) for engine in layouts(machine("H100-SXM-80GB", 8), "SmolLM2-135M-Instruct")
    ]
    assert groups == [(1, 8)], "devices that do not divide the heads work in smaller groups"


TINY = replace(CATALOG.accelerators["L4"], memory_bytes=2 << 30)


@pytest.mark.parametrize(
    ("where", "model", "load_"),
    [
        (machine("L4"), "DeepSeek-V3", CHAT),
        pytest.param(machine("TPUv5e"), SMALL, CHAT, id="no engine drives the device"),
        (machine("V100-16GB-SXM2"), "Qwen3-32B", CHAT),
        pytest.param(Machine("tiny", TINY, 1, 8, 6e10), "SmolLM2-135M-Instruct", CHAT, id="too small for its run time"),
        pytest.param(
            machine("A10G"), SMALL, CHAT._replace(input_tokens=TokenLength(mean=60000, p95=60000)), id="long context"
        ),
    ],
)
def test_what_fits_nowhere_or_no_engine_drives_is_nothing(where: Machine, model: str, load_: TextLoad) -> None:
    assert size_text_serving(where, CATALOG.models[model], load_, CATALOG) is None


def test_without_an_engine_for_accelerators_nothing_is_guessed() -> None:
    bare = catalog_with(engines={})
    with pytest.raises(CatalogError, check=lambda error: error.code == "AW-CAT-30"):
        size_text_serving(machine("L4"), CATALOG.models[SMALL], CHAT, bare)
    assert size_text_serving(machine(None), CATALOG.models[SMALL], CHAT, bare) is None


def test_a_host_processor_runs_small_models() -> None:
    host = carried(machine(None), "SmolLM2-135M-Instruct", FREE)
    assert (host.engine, host.quantisation, host.engines, host.devices) == ("llamacpp", "Q4_1", 1, 0)
    assert host.requests_per_s.value > 0.1
    assert host.requests_per_s.factor > 2
    more = carried(machine(None, cores=64), "SmolLM2-135M-Instruct", FREE)
    assert more.requests_per_s.value > 1.5 * host.requests_per_s.value
    few = carried(machine(None, ram=1.6e9), "SmolLM2-135M-Instruct", FREE)
    assert few.slots < host.slots
    assert size_text_serving(machine(None, ram=16e9), CATALOG.models[LARGE], FREE, CATALOG) is None
    processor = Machine("cpu", CATALOG.accelerators["CPU-GRAVITON4"], 1, 32, 256e9)
    assert carried(processor, "SmolLM2-135M-Instruct", FREE).devices == 0


def test_a_large_model_on_a_host_is_limited_by_its_memory() -> None:
    found = carried(machine(None, cores=4), "Gemma-3-27B-it", FREE)
    assert found.bases[0].stratum == "host processor, assumed row"
    assert found.requests_per_s.value < 0.01


def test_the_band_is_that_of_the_stratum_and_of_the_row() -> None:
    seen, new_device = carried(machine("H100-SXM-80GB")), carried(machine("L40S"))
    new_both = carried(machine("L40S"), "Qwen3-14B")
    new_model = carried(machine("H100-SXM-80GB"), "Qwen3-14B")
    assert [found.bases[0].stratum for found in (seen, new_model, new_device, new_both)] == [
        "seen configuration, physics alone",
        "unseen model",
        "unseen accelerator",
        "unseen model and accelerator",
    ]
    factors = [found.requests_per_s.factor for found in (seen, new_model, new_device, new_both)]
    assert factors[0] > factors[1], "a model with a draft has the band of its acceptance too"
    assert factors[1] < factors[2] < factors[3]
    band = fitted_tables.load_table("serving").find_band("tpot_s", "unseen model", "")
    assert factors[1] >= max(band.high, 1 / band.low)
    row = replace(CATALOG.accelerators["H100-SXM-80GB"], confidence="recalled", as_of="")
    assert BAND[row.confidence] > BAND[CATALOG.accelerators["H100-SXM-80GB"].confidence]
    doubtful = known(size_text_serving(Machine("m", row, 1, 32, 2e11), CATALOG.models[SMALL], CHAT, CATALOG))
    assert doubtful.requests_per_s.factor > factors[0]
    assert doubtful.requests_per_s.value < seen.requests_per_s.value, "a wider band takes more for the same certainty"


def test_what_no_row_of_the_fit_is_like_is_less_sure() -> None:
    row = CATALOG.accelerators["L4"]
    strange = (replace(row, vendor="another"), replace(row, flops={"fp16": 121e12, "fp8": 242e12}))
    usual = carried(machine("L4"), "Qwen3-4B").requests_per_s.factor
    for device in strange:
        found = known(size_text_serving(Machine("m", device, 1, 32, 2e11), CATALOG.models["Qwen3-4B"], CHAT, CATALOG))
        assert found.requests_per_s.factor > 1.1 * usual


def test_a_device_short_of_power_multiplies_at_what_it_sustains() -> None:
    plain = catalog_without_rates("serving.rate")
    for name in ("T4", "L4"):
        stated, sustained = (layouts(machine(name), "Qwen3-4B", catalog=rates)[0] for rates in (plain, CATALOG))
        share = CATALOG.work_rates[f"serving.rate-{name}"].typical
        assert stated.pace.prefill_s(1000, 5e5) == pytest.approx(share * sustained.pace.prefill_s(1000, 5e5), rel=0.01)
        decode = stated.pace.decode_step(1000).step_s(1)
        assert decode == pytest.approx(sustained.pace.decode_step(1000).step_s(1), rel=0.01)
        assert "sustained" in sustained.speed.facts[-1]


def test_a_maker_measured_against_the_fit_is_as_slow_as_measured() -> None:
    measured = carried(machine("MI300X"), "Qwen3-14B", FREE)
    unknown = carried(machine("MI300X"), "Qwen3-14B", FREE, catalog=catalog_without_rates("serving.speed"))
    assert measured.requests_per_s.value == pytest.approx(0.75 * unknown.requests_per_s.value, rel=0.1)
    assert measured.requests_per_s.factor < unknown.requests_per_s.factor
    assert "another maker's devices" in measured.bases[0].facts[-2]


def test_an_engine_the_fit_never_saw_is_less_sure() -> None:
    other = catalog_with(engines={"new": replace(CATALOG.engines["vllm"], id="new")})
    found = carried(machine("H100-SXM-80GB"), catalog=other)
    assert found.engine == "new"
    assert found.requests_per_s.factor > carried(machine("H100-SXM-80GB")).requests_per_s.factor


def test_limits_an_idle_machine_breaks_are_named_with_what_it_reaches() -> None:
    found = carried(machine("L4"), load_=CHAT._replace(slo=SLO(ttft_p95_s=0.001, latency_p95_s=0.001)))
    assert [miss.constraint for miss in found.misses] == ["support.ttft_p95_s", "support.latency_p95_s"]
    assert {miss.limit for miss in found.misses} == {0.001}
    assert all(isinstance(miss.value, float) and miss.value > 0.01 for miss in found.misses)
    free = carried(machine("L4"), load_=FREE)
    assert found.requests_per_s.value == free.requests_per_s.value


def test_requests_longer_than_the_model_reads_are_a_miss() -> None:
    long = FREE._replace(input_tokens=TokenLength(mean=7000, p95=12000))
    found = carried(machine("H100-SXM-80GB"), "SmolLM2-135M-Instruct", long)
    (miss,) = found.misses
    assert (miss.constraint, miss.value, miss.limit) == ("support.context_tokens", 12600.0, 8192.0)


def test_the_layout_that_breaks_the_fewest_limits_then_the_one_that_carries_most() -> None:
    where = machine("H100-SXM-80GB", 8)
    loose, tight = carried(where, LARGE, FREE), carried(where, LARGE, FREE._replace(slo=SLO(tpot_p95_s=0.012)))
    assert tight.devices > loose.devices
    assert (tight.misses, loose.misses) == ((), ())
    assert [engine.devices for engine in layouts(where, LARGE)] == [1, 2, 4, 8]


DEVICES = ("T4", "L4", "A10G", "A100-80GB-SXM", "H100-SXM-80GB", "B200-SXM", "MI300X")
MODELS = (SMALL, LARGE, "gpt-oss-120b", "DeepSeek-V3", "Gemma-3-12B-it", "Qwen3.5-35B-A3B")
positive = st.floats(1e-3, 1e3)
slos = st.builds(SLO, **dict.fromkeys(LIMITED_LATENCIES, st.one_of(st.none(), positive)))
loads = st.builds(
    lambda reads, tail, writes, slo: TextLoad(
        "w", TokenLength(mean=reads, p95=reads * tail), TokenLength(mean=writes, p95=writes * 2), slo
    ),
    *(st.floats(1e-3, 1e9), st.floats(1, 4), st.floats(1e-3, 1e9)),
    slos,
)
machines = st.one_of(
    st.builds(machine, st.sampled_from(DEVICES), st.sampled_from((1, 2, 4, 8))),
    st.builds(machine, st.none(), cores=st.integers(1, 256), ram=st.floats(1e9, 2e12)),
)


@settings(max_examples=60, deadline=None)
@given(machines, st.sampled_from(MODELS), loads)
def test_absurd_loads_give_numbers_or_nothing(where: Machine, model: str, asked: TextLoad) -> None:
    found = size_text_serving(where, CATALOG.models[model], asked, CATALOG)
    if found is None:
        return
    for estimate in (found.requests_per_s, found.latency_p95_s, found.ttft_p95_s, found.tpot_p95_s):
        assert estimate is not None
        assert math.isfinite(estimate.value)
        assert estimate.value > 0
    missed = {miss.constraint for miss in found.misses}
    for name, reached in (("ttft_p95_s", found.ttft_p95_s), ("tpot_p95_s", found.tpot_p95_s)):
        limit = getattr(asked.slo, name)
        assert reached is not None
        assert limit is None or f"w.{name}" in missed or reached.value <= limit


@settings(max_examples=40, deadline=None)
@given(machines, st.sampled_from(MODELS), loads, st.floats(1, 10), st.booleans())
def test_longer_requests_never_carry_more(
    where: Machine, model: str, asked: TextLoad, longer: float, prompts: bool
) -> None:
    spec = CATALOG.models[model]
    old = asked.input_tokens if prompts else asked.output_tokens
    new = TokenLength(mean=old.mean * longer, p95=old.p95 * longer)
    grown = asked._replace(input_tokens=new) if prompts else asked._replace(output_tokens=new)
    short, long = size_text_serving(where, spec, asked, CATALOG), size_text_serving(where, spec, grown, CATALOG)
    free = size_text_serving(where, spec, grown._replace(slo=SLO()), CATALOG)
    if long is None or long.misses or free is None:
        return
    assert short is not None
    # Close to an idle engine's latency, the lowest load decides (open_loop.py).
    if long.requests_per_s.value > 0.05 * free.requests_per_s.value:
        assert short.misses == ()
        assert long.requests_per_s.value <= short.requests_per_s.value * (1 + 1e-3)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(DEVICES), st.sampled_from(MODELS), loads)
def test_more_accelerators_with_the_same_engines_carry_more(device: str, model: str, asked: TextLoad) -> None:
    by_count = [
        {engine.devices: engine for engine in layouts(machine(device, count), model, asked.requests)}
        for count in (1, 2, 4, 8)
    ]
    for fewer, more in pairwise(by_count):
        for width, engine in fewer.items():
            twin = more.get(width)
            if twin is not None and twin.quantisation == engine.quantisation:
                assert twin.copies == 2 * engine.copies
                assert (twin.pace, twin.slots) == (engine.pace, engine.slots)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DEVICES), st.sampled_from((1, 2, 4, 8)), st.sampled_from(MODELS), loads)
def test_engines_and_their_places_never_exceed_a_devices_memory(
    device: str, count: int, model: str, asked: TextLoad
) -> None:
    spec, row = CATALOG.models[model], CATALOG.accelerators[device]
    usable = row.memory_bytes * USABLE_MEMORY_SHARE - WORKSPACE_BYTES
    for engine in layouts(machine(device, count), model, asked.requests):
        width = engine.devices
        number = NumericPrecision("bf16" if engine.quantisation == "fp16" else engine.quantisation)
        worker = ShardedModel(group_weights(spec), number, ParallelLayout(tp=width, moe_tp=1, ep=width))
        held = worker.weight_bytes() + engine.slots * worker.request_cache_bytes(asked.requests.mean_cached_tokens)
        assert held <= usable
        assert worker.weight_bytes() + worker.request_cache_bytes(engine.context_tokens) <= usable
        assert engine.copies * width <= count


def test_a_place_holds_twice_the_long_requests_in_whole_steps() -> None:
    nothing = RequestLengths(TokenLength(mean=0.01, p95=0.1), TokenLength(mean=0.01, p95=0.1))
    assert nothing.context_tokens(CATALOG.models[SMALL]) == 256
    requests = RequestLengths(TokenLength(mean=100, p95=300), TokenLength(mean=50, p95=80))
    assert requests.context_tokens(CATALOG.models[SMALL]) == 768
    assert requests.mean_cached_tokens == 137.5
    long = RequestLengths(TokenLength(mean=1e5, p95=2e5), CHAT.output_tokens)
    assert long.context_tokens(CATALOG.models[SMALL]) == 131072


def at_certainty(certainty: float, ttft_p95_s: float = 1.0, tpot_p95_s: float = 0.05) -> TextLoad:
    return CHAT._replace(slo=SLO(ttft_p95_s=ttft_p95_s, tpot_p95_s=tpot_p95_s, certainty=certainty))


@pytest.mark.parametrize("device", ["H100-SXM-80GB", "L40S", "L4"])
def test_the_planned_load_holds_every_limit_with_the_certainty_and_more_certainty_plans_less(device: str) -> None:
    planned = [carried(machine(device), load_=at_certainty(share)) for share in (0.5, 0.6, 0.7, 0.8, 0.9)]
    rates = [one.requests_per_s.value for one in planned]
    assert all(less <= more * 1.001 for more, less in pairwise(rates)) and rates[-1] < 0.99 * rates[0]
    for one, rate in zip(planned, rates, strict=True):
        surplus = min(limit.probability - limit.certainty for limit in one.assess(rate))
        assert surplus < 0.005 if one.doubts else surplus > -0.005
        assert one.requests_per_s.low <= rate <= one.requests_per_s.high


def test_a_limit_holds_more_likely_at_less_load_and_if_it_is_looser() -> None:
    sized = carried(machine("L40S"), load_=at_certainty(0.5))
    most = sized.requests_per_s.value
    for name, limits in (("ttft_p95_s", (0.5, 1.0, 2.0)), ("tpot_p95_s", (0.03, 0.05, 0.08))):
        by_load = [chance_of(sized, name, most * share) for share in (0.25, 0.5, 1.0, 1.5)]
        assert by_load == sorted(by_load, reverse=True) and by_load[0] > by_load[-1]
        looser = [
            chance_of(carried(machine("L40S"), load_=at_certainty(0.5, **{name: at})), name, most) for at in limits
        ]
        assert looser == sorted(looser) and looser[0] < looser[-1]


def chance_of(sized: SteadyCapacity, name: str, rate: float) -> float:
    return next(one.probability for one in sized.assess(rate) if one.limit == f"support.{name}")


def test_the_probability_is_that_of_the_slowdown_at_which_the_limit_is_reached() -> None:
    """At even odds the planned load is where the expected latency is the limit; an idle engine's latency scales."""
    sized = carried(machine("L40S"), load_=at_certainty(0.5, ttft_p95_s=0.4))
    chances = [one.probability for one in sized.assess(sized.requests_per_s.value)]
    assert min(chances) == pytest.approx(0.5, abs=0.01)
    idle = next(one for one in sized.assess(1e-6) if one.limit.endswith("tpot_p95_s"))
    assert idle.probability == pytest.approx(idle.predicted.chance_below(0.05), abs=0.02)


def test_no_number_of_machines_holds_a_limit_near_the_idle_latency_for_certain() -> None:
    idle = carried(machine("L4")).assess(1e-6)[1].predicted.value
    sized = carried(machine("L4"), load_=at_certainty(0.9, 60.0, idle * 1.05))
    assert not sized.misses and sized.doubts == 1 and sized.weakness == 0.01
    assert chance_of(sized, "tpot_p95_s", sized.requests_per_s.value) < 0.7
