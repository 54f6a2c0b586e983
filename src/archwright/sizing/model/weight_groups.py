"""Weights and KV cache of a model, grouped by how a parallel layout shards them.

- trunk: attention, dense and shared feed-forward; applied to every token, held once per tensor-parallel group.
- embedding: tables of which a step looks up rows and does not read the whole. None if the table is the output head
  (tied): then the parameters of the shape add up with one table of V d instead of two.
- head: the output head, V d.
- experts: E experts of which k are active per token; a step of t tokens reads E (1 - (1 - k/E)^t) (random routing).
- cache: values per token. Latent attention (MLA) keeps one latent per token and layer, replicated on every rank; a
  decode step multiplies the latent with h heads of the latent's width (absorbed form), not of the head width.
"""

import math
from typing import NamedTuple

from archwright.catalog.tables.records import ModelSpec
from archwright.sizing.model.architecture import body_parameters, cache_bytes_per_token, head_parameters

# Rotary (RoPE) values that latent attention keeps with each latent: 64 in every published architecture.
ROTARY_VALUES = 64
# If the shape does not add up, smaller models tie the embedding to the output head.
TIED_EMBEDDING_PARAMETERS = 2.0e9
SHAPE_TOLERANCE = 0.03


class WeightGroups(NamedTuple):
    """Counts of parameters and cache values, independent of hardware and number format."""

    layers: int
    hidden: int
    trunk: float
    head: float
    embedding: float
    expert: float
    experts: int
    chosen: int
    cache_values: float
    cache_splits: int
    grows: float
    window: int
    decode_width: float
    prefill_width: float

    @property
    def sparse(self) -> bool:
        return self.experts > 0

    @property
    def parameters(self) -> float:
        return self.trunk + self.head + self.embedding + self.expert * self.experts

    @property
    def active(self) -> float:
        return self.trunk + self.expert * self.chosen

    def touched_expert_parameters(self, tokens: float) -> float:
        """Return the expert parameters that a step of `tokens` tokens reads, summed over the layers."""
        if not self.experts:
            return 0.0
        return self.expert * self.experts * (1 - math.pow(1 - self.chosen / self.experts, max(tokens, 1.0)))

    def mean_attended_tokens(self, context: float) -> float:
        """Return the tokens of `context` that one token attends to, averaged over the layers."""
        if not self.window:
            return self.grows * context
        return self.grows * context + (1 - self.grows) * min(context, self.window)

    def prompt_attention_pairs(self, prompt: float) -> float:
        """Return the attended pairs of tokens in a prompt (causal), averaged over the layers."""
        whole = prompt * prompt / 2
        if not self.window:
            return self.grows * whole
        short = whole if prompt <= self.window else self.window * (prompt - self.window / 2)
        return self.grows * whole + (1 - self.grows) * short

    def cache_value_count(self, context: float) -> float:
        """Return the KV cache values of one request of `context` tokens."""
        if not self.window:
            return self.cache_values * context
        return self.cache_values * self.mean_attended_tokens(context)


def _lookup_parameters(model: ModelSpec, head: float) -> float:
    if not model.experts:
        if model.active_parameters < model.parameters:
            return float(model.parameters - model.active_parameters)
        gaps = [abs(body_parameters(model) + tables * head - model.parameters) for tables in (1, 2)]
        if min(gaps) < SHAPE_TOLERANCE * model.parameters:
            return head * gaps.index(min(gaps))
    return 0.0 if model.parameters < TIED_EMBEDDING_PARAMETERS else head


def group_weights(model: ModelSpec) -> WeightGroups:
    head = head_parameters(model)
    embedding = _lookup_parameters(model, head)
    experts = model.experts if model.experts > model.experts_active else 0
    expert = (model.parameters - model.active_parameters) / (model.experts - model.experts_active) if experts else 0.0
    trunk = model.parameters - expert * experts - head - embedding
    latent, rank = model.kv_lora_rank is not None, model.kv_lora_rank or 0
    grows = model.full_attention_layers / model.layers if model.full_attention_layers else 1.0
    width = float(model.heads * model.head_dim)
    return WeightGroups(
        layers=model.layers,
        hidden=model.hidden,
        trunk=max(trunk, 0.1 * model.active_parameters),
        head=head,
        embedding=embedding,
        expert=expert,
        experts=experts,
        chosen=model.experts_active if experts else 0,
        cache_values=cache_bytes_per_token(model) / 2,
        cache_splits=1 if latent else max(model.kv_heads, 1),
        grows=grows,
        window=model.sliding_window or 0,
        decode_width=model.heads * (rank + ROTARY_VALUES / 2.0) if latent else width,
        prefill_width=model.heads * (model.head_dim + ROTARY_VALUES / 2.0) if latent else width,
    )
