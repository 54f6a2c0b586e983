"""Capacity of one machine for a text workload: formats, layouts, limits, bands, and properties of any of them."""

from __future__ import annotations

import pytest
from tests.sizing.conftest import CATALOG, catalog_with, catalog_without_rates, known

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import BAND
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.sizing.hardware.machine import Machine, SteadyCapacity
from archwright.sizing.inference.deployment_layout import list_engine_layouts
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths
from archwright.sizing.inference.open_loop import ASSUMPTION
from archwright.sizing.inference.serving_capacity import TextLoad, size_text_serving
from archwright.sizing.step_time import fitted_tables

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
    seen, new_device = carried(machine("H100-SXM-80GB")), carried(machine("B300-SXM"))
    new_both = carried(machine("B300-SXM"), "Qwen3-14B")
    new_model = carried(machine("H100-SXM-80GB"), "Qwen3-14B")
    assert [found.bases[0].stratum for found in (seen, new_model, new_device, new_both)] == [
        "seen configuration, physics alone",
        "unseen model",
        "unseen accelerator",
        "unseen model and accelerator",
    ]
    factors = [found.requests_per_s.factor for found in (seen, new_model, new_device, new_both)]
    assert factors[0] > factors[1], "a model with a draft has the band of its acceptance too"
    assert max(factors[1:3]) < factors[3]
    band = fitted_tables.load_table("serving").find_band("tpot_s", "unseen model", "server")
    assert factors[1] >= max(band.high, 1 / band.low)
    row = replace(CATALOG.accelerators["H100-SXM-80GB"], confidence="recalled", as_of="")
    assert BAND[row.confidence] > BAND[CATALOG.accelerators["H100-SXM-80GB"].confidence]
    doubtful = known(size_text_serving(Machine("m", row, 1, 32, 2e11), CATALOG.models[SMALL], CHAT, CATALOG))
    assert doubtful.requests_per_s.factor > factors[0]
    # The choice of engine options may differ by 3 %.
    assert doubtful.requests_per_s.low < seen.requests_per_s.low
    assert doubtful.requests_per_s.value < 1.03 * seen.requests_per_s.value


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
