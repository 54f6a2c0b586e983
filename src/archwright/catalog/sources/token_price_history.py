"""Prices of hosted models in JSON by provider, each model with a price or a history of prices per million tokens.

Of a history the newest that has begun counts; of prices that grow with the prompt, the base.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec

from archwright.catalog.sources.source_records import FileContext, HostedTokenPrice, SourceFacts

PER_MILLION = 1e-6


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


def read(data: bytes, file: FileContext) -> SourceFacts:
    providers = msgspec.json.decode(data, type=list[_Provider])
    prices = (_token_price(provider.id, model, file.today) for provider in providers for model in provider.models)
    return SourceFacts(tokens=tuple(price for price in prices if price is not None))


def _token_price(provider: str, model: _Model, today: date) -> HostedTokenPrice | None:
    """None for what is not priced by the token both ways."""
    stated = model.prices if isinstance(model.prices, dict) else _current_prices(model.prices, today)
    given, answered = _base_price(stated.get("input_mtok")), _base_price(stated.get("output_mtok"))
    if given is None or answered is None:
        return None
    return HostedTokenPrice(
        provider=provider,
        model=model.id,
        input=given,
        output=answered,
        cache_read=_base_price(stated.get("cache_read_mtok")),
        cache_write=_base_price(stated.get("cache_write_mtok")),
        context_tokens=model.context_window,
    )


def _current_prices(periods: list[_Period], today: date) -> dict[str, Any]:
    """Periods stand in the order of their start; hours of the day (a night tariff) are no start and stay out."""
    found: dict[str, Any] = {}
    for period in periods:
        limits = period.constraint or _Constraint()
        begun = limits.start_date is None or limits.start_date <= today.isoformat()
        if begun and limits.start_time is None:
            found = period.prices
    return found


def _base_price(price: object) -> float | None:
    """USD per token; a price in tiers has its base."""
    if isinstance(price, dict):
        price = price.get("base")
    if isinstance(price, str):
        price = float(price)
    return float(price) * PER_MILLION if isinstance(price, int | float) else None
