"""Training on clusters: the layout that fits, the hours, and monotonicity."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, EIGHT, SEVENTY, SMALL, SUBJECTS, known

from archwright.catalog.tables.records import ModelSpec
from archwright.contract.record import replace
from archwright.sizing.hardware.machine import BatchWork, Machine
from archwright.sizing.inference import serving_prediction
from archwright.sizing.model.parametric_model import build_parametric_model
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.training.cluster_training import (
    TrainingRunSpec,
    build_training_setup,
    predict_cluster_run,
    size_finetuning,
    size_pretraining,
)
from archwright.sizing.training.parallel_strategy import (
    Cluster,
    TrainingSetup,
    choose_parallel_plan,
    model_flops,
    parse_scheme,
    place_job,
    predict_token_time,
    scheme_token_s,
)
from archwright.sizing.training.token_throughput import FABRIC_BYTES_PER_S, sum_terms, token_terms
from archwright.sizing.training.training_memory import ParallelScheme, break_down_memory, device_memory_budget

K = fitted_tables.load_table("training").coefficients["token"]
NETWORK = 400e9
Method = Literal["full", "lora"]


def machine(name: str | None = "H100-SXM-80GB", count: int = 8, network: float | None = NETWORK) -> Machine:
    own = CATALOG.accelerator(name) if name else None
    return Machine(f"{count}x {name}", own, count if name else 0, 112, 2e12 if name else 64e9, network)


def setup(spec: ModelSpec = EIGHT, device: str = "H100-SXM-80GB", method: Method = "full") -> TrainingSetup:
    return build_training_setup(spec, CATALOG.accelerator(device), method, CATALOG)


def cluster(machines: int = 1, network: float | None = NETWORK, name: str = "H100-SXM-80GB") -> Cluster:
    return Cluster(CATALOG.accelerator(name), 8, machines, network)


def test_a_whole_fine_tune_of_8b_fits_one_machine_and_70b_takes_more() -> None:
    small, large = (known(size_finetuning(machine(), m, "full", 2e9, "w", CATALOG)) for m in (EIGHT, SEVENTY))
    assert small.least == 1
    assert large.least > 1
    assert large.most > large.least
    assert large.hours(1) == large.hours(large.least)
    assert large.machine_hours.value > 5 * small.machine_hours.value
    assert large.hours(large.least) > large.hours(large.most) > large.machine_hours.value / large.most / 5


def test_an_estimate_names_its_basis_and_the_basis_its_facts() -> None:
    found = known(size_finetuning(machine(), SEVENTY, "lora", 1e9, "house-model", CATALOG))
    (basis,) = found.bases
    assert found.machine_hours.basis == basis.id == "house-model.8x H100-SXM-80GB.training"
    assert found.machine_hours.low < found.machine_hours.value < found.machine_hours.high
    assert basis.stratum == serving_prediction.NEW_SOURCE
    said = " ".join(basis.facts)
    for part in ("1,000,000,000 tokens", "TP", "GPU annual failure rate", "sha256"):
        assert part in said
    assert "LoRA fine-tuning" in found.assumptions[0]


def test_processors_train_adapters_of_small_models_alone() -> None:
    host = machine(None)
    found = known(size_finetuning(host, SMALL, "lora", 15e6, "w", CATALOG))
    assert (found.least, found.most) == (1, 1)
    assert found.machine_hours.basis == found.bases[0].id
    assert size_finetuning(host, SMALL, "full", 15e6, "w", CATALOG) is None
    assert size_finetuning(host, SEVENTY, "lora", 15e6, "w", CATALOG) is None
    assert size_pretraining(host, 1e9, 1e9, "w", CATALOG) is None
    few = known(size_finetuning(host._replace(cores=2), SMALL, "lora", 15e6, "w", CATALOG))
    assert few.machine_hours.value > 10 * found.machine_hours.value


def test_from_scratch_rests_on_an_assumed_shape_and_says_so() -> None:
    found = known(size_pretraining(machine(), 8e9, 1e12, "w", CATALOG))
    assert found.model == "8B"
    assert found.bases[0].stratum == serving_prediction.NEW_BOTH
    assert "assumed from the parameter count" in " ".join(found.bases[0].facts)


def test_as_many_machines_as_are_needed_may_be_all_that_help() -> None:
    found = known(size_finetuning(machine("L40S", 1, network=1e9), SEVENTY, "full", 2e9, "w", CATALOG))
    assert found.least == found.most > 8
    assert found.hours(1) == pytest.approx(found.machine_hours.value / found.least)


def test_no_more_machines_are_asked_for_than_a_job_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archwright.sizing.training.cluster_training.MOST_MACHINES", 4)
    found = known(size_finetuning(machine(), EIGHT, "full", 2e9, "w", CATALOG))
    assert found.most == 4


def test_what_no_number_of_machines_or_no_split_holds_is_none() -> None:
    assert size_finetuning(machine("T4", 1), SEVENTY, "full", 2e9, "w", CATALOG) is None
    alone = Cluster(CATALOG.accelerator("L4"), 1)
    assert predict_cluster_run(setup(SEVENTY, "L4"), alone, TrainingRunSpec(1e9, "full"), CATALOG) is None
    # More copies than sequences do not fit.
    few, many = setup(EIGHT, "L4", "lora")._replace(batch=4096.0), alone._replace(machines=128, network=NETWORK)
    assert choose_parallel_plan(few, many, 1e12) is None


def test_a_slow_network_scales_worse() -> None:
    fast, slow = (known(size_finetuning(machine(network=n), EIGHT, "full", 2e9, "w", CATALOG)) for n in (NETWORK, 3e9))
    assert slow.hours(1) / slow.hours(8) < fast.hours(1) / fast.hours(8)
    assert size_finetuning(machine(network=None), EIGHT, "full", 2e9, "w", CATALOG) is not None


def test_ranks_without_links_of_their_own_use_the_bus() -> None:
    own, asked = CATALOG.accelerator("L40S"), setup(device="L40S")
    wide, group = ParallelScheme(8, 1, 2, 3, 1, 32), Cluster(own, 8, 2, NETWORK)
    over_bus = scheme_token_s(asked, wide, place_job(asked, wide, group), K)
    linked = replace(own, scale_up_bytes_per_s=450e9)
    better = place_job(asked, wide, group)._replace(accelerator=linked)
    assert over_bus > 1.2 * scheme_token_s(asked, wide, better, K)


def test_a_processor_has_its_machines_room() -> None:
    assert device_memory_budget(CATALOG.accelerator("CPU-EPYC-9654-2S"), CATALOG) == float("inf")


def test_links() -> None:
    own = CATALOG.accelerator("H100-SXM-80GB")
    assert cluster().link == own.scale_up_bytes_per_s
    assert cluster(2).link == FABRIC_BYTES_PER_S
    assert cluster(2, network=8e9).link == 1e9
    assert Cluster(CATALOG.accelerator("L4"), 1, 2, None).link == pytest.approx(25e9 / 8)


def test_the_choice_fits_and_no_split_is_faster() -> None:
    asked, space = setup(), device_memory_budget(CATALOG.accelerator("H100-SXM-80GB"), CATALOG)
    found = known(choose_parallel_plan(asked, cluster(), space))
    assert found.held.total <= space
    assert found.scheme.devices == 8
    for other in (
        ParallelScheme(1, 1, 8, 3, 1, 8),
        ParallelScheme(8, 1, 1, 1, 1, 64),
        ParallelScheme(2, 1, 4, 1, 1, 16, "full"),
    ):
        if break_down_memory(asked.subject, other).total <= space:
            assert scheme_token_s(asked, other, place_job(asked, other, cluster()), K) >= found.seconds
    assert choose_parallel_plan(asked, cluster(), space / 100) is None
    assert choose_parallel_plan(asked, cluster(), space / 100) is None


def test_adapters_spare_the_gradients_of_frozen_weights() -> None:
    """4 of 6 FLOPs of the matmuls; 6 of 8 with full recomputation; no updates of frozen weights."""
    whole, adapters = (setup(method=method).job._replace(adapters=method == "lora") for method in ("full", "lora"))
    for recompute, share in ((0.0, 4 / 6), (1.0, 6 / 8)):
        full, spared = (token_terms(job._replace(recompute=recompute, step_tokens=4096.0)) for job in (whole, adapters))
        assert spared.products == pytest.approx(share * full.products)
        assert (spared.attention, spared.updates) == (full.attention, 0.0)
        assert share < sum_terms(spared, K) / sum_terms(full, K) < 0.9


def test_published_throughput_of_adapters_lies_in_the_band() -> None:
    """torchtune's README: 70B adapters on 8 A100, 3,497 tokens/s; recomputed, two sequences of 2,048 a device."""
    asked = setup(SEVENTY, "A100-80GB-SXM", "lora")
    found = known(predict_cluster_run(asked, cluster(name="A100-80GB-SXM"), TrainingRunSpec(1e9, "lora"), CATALOG))
    assert found.time.seconds.low <= 8 / 3497 <= found.time.seconds.high


