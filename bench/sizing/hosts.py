"""Measure the image and table rate of one core: `OPENBLAS_NUM_THREADS=1 python -m bench.sizing.hosts`.

The rows vision.host, tabular.row and tabular.feature of work_efficiencies.csv come from here. Images run through the
layers of ResNet-50 with random weights. Rows run through 200 boosted trees of 31 leaves over random features, one row
per call. Both use the serving engine on one thread. The matrix rate is numpy's, 1024 x 1024 in 32 bits.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import lightgbm
import msgspec
import numpy as np
import onnx
import onnxmltools
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.common.data_types import FloatTensorType

ROUNDS = 9
FEATURES = (10, 50, 140, 500)
TREES, LEAVES, ROWS = 200, 31, 20_000
# Blocks, inner and outer channels of each stage; a stage but the first halves height and width.
STAGES = ((3, 64, 256), (4, 128, 512), (6, 256, 1024), (3, 512, 2048))


def timed(once: Callable[[], object], calls: int) -> float:
    """Median seconds of a call over rounds of `calls`."""
    once()
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            once()
        taken.append((time.perf_counter() - start) / calls)
    return statistics.median(taken)


def matrix_rate(size: int = 1024) -> float:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, 5)


class Network:
    """The nodes of a classifier, and what an image costs in it."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.flops = 0.0
        self.parameters = 0
        self._rng = np.random.default_rng(1)

    def conv(self, source: str, shape: tuple[int, int, int], size: int, stride: int, rectify: bool = True) -> str:
        """`shape`: channels in and out, and the side of the input."""
        inputs, outputs, side = shape
        name = f"c{len(self.nodes)}"
        values = self._rng.standard_normal((outputs, inputs, size, size), dtype=np.float32) / (inputs * size * size)
        self.weights.append(numpy_helper.from_array(values, f"{name}w"))
        pad = size // 2
        self.nodes.append(helper.make_node("Conv", [source, f"{name}w"], [name], strides=[stride] * 2, pads=[pad] * 4))
        self.flops += 2 * values.size * (side // stride) ** 2
        self.parameters += values.size
        return self.node("Relu", [name]) if rectify else name

    def node(self, kind: str, sources: list[str], **attributes: object) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, sources, [name], **attributes))
        return name


def resnet() -> tuple[bytes, float, int]:
    net, side, channels = Network(), 112, 64
    last = net.conv("image", (3, 64, 224), 7, 2)
    last, side = net.node("MaxPool", [last], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 56
    for stage, (blocks, inner, outer) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            kept = net.conv(last, (channels, outer, side), 1, stride, rectify=False) if block == 0 else last
            one = net.conv(last, (channels, inner, side), 1, 1)
            two = net.conv(one, (inner, inner, side), 3, stride)
            side //= stride
            three = net.conv(two, (inner, outer, side), 1, 1, rectify=False)
            last, channels = net.node("Relu", [net.node("Add", [kept, three])]), outer
    answer = net.node("GlobalAveragePool", [last])
    graph = helper.make_graph(
        net.nodes,
        "resnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info(answer, TensorProto.FLOAT, [1, channels, 1, 1])],
        net.weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString(), net.flops, net.parameters


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def trees(features: int) -> onnxruntime.InferenceSession:
    rng = np.random.default_rng(features)
    rows = rng.standard_normal((ROWS, features))
    told = (rows[:, 0] + rows[:, 1] * rows[:, 2] + rng.standard_normal(ROWS) > 0).astype(int)
    grown = lightgbm.LGBMClassifier(n_estimators=TREES, num_leaves=LEAVES, verbose=-1, n_jobs=1).fit(rows, told)
    kind = [("rows", FloatTensorType([None, features]))]
    made = onnxmltools.convert_lightgbm(grown, initial_types=kind, target_opset=15, zipmap=False)
    return session(made.SerializeToString())


def decoded(body: bytes) -> object:
    return np.asarray(msgspec.json.decode(body), np.float32)


def main() -> None:
    rng = np.random.default_rng(1)
    rate = matrix_rate()
    model, flops, parameters = resnet()
    image = rng.standard_normal((1, 3, 224, 224), dtype=np.float32)
    classifier = session(model)
    seconds = timed(lambda: classifier.run(None, {"image": image}), 3)
    row_s, decode_s = {}, {}
    for features in FEATURES:
        own = trees(features)
        row = rng.standard_normal((1, features), dtype=np.float32)
        body = msgspec.json.encode(row.tolist())
        row_s[features] = timed(partial(own.run, None, {"rows": row}), 300)
        decode_s[features] = timed(partial(decoded, body), 300)
    found = {
        "matrix_gflops": rate / 1e9,
        "image_gflop": flops / 1e9,
        "image_parameters": parameters,
        "image_s": seconds,
        "image_share_of_matrix_rate": flops / seconds / rate,
        "row_s": row_s,
        "decode_s": decode_s,
    }
    json.dump(found, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
