"""Merges prices of hosted models and compares each with a second source."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import date

from archwright.catalog.catalog import Catalog
from archwright.catalog.refresh.refresh_input import PriceDisagreement, RefreshInput, RefreshReportBuilder
from archwright.catalog.sources.source_records import HostedTokenPrice
from archwright.catalog.tables.records import Confidence, HostedModel

# Two sources agree if their prices differ by less than this share.
PRICE_TOLERANCE = 0.01
# USD per token, far above every listed model.
MAX_TOKEN_PRICE_USD = 1e-3
# Prices of one model, each with its file.
StatedPrices = list[tuple[RefreshInput, HostedTokenPrice]]
BASE_PRICES = ("input", "output", "cache_read", "cache_write")
VERSION = re.compile(r"\s+\d[\w.]*$")


class HostedPriceMerger:
    """Sources come in the order of their priority."""

    def __init__(self, catalog: Catalog, report: RefreshReportBuilder) -> None:
        self._catalog, self._report = catalog, report

    def merge_hosted_prices(self, files: Iterable[RefreshInput]) -> tuple[HostedModel, ...]:
        """Take the first source's price; the second price is that of another file, or else the shipped row's."""
        stated: dict[tuple[str, str], StatedPrices] = defaultdict(list)
        known = {row.provider for row in self._catalog.shipped_hosted}
        for file in files:
            for price in file.found.tokens:
                provider = self._catalog.canonical_provider(price.provider)
                subject = f"{price.provider}:{price.model}"
                if provider not in known:
                    reason = "the catalog has no hosted models of this provider"
                    self._report.skip_row(file.source.id, reason, subject)
                elif not (0 <= price.input < MAX_TOKEN_PRICE_USD and 0 < price.output < MAX_TOKEN_PRICE_USD):
                    self._report.skip_row(file.source.id, "output is free, or a price is implausible", subject)
                else:
                    stated[provider, price.model].append((file, price))
        shipped = {(row.provider, row.id): row for row in self._catalog.shipped_hosted}
        return tuple(self._corroborate_price(key, prices, shipped.get(key)) for key, prices in stated.items())

    def _corroborate_price(
        self, key: tuple[str, str], prices: StatedPrices, shipped: HostedModel | None
    ) -> HostedModel:
        file, first = prices[0]
        second = _second_price(prices, shipped)
        agrees = None
        if second is not None:
            pairs = ((first.input, second[0]), (first.output, second[1]))
            agrees = all(math.isclose(one, other, rel_tol=PRICE_TOLERANCE) for one, other in pairs)
            if not agrees:
                taken, other = _format_prices(first.input, first.output, file.source.id), _format_prices(*second)
                self._report.disagreements.append(PriceDisagreement(subject=":".join(key), taken=taken, other=other))
        confidence: Confidence = "medium" if agrees is None else "high" if agrees else "low"
        same = shipped if agrees else None
        return HostedModel(
            provider=key[0],
            id=key[1],
            **{f"{name}_usd_per_token": getattr(first, name) for name in BASE_PRICES},
            batch_input_usd_per_token=first.batch_input or (same.batch_input_usd_per_token if same else None),
            batch_output_usd_per_token=first.batch_output or (same.batch_output_usd_per_token if same else None),
            context_tokens=first.context_tokens or (shipped.context_tokens if shipped else None),
            output_tokens=first.output_tokens or (shipped.output_tokens if shipped else None),
            deprecation_date=_normalise_day(first.deprecation_date) or (shipped.deprecation_date if shipped else ""),
            successor=shipped.successor if shipped else "",
            agrees=agrees,
            second_input_usd_per_token=None if second is None else second[0],
            second_output_usd_per_token=None if second is None else second[1],
            source=file.source_label,
            as_of=file.as_of,
            confidence=confidence if file.as_of else "recalled",
        )


def _second_price(prices: StatedPrices, shipped: HostedModel | None) -> tuple[float, float, str] | None:
    """Return input price, output price and source of another source for the same model."""
    file = prices[0][0]
    for other, price in prices[1:]:
        if other is not file:
            return price.input, price.output, other.source.id
    if shipped is None or _source_work(shipped.source) == _source_work(file.source_label):
        return None
    return shipped.input_usd_per_token, shipped.output_usd_per_token, f"shipped, {shipped.as_of}"


def _format_prices(input_usd: float, output_usd: float, source: str) -> str:
    return f"{input_usd * 1e6:g} in, {output_usd * 1e6:g} out USD per million tokens ({source})"


def _source_work(source: str) -> str:
    """Return the package or repository of a source, without its version."""
    return VERSION.sub("", source.partition(":")[0]).strip().lower()


def _normalise_day(text: str) -> str:
    """Return an ISO day, or "" for any other text."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return ""
