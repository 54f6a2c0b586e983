"""Parameters, KV cache bytes and attention FLOPs of a model, from its architecture.

Formulas (d hidden size, L layers, V vocabulary, h heads of width w, k key-value heads, f feed-forward width):
- body of a dense layer: 2 d h w + 2 d k w (projections) + 3 d f (gated feed-forward)
- output head: V d
- attention of one token over c tokens of context: 4 c h w FLOPs per layer (two products, multiply and add)
- KV cache of one token: 2 k w values per layer; latent and linear attention: the constant of the model's row
"""

from archwright.catalog.tables.records import ModelSpec

CACHE_BITS = 16


def body_parameters(model: ModelSpec) -> float:
    """Return the parameters that every token is multiplied with, without embedding and output head.

    Dense model: from its shape. Other models: active parameters minus one embedding table, which is a few percent too
    many if the output head is not tied to the embedding."""
    if model.ffn is not None and not model.experts:
        attention = 2 * model.hidden * model.head_dim * (model.heads + model.kv_heads)
        return float(model.layers * (attention + 3 * model.hidden * model.ffn))
    return float(max(model.active_parameters - head_parameters(model), 0.1 * model.active_parameters))


def head_parameters(model: ModelSpec) -> float:
    """Return V d of the output head, applied to each generated token and to the last token of a prompt."""
    return float(model.vocabulary * model.hidden)


def parameters_touched(model: ModelSpec, tokens: int) -> float:
    """Return the parameters that a step of `tokens` tokens reads.

    With E experts and k active per token, E (1 - (1 - k/E)^tokens) experts are read (uniformly random routing)."""
    if model.experts <= model.experts_active or tokens < 1:
        return float(model.parameters)
    expert = (model.parameters - model.active_parameters) / (model.experts - model.experts_active)
    dense = model.parameters - expert * model.experts
    return dense + expert * (model.experts * (1 - (1 - model.experts_active / model.experts) ** tokens))


def cache_bytes_per_token(model: ModelSpec, bits: int = CACHE_BITS) -> float:
    """Return the KV cache bytes of one token if no layer has a sliding window.

    The model row's constant if it states one, else 2 L k w values: an upper bound for latent and linear attention."""
    if model.kv_bytes_per_token_bf16 is not None:
        return model.kv_bytes_per_token_bf16 * bits / 16
    return 2 * model.layers * model.kv_heads * model.head_dim * bits / 8


def cache_bytes(model: ModelSpec, tokens: float, bits: int = CACHE_BITS) -> float:
    """Return the KV cache bytes of a request of `tokens`; layers with a sliding window keep at most the window."""
    per_token = cache_bytes_per_token(model, bits)
    if model.sliding_window is None:
        return per_token * tokens
    full = model.full_attention_layers / model.layers
    return per_token * (full * tokens + (1 - full) * min(tokens, model.sliding_window))


def attention_flops(model: ModelSpec, context: float) -> float:
    """Return the attention FLOPs of one token over `context` tokens, summed over the layers."""
    full, width = model.full_attention_layers, model.heads * model.head_dim
    windowed = 0 if model.sliding_window is None else model.layers - full
    return 4 * width * (full * context + windowed * min(context, model.sliding_window or 0))
