"""Tensor parallelism: devices take equal shares of the attention heads, so their number must divide the model's."""

from __future__ import annotations

from archwright.catalog.tables.records import ModelSpec


def can_split_heads(model: ModelSpec, count: int) -> bool:
    return count == 1 or model.heads % count == 0
