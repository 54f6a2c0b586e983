"""Files of random weights: complete for our own reader, and loaded and answered by the real engine."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from archwright.engines.gguf import read_gguf
from archwright.engines.synthetic_model import (
    FORMATS,
    Q4_K,
    Q5_0,
    Q6_K,
    ModelShape,
    count_layer_bytes,
    write_synthetic_model,
)

SMALL = ModelShape(layers=2, hidden=64, heads=4, kv_heads=2, head_width=16, ffn=128, vocabulary=300)
WIDE = SMALL._replace(hidden=256, ffn=512, head_width=64)


@pytest.mark.parametrize("quantisation", FORMATS)
def test_every_format_is_a_complete_file(quantisation: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_synthetic_model(path, SMALL, quantisation)
    found = read_gguf(path)
    assert found.shapes["token_embd.weight"] == (64, 300)
    assert found.values["general.architecture"] == "llama" and found.values["llama.block_count"] == 2
    assert found.lengths["tokenizer.ggml.tokens"] == 300
    layer = [name for name in found.shapes if name.startswith("blk.1.")]
    assert (
        len(layer) == 9 and sum(prod(found.shapes[name]) for name in layer) == 2 * (64 * 64 + 64 * 32) + 3 * 8192 + 128
    )


def test_a_mixed_format_has_its_wider_blocks_where_the_quantiser_puts_them(tmp_path: Path) -> None:
    write_synthetic_model(tmp_path / "wide.gguf", WIDE, "Q4_K_M")
    kinds = read_gguf(tmp_path / "wide.gguf").types
    assert kinds["token_embd.weight"] == kinds["blk.1.ffn_down.weight"] == kinds["blk.1.attn_v.weight"] == Q6_K
    assert kinds["blk.0.ffn_down.weight"] == kinds["blk.1.ffn_up.weight"] == Q4_K
    write_synthetic_model(tmp_path / "narrow.gguf", SMALL, "Q4_K_M")
    assert read_gguf(tmp_path / "narrow.gguf").types["blk.0.attn_q.weight"] == Q5_0, "64 weights fill no block of 256"


def test_experts_are_one_tensor_and_make_a_layer_larger(tmp_path: Path) -> None:
    mixture = WIDE._replace(experts=8, experts_active=2)
    write_synthetic_model(tmp_path / "mixture.gguf", mixture, "Q8_0")
    found = read_gguf(tmp_path / "mixture.gguf")
    assert found.shapes["blk.0.ffn_up_exps.weight"] == (256, 512, 8)
    assert found.values["llama.expert_used_count"] == 2
    assert count_layer_bytes(mixture, "Q8_0") > 4 * count_layer_bytes(WIDE, "Q8_0")


def test_a_format_that_is_not_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_synthetic_model(tmp_path / "model.gguf", SMALL, "IQ1_S")