def test_the_band_of_physics_alone_is_that_of_a_device_left_out() -> None:
    asked = setup()
    choice = known(choose_parallel_plan(asked, cluster(), 1e12))
    assert predict_token_time(asked, choice, CATALOG)[1] == serving_prediction.NEW_SOURCE
    assert predict_token_time(asked, choice, CATALOG, trusted=False)[1] == serving_prediction.NEW_ACCELERATOR
    new = choice._replace(job=choice.job._replace(model=CATALOG.model("Gemma-2-9B-it")))
    assert predict_token_time(asked, new, CATALOG, trusted=False)[1] == serving_prediction.NEW_BOTH
    weak = choice._replace(job=choice.job._replace(weak=("something",)))
    assert predict_token_time(asked, weak, CATALOG)[0].high > predict_token_time(asked, choice, CATALOG)[0].high
    assert predict_token_time(asked, weak, CATALOG)[2] == ("something",)


def test_no_choice_beats_the_best_utilisation_ever_published() -> None:
    asked = setup()
    choice = known(choose_parallel_plan(asked, cluster(), 1e12))
    lucky = choice._replace(seconds=choice.seconds / 10)
    most = CATALOG.work_rates["training.utilisation"].typical
    assert predict_token_time(asked, lucky, CATALOG)[0].value == pytest.approx(
        model_flops(asked) / (most * asked.job.rate), rel=0.01
    )


