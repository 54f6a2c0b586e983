"""Parallelism, formats and shapes read from text and rows."""

from __future__ import annotations

import pytest
from tests.sizing.conftest import SUBJECTS, known

from archwright.contract.record import replace
from archwright.sizing.model import numeric_precision, parallel_layout
from archwright.sizing.model.weight_groups import group_weights


@pytest.mark.parametrize(
    ("text", "devices", "tp", "dp", "ep"),
    [
        ("TP8 PP1 DP1 MoE-TP1 EP8", 8, 8, 1, 8),
        ("TP1 PP1 DP4 MoE-TP2 EP2", 4, 1, 4, 2),
        ("TP2PP2", 4, 2, 1, 1),
        ("TP1 PP1 DP MoE-TP0 EP0", 1, 1, 1, 1),
        ("TP1 PP1 DP64 MoE-TP8 EP8", 64, 1, 64, 8),
        # Expert ranks that contradict the attention ranks give way to them.
        ("TP4 PP1 DP1 MoE-TP1 EP3", 4, 4, 1, 1),
        ("TP999999999", 4096, 4096, 1, 1),
    ],
)
def test_ranks(text: str, devices: int, tp: int, dp: int, ep: int) -> None:
    found = known(parallel_layout.parse_layout(text))
    assert (found.devices, found.tp, found.dp, found.ep) == (devices, tp, dp, ep)


def test_a_text_without_ranks_is_no_layout() -> None:
    assert parallel_layout.parse_layout("") is None
    assert parallel_layout.parse_layout("whatever fits") is None
    assert parallel_layout.parse_layout("disagg P:1x(TP1 DP1)") is not None, "half a pair is read as plain ranks"


def test_two_pools() -> None:
    found = known(parallel_layout.parse_layout("disagg P:2x(TP4 DP1) D:3x(TP8 DP1)"))
    assert found.prefill is not None
    assert (found.copies, found.tp, found.prefill.copies, found.total) == (3, 8, 2, 32)
    wide = known(parallel_layout.parse_layout("disagg P:1x(TP4 DP1) D:1x(TP32 DP1)"))
    assert (wide.tp, wide.dp) == (1, 32), "attention runs on each device of a wide pool"


def test_copies_fill_the_devices() -> None:
    one = parallel_layout.ParallelLayout(tp=2)
    assert parallel_layout.replicate_layout(one, 8).copies == 4
    assert parallel_layout.replicate_layout(one, 1).copies == 1
    pair = known(parallel_layout.parse_layout("disagg P:1x(TP1 DP1) D:1x(TP1 DP1)"))
    assert parallel_layout.replicate_layout(pair, 64).copies == 1


@pytest.mark.parametrize(
    ("precision", "model", "name", "stated"),
    [
        ("FP8", "m", "fp8", True),
        ("", "org/Some-NVFP4", "fp4", True),
        ("Q4_0 (GGUF)", "m", "int4", True),
        ("Q4_K_M (GGUF)", "m", "q4", True),
        ("F16 (GGUF)", "m", "bf16", True),
        ("", "m", "bf16", False),
        ("mystery", "m", "bf16", False),
        ("tf32", "m", "fp32", True),
    ],
)
def test_formats(precision: str, model: str, name: str, stated: bool) -> None:
    found = numeric_precision.parse_precision(precision, model)
    assert (found.name, found.stated) == (name, stated)


@pytest.mark.parametrize(
    ("model", "accelerator", "names"),
    [
        ("DeepSeek-V3", "H200-SXM-141GB", ["fp8", "int4"]),
        ("gpt-oss-120b", "H100-SXM-80GB", ["fp4"]),
        ("Qwen3-32B", "B200-SXM", ["bf16", "fp8", "fp4"]),
        ("Qwen3-32B", "A100-80GB-SXM", ["bf16", "int8", "int4"]),
    ],
)
def test_an_unstated_format_starts_with_the_published_one(model: str, accelerator: str, names: list[str]) -> None:
    found = numeric_precision.list_candidate_precisions(SUBJECTS.model(model), SUBJECTS.accelerator(accelerator))
    assert [one.name for one in found] == names
    assert not any(one.stated for one in found[1:])


def test_sparse_four_bit_models_keep_their_trunk_wide() -> None:
    assert numeric_precision.NumericPrecision("fp4").trunk_bits(sparse=True) == 16
    assert numeric_precision.NumericPrecision("fp4").trunk_bits(sparse=False) == 4.5
    assert numeric_precision.NumericPrecision("fp8").cache_bits == 8
    assert numeric_precision.NumericPrecision("bf16").cache_bits == 16


def test_a_device_without_the_format_multiplies_in_the_next_wider_one() -> None:
    older, newer = SUBJECTS.accelerator("A100 SXM 80GB"), SUBJECTS.accelerator("b200_sxm")
    assert numeric_precision.matmul_rate(older, "fp8") == older.flops["bf16"]
    assert numeric_precision.matmul_rate(newer, "fp4") == newer.flops["fp4"]
    bare = SUBJECTS.accelerator("T4")
    assert numeric_precision.matmul_rate(bare, "fp32") == bare.flops["fp32"]
    odd = replace(bare, flops={"int8": 7.0})
    assert numeric_precision.matmul_rate(odd, "bf16") == 7.0, "the last resort is the fastest rate known"


@pytest.mark.parametrize(
    "name", ["Llama-3.1-70B", "deepseek-ai/DeepSeek-V3", "openai/gpt-oss-120b", "Qwen/Qwen3.5-397B-A17B"]
)
def test_groups_of_weights_add_up(name: str) -> None:
    model = SUBJECTS.model(name)
    assert group_weights(model).parameters == pytest.approx(model.parameters, rel=2e-3)


def test_experts_touched_rise_to_all_of_them() -> None:
    shape = group_weights(SUBJECTS.model("openai/gpt-oss-120b"))
    assert shape.touched_expert_parameters(1) == pytest.approx(shape.expert * shape.chosen)
    assert shape.touched_expert_parameters(10_000) == pytest.approx(shape.expert * shape.experts)
    assert group_weights(SUBJECTS.model("Qwen3-32B")).touched_expert_parameters(5) == 0


def test_a_window_bounds_cache_and_attention() -> None:
    windowed, plain = group_weights(SUBJECTS.model("openai/gpt-oss-120b")), group_weights(SUBJECTS.model("Qwen3-32B"))
    assert windowed.cache_value_count(10_000) < 10_000 * windowed.cache_values
    assert windowed.mean_attended_tokens(10_000) < 10_000
    assert windowed.prompt_attention_pairs(10_000) < 10_000**2 / 2
    assert windowed.prompt_attention_pairs(100) == 100**2 / 2, "shorter than the window"
    assert plain.cache_value_count(10_000) == 10_000 * plain.cache_values
    assert plain.prompt_attention_pairs(10_000) == 10_000**2 / 2


def test_latent_attention_keeps_one_latent_on_every_rank() -> None:
    shape = group_weights(SUBJECTS.model("deepseek-ai/DeepSeek-V3"))
    assert shape.cache_splits == 1
    assert shape.cache_values * 2 == 70272
