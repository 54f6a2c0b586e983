"""Prices of hosted models in one JSON object: model -> costs per token, limits, date of withdrawal."""

from __future__ import annotations

from typing import Any

import msgspec

from archwright.catalog.sources.source_records import FileContext, HostedTokenPrice, SourceFacts

# Models that answer with text.
MODES = frozenset({"chat", "responses"})


def read(data: bytes, _file: FileContext) -> SourceFacts:
    models = msgspec.json.decode(data, type=dict[str, dict[str, Any]])
    found = [price for name, entry in models.items() if (price := _token_price(name, entry)) is not None]
    if not found:
        raise ValueError("no text model with a price per token in it")
    return SourceFacts(tokens=tuple(found))


def _token_price(name: str, entry: dict[str, Any]) -> HostedTokenPrice | None:
    """None for what is priced in other units, or is another provider's regional door to the same model."""
    provider, given, answered = (
        entry.get(key) for key in ("litellm_provider", "input_cost_per_token", "output_cost_per_token")
    )
    model = name.removeprefix(f"{provider}/")
    if entry.get("mode") not in MODES or "/" in model or not isinstance(provider, str):
        return None
    if not isinstance(given, int | float) or not isinstance(answered, int | float):
        return None
    return HostedTokenPrice(
        provider=provider,
        model=model,
        input=float(given),
        output=float(answered),
        cache_read=_read_number(entry, "cache_read_input_token_cost"),
        cache_write=_read_number(entry, "cache_creation_input_token_cost"),
        batch_input=_read_number(entry, "input_cost_per_token_batches"),
        batch_output=_read_number(entry, "output_cost_per_token_batches"),
        context_tokens=_read_integer(entry, "max_input_tokens"),
        output_tokens=_read_integer(entry, "max_output_tokens"),
        deprecation_date=str(entry.get("deprecation_date") or ""),
    )


def _read_number(entry: dict[str, Any], key: str) -> float | None:
    value = entry.get(key)
    return float(value) if isinstance(value, int | float) else None


def _read_integer(entry: dict[str, Any], key: str) -> int | None:
    value = _read_number(entry, key)
    return None if value is None else round(value)
