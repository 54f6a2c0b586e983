"""The training predictor: properties of any physics, and the parsing of text."""

from __future__ import annotations

from tests.sizing.conftest import SUBJECTS

from archwright.contract.record import replace
from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.training import token_throughput
from archwright.sizing.training.token_throughput import TrainingQuery

ASKED = TrainingQuery(
    model="Llama 3.1 8B",
    accelerator="H100 SXM 80GB",
    devices=8,
    sequence_tokens=8192.0,
    batch_tokens=1_048_576.0,
    tokens=1e12,
    precision="bf16",
    parallelism="FSDP8 micro 2 accum 8",
    recompute="no",
    framework="torchtitan",
)


def seconds(**changes: object) -> float:
    job = token_throughput.resolve_training_job(replace(ASKED, **changes), SUBJECTS)
    k = fitted_tables.load_table("training").coefficients["token"]
    return token_throughput.sum_terms(token_throughput.token_terms(job), k)


def test_a_fitted_configuration_has_its_band() -> None:
    found = token_throughput.predict_stated_run(ASKED, SUBJECTS)
    assert found.stratum == serving_prediction.SEEN
    assert found.seconds.low < found.seconds.value < found.seconds.high


def test_what_costs_more_takes_longer() -> None:
    plain = seconds()
    assert seconds(sequence_tokens=32768.0) > plain
    assert seconds(recompute="full") > seconds(recompute="selective op") > plain
    assert seconds(model="Llama 3.1 70B") > 5 * plain
    assert seconds(precision="fp8") != plain
    assert seconds(precision="bf16 eager") > plain
    assert seconds(parallelism="TP1 PP8 VP1 GA16 FSDP0") > seconds(parallelism="TP1 PP8 VP4 GA16 FSDP0")
    assert seconds(accelerator="A100 SXM 80GB") > plain
    assert seconds(precision="fp32") > plain
    assert seconds(model="Qwen3_30B_a3B") > seconds(model="Nobody-3B", parameters=3.3e9), "for routing"


def test_strata_and_gates() -> None:
    def predicted(**changes: object) -> token_throughput.TokenTime:
        return token_throughput.predict_stated_run(replace(ASKED, **changes), SUBJECTS)

    assert predicted(model="Qwen3-32B").stratum == serving_prediction.NEW_MODEL
    assert predicted(accelerator="Gaudi 2").stratum == serving_prediction.NEW_ACCELERATOR
    assert predicted(model="Qwen3-32B", accelerator="Gaudi 2").stratum == serving_prediction.NEW_BOTH
    assert predicted(framework="").stratum == serving_prediction.NEW_SOURCE
    assert "parallelism is not stated" in predicted(parallelism="").weak
    assert predicted(accelerator="Gaudi 2").weak == ("no fitted row is of a device of Intel",)
    (reason,) = predicted(precision="fp8", framework="torchtune (LoRA)").weak
    assert reason == "no fitted row is of adapters in fp8"


def test_between_machines_the_fabric_is_the_link() -> None:
    near, far = (token_throughput.resolve_training_job(replace(ASKED, devices=n), SUBJECTS) for n in (8, 16))
    assert far.link < near.link


def test_published_throughput_lies_in_the_band() -> None:
    """torchtune's README and NeMo AutoModel's performance summary: tokens/s a device, sequences of 2,048 and 4,096."""
    for device, count, layout, framework, precision, model, sequence, batch, rate in (
        ("RTX 4090", 1, "single device", "torchtune (LoRA)", "bf16", "Llama 3.1 8B", 2048.0, 4096.0, 3083.0),
        ("RTX 4090", 1, "single device", "torchtune (QLoRA)", "bf16 nf4", "Llama 3.1 8B", 2048.0, 4096.0, 2413.0),
        ("RTX 4090", 1, "single device", "torchtune (full)", "bf16", "Llama 3.1 8B", 2048.0, 4096.0, 1650.0),
        ("H100", 1, "FSDP1 MBS2 GA16", "nemo (LoRA)", "bf16", "Llama 3 8B", 4096.0, 131072.0, 12473.0),
        ("H100", 1024, "PP4 EP64 FSDP256 MBS1 GA4", "nemo", "bf16", "DeepSeek-V3", 4096.0, 33554432.0, 865.0),
    ):
        asked = TrainingQuery(
            model=model,
            accelerator=device,
            devices=count,
            sequence_tokens=sequence,
            batch_tokens=batch,
            precision=precision,
            parallelism=layout,
            framework=framework,
        )
        found = token_throughput.predict_stated_run(asked, SUBJECTS).seconds
        assert found.low <= 1 / rate <= found.high, (device, framework, found)


def test_unstated_recomputation_is_what_the_memory_needs() -> None:
    def recompute(**changes: object) -> float:
        return token_throughput.resolve_training_job(replace(ASKED, **changes), SUBJECTS).recompute

    assert recompute(recompute="") == 1.0
    assert recompute(recompute="", sequence_tokens=1024.0) == 0.0 == recompute(recompute="no")


def test_experts_are_sent_tokens_instead_of_being_gathered() -> None:
    def terms(layout: str) -> token_throughput.TokenTerms:
        asked = replace(ASKED, model="DeepSeek-V3", devices=256, parallelism=layout)
        return token_throughput.token_terms(token_throughput.resolve_training_job(asked, SUBJECTS))

    spread, whole = terms("FSDP256 EP64 micro 1"), terms("FSDP256 EP1 micro 1")
    assert spread.shards < whole.shards / 10
    assert spread.dispatch > 0 == whole.dispatch
    assert terms("FSDP256 EP8 micro 1").dispatch < spread.dispatch, "inside one machine"
