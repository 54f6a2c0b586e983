"""Writes a GGUF model with random weights in the shape and format of another model, to measure an engine's speed.

The time of a matrix product does not depend on the weights, so neither a download nor a whole model is needed: the
stack has the model's width, heads and experts, and only some of its layers. Its vocabulary is small, because the output
head has the format of a layer. The mixed formats place their wider blocks as llama.cpp's quantiser does: the output
layer and half of `attn_v` and `ffn_down` (K_M). Layout: as read in gguf.py.
"""

import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from archwright.engines.gguf import ARRAY, BLOCK_SIZES, DEFAULT_ALIGNMENT, MAGIC, STRING, UINT32

VERSION = 3
FLOAT32 = 6
F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 = 0, 1, 2, 3, 6, 7, 8
Q4_K, Q5_K, Q6_K = 12, 13, 14
# Format -> type of most tensors, type of the wider tensors.
FORMATS = {
    "fp16": (F16, F16),
    "Q8_0": (Q8_0, Q8_0),
    "Q6_K": (Q6_K, Q6_K),
    "Q5_K_M": (Q5_K, Q6_K),
    "Q4_K_M": (Q4_K, Q6_K),
    "Q5_1": (Q5_1, Q5_1),
    "Q5_0": (Q5_0, Q5_0),
    "Q4_1": (Q4_1, Q4_1),
    "Q4_0": (Q4_0, Q4_0),
}
# K-formats have blocks of 256 weights; shorter rows get these types, as in llama.cpp.
FALLBACKS = {Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0}
# Offsets of the 16-bit scales in a block, in bytes: a random scale could be infinite.
SCALE_OFFSETS = {
    Q8_0: (0,),
    Q6_K: (208,),
    Q5_K: (0, 2),
    Q4_K: (0, 2),
    Q4_1: (0, 2),
    Q4_0: (0,),
    Q5_0: (0,),
    Q5_1: (0, 2),
}
SCALE = struct.pack("<e", 0.002)
# A pattern of so many blocks repeats in every tensor.
PATTERN_BLOCKS = 4096
CONTEXT_TOKENS = 8192
TOKEN_TYPE_NORMAL = 1


