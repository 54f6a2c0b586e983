"""The engine of a stored model: its context within the memory, its task, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.api.model_launch import build_launch, find_memory_limit
from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.contract.stored_model import ModelArchitecture, StoredModel

from ..command_line import error_of
from ..sizing.conftest import probed_machine

GB = 10**9
SHAPE = ModelArchitecture(
    type="llama",
    parameters=8_030_000_000,
    active_parameters=8_030_000_000,
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_width=128,
    vocabulary=128_256,
    context_tokens=131_072,
    ffn=14_336,
)
STORED = StoredModel(
    name="tall",
    model="tall",
    form="gguf",
    task="generate",
    sha256="a" * 64,
    size_bytes=4_920_000_000,
    quantisation="Q4_K_M",
    licence="Apache-2.0",
    source="file",
    added_at=0.0,
    architecture=SHAPE,
)


def launch(
    stored: StoredModel = STORED, limit: int = 64 * GB, slots: int = 2, context: int | None = None
) -> dict[str, Any]:
    spec = build_launch(stored, slots, context, probed_machine(), load_catalog(), limit)
    assert spec.on_demand and spec.name == spec.ready_socket == spec.config["socket"]
    assert spec.memory_bytes <= limit and spec.startup_deadline_s > 60.0
    return {**spec.config, "memory": spec.memory_bytes}


def test_the_context_shrinks_until_the_model_fits() -> None:
    """KV cache of this shape: 2 x 32 layers x 8 heads x 128 x 2 bytes = 131,072 bytes per token."""
    wide, narrow = launch(), launch(limit=6 * GB)
    assert (wide["context_tokens"], wide["slots"], wide["default_max_tokens"]) == (8192, 2, 8192)
    assert narrow["context_tokens"] < 8192
    saved = 2 * (8192 - narrow["context_tokens"]) * 131_072
    assert wide["memory"] - narrow["memory"] == pytest.approx(saved, rel=0.3)
    unknown = launch(replace(STORED, quantisation="unknown"))["memory"]
    assert unknown == pytest.approx(wide["memory"], rel=0.01), "the file's size decides"
    assert launch(context=131_072, slots=1)["memory"] > wide["memory"] + 12 * GB


def test_equal_engines_have_equal_names() -> None:
    assert launch()["socket"] == launch()["socket"] != launch(slots=4)["socket"]
    assert launch(replace(STORED, sha256="b" * 64))["socket"] != launch()["socket"]


def test_each_form_and_task_has_its_engine() -> None:
    assert launch()["engine"] == "llamacpp"
    assert launch(replace(STORED, task="embed"))["settings"] == {"threads": 1, "batch_tokens": 16, "embeddings": True}
    text = launch(replace(STORED, form="onnx", task="rerank", size_bytes=GB))
    assert (text["engine"], text["settings"], text["context_tokens"]) == (
        "onnx-text",
        {"task": "rerank", "threads": 1},
        512,
    )
    assert "needs a GPU" in error_of("AW-OPS-56", launch, replace(STORED, form="safetensors", size_bytes=GB)).message


def test_what_does_not_fit_is_refused_with_both_figures() -> None:
    error = error_of("AW-OPS-55", launch, limit=3 * GB)
    assert "tall needs 5." in error.message and "may use 3.00 GB" in error.message
    error_of("AW-OPS-55", launch, limit=6 * GB, context=8192)
    error_of("AW-USE-62", launch, context=131_073)
    error_of("AW-USE-62", launch, slots=0)


def test_the_memory_for_loaded_models() -> None:
    assert find_memory_limit(5) == 5
    assert 1 < find_memory_limit(0) < 2**50
