"""Assumed architecture of a model without a catalog row, from its parameter counts.

Depth L and width d follow from 12 L d^2 active parameters and d = 100 L (the usual ratio of open models of that size).
Heads have 128 values, 8 of them are key-value heads (GQA). A sparse model gets 128 experts of which 8 are active.
Predictions from an assumed architecture are marked weak.
"""

from archwright.catalog.tables.records import ModelSpec

_WIDTH_PER_LAYER = 100.0
_HEAD_DIM = 128
_KV_HEADS = 8
_EXPERTS, _EXPERTS_ACTIVE = 128, 8


def build_parametric_model(name: str, parameters: float, active: float) -> ModelSpec:
    """`parameters` and `active` are counts, 1e6 to 1e14."""
    active = min(active, parameters)
    layers = max(4, round((active / 12 / _WIDTH_PER_LAYER**2) ** (1 / 3)))
    hidden = max(_HEAD_DIM, round((active / 12 / layers) ** 0.5 / _HEAD_DIM) * _HEAD_DIM)
    heads = max(1, hidden // _HEAD_DIM)
    sparse = parameters > 1.2 * active
    return ModelSpec(
        id=name[:120],
        org="",
        parameters=round(parameters),
        active_parameters=round(active),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=min(_KV_HEADS, heads),
        head_dim=_HEAD_DIM,
        ffn=None if sparse else 4 * hidden,
        experts=_EXPERTS if sparse else 0,
        experts_active=_EXPERTS_ACTIVE if sparse else 0,
        expert_ffn=None,
        shared_experts=0,
        vocabulary=min(128_000, round(0.2 * active / hidden)),
        context_tokens=131_072,
        attention="gqa",
        full_attention_layers=layers,
        sliding_window=None,
        kv_lora_rank=None,
        kv_bytes_per_token_bf16=None,
        licence="unknown",
        commercial_use="no",
        licence_conditions="",
        released="",
        quality={},
        source="assumed from the parameter count",
    )
