"""The serving predictor: properties of any physics, strata, bands and stated assumptions."""

from __future__ import annotations

import math

import pytest
from tests.sizing.conftest import SUBJECTS, catalog_with, catalog_without_rates, known

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.step_time import fitted_tables, step_time_model
from archwright.sizing.step_time.residual_features import parse_version

ASKED = ServingQuery(
    model="Llama-3.1-70B",
    accelerator="h100_sxm",
    devices=4,
    parallelism="TP4",
    precision="fp8",
    engine="vllm 0.18.0",
    scenario="fixed_concurrency_agg",
    concurrency=32.0,
    input_tokens=1024.0,
    output_tokens=1024.0,
)


def answered(**changes: object) -> serving_prediction.DeploymentPrediction:
    return serving_prediction.predict_deployment(replace(ASKED, **changes), SUBJECTS)


def resolved(**changes: object) -> serving_prediction.ResolvedDeployment:
    return serving_prediction.resolve_deployment(replace(ASKED, **changes), SUBJECTS)


def centre(**changes: object) -> tuple[float, float]:
    """TPOT and TTFT of the physics alone, which must be monotone; trees need not be."""
    return serving_prediction.predict_means(
        resolved(**changes), fitted_tables.load_table("serving"), serving_prediction.NEW_MODEL
    )


def spread(found: Estimate | None) -> float:
    return known(found).high / known(found).low


def test_a_seen_configuration_has_all_three_numbers_inside_their_bands() -> None:
    found = answered()
    assert found.stratum == serving_prediction.SEEN
    assert found.weak == ()
    for guess in (known(found.tpot_s), known(found.ttft_s), found.tokens_per_s):
        assert 0 < guess.low < guess.value < guess.high


@pytest.mark.parametrize(
    ("field", "sizes"),
    [("concurrency", [2**power for power in range(12)]), ("input_tokens", [1, 128, 1024, 8192, 32768])],
)
def test_more_requests_and_longer_prompts_never_make_anything_faster(field: str, sizes: list[int]) -> None:
    for times in zip(*(centre(**{field: float(size)}) for size in sizes), strict=True):
        assert list(times) == sorted(times)


def test_where_the_cache_is_short_requests_wait() -> None:
    fits_in, waits = centre(input_tokens=8000.0), centre(input_tokens=8000.0, concurrency=2000.0)
    assert waits[1] > 100 * fits_in[1]
    assert answered(input_tokens=8000.0, concurrency=2000.0).regime == serving_prediction.QUEUEING


def test_beyond_what_the_cache_holds_no_more_is_answered() -> None:
    small = {"model": "Llama-3.1-8B-Instruct", "devices": 1, "parallelism": "TP1"}
    rates = [answered(concurrency=sent, **small).tokens_per_s for sent in (1024.0, 4096.0, 16384.0)]
    full = answered(concurrency=None, scenario="offline_max", **small)
    assert max(rate.value for rate in rates) <= full.tokens_per_s.high


def test_copies_share_the_load_and_pipeline_stages_hold_more_and_are_not_faster() -> None:
    alone, copies, stages = centre(), centre(concurrency=64.0, devices=8), centre(parallelism="TP4PP2", devices=8)
    assert alone == pytest.approx(copies)
    assert 0.5 * alone[0] < stages[0] <= alone[0]


def test_experts_spread_over_attention_ranks_exchange_their_tokens() -> None:
    whole, alone = (
        resolved(model="DeepSeek-V3", parallelism=layout, devices=8)
        for layout in ("TP1 DP8 EP8", "TP1 DP8 MoE-TP8 EP1")
    )
    assert whole.case.exchange_s > alone.case.exchange_s == 0


@pytest.mark.parametrize(
    ("stratum", "changes"),
    [
        (serving_prediction.NEW_MODEL, {"model": "Qwen3-14B"}),
        (serving_prediction.NEW_ACCELERATOR, {"accelerator": "b300_sxm"}),
        (serving_prediction.NEW_BOTH, {"model": "Qwen3-14B", "accelerator": "b300_sxm"}),
        pytest.param(serving_prediction.NEW_MODEL, {"engine": "something new"}, id="physics alone, as a plan takes it"),
        pytest.param(serving_prediction.SEEN, {"model": "meta-llama/Llama-3.3-70B"}, id="one shape is one model"),
        pytest.param(serving_prediction.NEW_ACCELERATOR, {"model": "zhipuai/GLM-5"}, id="pair unseen"),
    ],
)
def test_strata(stratum: str, changes: dict[str, str]) -> None:
    found = answered(**changes)
    assert found.stratum == stratum
    assert ("no fitted row is of this engine" in found.weak) == ("engine" in changes)