class ModelShape(NamedTuple):
    """Dimensions of a transformer with grouped-query attention; `experts` 0: a dense feed-forward network."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int
    vocabulary: int
    experts: int = 0
    experts_active: int = 0


class Tensor(NamedTuple):
    """A tensor to write; `shape` has the fastest dimension first."""

    name: str
    shape: tuple[int, ...]
    kind: int

    @property
    def size_bytes(self) -> int:
        block_weights, block_bytes = BLOCK_SIZES[self.kind]
        return math.prod(self.shape) // block_weights * block_bytes


def write_synthetic_model(path: Path, shape: ModelShape, quantisation: str) -> None:
    """Write the model. Raises KeyError for a format that is not in FORMATS."""
    tensors = list(list_tensors(shape, quantisation))
    with path.open("wb") as file:
        file.write(_encode_header(shape, tensors))
        for tensor in tensors:
            _pad(file)
            _write_tensor(file, tensor)
        _pad(file)


def count_layer_bytes(shape: ModelShape, quantisation: str) -> int:
    """Return the bytes of one layer."""
    one_layer = list_tensors(shape._replace(layers=1), quantisation)
    return sum(tensor.size_bytes for tensor in one_layer if tensor.name.startswith("blk."))


def list_tensors(shape: ModelShape, quantisation: str) -> Iterator[Tensor]:
    """Yield the tensors in the order of the file."""
    most, wider = FORMATS[quantisation]
    query_width = shape.heads * shape.head_width
    key_width = shape.kv_heads * shape.head_width
    yield _matrix("token_embd", shape.hidden, shape.vocabulary, wider)
    yield Tensor("output_norm.weight", (shape.hidden,), F32)
    for layer in range(shape.layers):
        mixed = wider if layer % 2 else most
        block = f"blk.{layer}"
        yield Tensor(f"{block}.attn_norm.weight", (shape.hidden,), F32)
        yield _matrix(f"{block}.attn_q", shape.hidden, query_width, most)
        yield _matrix(f"{block}.attn_k", shape.hidden, key_width, most)
        yield _matrix(f"{block}.attn_v", shape.hidden, key_width, mixed)
        yield _matrix(f"{block}.attn_output", query_width, shape.hidden, most)
        yield Tensor(f"{block}.ffn_norm.weight", (shape.hidden,), F32)
        yield from _list_feed_forward(shape, block, most, mixed)


def _list_feed_forward(shape: ModelShape, block: str, most: int, mixed: int) -> Iterator[Tensor]:
    if not shape.experts:
        yield _matrix(f"{block}.ffn_gate", shape.hidden, shape.ffn, most)
        yield _matrix(f"{block}.ffn_up", shape.hidden, shape.ffn, most)
        yield _matrix(f"{block}.ffn_down", shape.ffn, shape.hidden, mixed)
        return
    yield Tensor(f"{block}.ffn_gate_inp.weight", (shape.hidden, shape.experts), F32)
    yield _matrix(f"{block}.ffn_gate_exps", shape.hidden, shape.ffn, most, shape.experts)
    yield _matrix(f"{block}.ffn_up_exps", shape.hidden, shape.ffn, most, shape.experts)
    yield _matrix(f"{block}.ffn_down_exps", shape.ffn, shape.hidden, mixed, shape.experts)


def _matrix(name: str, columns: int, rows: int, kind: int, copies: int = 1) -> Tensor:
    block_weights, _ = BLOCK_SIZES[kind]
    if columns % block_weights:
        kind = FALLBACKS.get(kind, F16)
    dimensions = (columns, rows) if copies == 1 else (columns, rows, copies)
    return Tensor(f"{name}.weight", dimensions, kind)


def _encode_header(shape: ModelShape, tensors: list[Tensor]) -> bytes:
    values = [*_list_key_values(shape)]
    header = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(values)) + b"".join(values)
    offset = 0
    for tensor in tensors:
        dimensions = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        header += _encode_text(tensor.name) + struct.pack("<I", len(tensor.shape)) + dimensions
        header += struct.pack("<IQ", tensor.kind, offset)
        offset = _align(offset + tensor.size_bytes)
    return header


def _list_key_values(shape: ModelShape) -> Iterator[bytes]:
    numbers = {
        "context_length": CONTEXT_TOKENS,
        "embedding_length": shape.hidden,
        "block_count": shape.layers,
        "feed_forward_length": shape.ffn,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
        "rope.dimension_count": shape.head_width,
        "vocab_size": shape.vocabulary,
        "expert_count": shape.experts,
        "expert_used_count": shape.experts_active,
    }
    yield _encode_text("general.architecture") + struct.pack("<I", STRING) + _encode_text("llama")
    yield _encode_text("general.name") + struct.pack("<I", STRING) + _encode_text("random weights")
    for name, number in numbers.items():
        yield _encode_text(f"llama.{name}") + struct.pack("<II", UINT32, number)
    yield _encode_text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", FLOAT32, 1e-5)
    yield _encode_text("tokenizer.ggml.model") + struct.pack("<I", STRING) + _encode_text("gpt2")
    yield _encode_text("tokenizer.ggml.pre") + struct.pack("<I", STRING) + _encode_text("default")
    yield _encode_texts("tokenizer.ggml.tokens", [f"t{number}" for number in range(shape.vocabulary)])
    yield _encode_texts("tokenizer.ggml.merges", ["t 0"])


def _encode_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _encode_texts(name: str, texts: list[str]) -> bytes:
    kind = struct.pack("<IIQ", ARRAY, STRING, len(texts))
    return _encode_text(name) + kind + b"".join(_encode_text(text) for text in texts)


def _align(offset: int) -> int:
    return -(-offset // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(_align(file.tell()) - file.tell()))


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    pattern = _make_pattern(tensor.kind)
    missing = tensor.size_bytes
    while missing > 0:
        written = pattern[:missing]
        file.write(written)
        missing -= len(written)


def _make_pattern(kind: int) -> bytes:
    """Return whole blocks with random weights and one scale; norms are 1."""
    chance = random.Random(kind)
    _block_weights, block_bytes = BLOCK_SIZES[kind]
    if kind == F32:
        return struct.pack("<f", 1.0) * PATTERN_BLOCKS
    if kind == F16:
        weights = [chance.gauss(0.0, 0.02) for _ in range(PATTERN_BLOCKS)]
        return struct.pack(f"<{PATTERN_BLOCKS}e", *weights)
    pattern = bytearray(chance.randbytes(PATTERN_BLOCKS * block_bytes))
    for offset in SCALE_OFFSETS[kind]:
        for start in range(offset, len(pattern), block_bytes):
            pattern[start : start + len(SCALE)] = SCALE
    return bytes(pattern)
