"""A model nobody has a row for, from its parameter counts alone: the middle of the open models of its size.

Width and depth follow the usual ratio (12 L d^2 parameters, d = 128 L up to rounding), grouped attention of 8 heads
in memory; a sparse one is given 128 experts of which 8 are chosen. What rests on it is weak and says so.
"""

from __future__ import annotations

from archwright.catalog.tables.records import ModelSpec

_RATIO = 100.0
_HEAD = 128
_KV_HEADS = 8
_EXPERTS, _CHOSEN = 128, 8


def build_parametric_model(name: str, parameters: float, active: float) -> ModelSpec:
    """`parameters` and `active` are counts, 1e6 to 1e14."""
    active = min(active, parameters)
    layers = max(4, round((active / 12 / _RATIO**2) ** (1 / 3)))
    hidden = max(_HEAD, round((active / 12 / layers) ** 0.5 / _HEAD) * _HEAD)
    heads = max(1, hidden // _HEAD)
    kept = min(_KV_HEADS, heads)
    sparse = parameters > 1.2 * active
    return ModelSpec(
        id=name[:120],
        org="",
        parameters=round(parameters),
        active_parameters=round(active),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kept,
        head_dim=_HEAD,
        ffn=None if sparse else 4 * hidden,
        experts=_EXPERTS if sparse else 0,
        experts_active=_CHOSEN if sparse else 0,
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
