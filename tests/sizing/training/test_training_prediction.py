"""`predict training` for stated and chosen layouts, adapters, and models without a row."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sizing.conftest import SUBJECTS

from archwright.contract.record import replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.sizing.inference import serving_prediction
from archwright.sizing.training import token_throughput
from archwright.sizing.training.token_throughput import TrainingQuery
from archwright.sizing.training.training_prediction import (
    DEFINITIONS,
    build_cluster,
    parse_method,
    predict_training_run,
)

ASKED = TrainingQuery(
    model="Llama 3.1 70B",
    accelerator="H100 SXM 80GB",
    devices=64,
    sequence_tokens=4096.0,
    batch_tokens=4096.0 * 256,
    tokens=1e10,
)


def told(usd: float | None = None, **changes: object) -> SizingPrediction:
    found = predict_training_run(replace(ASKED, **changes), SUBJECTS, usd)
    assert found is not None
    return found


def test_a_chosen_split_answers_everything_and_says_it_was_chosen() -> None:
    found = told(usd=2.5)
    assert set(found.estimates) == {*DEFINITIONS, "tokens_per_s_per_device", "step_s"}
    assert found.assumed == ("layout: the fastest that fits",)
    assert "TP" in found.layout
    hours, whole = found.estimates["device_hours"], found.estimates["run_device_hours"]
    assert whole.value > hours.value / found.estimates["goodput"].value
    assert found.estimates["days"].value == pytest.approx(whole.value / 64 / 24)
    assert found.estimates["cost_usd"].value == pytest.approx(2.5 * whole.value)
    assert found.estimates["memory_bytes_per_device"].value <= 80 * 2**30
    assert all(one.low <= one.value <= one.high for one in found.estimates.values())


def test_a_stated_split_is_answered_as_benchmarks_are() -> None:
    found = told(parallelism="FSDP64 micro 1 full", recompute="full")
    stated = replace(ASKED, parallelism="FSDP64 micro 1 full", recompute="full")
    scored = token_throughput.predict_stated_run(stated, SUBJECTS).seconds
    assert found.estimates["tokens_per_s_per_device"].value == pytest.approx(1 / scored.value)
    assert found.assumed == ()
    assert "cost_usd" not in found.estimates


def test_a_stated_split_that_does_not_fit_is_weak_and_what_fits_nowhere_is_none() -> None:
    assert predict_training_run(replace(ASKED, accelerator="L4", devices=1), SUBJECTS) is None
    found = told(devices=8, parallelism="FSDP8 micro 8")
    assert "the stated layout exceeds the devices' memory" in found.weak


def test_utilisation_counts_what_the_model_needs() -> None:
    """MFU of 70B on H100 in 16 bits is 40 to 50 % in the fitted rows; recomputation does not count."""
    found = told(tokens=None)
    rate, mfu = found.estimates["tokens_per_s_per_device"].value, found.estimates["mfu"].value
    needed = 6 * 70.55e9 + 6 * 80 * 8192 * 4096
    assert mfu == pytest.approx(rate * needed / 989e12)
    assert 0.3 < mfu < 0.7


def test_nothing_of_the_run_without_its_tokens() -> None:
    found = told(tokens=None)
    assert set(found.estimates) == {"tokens_per_s_per_device", "step_s", "memory_bytes_per_device", "mfu"}
    assert "step_s" not in told(tokens=None, batch_tokens=None).estimates


def test_adapters_stated_or_chosen() -> None:
    """torchtune's README: 3,497 tokens/s on 8 A100, and 27.6 GiB on each."""
    published = told(
        accelerator="A100 SXM 80GB",
        devices=8,
        sequence_tokens=2048.0,
        batch_tokens=2048.0 * 16,
        parallelism="lora FSDP8 micro 2 full",
        recompute="full",
    )
    rate, memory = (published.estimates[name] for name in ("tokens_per_s_per_device", "memory_bytes_per_device"))
    assert rate.value == pytest.approx(3497 / 8, rel=0.1)
    assert memory.low <= 27.6 * 2**30 <= memory.high
    assert told(parallelism="lora").estimates["device_hours"].value < told().estimates["device_hours"].value


def test_a_packed_base_fits_one_device_that_adapters_alone_do_not() -> None:
    """torchtune's README: QLoRA of 8B on one RTX 4090, 7.4 GiB and 2,413 tokens/s."""
    own: dict[str, Any] = {"devices": 1, "batch_tokens": 4096.0, "sequence_tokens": 2048.0, "tokens": None}
    layout: dict[str, Any] = {"parallelism": "qlora FSDP1 micro 2 full", "recompute": "full"}
    published = told(model="Llama 3.1 8B", accelerator="RTX 4090", **own, **layout).estimates
    rate, memory = (published[name] for name in ("tokens_per_s_per_device", "memory_bytes_per_device"))
    assert memory.low <= 7.4 * 2**30 <= memory.high
    assert rate.low <= 2413 <= rate.high
    assert told(accelerator="A100 SXM 80GB", parallelism="qlora", **own).layout.startswith("DP1")
    assert (
        predict_training_run(replace(ASKED, accelerator="A100 SXM 80GB", parallelism="lora", **own), SUBJECTS) is None
    )


def test_a_size_without_a_row_is_weak_and_wider() -> None:
    found = told(model="13B", parameters=13e9, parallelism="scratch")
    assert found.weak == ("its shape is assumed from its size",)
    assert found.stratum == serving_prediction.NEW_BOTH
    assert found.estimates["goodput"].low < told().estimates["goodput"].low


def test_methods_and_clusters() -> None:
    assert [parse_method(text) for text in ("bf16 full", "LoRA", "from scratch fp8")] == ["full", "lora", "pretrain"]
    own = SUBJECTS.accelerator("H100 SXM 80GB")
    sizes = [(build_cluster(own, n).per_machine, build_cluster(own, n).machines) for n in (0, 1, 6, 8, 12, 64, 65)]
    assert sizes == [(1, 1), (1, 1), (6, 1), (8, 1), (4, 3), (8, 8), (1, 65)]


def test_no_band_reaches_beyond_what_the_device_computes() -> None:
    weak = told(usd=2.0, model="13B", parameters=13e9, tokens=1e12, accelerator="MI300X", precision="fp32")
    assert len(weak.weak) == 3
    found = weak.estimates
    assert found["mfu"].high == pytest.approx(1.0)
    fastest = 1e12 / found["tokens_per_s_per_device"].high / 3600
    assert found["device_hours"].low == pytest.approx(fastest)
    assert found["run_device_hours"].low > fastest
    assert found["days"].low > fastest / 64 / 24 and found["cost_usd"].low > 2 * fastest
