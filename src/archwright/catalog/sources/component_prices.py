"""Pages of a provider's billing catalogue: one SKU per part of a machine (a core, a GiB, an accelerator) and use.

The first tier's price counts. A SKU's description says what it is of; the intake sums the parts of a machine.
"""

from __future__ import annotations

import re

import msgspec

from archwright.catalog.sources import pagination
from archwright.catalog.sources.source_records import ComponentRate, FileContext, SourceFacts

HOURS_IN_MONTH = 730
PART = re.compile(r"^(?:spot preemptible )?(?P<of>.+?) (?P<part>gpu|ram|core)\b", re.IGNORECASE)
SSD = re.compile(r"^ssd backed local storage", re.IGNORECASE)
# Disks of spot machines are billed as if they were sold by demand; only the words say so.
SPOT = "preemptible"
# Prices of other ways to take the same parts.
EXCLUDED_OFFERS = re.compile(r"sole tenancy|reserved|premium|custom|suspended|calendar mode|extended", re.IGNORECASE)
USES = {"OnDemand": False, "Preemptible": True}
UNITS = {"h": 1.0, "GiBy.h": 1.0, "GiBy.mo": 1.0 / HOURS_IN_MONTH}


class _Money(msgspec.Struct, rename="camel"):
    currency_code: str = "USD"
    units: str | int = 0
    nanos: int = 0


class _Tier(msgspec.Struct, rename="camel"):
    unit_price: _Money


class _Expression(msgspec.Struct, rename="camel"):
    usage_unit: str = ""
    tiered_rates: list[_Tier] = []


class _Pricing(msgspec.Struct, rename="camel"):
    pricing_expression: _Expression


class _Category(msgspec.Struct, rename="camel"):
    usage_type: str = ""
    resource_family: str = ""


class _Sku(msgspec.Struct, rename="camel"):
    description: str
    category: _Category
    service_regions: list[str] = []
    pricing_info: list[_Pricing] = []


class _Page(msgspec.Struct):
    skus: list[_Sku]


def read(data: bytes, _file: FileContext) -> SourceFacts:
    return SourceFacts(
        rates=tuple(
            rate for page in pagination.decode_pages(data, _Page) for sku in page.skus for rate in _component_rates(sku)
        )
    )


def _component_rates(sku: _Sku) -> list[ComponentRate]:
    use = USES.get(sku.category.usage_type)
    expression = sku.pricing_info[-1].pricing_expression if sku.pricing_info else _Expression()
    unit = UNITS.get(expression.usage_unit)
    if use is None or unit is None or not expression.tiered_rates or EXCLUDED_OFFERS.search(sku.description):
        return []
    part = PART.match(sku.description) if sku.category.resource_family == "Compute" else None
    if part is None and not SSD.match(sku.description):
        return []
    of, kind = (part["of"], part["part"].lower()) if part else ("", "ssd")
    price = expression.tiered_rates[0].unit_price
    if price.currency_code != "USD":
        raise ValueError(f"prices in {price.currency_code}, not in USD")
    usd = (int(price.units) + price.nanos / 1e9) * unit
    spot = use or SPOT in sku.description.lower()
    return [ComponentRate(region, of, kind, usd, spot) for region in sku.service_regions]
