"""The fit of local engines on graphics cards, Macs and APUs, and where the predictor takes it."""

from __future__ import annotations

import pytest
from tests.sizing.conftest import SUBJECTS, known

from archwright.contract.record import replace
from archwright.sizing.inference import local_devices, serving_prediction
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.step_time.fitted_tables import load_table

FIT = load_table(local_devices.TABLE)
ASKED = ServingQuery(
    model="Llama-3.1-8B-Instruct",
    accelerator="RTX 4090",
    devices=1,
    precision="Q4_K_M (GGUF)",
    engine="llama.cpp b9187 (cuda)",
    scenario="batch1_decode",
    concurrency=1.0,
    input_tokens=0.0,
    output_tokens=128.0,
)


def answer(**changes: object) -> serving_prediction.DeploymentPrediction:
    return serving_prediction.predict_deployment(replace(ASKED, **changes), SUBJECTS)


def test_every_maker_has_bands() -> None:
    assert {"AMD", "Apple", "NVIDIA"} <= set(FIT.seen["vendor"])
    for vendor in FIT.seen["vendor"]:
        for metric in ("tpot_s", "ttft_s"):
            band = FIT.find_band(metric, vendor, "any")
            assert band.stratum == vendor
            assert band.low < 1 < band.high


@pytest.mark.parametrize(
    ("accelerator", "engine", "vendor"),
    [
        ("RTX 4090", "llama.cpp b9187 (cuda)", "NVIDIA"),
        ("MacBook Pro M4 Max 64 GB", "MLX 0.31", "Apple"),
        ("Ryzen AI Max+ 395", "llama.cpp b9187 (vulkan_radv)", "AMD"),
    ],
)
def test_one_request_to_a_local_engine_takes_the_fit(accelerator: str, engine: str, vendor: str) -> None:
    prediction = answer(accelerator=accelerator, engine=engine)
    assert prediction.stratum == f"local engine on {vendor}"
    assert prediction.weak == ()
    tpot = known(prediction.tpot_s)
    assert tpot.low < tpot.value < tpot.high < 8 * tpot.low
    # An answer token reads 4.9 GB of weights: no device of these reads them in less than 4 ms.
    assert 0.004 < tpot.value < 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": "vllm 0.18.0", "precision": "bf16"},
        {"scenario": "fixed_concurrency", "concurrency": 8.0, "input_tokens": 512.0},
        {"accelerator": "Gaudi2"},
    ],
)
def test_servers_loads_and_other_makers_keep_the_serving_fit(changes: dict[str, object]) -> None:
    assert not answer(**changes).stratum.startswith("local engine")


def test_a_wider_memory_and_a_narrower_format_answer_faster() -> None:
    slow, fast = (known(answer(accelerator=name).tpot_s).value for name in ("RTX 4060", "RTX 4090"))
    assert fast < slow
    wide, narrow = (known(answer(precision=number).tpot_s).value for number in ("Q8_0 (GGUF)", "Q4_K_M (GGUF)"))
    assert narrow < wide


def test_a_prompt_alone_has_no_time_per_answer_token() -> None:
    prediction = answer(scenario="batch1_prefill", input_tokens=512.0, output_tokens=0.0)
    assert prediction.tpot_s is None
    assert known(prediction.ttft_s).low < known(prediction.ttft_s).value
    assert prediction.tokens_per_s.value == pytest.approx(512 / known(prediction.ttft_s).value, rel=0.01)


def test_the_trees_never_correct_beyond_their_limit() -> None:
    resolved = serving_prediction.resolve_deployment(ASKED, SUBJECTS)
    local = serving_prediction.describe_local_deployment(resolved)
    for mean_s in (1e-9, 1e-3, 1e6):
        corrected = local_devices.correct_mean(local, FIT, metric="tpot", mean_s=mean_s)
        assert 0.2 < corrected / mean_s < 5
    assert local_devices.correct_mean(local, FIT, metric="tpot", mean_s=0.0) == 0.0