def test_weak_rows_say_why_and_are_wider() -> None:
    whole, weak = answered(), answered(parallelism="TP1", devices=1, precision="bf16")
    assert "the weights exceed the devices' memory" in weak.weak
    assert spread(weak.ttft_s) > spread(whole.ttft_s)
    assert any("needs 8 devices" in why for why in answered(parallelism="TP8", devices=4).weak)
    assert any("precision" in why for why in answered(precision="").weak)
    one, both = answered(accelerator="b300_sxm"), answered(accelerator="b300_sxm", model="Qwen3-14B")
    assert spread(both.tpot_s) > spread(one.tpot_s), "two unknowns are wider than one"


def test_what_is_not_stated_is_assumed_and_reported() -> None:
    found = answered(parallelism="", concurrency=None, input_tokens=None, output_tokens=None, scenario="")
    assert found.assumed[0].startswith("parallelism: TP") and len(found.assumed) == 3
    assert found.assumed[1:] == ("prompt and output length", "requests in flight: as many as fit")
    unplaced = resolved(parallelism="", devices=0, precision="bf16")
    assert unplaced.worker.layout.tp == 4, "four devices hold 141 GB in 16 bits"
    assert "prompt and output length" in answered(output_tokens=None).assumed


def test_suites_bring_their_own_load() -> None:
    suite = {"model": "Llama-2-70B", "concurrency": None, "input_tokens": None, "output_tokens": None}
    offline, server = answered(scenario="mlperf_offline", **suite), answered(scenario="mlperf_server", **suite)
    assert server.tokens_per_s.value < offline.tokens_per_s.value
    assert (offline.regime, server.regime) == (step_time_model.OFFLINE, step_time_model.OPEN)
    assert server.weak == ("the load of a request rate is not stated",)
    assert resolved(scenario="mlperf_offline", model="GPT-J 6B", output_tokens=None).beams == 4


def test_an_unstated_engine_is_the_one_that_plans_deploy() -> None:
    unstated, stated = answered(engine=""), answered(engine="vllm")
    assert unstated.stratum == serving_prediction.SEEN
    assert unstated[:4] == stated[:4]
    assert f"engine: {SUBJECTS.catalog.default_engine.id}" in unstated.assumed
    assert not any(text.startswith("engine") for text in stated.assumed)


def test_disaggregated_rows_have_trees_of_their_own_whatever_was_seen() -> None:
    found = resolved(model="DeepSeek-V3", parallelism="disagg P:2x(TP8 DP1) D:1x(TP8 DP1)", devices=24)
    fit = fitted_tables.load_table("serving")
    assert serving_prediction.classify_regime(found) == serving_prediction.DISAGGREGATED
    seen = serving_prediction.predict_means(found, fit, serving_prediction.SEEN)
    unseen = serving_prediction.predict_means(found, fit, serving_prediction.NEW_MODEL)
    assert seen[0] == unseen[0] != step_time_model.mean_tpot_s(found.case, fit.coefficients["tpot"])
    assert seen[1] != unseen[1]


def test_a_power_limit_lowers_the_matmul_rates() -> None:
    catalogs = SUBJECTS, BenchmarkNameResolver(catalog_without_rates("serving."))
    small = {"model": "Llama-3.1-8B-Instruct", "devices": 1, "parallelism": "TP1", "precision": "bf16"}
    asked = replace(ASKED, accelerator="L4", concurrency=8.0, **small)
    measured, stated = (serving_prediction.resolve_deployment(asked, subjects) for subjects in catalogs)
    share = SUBJECTS.catalog.work_rates["serving.rate-L4"].typical
    assert measured.case.read_trunk_s == pytest.approx(stated.case.read_trunk_s / share)
    slow, fast = (known(serving_prediction.predict_deployment(asked, subjects).tpot_s).value for subjects in catalogs)
    assert slow > fast


@pytest.mark.parametrize(
    ("scenario", "requests", "kind"),
    [
        ("fixed_concurrency_agg", None, step_time_model.CLOSED),
        ("fixed_concurrency_agg", 100.0, step_time_model.BURST),
        ("open_loop_rate", 100.0, step_time_model.OPEN),
        ("mlperf_singlestream", None, step_time_model.SINGLE),
        ("batch1_decode", None, step_time_model.BARE),
        ("offline_batch", None, step_time_model.STATIC),
        ("mlperf_offline", None, step_time_model.OFFLINE),
    ],
)
def test_a_scenario_is_a_kind_of_load(scenario: str, requests: float | None, kind: str) -> None:
    assert resolved(scenario=scenario, requests=requests, concurrency=64.0).case.load == kind


