"""The `config.json` of a checkpoint: the shape of what will be served. Its folder or its file's name is the model's."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from archwright.catalog.sources.source_records import CheckpointArchitecture, FileContext, SourceFacts

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
NAME, ENDING, OWNER = "config.json", "_config.json", "--"
# A model that sees or hears keeps its decoder one level down.
DECODERS = ("text_config", "language_config", "llm_config")


def read(data: bytes, file: FileContext) -> SourceFacts:
    """Nothing for a configuration of something else beside the model: of its tokens, its quantisation."""
    # Real files hold numbers such as Infinity, which strict readers refuse.
    stated = json.loads(data)
    if not isinstance(stated, dict):
        raise ValueError("no JSON object")
    stated = next((stated[name] for name in DECODERS if isinstance(stated.get(name), dict)), stated)
    fields = {field: value for field, names in SPELLINGS.items() if (value := _first_count(stated, names)) is not None}
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
    return SourceFacts(architectures=(CheckpointArchitecture(_model_name(file.name), fields),))


def _first_count(stated: dict[str, Any], names: tuple[str, ...]) -> int | None:
    found = (stated.get(name) for name in names)
    return next(
        (value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None
    )


def _model_name(name: str) -> str:
    path = PurePath(name)
    said = path.parent.name if path.name == NAME else path.name.removesuffix(ENDING)
    return said.rpartition(OWNER)[2]
