"""Small ONNX models made by hand, whose answers are known."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from archwright.engines.onnx_file import SIGNATURE_KEY, ModelSignature
from archwright.home import Home

NAMED = ModelSignature(labels=("low", "high"), shape=(3,), features=("a", "b", "c"), missing=("c",))
PICTURE = ModelSignature(labels=("low", "high"), shape=(2, 2, 1))


def model(notes: ModelSignature | None = NAMED, outputs: int = 2, bias: float = 0.0) -> Any:
    """The probability of "high" is the logistic of twice the item's sum, NaN counting as zero."""
    size = 3 if notes is None else notes.size
    column = np.ones((size, 1), np.float32)
    weights = np.concatenate([(-1.0) ** (1 + index) * column for index in range(outputs)], axis=1)
    nodes = [
        helper.make_node("IsNaN", ["x"], ["absent"]),
        helper.make_node("Where", ["absent", "zero", "x"], ["filled"]),
        helper.make_node("MatMul", ["filled", "w"], ["raw"]),
        helper.make_node("Add", ["raw", "bias"], ["score"]),
        helper.make_node("Softmax", ["score"], ["probabilities"]),
    ]
    tensors = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(bias), "bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, size])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, outputs])],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if notes is not None:
        helper.set_model_props(made, {SIGNATURE_KEY: msgspec.json.encode(notes).decode()})
    return made


def put(home: Home, data: bytes) -> str:
    """The digest under which the home now has the file."""
    digest = hashlib.sha256(data).hexdigest()
    home.model(digest, "onnx").write_bytes(data)
    return digest
