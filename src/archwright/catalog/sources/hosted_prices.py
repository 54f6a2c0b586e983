"""Prices of hosted models in JSON, USD per token: three forms, each with a table of its fields."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

import msgspec

from archwright.catalog.sources.document_fields import REQUIRED, FieldTable, read_fields, require_type
from archwright.catalog.sources.source_records import FileContext, HostedTokenPrice, SourceFacts

PER_MILLION = 1e-6
# Models that answer with text.
TEXT_MODES = frozenset({"chat", "responses"})


class _Constraint(msgspec.Struct):
    start_date: str | None = None
    start_time: str | None = None


class _Period(msgspec.Struct):
    prices: dict[str, Any]
    constraint: _Constraint | None = None


class _Model(msgspec.Struct):
    id: str
    prices: dict[str, Any] | list[_Period]
    context_window: int | None = None


class _Provider(msgspec.Struct):
    id: str
    models: list[_Model]


class _DumpedProvider(msgspec.Struct):
    id: str
    models: dict[str, dict[str, Any]]


def _to_number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _to_integer(value: object) -> int | None:
    return round(float(value)) if isinstance(value, int | float) else None


def _to_base_price(price: object) -> float | None:
    """USD per token; a price in tiers has its base."""
    if isinstance(price, dict):
        price = price.get("base")
    if isinstance(price, str):
        price = float(price)
    return float(price) * PER_MILLION if isinstance(price, int | float) else None


TOKEN_FIELDS: FieldTable = {
    "input": ("input_cost_per_token", _to_number),
    "output": ("output_cost_per_token", _to_number),
    "cache_read": ("cache_read_input_token_cost", _to_number),
    "cache_write": ("cache_creation_input_token_cost", _to_number),
    "batch_input": ("input_cost_per_token_batches", _to_number),
    "batch_output": ("output_cost_per_token_batches", _to_number),
    "context_tokens": ("max_input_tokens", _to_integer),
    "output_tokens": ("max_output_tokens", _to_integer),
    "deprecation_date": ("deprecation_date", lambda value: str(value or "")),
}
PROVIDER_FIELDS: FieldTable = {
    "input": ("input_mtok", _to_base_price),
    "output": ("output_mtok", _to_base_price),
    "cache_read": ("cache_read_mtok", _to_base_price),
    "cache_write": ("cache_write_mtok", _to_base_price),
}
DUMP_FIELDS: FieldTable = {
    **{
        name: (f"cost.{name}", require_type(float, unit=PER_MILLION))
        for name in ("input", "output", "cache_read", "cache_write")
    },
    "context_tokens": ("limit.context", require_type(int)),
    "output_tokens": ("limit.output", require_type(int)),
}
DUMP_STATE: FieldTable = {
    "id": ("id", require_type(str, REQUIRED)),
    "answers": ("modalities.output", require_type(list[str], ())),
    "status": ("status", require_type(str)),
}


def read_token_prices(data: bytes, _file: FileContext) -> SourceFacts:
    """One JSON object: model -> costs per token, limits, date of withdrawal."""
    prices = []
    for name, entry in msgspec.json.decode(data, type=dict[str, dict[str, Any]]).items():
        provider = entry.get("litellm_provider")
        model = name.removeprefix(f"{provider}/")
        # A slash that remains is another provider's regional door to the same model.
        if entry.get("mode") in TEXT_MODES and "/" not in model and isinstance(provider, str):
            prices.append(_token_price(provider, model, read_fields(entry, TOKEN_FIELDS)))
    found = _collect_prices(prices)
    if not found.tokens:
        raise ValueError("no text model with a price per token in it")
    return found


def read_provider_prices(data: bytes, file: FileContext) -> SourceFacts:
    """Models by provider, with USD per million tokens: of a history the newest price in force."""
    prices = []
    for provider in msgspec.json.decode(data, type=list[_Provider]):
        for model in provider.models:
            fields = read_fields(_current_prices(model, file.today), PROVIDER_FIELDS)
            prices.append(_token_price(provider.id, model.id, fields | {"context_tokens": model.context_window}))
    return _collect_prices(prices)


def _current_prices(model: _Model, today: date) -> dict[str, Any]:
    """Periods stand in the order of their start; hours of the day (a night tariff) are no start and stay out."""
    if isinstance(model.prices, dict):
        return model.prices
    found: dict[str, Any] = {}
    for period in model.prices:
        limits = period.constraint or _Constraint()
        begun = limits.start_date is None or limits.start_date <= today.isoformat()
        if begun and limits.start_time is None:
            found = period.prices
    return found


def read_model_dump(data: bytes, _file: FileContext) -> SourceFacts:
    """Providers in one JSON object, each with its models; without what answers with no text or is withdrawn."""
    prices = []
    for provider in msgspec.json.decode(data, type=dict[str, _DumpedProvider]).values():
        for model in provider.models.values():
            state, fields = read_fields(model, DUMP_STATE), read_fields(model, DUMP_FIELDS)
            if "text" in state["answers"] and state["status"] != "deprecated":
                limits = {name: fields[name] or None for name in ("context_tokens", "output_tokens")}
                prices.append(_token_price(provider.id, state["id"], fields | limits))
    return _collect_prices(prices)


def _token_price(provider: str, model: str, fields: dict[str, Any]) -> HostedTokenPrice | None:
    """None for what is not priced by the token both ways."""
    if fields["input"] is None or fields["output"] is None:
        return None
    return HostedTokenPrice(provider=provider, model=model, **fields)


def _collect_prices(prices: Iterable[HostedTokenPrice | None]) -> SourceFacts:
    return SourceFacts(tokens=tuple(price for price in prices if price is not None))
