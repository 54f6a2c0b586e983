"""Training memory against published formulas and published peaks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, EIGHT, SEVENTY, SUBJECTS

from archwright.catalog.tables.records import ModelSpec
from archwright.contract.record import replace
from archwright.sizing.training.training_memory import (
    ParallelScheme,
    TrainableModel,
    break_down_memory,
    checkpoint_bytes,
    count_activation_bytes,
    feed_forward_width,
    is_gated,
)

GIB = 2.0**30


def named(name: str) -> ModelSpec:
    return SUBJECTS.model(name)


# torchtitan: benchmarks/llama3_h100_202412_torchtitan.md, tables 1 to 4 (with and without compilation); torchtune:
# README.md. Peaks in GiB.
PEAKS = [
    (82.4, TrainableModel(EIGHT, 8192), ParallelScheme(data=8, micro=2, recompute="selective")),
    (77.0, TrainableModel(EIGHT, 8192), ParallelScheme(data=8, micro=2, recompute="selective")),
    (67.0, TrainableModel(EIGHT, 8192), ParallelScheme(data=128, micro=2, recompute="selective")),
    (62.0, TrainableModel(EIGHT, 8192), ParallelScheme(data=128, micro=2, recompute="selective")),
    (83.9, TrainableModel(EIGHT, 32768), ParallelScheme(data=8, recompute="full")),
    (71.9, TrainableModel(SEVENTY, 8192), ParallelScheme(tensor=8, data=32, micro=16, recompute="full")),
    (67.6, TrainableModel(SEVENTY, 8192), ParallelScheme(tensor=8, data=32, micro=16, recompute="full")),
    (27.6, TrainableModel(SEVENTY, 2048, adapters=True), ParallelScheme(data=8, micro=2, recompute="full")),
    (16.2, TrainableModel(EIGHT, 2048, adapters=True), ParallelScheme(micro=2, recompute="full")),
]


@pytest.mark.parametrize(("peak", "subject", "scheme"), PEAKS)
def test_published_peaks_lie_in_the_rows_band(peak: float, subject: TrainableModel, scheme: ParallelScheme) -> None:
    row = CATALOG.work_rates["training.memory"]
    assert row.low * 0.99 <= peak * GIB / break_down_memory(subject, scheme).total <= row.high


# Runs that took place: GiB of the device, model, sequence, split. arXiv 2205.05198 table 5; arXiv 2201.11990;
# NVIDIA-NeMo/Megatron-Bridge: docs/performance-summary.md.
RAN = [
    (80, "Megatron-22B", 2048, ParallelScheme(tensor=8, micro=4, recompute="full")),
    (80, "MT-NLG-530B", 2048, ParallelScheme(8, 35, 1, 1, 1, 280, "selective")),
    (40, "MT-NLG-530B", 2048, ParallelScheme(8, 35, 8, 1, 1, 240, "full")),
    (80, "Llama-3.1-70B-Instruct", 8192, ParallelScheme(4, 8, 2, 1, 1, 64)),
    (80, "Llama-3.1-8B-Instruct", 8192, ParallelScheme(1, 1, 8, 3, 1, 16, "selective")),
]


@pytest.mark.parametrize(("gib", "name", "sequence", "scheme"), RAN)
def test_published_splits_fit_their_devices(gib: int, name: str, sequence: int, scheme: ParallelScheme) -> None:
    counted = break_down_memory(TrainableModel(named(name), sequence), scheme).total
    assert 0.2 * gib * GIB < counted < gib * GIB


def test_the_usual_shape_keeps_34_bytes_a_value() -> None:
    """arXiv 2205.05198, equation 1 without the scores: s b h 34, for a feed-forward of 4 h that is not gated."""
    plain = replace(named("MPT-7b"), ffn=None)
    assert not is_gated(plain)
    assert count_activation_bytes(plain) == pytest.approx(34 * plain.hidden)
    assert is_gated(EIGHT)
    assert count_activation_bytes(EIGHT) == pytest.approx(34 * EIGHT.hidden)


def test_a_sparse_model_keeps_what_its_chosen_experts_make() -> None:
    sparse = CATALOG.model("Qwen3-30B-A3B")
    assert sparse.expert_ffn is not None
    assert feed_forward_width(sparse) == sparse.expert_ffn * (sparse.experts_active + sparse.shared_experts)
    assert is_gated(sparse)


def test_states_take_16_bytes_a_parameter_and_each_stage_divides_more() -> None:
    """arXiv 1910.02054, figure 1: 16 bytes, then 4 + 12 / d, 2 + 14 / d, 16 / d."""

    def states(stage: int, copies: int) -> float:
        found = break_down_memory(TrainableModel(EIGHT, 1024), ParallelScheme(data=copies, stage=stage))
        return (found.weights + found.gradients + found.moments) / EIGHT.parameters

    assert states(0, 8) == pytest.approx(16)
    assert states(1, 8) == pytest.approx(4 + 12 / 8)
    assert states(2, 8) == pytest.approx(2 + 14 / 8)
    assert states(3, 8) == pytest.approx(16 / 8)


def test_a_pipeline_keeps_weights_whole_and_as_many_micro_batches_as_stages() -> None:
    subject = TrainableModel(EIGHT, 1024)
    deep = break_down_memory(subject, ParallelScheme(pipeline=4, data=2, stage=1, rounds=8))
    assert deep.weights == pytest.approx(2 * EIGHT.parameters / 4)
    assert deep.gradients == pytest.approx(4 * EIGHT.parameters / 4)
    assert deep.activations == pytest.approx(break_down_memory(subject, ParallelScheme(rounds=8)).activations)
    assert deep.gathered == 0


def test_adapters_leave_the_base_without_gradients() -> None:
    whole, own = TrainableModel(EIGHT, 1024), TrainableModel(EIGHT, 1024, adapters=True)
    assert own.trained_parameters < 0.01 * whole.trained_parameters
    few, all_ = (break_down_memory(subject, ParallelScheme()).gradients for subject in (own, whole))
    assert few < 0.01 * all_
    assert checkpoint_bytes(whole) == pytest.approx(14 * EIGHT.parameters)
    assert checkpoint_bytes(own) < 1e9


def test_a_scheme_reads_as_the_verb_takes_it() -> None:
    assert ParallelScheme(2, 1, 4, 3, 2, 8, "full").layout_text == "FSDP4 TP2 PP1 MBS2 GA8 full"
    assert ParallelScheme(2, 2, 4, 1, 2, 8).layout_text == "DP4 TP2 PP2 MBS2 GA8"
    assert ParallelScheme(2, 2, 4).devices == 16


MODELS = st.sampled_from(["Llama-3.1-8B-Instruct", "Llama-3.1-70B-Instruct", "Qwen3-30B-A3B", "Gemma-2-9B-it"])
SIZES = st.sampled_from([1, 2, 4, 8])


@settings(max_examples=60, deadline=None)
@given(name=MODELS, tensor=SIZES, data=SIZES, micro=SIZES, adapters=st.booleans())
def test_memory_is_monotone(name: str, tensor: int, data: int, micro: int, adapters: bool) -> None:
    subject = TrainableModel(CATALOG.model(name), 4096, adapters=adapters)
    scheme = ParallelScheme(tensor, 1, data, 3, micro, 4)

    def total(**changes: Any) -> float:
        return break_down_memory(subject, scheme._replace(**changes)).total

    assert total(micro=2 * micro) > total()
    assert total(tensor=2 * tensor) < total()
    assert total(recompute="full") < total(recompute="selective") < total()
    if data > 1:
        assert total(data=2 * data) < total()
    longer = TrainableModel(subject.model, 8192, adapters)
    assert break_down_memory(longer, scheme).total > total()
