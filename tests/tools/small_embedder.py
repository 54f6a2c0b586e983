"""An ONNX embedder of a few kilobytes: the vector of a text is the mean of random vectors of its words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

WIDTH, CONTEXT = 24, 64


def write_small_embedder(folder: Path, words: tuple[str, ...]) -> Path:
    """Write a model folder that knows these words; all other words have one vector."""
    folder.mkdir()
    vocabulary = {"[UNK]": 0, **{word: number for number, word in enumerate(dict.fromkeys(words), 1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.random.default_rng(8).normal(size=(len(vocabulary), WIDTH)).astype(np.float32)
    names = ("input_ids", "attention_mask")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "embedder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"]) for name in names],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["texts", "tokens", WIDTH])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    config = {
        "model_type": "bert",
        "max_position_embeddings": CONTEXT,
        "num_hidden_layers": 1,
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "intermediate_size": WIDTH,
        "vocab_size": len(vocabulary),
        "architectures": ["BertModel"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
