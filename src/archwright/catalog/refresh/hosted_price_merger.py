"""Prices of hosted models, each held against what a second source says."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import date

from archwright.catalog.catalog import Catalog
from archwright.catalog.refresh.refresh_input import PriceDisagreement, RefreshInput, RefreshReportBuilder
from archwright.catalog.sources.source_records import HostedTokenPrice
from archwright.catalog.tables.records import Confidence, HostedModel

# Two sources agree on a price within this share.
PRICE_TOLERANCE = 0.01
# USD per token; the dearest model ever listed is far below.
MAX_TOKEN_PRICE_USD = 1e-3
# Prices of one model, each with the file that states it.
Stated = list[tuple[RefreshInput, HostedTokenPrice]]
VERSION = re.compile(r"\s+\d[\w.]*$")


class HostedPriceMerger:
    """Sources come in the order of their priority."""

    def __init__(self, catalog: Catalog, aside: RefreshReportBuilder) -> None:
        self._catalog, self._aside = catalog, aside

    def merge_hosted_prices(self, brought: Iterable[RefreshInput]) -> tuple[HostedModel, ...]:
        """The first source's price, with what a second one says beside it: another file, else the shipped row."""
        stated: dict[tuple[str, str], Stated] = defaultdict(list)
        known = {row.provider for row in self._catalog.shipped_hosted}
        for file in brought:
            for price in file.found.tokens:
                provider = self._catalog.canonical_provider(price.provider)
                subject = f"{price.provider}:{price.model}"
                if provider not in known:
                    self._aside.skip_row(file.source.id, "a provider this catalog has no hosted models of", subject)
                elif not (0 <= price.input < MAX_TOKEN_PRICE_USD and 0 < price.output < MAX_TOKEN_PRICE_USD):
                    self._aside.skip_row(file.source.id, "free of charge, or no price a token can have", subject)
                else:
                    stated[provider, price.model].append((file, price))
        shipped = {(row.provider, row.id): row for row in self._catalog.shipped_hosted}
        return tuple(self._corroborate_price(key, found, shipped.get(key)) for key, found in stated.items())

    def _corroborate_price(self, key: tuple[str, str], found: Stated, shipped: HostedModel | None) -> HostedModel:
        file, first = found[0]
        second = self._second_price(found, shipped)
        agrees = None
        if second is not None:
            pairs = ((first.input, second[0]), (first.output, second[1]))
            agrees = all(math.isclose(one, other, rel_tol=PRICE_TOLERANCE) for one, other in pairs)
            if not agrees:
                taken, said = _format_prices(first.input, first.output, file.source.id), _format_prices(*second)
                self._aside.disagreements.append(PriceDisagreement(subject=":".join(key), taken=taken, other=said))
        sure: Confidence = "medium" if agrees is None else "high" if agrees else "low"
        same = shipped if agrees else None
        return HostedModel(
            provider=key[0],
            id=key[1],
            input_usd_per_token=first.input,
            output_usd_per_token=first.output,
            cache_read_usd_per_token=first.cache_read,
            cache_write_usd_per_token=first.cache_write,
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
            confidence=sure if file.as_of else "recalled",
        )

    def _second_price(self, found: Stated, shipped: HostedModel | None) -> tuple[float, float, str] | None:
        """What another source says of the first one's model: in, out, whose word it is."""
        file = found[0][0]
        for other, price in found[1:]:
            if other is not file:
                return price.input, price.output, other.source.id
        if shipped is None or _source_work(shipped.source) == _source_work(file.source_label):
            return None
        return shipped.input_usd_per_token, shipped.output_usd_per_token, f"shipped, {shipped.as_of}"


def _format_prices(given: float, answered: float, whose: str) -> str:
    return f"{given * 1e6:g} in, {answered * 1e6:g} out USD per million tokens ({whose})"


def _source_work(source: str) -> str:
    """The package or repository of a source's words, its version aside."""
    return VERSION.sub("", source.partition(":")[0]).strip().lower()


def _normalise_day(text: str) -> str:
    """A day a plan can compare with; anything else is left out."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return ""
