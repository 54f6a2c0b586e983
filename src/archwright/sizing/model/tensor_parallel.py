"""Tensor parallelism: each device takes an equal share of the heads, so the degree must divide their number."""

from archwright.catalog.tables.records import ModelSpec


def can_split_heads(model: ModelSpec, count: int) -> bool:
    return count == 1 or model.heads % count == 0
