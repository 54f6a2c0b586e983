"""Small GGUF files of any architecture, written by the package gguf, with zeros as weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy

LLAMA = {
    **{"block_count": 2, "embedding_length": 64, "context_length": 512, "feed_forward_length": 128},
    **{"attention.head_count": 4, "attention.head_count_kv": 2},
}


def write_gguf(
    path: Path, architecture: str = "llama", keys: dict[str, Any] | None = None, shapes: dict[str, Any] | None = None
) -> Path:
    """Write a model. `keys`: most get the architecture's name before them; None leaves a key of LLAMA out."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**LLAMA, **(keys or {})}.items():
        name = key if key.startswith(("general.", "tokenizer.", "split.")) else f"{architecture}.{key}"
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        elif value is not None:
            writer.add_uint32(name, value)
    for name, shape in (shapes or {"token_embd.weight": (4000, 64), "blk.0.ffn_up.weight": (128, 64)}).items():
        writer.add_tensor(name, numpy.zeros(shape, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
