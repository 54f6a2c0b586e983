from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from gguf.constants import MODEL_ARCH_NAMES, GGMLQuantizationType, LlamaFileType
from safetensors.numpy import save_file

from archwright.catalog.load import load_catalog
from archwright.engines.model_header import (
    read_architectures,
    read_folder_header,
    read_gguf_header,
    read_quantisations,
)
from archwright.home import Home

from ..tools.checks import refuses
from ..tools.plain_gguf import write_gguf
from .conftest import SMALL_MODEL

CONFIG = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 1000},
    "max_position_embeddings": 512,
}


def write_folder(folder: Path, config: dict[str, Any] | None = None, **files: str) -> Path:
    """A folder of safetensors with 1,000 x 64 weights in 16 bits; `files`: names with _ for the dot."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    save_file({"embed.weight": numpy.zeros((1000, 64), numpy.float16)}, folder / "model.safetensors")
    for name, text in files.items():
        (folder / name.replace("_json", ".json").replace("_md", ".md")).write_text(text)
    return folder


def test_the_header_of_the_real_model_is_read(model_home: Home) -> None:
    header = read_gguf_header(model_home.model(SMALL_MODEL.sha256))
    assert (header.task, header.quantisation, header.licence) == ("generate", "Q4_1", "apache-2.0")
    shape = header.architecture
    assert header.chat_template and (shape.type, shape.parameters, shape.active_parameters) == (
        "llama",
        *2 * (134515008,),
    )
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_width) == (30, 576, 9, 3, 64)
    assert (shape.ffn, shape.vocabulary, shape.context_tokens, shape.experts) == (1536, 49152, 8192, 0)


def test_a_mixture_of_experts_counts_the_weights_of_a_token(tmp_path: Path) -> None:
    keys = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 16, "attention.key_length": 32}
    shapes = {"token_embd.weight": (1000, 64), "blk.0.ffn_up_exps.weight": (8, 16, 64)}
    shape = read_gguf_header(write_gguf(tmp_path / "m.gguf", "qwen3moe", keys, shapes)).architecture
    assert (shape.parameters, shape.active_parameters) == (64_000 + 8_192, 64_000 + 2_048)
    assert (shape.ffn, shape.experts, shape.experts_active, shape.expert_ffn, shape.head_width) == (None, 8, 2, 16, 32)


@pytest.mark.parametrize(
    ("architecture", "keys", "task"),
    [
        ("llama", {}, "generate"),
        ("qwen3", {"pooling_type": 3}, "embed"),
        ("qwen3", {"pooling_type": 4}, "rerank"),
        ("bert", {"pooling_type": 2}, "embed"),
        ("nomic-bert", {}, "embed"),
        ("gemma3", {"attention.head_count_kv": [1, 2], "attention.sliding_window": 512}, "generate"),
    ],
)
def test_the_pooling_says_the_task(tmp_path: Path, architecture: str, keys: dict[str, Any], task: str) -> None:
    header = read_gguf_header(write_gguf(tmp_path / "m.gguf", architecture, keys))
    assert header.task == task and header.architecture.type == architecture and header.quantisation == "fp32"
    assert header.architecture.kv_heads == (4 if "attention.head_count_kv" in keys else 2)  # per layer: the most


def test_a_file_that_is_no_known_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with refuses("AW-ENG-20", "'mega9'"):
        read_gguf_header(write_gguf(path, "mega9"))
    for architecture, keys, match in (
        ("clip", {}, "vision projector"),
        ("llama", {"general.type": "adapter"}, "type adapter"),
        ("llama", {"block_count": None}, "not state .* block_count"),
        ("llama", {"split.count": 3}, "one of 3 parts"),
    ):
        with refuses("AW-ENG-21", match):
            read_gguf_header(write_gguf(path, architecture, keys))


def test_the_known_architectures_are_those_of_the_installed_library() -> None:
    package = importlib.util.find_spec("xllamacpp")
    assert package is not None and package.origin is not None
    (library,) = Path(package.origin).parent.glob("*.so")
    content, ours = library.read_bytes(), read_architectures()
    place = content.index(b"gemma-embedding2\0")
    near = content[place - (1 << 20) : place + (1 << 20)]  # most names stand together: a search of all takes seconds
    assert [one for one in sorted(ours) if (text := one.encode() + b"\0") not in near and text not in content] == []
    assert set(MODEL_ARCH_NAMES.values()) - {"clip"} <= ours


def test_every_file_type_has_the_name_of_llama_cpp_and_a_row() -> None:
    names = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType}
    tensors = {str(kind.value): kind.name for kind in GGMLQuantizationType}
    ours = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "mxfp4": "MXFP4", "nvfp4": "NVFP4"}
    for row in read_quantisations():
        name = ours.get(row["quantisation"], row["quantisation"])
        assert names[int(row["file_type"])].removesuffix("_MOE") == name
        # Q4_K_M is a mixture, and most of its tensors are Q4_K.
        assert not row["tensor_type"] or name.startswith(tensors[row["tensor_type"]])
        assert row["quantisation"] in load_catalog().quantisations


def test_a_folder_of_safetensors_is_read_from_its_headers(tmp_path: Path) -> None:
    card = "---\nlanguage: en\nlicense: mit\n---\n# A model\n"
    header = read_folder_header(
        write_folder(tmp_path, tokenizer_config_json='{"chat_template": "x"}', README_md=card), "safetensors"
    )
    assert (header.task, header.quantisation, header.licence, header.chat_template) == ("generate", "fp16", "mit", True)
    assert header.architecture.parameters == 64_000 and header.architecture.head_width == 16
    nested = {"text_config": {"hidden_size": 32, "head_dim": 8}, "quantization_config": {"quant_method": "awq"}}
    header = read_folder_header(write_folder(tmp_path, nested), "safetensors")
    assert (header.architecture.hidden, header.architecture.head_width, header.quantisation) == (32, 8, "int4")
    save_file(
        {"q": numpy.zeros((100, 64), numpy.int32), "s": numpy.zeros(9, numpy.float16)}, tmp_path / "model.safetensors"
    )
    assert read_folder_header(tmp_path, "safetensors").architecture.parameters == 8 * 6_400 + 9


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_a_truncated_folder_is_refused(tmp_path: Path, cut: int) -> None:
    weights = write_folder(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    with refuses("AW-ENG-21", "not a complete safetensors file"):
        read_folder_header(tmp_path, "safetensors")


@pytest.mark.parametrize("text", ["[]", "{", '{"hidden_size": "x"}', "[" * 100_000])
def test_a_wrong_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (write_folder(tmp_path) / "config.json").write_text(text)
    with refuses("AW-ENG-21", "config"):
        read_folder_header(tmp_path, "safetensors")
