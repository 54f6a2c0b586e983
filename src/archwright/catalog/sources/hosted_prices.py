"""Prices of hosted models in JSON, USD per token: three forms."""

from collections.abc import Iterable
from datetime import date
from typing import Any

from archwright.catalog.sources.row_reader import read_rows, select_rows
from archwright.catalog.sources.source_records import FileContext, HostedTokenPrice, SourceFacts

PER_MILLION = 1e-6


def read_token_prices(data: bytes, _file: FileContext) -> SourceFacts:
    """Read one JSON object: model -> costs per token, limits, date of withdrawal."""
    rows = []
    for row in read_rows("token-prices", data):
        model = row["model"].removeprefix(f"{row['provider']}/")
        # A model name that still contains a slash is a regional endpoint of the same model.
        if isinstance(row["provider"], str) and "/" not in model:
            rows.append(row | {"model": model, "deprecation_date": str(row["deprecation_date"] or "")})
    found = _collect_prices(rows)
    if not found.tokens:
        raise ValueError("the file has no text model with a price per token")
    return found


def read_provider_prices(data: bytes, file: FileContext) -> SourceFacts:
    """Read models by provider, in USD per million tokens. A price history gives the newest price in force."""
    rows = []
    for row in read_rows("provider-prices", data):
        (rates,) = select_rows("provider-prices.rates", _current_prices(row.pop("prices"), file.today))
        rows.append(row | {name: _to_base_price(price) for name, price in rates.items()})
    return _collect_prices(rows)


def _current_prices(prices: object, today: date) -> object:
    """Return the last period that has begun; periods of hours (a night tariff) do not count."""
    if not isinstance(prices, list):
        return prices
    found: object = {}
    for period in select_rows("provider-prices.periods", prices):
        if (period["first_day"] or "") <= today.isoformat() and period["first_hour"] is None:
            found = period["prices"]
    return found


def _to_base_price(price: object) -> float | None:
    """Return USD per token. A price in tiers gives its base price."""
    if isinstance(price, dict):
        price = price.get("base")
    if isinstance(price, str):
        price = float(price)
    return float(price) * PER_MILLION if isinstance(price, int | float) else None


def read_model_dump(data: bytes, _file: FileContext) -> SourceFacts:
    """Read one JSON object of providers and models; withdrawn models and models without text are left out."""
    rows = []
    for row in read_rows("model-dump", data):
        if "text" in row.pop("outputs") and row.pop("status") != "deprecated":
            rows.append(row | {name: row[name] or None for name in ("context_tokens", "output_tokens")})
    return _collect_prices(rows)


def _collect_prices(rows: Iterable[dict[str, Any]]) -> SourceFacts:
    """Keep the models that have a price per input token and per output token."""
    priced = (row for row in rows if row["input"] is not None and row["output"] is not None)
    return SourceFacts(tokens=tuple(HostedTokenPrice(**row) for row in priced))