def test_a_local_engine_splits_layers_and_adds_in_16_bits() -> None:
    asked = {"model": "Llama-3.1-8B-Instruct", "precision": "Q4_K_M (GGUF)", "parallelism": "", "devices": 4}
    served = resolved(accelerator="RTX-3090", engine="vllm", **asked)
    local = resolved(accelerator="RTX-3090", engine="llama.cpp b4753", **asked)
    assert (served.worker.layout.pp, local.worker.layout.pp) == (1, 4)
    assert local.device.trunk_rate == pytest.approx(2 * served.device.trunk_rate)


def test_what_no_fitted_row_is_like_and_old_figures_widen_the_band() -> None:
    fit = fitted_tables.load_table("serving")

    def factor(**changes: object) -> float:
        return spread(answered(**changes).tpot_s)

    assert factor(engine="something new") > factor(engine="something new", accelerator="h200_sxm") * 0.9
    assert factor(engine="something new", model="Qwen3-14B") > factor(model="Qwen3-14B")
    assert factor(accelerator="v100_32gb_sxm2", parallelism="TP4", precision="bf16") > factor(precision="bf16")
    place = ("tpot_s", serving_prediction.SEEN, "")
    widenings = (serving_prediction.BandWidening(1.0, within_factor(1.0, size, "")) for size in (1.1, 1.5))
    fresh, old = (serving_prediction.find_error_band(fit, place, widening) for widening in widenings)
    assert old.low < fresh.low < fresh.high < old.high


def test_a_high_percentile_is_slower_and_wider() -> None:
    mean, high = answered(), answered(ttft_statistic="p99", tpot_statistic="p99")
    for usual, tail in ((mean.tpot_s, high.tpot_s), (mean.ttft_s, high.ttft_s)):
        assert known(tail).value > known(usual).value and spread(tail) > spread(usual)


def test_a_bare_engine_reads_a_prompt_without_a_scheduler() -> None:
    bare = answered(scenario="batch1_prefill", concurrency=1.0, output_tokens=0.0)
    assert bare.tpot_s is None
    assert bare.tokens_per_s.value == pytest.approx(1024 / known(bare.ttft_s).value)


def test_an_unknown_model_with_a_size_gets_an_assumed_shape() -> None:
    dense = answered(model="Nobody-20B", parameters=20e9)
    sparse = answered(model="Nobody-100B-A5B", parameters=100e9, active_parameters=5e9)
    assert "its shape is assumed from its size" in dense.weak
    assert sparse.tpot_s is not None
    with pytest.raises(CatalogError, match="unknown model"):
        answered(model="Nobody-20B")
    with pytest.raises(CatalogError, match="unknown model"):
        answered(model="Nobody", parameters=1.0)


def on_host(**changes: object) -> serving_prediction.DeploymentPrediction:
    changes = {"accelerator": "CPU-EPYC-9654-2S", "engine": "", **changes}
    return answered(model="llama 7B", devices=1, parallelism="", **changes)


def test_a_host_processor_batches_as_its_efficiency_row_says() -> None:
    one, eight = (on_host(precision="q4_0", concurrency=sent) for sent in (1.0, 8.0))
    assert known(one.tpot_s).value < known(eight.tpot_s).value < 8 * known(one.tpot_s).value
    assert eight.tokens_per_s.value > 1.3 * one.tokens_per_s.value
    assert one.stratum.startswith("host processor")
    assert eight.percentiles["ttft_p95_s"].value > known(eight.ttft_s).value > known(one.ttft_s).value


def test_beyond_its_places_a_host_queues_and_what_is_unstated_is_reported() -> None:
    full, over = (on_host(concurrency=sent) for sent in (16.0, 64.0))
    assert full.tpot_s == over.tpot_s
    assert known(over.ttft_s).value > 3 * known(full.ttft_s).value
    unsaid = on_host(concurrency=None, precision="", engine="")
    assert unsaid.assumed[0] == "requests in flight: 16, all slots of the engine"
    assert "weights in Q4_1" in unsaid.assumed
    assert unsaid.tokens_per_s.value == pytest.approx(full.tokens_per_s.value, rel=0.6)


def test_a_host_without_an_engine_is_reported() -> None:
    bare = BenchmarkNameResolver(catalog_with(engines={"vllm": SUBJECTS.catalog.engines["vllm"]}))
    with pytest.raises(CatalogError, check=lambda error: error.code == "AW-CAT-30"):
        serving_prediction.predict_deployment(replace(ASKED, accelerator="CPU-EPYC-9654-2S", engine=""), bare)


