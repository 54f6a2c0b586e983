"""What is stated of models and accelerators: scores and shapes in JSON, sheets of accelerators in YAML."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import msgspec
import yaml

from archwright.catalog.sources.source_records import (
    AcceleratorSpec,
    BenchmarkScore,
    CheckpointArchitecture,
    FileContext,
    SourceFacts,
)

RATES = {"bf16": "bfloat16_tc_flops", "int8": "int8_tc_flops", "fp8": "fp8_tc_flops", "fp4": "fp4_tc_flops"}
# A field of a model's row, and what checkpoints call it, the first that stands counts.
SPELLINGS = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "ffn": ("intermediate_size",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "experts_active": ("num_experts_per_tok",),
    "expert_ffn": ("moe_intermediate_size",),
    "shared_experts": ("n_shared_experts",),
    "vocabulary": ("vocab_size",),
    "context_tokens": ("max_position_embeddings",),
    "sliding_window": ("sliding_window",),
    "kv_lora_rank": ("kv_lora_rank",),
}
# A model that sees or hears keeps its decoder one level down.
DECODERS = ("text_config", "language_config", "llm_config")


class _Result(msgspec.Struct):
    model_id: str
    benchmark_id: str
    score: float
    analysis_method: str | None = None
    is_self_reported: bool = False
    self_reported_source_link: str | None = None
    updated_at: str = ""


class _Node(msgspec.Struct):
    intra_node_bw: float | None = None


class _Sheet(msgspec.Struct):
    gpu: dict[str, Any]
    node: _Node = msgspec.field(default_factory=_Node)


def read_benchmark_scores(data: bytes, _file: FileContext) -> SourceFacts:
    """Reported scores of one model: a list of benchmark, score and who says so."""
    results = msgspec.json.decode(data, type=list[_Result])
    return SourceFacts(
        as_of=max((row.updated_at[:10] for row in results), default=""),
        scores=tuple(
            BenchmarkScore(
                model=row.model_id,
                benchmark=row.benchmark_id,
                score=row.score,
                method=row.analysis_method or "",
                reported_by="the model's maker" if row.is_self_reported else "",
                original_source=row.self_reported_source_link or "",
            )
            for row in results
        ),
    )


def read_checkpoint_config(data: bytes, file: FileContext) -> SourceFacts:
    """A checkpoint's `config.json`; its folder or file names the model. Nothing for another file."""
    # Real files hold numbers such as Infinity, which strict readers refuse.
    stated = json.loads(data)
    if not isinstance(stated, dict):
        raise ValueError("no JSON object")
    stated = next((stated[name] for name in DECODERS if isinstance(stated.get(name), dict)), stated)
    found = {field: _first_count(stated.get(name) for name in names) for field, names in SPELLINGS.items()}
    fields = {field: count for field, count in found.items() if count is not None}
    if stated.get("use_sliding_window") is False:
        fields.pop("sliding_window", None)
    if not {"layers", "hidden", "heads"} <= fields.keys():
        return SourceFacts()
    fields.setdefault("kv_heads", fields["heads"])
    if "kv_lora_rank" not in fields:
        # Latent attention has heads of several widths, none of them this share.
        fields.setdefault("head_dim", fields["hidden"] // fields["heads"])
    if fields.get("experts") and "ffn" in fields:
        fields.setdefault("expert_ffn", fields["ffn"])
    path = PurePath(file.name)
    name = path.parent.name if path.name == "config.json" else path.name.removesuffix("_config.json")
    # An owner may stand before two hyphens.
    return SourceFacts(architectures=(CheckpointArchitecture(name.rpartition("--")[2], fields),))


def _first_count(values: Iterable[object]) -> int | None:
    return next((value for value in values if isinstance(value, int) and value is not True and value > 0), None)


def read_accelerator_sheet(data: bytes, file: FileContext) -> SourceFacts:
    """A YAML sheet of one accelerator, named by its file: memory, dense rates, links, watts."""
    try:
        sheet = msgspec.convert(yaml.load(data, Loader=yaml.CSafeLoader), _Sheet)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error
    rates = {dtype: _read_number(sheet.gpu, name) for dtype, name in RATES.items()}
    device = AcceleratorSpec(
        name=PurePath(file.name).stem.replace("_", " "),
        memory_bytes=round(_read_number(sheet.gpu, "mem_capacity") or 0),
        bandwidth_bytes_per_s=_read_number(sheet.gpu, "mem_bw") or 0.0,
        flops={dtype: rate for dtype, rate in rates.items() if rate},
        scale_up_bytes_per_s=sheet.node.intra_node_bw,
        tdp_w=_read_number(sheet.gpu, "power"),
    )
    if not device.memory_bytes or not device.bandwidth_bytes_per_s or not device.flops:
        raise ValueError("states no memory, no bandwidth or no rate")
    return SourceFacts(devices=(device,))


def _read_number(stated: dict[str, Any], name: str) -> float | None:
    value = stated.get(name)
    return msgspec.convert(value, float, strict=False) if isinstance(value, int | float | str) else None
