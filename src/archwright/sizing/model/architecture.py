"""What a model's shape costs: parameters that compute, bytes a cached token keeps, FLOPs of attention.

Formulas (d hidden, L layers, V vocabulary, h heads of width w, k key-value heads, f feed-forward width):
- body of a dense layer: 2 d h w + 2 d k w (projections) + 3 d f (gated feed-forward)
- output head: V d
- attention of one token that sees c others: 4 c h w per layer (two products, a multiply and an add each)
- cached token: 2 k w values per layer, or what the row states for latent and linear attention
"""

from __future__ import annotations

from archwright.catalog.tables.records import ModelSpec

CACHE_BITS = 16


def body_parameters(model: ModelSpec) -> float:
    """Parameters every token is multiplied with, without embedding and output head.

    From the shape of a dense model; else the active parameters less one embedding table, a few percent too many if the
    head has a table of its own."""
    if model.ffn is not None and not model.experts:
        attention = 2 * model.hidden * model.head_dim * (model.heads + model.kv_heads)
        return float(model.layers * (attention + 3 * model.hidden * model.ffn))
    return float(max(model.active_parameters - head_parameters(model), 0.1 * model.active_parameters))


def head_parameters(model: ModelSpec) -> float:
    """The output head: applied once to a token that is generated, and to a prompt's last."""
    return float(model.vocabulary * model.hidden)


def parameters_touched(model: ModelSpec, tokens: int) -> float:
    """Parameters read in a step of `tokens` tokens: E (1 - (1 - k/E)^tokens) of E experts, k chosen at random
    per token."""
    if model.experts <= model.experts_active or tokens < 1:
        return float(model.parameters)
    expert = (model.parameters - model.active_parameters) / (model.experts - model.experts_active)
    dense = model.parameters - expert * model.experts
    needed = model.experts * (1 - (1 - model.experts_active / model.experts) ** tokens)
    return dense + expert * needed


def cache_bytes_per_token(model: ModelSpec, bits: int = CACHE_BITS) -> float:
    """As if every layer with keys and values saw the whole context; an upper bound if the row states no constant."""
    if model.kv_bytes_per_token_bf16 is not None:
        return model.kv_bytes_per_token_bf16 * bits / 16
    return 2 * model.layers * model.kv_heads * model.head_dim * bits / 8


def cache_bytes(model: ModelSpec, tokens: float, bits: int = CACHE_BITS) -> float:
    """Cache of one request of `tokens`: with a sliding window only the full-attention layers grow beyond it."""
    per_token = cache_bytes_per_token(model, bits)
    if model.sliding_window is None:
        return per_token * tokens
    full = model.full_attention_layers / model.layers
    return per_token * (full * tokens + (1 - full) * min(tokens, model.sliding_window))


def attention_flops(model: ModelSpec, context: float) -> float:
    """FLOPs of one token that attends to `context` tokens, summed over the layers."""
    full, width = model.full_attention_layers, model.heads * model.head_dim
    windowed = 0 if model.sliding_window is None else model.layers - full
    return 4 * width * (full * context + windowed * min(context, model.sliding_window or 0))