def test_an_engine_with_rows_for_processors_is_predicted_by_its_own() -> None:
    own, embedded = (on_host(precision="bf16", engine=engine, concurrency=1.0) for engine in ("vllm 0.22.1", "ollama"))
    assert "engine: vllm" in own.assumed
    assert "engine: llamacpp" in embedded.assumed
    assert known(own.ttft_s).value < 0.5 * known(embedded.ttft_s).value
    assert own.stratum == serving_prediction.PROCESSOR_SERVER


def test_the_cores_of_a_processor_count_and_its_second_socket_hardly() -> None:
    few, half, whole, two = (
        known(on_host(accelerator=f"CPU: AMD EPYC 9R14 ({cores} threads)", precision="Q4_K_M", concurrency=1.0).tpot_s)
        for cores in (8, 48, 96, 192)
    )
    assert few.value > 1.5 * half.value > 1.5 * whole.value
    assert 0.8 < two.value / whole.value < 1.3


@pytest.mark.parametrize(
    ("accelerator", "said"),
    [
        ("H100", "fp8, the device's native format; --layout bf16 changes it"),
        ("MI300X", "fp8, the device's native format; --layout bf16 changes it"),
        ("B200", "fp8, the device's native format; --layout bf16 changes it"),
        ("A100", "bf16, the device's native format"),
        ("TPUv6e", "bf16, the device's native format"),
    ],
)
def test_a_user_who_states_no_format_gets_the_native_one(accelerator: str, said: str) -> None:
    asked = ServingQuery(model="Qwen3-14B", accelerator=accelerator, devices=4, native_format=True)
    found = serving_prediction.predict_deployment(asked, SUBJECTS)
    assert f"format: {said}" in found.assumed
    assert not any("precision" in reason for reason in found.weak)
    published = serving_prediction.predict_deployment(replace(asked, native_format=False), SUBJECTS)
    assert "format: bf16, 16 bits" in published.assumed


def test_the_native_format_gives_way_to_the_published_one_and_to_memory() -> None:
    asked = ServingQuery(model="gpt-oss-120b", accelerator="B200", devices=1, native_format=True)
    assert "format: fp4, as published" in serving_prediction.predict_deployment(asked, SUBJECTS).assumed
    large = replace(asked, model="Llama-3.1-405B", accelerator="H100", devices=4)
    assert "format: int4, the widest that fits" in serving_prediction.predict_deployment(large, SUBJECTS).assumed


def test_a_host_processor_has_no_memory_to_exceed() -> None:
    found = answered(model="llama 7B", accelerator="CPU", parallelism="", devices=1, concurrency=1.0, precision="q4_0")
    assert 0.01 < known(found.tpot_s).value < 1


@pytest.mark.parametrize(("text", "number"), [("vllm 0.18.0", 1800.0), ("trtllm 1.2", 10200.0), ("trtllm nan", -1.0)])
def test_versions(text: str, number: float) -> None:
    assert parse_version(text) == number


def test_every_band_encloses_its_prediction() -> None:
    for name in ("serving", "training"):
        for band in fitted_tables.load_table(name).bands:
            assert band.low < 1 < band.high
            assert math.isfinite(band.high)


@pytest.mark.parametrize(
    ("model", "count", "said"),
    [
        ("Llama-3.1-70B", 4, "bf16, 16 bits"),
        ("Llama-3.1-70B", 1, "fp8, the widest that fits"),
        ("Llama-3.1-405B", 1, "bf16, 16 bits"),
        ("DeepSeek-V3", 16, "fp8, as published"),
    ],
)
def test_without_a_format_the_widest_that_fits_and_always_an_answer(model: str, count: int, said: str) -> None:
    found = resolved(model=model, devices=count, parallelism="", precision="")
    assert found.assumed[-1] == f"format: {said}"
    if model == "Llama-3.1-405B":
        too_big = answered(model=model, devices=count, parallelism="", precision="")
        assert too_big.ttft_s is not None and "the weights exceed the devices' memory" in too_big.weak


def test_a_broken_table_is_reported(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted_tables, "DATA", tmp_path)
    with pytest.raises(CatalogError, check=lambda error: error.code == "AW-CAT-03"):
        fitted_tables.load_table("nothing")


def test_the_median_ttft_of_a_fitted_loop_is_its_mean_and_its_tail_is_longer() -> None:
    prediction = answered(ttft_statistic="mean")
    mean_s = known(prediction.ttft_s).value
    median_s, p95_s, p99_s = (prediction.percentiles[f"ttft_{name}_s"].value for name in ("p50", "p95", "p99"))
    assert median_s == pytest.approx(mean_s)
    assert known(answered(ttft_statistic="p50").ttft_s).value == pytest.approx(mean_s)
    assert median_s < p95_s < p99_s
