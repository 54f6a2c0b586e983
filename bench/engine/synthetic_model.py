"""Writes a GGUF model of a given shape and quantisation with random weights, to measure an engine's speed and memory.

    python -m bench.engine.synthetic_model TOKENIZER.gguf 4B Q4_K_M -o model.gguf

The time of a matrix product does not depend on the weights, so no trained model is needed. The tokenizer comes from a
real file. The mixed formats place their wider blocks as llama.cpp's quantiser does: the output layer and half of
`attn_v` and `ffn_down` (K_M).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy
from gguf import GGMLQuantizationType as Type


class Shape(NamedTuple):
    """Dimensions of a dense model of the Llama architecture with grouped-query attention."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int


# The shapes of SmolLM2-135M and -360M, Qwen3-0.6B, Llama-3.2-1B and -3B, Qwen3-4B and -8B; the vocabulary is the
# tokenizer's.
SHAPES = {
    "135M": Shape(30, 576, 9, 3, 64, 1536),
    "360M": Shape(32, 960, 15, 5, 64, 2560),
    "0.6B": Shape(28, 1024, 16, 8, 128, 3072),
    "1B": Shape(16, 2048, 32, 8, 64, 8192),
    "3B": Shape(28, 3072, 24, 8, 128, 8192),
    "4B": Shape(36, 2560, 32, 8, 128, 9728),
    "8B": Shape(36, 4096, 32, 8, 128, 12288),
}
# Quantisation -> type of most tensors, type of the wider tensors, llama.cpp's number of the file type.
FORMATS = {
    "F16": (Type.F16, Type.F16, 1),
    "Q8_0": (Type.Q8_0, Type.Q8_0, 7),
    "Q6_K": (Type.Q6_K, Type.Q6_K, 18),
    "Q5_K_M": (Type.Q5_K, Type.Q6_K, 17),
    "Q4_K_M": (Type.Q4_K, Type.Q6_K, 15),
    "Q4_1": (Type.Q4_1, Type.Q4_1, 3),
    "Q4_0": (Type.Q4_0, Type.Q4_0, 2),
}
# Where a block keeps its 16-bit scales, in bytes.
SCALES = {
    Type.Q8_0: (0,),
    Type.Q6_K: (208,),
    Type.Q5_K: (0, 2),
    Type.Q4_K: (0, 2),
    Type.Q4_1: (0, 2),
    Type.Q4_0: (0,),
    Type.F16: (),
}
# K-formats have blocks of 256 weights; shorter rows get these types, as in llama.cpp.
FALLBACKS = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
SCALES |= {Type.Q5_0: (0,), Type.Q5_1: (0, 2)}


def write_model(tokenizer: Path, shape: Shape, quantisation: str, path: Path, name: str) -> int:
    """Write the model and return its number of parameters."""
    source = gguf.GGUFReader(tokenizer)
    writer = gguf.GGUFWriter(path, "llama")
    for field in source.fields.values():
        if field.name.startswith("tokenizer."):
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
    most, wider, file_type = FORMATS[quantisation]
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(1e5)
    writer.add_layer_norm_rms_eps(1e-5)
    vocabulary = len(source.fields["tokenizer.ggml.tokens"].data)
    writer.add_vocab_size(vocabulary)
    chance, parameters = numpy.random.default_rng(7), 0
    for tensor, rows, columns, kind in _list_tensors(shape, vocabulary, most, wider):
        data = _random_blocks(chance, rows, columns, kind)
        parameters += rows * columns
        if rows == 1:
            writer.add_tensor(tensor, data.reshape(-1))
        else:
            writer.add_tensor(tensor, data, raw_dtype=_kind_for(columns, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return parameters


def _list_tensors(shape: Shape, vocabulary: int, most: Type, wider: Type) -> list[tuple[str, int, int, Type]]:
    """Return (name, rows, columns, type) of every tensor."""
    inner, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    found = [
        ("token_embd.weight", vocabulary, shape.hidden, wider),
        ("output_norm.weight", 1, shape.hidden, Type.F32),
    ]
    for layer in range(shape.layers):
        mixed = wider if layer % 2 else most
        place = f"blk.{layer}"
        found += [
            (f"{place}.attn_norm.weight", 1, shape.hidden, Type.F32),
            (f"{place}.attn_q.weight", inner, shape.hidden, most),
            (f"{place}.attn_k.weight", keys, shape.hidden, most),
            (f"{place}.attn_v.weight", keys, shape.hidden, mixed),
            (f"{place}.attn_output.weight", shape.hidden, inner, most),
            (f"{place}.ffn_norm.weight", 1, shape.hidden, Type.F32),
            (f"{place}.ffn_gate.weight", shape.ffn, shape.hidden, most),
            (f"{place}.ffn_up.weight", shape.ffn, shape.hidden, most),
            (f"{place}.ffn_down.weight", shape.hidden, shape.ffn, mixed),
        ]
    return found


def _kind_for(columns: int, kind: Type) -> Type:
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if columns % block == 0 else FALLBACKS[kind]


def _random_blocks(chance: numpy.random.Generator, rows: int, columns: int, kind: Type) -> numpy.ndarray:
    if rows == 1:
        return numpy.ones(columns, numpy.float32)
    kind = _kind_for(columns, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind is Type.F16:
        return (chance.standard_normal((rows, columns), numpy.float32) * 0.02).astype(numpy.float16)
    blocks = chance.integers(0, 256, (rows, columns // block, size), numpy.uint8)
    scale = numpy.frombuffer(numpy.float16(0.002).tobytes(), numpy.uint8)
    for at in SCALES[kind]:
        blocks[:, :, at : at + 2] = scale
    return blocks.reshape(rows, columns // block * size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("quantisation", choices=FORMATS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    name = f"synthetic-{chosen.shape}"
    parameters = write_model(chosen.tokenizer, SHAPES[chosen.shape], chosen.quantisation, chosen.output, name)
    print(f"{parameters:,} parameters, {chosen.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
