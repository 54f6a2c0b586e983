"""Folders of small text models made by hand, whose vectors and scores are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WORDS = ("[pad]", "sea", "ship", "tax", "form")
# The vector of each word of the small model; padding would change any mean that it took part in.
TABLE = np.array([[100, 100], [1, 0], [0, 1], [3, 4], [-1, 1]], np.float32)


HIDDEN, LOGITS = "last_hidden_state", "logits"


def build_graph(nodes: Any, kind: int = TensorProto.INT64, names: tuple[str, ...] = ("input_ids",), **more: Any) -> Any:
    """The bytes of a model with these inputs; the tensor w is `TABLE`."""
    given = [helper.make_tensor_value_info(name, kind, ["n", "t"]) for name in names]
    found = [helper.make_tensor_value_info(more.get("output", HIDDEN), more.get("kind_out", TensorProto.FLOAT), None)]
    tensors = more.get("tensors", [numpy_helper.from_array(TABLE, "w")])
    graph = helper.make_graph(nodes, "small", given, found, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def build_reranker() -> Any:
    """The logit of a pair is the sum of its words' numbers: 0, 1, -1, -900 and 2."""
    nodes = [
        helper.make_node("Gather", ["w", "input_ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axes"], [LOGITS], keepdims=0),
    ]
    numbers = numpy_helper.from_array(np.array([[0], [1], [-1], [-900], [2]], np.float32), "w")
    return build_graph(nodes, output=LOGITS, tensors=[numbers, numpy_helper.from_array(np.array([1]), "axes")])


LOOK_UP = [helper.make_node("Gather", ["w", "input_ids"], [HIDDEN])]
GOOD = build_graph(LOOK_UP)
TOKENIZER: dict[str, Any] = {
    **{"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}},
    "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
    "model": {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(WORDS)}, "unk_token": "sea"},
}
# What is read of config.json when a model is added.
SIZES = {"hidden_size": 2, "num_hidden_layers": 1, "vocab_size": 5, "max_position_embeddings": 8}


def write_folder(folder: Path, **files: object) -> Path:
    """Write a small model whose tokens are words; `files` replace or add files."""
    named: dict[str, object] = {"model.onnx": GOOD, "config.json": {}, "tokenizer.json": TOKENIZER, **files}
    for name, content in named.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            path.write_text(json.dumps(content))
    return folder
