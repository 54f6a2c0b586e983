"""FLOPs and memory of a training step, against counts by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.sizing.conftest import SMALL

from archwright.sizing.training.training_flops import (
    BoostedTreesStep,
    LoraStep,
    NetworkStep,
    build_convolution_step,
    lora_parameters,
)

LORA = LoraStep(model=SMALL, ffn=1536, rank=8)


def test_the_adapters_of_the_small_model() -> None:
    """Query and output 8 (576 + 576), key and value 8 (576 + 192), three of the feed-forward 8 (576 + 1536), 30
    layers; peft counts 2,442,240 too."""
    assert lora_parameters(SMALL, 1536, 8) == 30 * (2 * 9216 + 2 * 6144 + 3 * 16896) == 2_442_240
    assert lora_parameters(SMALL, 1536, 32) == 4 * 2_442_240


def test_a_step_of_512_tokens_half_of_them_learned() -> None:
    found = LORA.flops(512, 0.5)
    assert found.dense == 512 * (4 * 106_168_320 + 6 * 2_442_240) + 256 * 4 * 49152 * 576
    assert found.attention == 512 * 3.5 * 4 * 576 * 30 * 512


def test_what_a_step_of_512_tokens_holds() -> None:
    found = LORA.memory(512, 0.5, "bf16")
    layer = 8 * 576 * 4 + 4 * 576 * 2 + 1536 * (3 * 2 + 4) + 512 * 2
    assert found.step == 512 * 30 * layer + 256 * 49152 * 10
    assert found.lasting == 2 * 135e6 + 16 * 2_442_240
    assert found.loading == 6 * 135e6


def test_the_rows_lie_in_memory_several_times() -> None:
    without, with_ = LORA.memory(512, 0.5, "bf16"), LoraStep(model=SMALL, ffn=1536, rank=8, data_bytes=10**8)
    found = with_.memory(512, 0.5, "bf16")
    assert found.lasting - without.lasting == found.loading - without.loading == 4 * 10**8


def test_the_digits_network() -> None:
    """8 x 8 pixels through 16 and 32 channels to 10 classes: 64 places x 9 x 16, 16 x 9 x 16 x 32, 128 x 10."""
    net = build_convolution_step((8, 8, 1), (16, 32), 10, 1797)
    assert net.forward_flops == 2 * (64 * 9 * 16 + 16 * 9 * 16 * 32 + 128 * 10)
    assert net.parameters == 10 * 16 + 145 * 32 + 129 * 10
    assert (net.layers, net.inputs, net.data_rows) == (3, 64, 1797)
    assert net.values == 64 + 2 * 64 * 16 + 2 * 16 * 32 + 128 + 10
    assert net.flops(64, 1.0).dense == 3 * 64 * net.forward_flops
    assert net.memory(64, 1.0, "fp32") == (16 * net.parameters + 4 * 1797 * 64, 2 * 4 * net.values * 64, 0.0)


def test_a_picture_of_one_line_is_halved_where_it_can_be() -> None:
    net = build_convolution_step((1, 8, 3), (16, 32), 2, 10)
    assert net.forward_flops == 2 * (8 * 9 * 3 * 16 + 4 * 9 * 16 * 32 + 2 * 32 * 2)


def test_rounds_of_trees() -> None:
    trees = BoostedTreesStep(features=9, trees_per_round=7, data_rows=1000)
    assert trees.flops(1000, 1.0).dense == 1000 * 9 * 7
    assert trees.layers == 7
    assert trees.memory(1000, 1.0, "fp32") == (1000 * 9 * 6, 1000 * 12 * 7, 0.0)


def test_every_kind_says_how_a_step_is_counted() -> None:
    trees = BoostedTreesStep(features=2, trees_per_round=1, data_rows=10)
    net = build_convolution_step((8, 8, 1), (16,), 10, 10)
    kinds: tuple[LoraStep | NetworkStep | BoostedTreesStep, ...] = (LORA, net, trees)
    assert all("share" in kind.formula for kind in kinds)


@given(st.integers(1, 4096), st.integers(0, 4096), st.floats(0, 1), st.floats(0, 1), st.integers(1, 128))
def test_more_never_costs_or_holds_less(tokens: int, more: int, share: float, other: float, rank: int) -> None:
    low, high = sorted((share, other))
    few, lots = LORA.flops(tokens, low), LORA.flops(tokens + more, high)
    assert lots.dense >= few.dense and lots.attention >= few.attention
    held, more_held = (LORA.memory(n, s, "bf16") for n, s in ((tokens, low), (tokens + more, high)))
    assert more_held.step >= held.step and more_held.lasting == held.lasting
    wide, wider = (LoraStep(model=SMALL, ffn=1536, rank=r).memory(tokens, low, "bf16") for r in (rank, rank + 1))
    assert wider.lasting > wide.lasting