# Runs that no fit uses: published hours, tokens in billions; sources in bench/sizing/published_runs.csv.
PUBLISHED = (
    ("DeepSeek-V3", "fp8", 14_800, "H800", 2048, 2_664_000),
    ("Llama-3.1-405B-Instruct", "bf16", 15_000, "H100-SXM-80GB", 16_384, 30_840_000),
    ("Llama-2-70B", "bf16", 2_000, "A100-80GB-SXM", 2048, 1_720_320),
    ("LLaMA-13B", "bf16", 1_000, "A100-80GB-SXM", 2048, 135_168),
    ("Llama-4-Maverick-17B-128E-Instruct", "fp8", 22_000, "H100-SXM-80GB", 4096, 2_380_000),
)


@pytest.mark.parametrize(("name", "number", "billions", "device", "count", "hours"), PUBLISHED)
def test_published_runs_lie_in_the_band_and_within_a_factor_of_two(
    name: str, number: str, billions: float, device: str, count: int, hours: float
) -> None:
    own = SUBJECTS.accelerator(device)
    asked = build_training_setup(SUBJECTS.model(name), own, "pretrain", CATALOG, number)
    group = Cluster(own, 8, count // 8, 8 * FABRIC_BYTES_PER_S)
    found = known(predict_cluster_run(asked, group, TrainingRunSpec(billions * 1e9, "pretrain"), CATALOG)).device_hours
    assert found.low <= hours <= found.high
    assert 0.5 < hours / found.value < 2


def test_a_pipeline_is_for_slow_links() -> None:
    space = device_memory_budget(CATALOG.accelerator("H100-SXM-80GB"), CATALOG)
    fast, slow = (known(choose_parallel_plan(setup(SEVENTY), cluster(8, network), space)) for network in (NETWORK, 1e9))
    assert fast.scheme.pipeline == 1 < slow.scheme.pipeline


def test_what_a_text_states_of_a_split() -> None:
    assert parse_scheme("bf16 full", 8) is None
    assert parse_scheme("TP4 PP2 MBS2 GA8 selective", 64) == ParallelScheme(4, 2, 8, 1, 2, 8, "selective")
    assert parse_scheme("FSDP8 micro 2 accum 3", 8) == ParallelScheme(1, 1, 8, 3, 2, 3)
    assert parse_scheme("TP2 FSDP0", 8) == ParallelScheme(2, 1, 4, 1, 1, 1)


MACHINES = st.sampled_from(["H100-SXM-80GB", "A100-80GB-SXM", "L40S", "MI300X"])
METHODS: st.SearchStrategy[Method] = st.sampled_from(("full", "lora"))


def run(name: str, method: Method, tokens: float) -> BatchWork:
    return known(size_finetuning(machine(name), EIGHT, method, tokens, "w", CATALOG))


@settings(max_examples=25, deadline=None)
@given(name=MACHINES, method=METHODS, tokens=st.floats(1e6, 1e12), more=st.floats(1.0, 100.0))
def test_more_tokens_never_take_fewer_hours(name: str, method: Method, tokens: float, more: float) -> None:
    few, many = run(name, method, tokens), run(name, method, tokens * more)
    assert many.machine_hours.value >= few.machine_hours.value
    assert (many.least, many.most) == (few.least, few.most)


@settings(max_examples=25, deadline=None)
@given(name=MACHINES, billions=st.floats(0.2, 200.0))
def test_half_as_many_parameters_more_never_take_fewer_hours(name: str, billions: float) -> None:
    """On the same machines; in steps of 50 %, because a shape has whole layers and a larger width is faster."""
    small, large = (size_pretraining(machine(name), n * 1e9, 1e12, "w", CATALOG) for n in (billions, 1.5 * billions))
    if small is None or large is None:
        assert large is None
        return
    assert large.least >= small.least
    assert large.hours(large.least) >= small.hours(large.least)


def test_hours_follow_the_predicted_cluster_and_lie_between_its_neighbours() -> None:
    """70B from scratch barely fits 16 devices: twice the machines take less than half the hours."""
    found = known(size_pretraining(machine(), 70e9, 15e12, "w", CATALOG))
    assert found.least == 2 and found.hours(4) < 0.5 * found.hours(2)
    shape = build_parametric_model("", 70e9, 70e9)
    asked = build_training_setup(shape, CATALOG.accelerator("H100-SXM-80GB"), "pretrain", CATALOG)
    run = TrainingRunSpec(15e12, "pretrain", trusted=False)
    predicted = known(predict_cluster_run(asked, cluster(32), run, CATALOG))
    assert found.hours(32) == pytest.approx(24 * predicted.days.value)
    assert found.hours(32) > found.hours(64) > found.hours(128)


def test_a_model_without_a_context_takes_the_usual_sequence() -> None:
    sequences = [setup(replace(EIGHT, context_tokens=tokens)).subject.sequence for tokens in (0, 512)]
    assert sequences == [4096, 512]
