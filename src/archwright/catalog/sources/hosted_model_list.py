"""A dump of providers in one JSON object, each with its models, their price per million tokens and their limits."""

from __future__ import annotations

import msgspec

from archwright.catalog.sources.source_records import FileContext, HostedTokenPrice, SourceFacts

PER_MILLION = 1e-6
TEXT = "text"


class _Cost(msgspec.Struct):
    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None


class _Limit(msgspec.Struct):
    context: int | None = None
    output: int | None = None


class _Modalities(msgspec.Struct):
    output: list[str] = []


class _Model(msgspec.Struct):
    id: str
    cost: _Cost | None = None
    limit: _Limit = msgspec.field(default_factory=_Limit)
    modalities: _Modalities = msgspec.field(default_factory=_Modalities)
    status: str | None = None


class _Provider(msgspec.Struct):
    id: str
    models: dict[str, _Model]


def read(data: bytes, _file: FileContext) -> SourceFacts:
    providers = msgspec.json.decode(data, type=dict[str, _Provider])
    prices = (_token_price(provider.id, model) for provider in providers.values() for model in provider.models.values())
    return SourceFacts(tokens=tuple(price for price in prices if price is not None))


def _token_price(provider: str, model: _Model) -> HostedTokenPrice | None:
    """None for what is not priced by the token both ways, answers without text or is withdrawn."""
    cost = model.cost or _Cost()
    if cost.input is None or cost.output is None or TEXT not in model.modalities.output or model.status == "deprecated":
        return None
    return HostedTokenPrice(
        provider=provider,
        model=model.id,
        input=cost.input * PER_MILLION,
        output=cost.output * PER_MILLION,
        cache_read=None if cost.cache_read is None else cost.cache_read * PER_MILLION,
        cache_write=None if cost.cache_write is None else cost.cache_write * PER_MILLION,
        context_tokens=model.limit.context or None,
        output_tokens=model.limit.output or None,
    )
