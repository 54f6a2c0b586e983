"""Prices of machines per hour by region, in the forms of the providers' own lists and of tables made of them."""

from __future__ import annotations

import csv
import re
import statistics
from collections import defaultdict
from itertools import chain, islice
from typing import Any

import msgspec

from archwright.catalog.sources.document_fields import REQUIRED, FieldTable, read_fields, require_type
from archwright.catalog.sources.file_formats import decode_pages, read_csv_rows, read_lines
from archwright.catalog.sources.source_records import (
    ComponentRate,
    FileContext,
    InstancePrice,
    SourceFacts,
    SpotPrice,
    require_usd,
)

HOURS_IN_MONTH, HOURS_IN_YEAR = 730, 8760
# Region and machine type -> term -> USD an hour; a term of whole years is that of a commitment.
PricesByTerm = dict[tuple[str, str], dict[int, float]]
LIST_TERM, SPOT_TERM = 0, -1

GO_TOKEN = re.compile(
    r'\["(?P<assigned>[\w-]+)"\]\s*=\s*map|"(?P<nested>[\w-]+)":\s*\{|"(?P<type>[^"\n]+)":\s*(?P<price>\d+(?:\.\d+)?)'
)
GENERATED_ON = re.compile(r"generated at (\d{4}-\d{2}-\d{2})")

OFFER_FORMAT, PUBLISHED = "FormatVersion", "Publication Date"
PREAMBLE_LINES = 5
# What a line must say to be a plain machine by the hour; an empty cell of the last two says nothing.
SHARED_LINUX_HOURLY = {
    "Unit": {"Hrs"},
    "Currency": {"USD"},
    "Tenancy": {"Shared"},
    "Operating System": {"Linux"},
    "CapacityStatus": {"Used"},
    "Pre Installed S/W": {"", "NA"},
    "MarketOption": {"", "OnDemand"},
}
REQUIRED_TEXTS = [next(iter(values)) for values in SHARED_LINUX_HOURLY.values() if len(values) == 1]
OFFER_COLUMNS = {"TermType", "PricePerUnit", "Instance Type", "Region Code", *SHARED_LINUX_HOURLY} - {"MarketOption"}
OFFER_TERMS = {"1yr": 1, "1 yr": 1, "3yr": 3, "3 yr": 3}

RETAIL_TERMS = {"1 Year": 1, "3 Years": 3}
# Products that share a machine's name and are not the machine.
EXCLUDED_PRODUCTS = ("windows", "low priority", "cloudservices", "cloud services", "dedicated host")

# A zone beside the region's own (`us-west-2-lax-1a`) is a place of its own.
ZONE_REGION = re.compile(r"([a-z]{2,}(?:-[a-z]+)+-\d+)[a-z]")

PART = re.compile(r"^(?:spot preemptible )?(?P<of>.+?) (?P<part>gpu|ram|core)\b", re.IGNORECASE)
SSD = re.compile(r"^ssd backed local storage", re.IGNORECASE)
# Prices of other ways to take the same parts.
EXCLUDED_PARTS = re.compile(r"sole tenancy|reserved|premium|custom|suspended|calendar mode|extended", re.IGNORECASE)
SPOT_BY_USE = {"OnDemand": False, "Preemptible": True}
PART_UNITS = {"h": 1.0, "GiBy.h": 1.0, "GiBy.mo": 1.0 / HOURS_IN_MONTH}
OBJECT, OBJECTS = require_type(dict[str, Any], REQUIRED), require_type(list[dict[str, Any]], ())
SKU_FIELDS: FieldTable = {
    "description": ("description", require_type(str, REQUIRED)),
    "category": ("category", OBJECT),
    "use": ("category.usageType", require_type(str, "")),
    "family": ("category.resourceFamily", require_type(str, "")),
    "regions": ("serviceRegions", require_type(list[str], ())),
    "pricing": ("pricingInfo", OBJECTS),
}
PRICING_FIELDS: FieldTable = {
    "expression": ("pricingExpression", OBJECT),
    "unit": ("pricingExpression.usageUnit", require_type(str, "")),
    "tiers": ("pricingExpression.tieredRates", OBJECTS),
}
TIER_FIELDS: FieldTable = {
    "price": ("unitPrice", OBJECT),
    "currency": ("unitPrice.currencyCode", require_type(str, "USD")),
    "units": ("unitPrice.units", require_type(str | int, 0)),
    "nanos": ("unitPrice.nanos", require_type(int, 0)),
}


class _Region(msgspec.Struct):
    on_demand: dict[str, float]
    spot: dict[str, float] = {}


class _RegionTables(msgspec.Struct):
    prices: dict[str, _Region]


class _RetailItem(msgspec.Struct, rename="camel"):
    currency_code: str
    retail_price: float
    arm_region_name: str = ""
    arm_sku_name: str = ""
    product_name: str = ""
    sku_name: str = ""
    meter_name: str = ""
    service_name: str = ""
    unit_of_measure: str = ""
    type: str = ""
    reservation_term: str = ""


class _RetailPage(msgspec.Struct):
    items: list[_RetailItem] = msgspec.field(name="Items")


class _SpotPrice(msgspec.Struct):
    zone: str = msgspec.field(name="AvailabilityZone")
    machine: str = msgspec.field(name="InstanceType")
    system: str = msgspec.field(name="ProductDescription")
    price: str = msgspec.field(name="SpotPrice")
    time: str = msgspec.field(name="Timestamp")


class _SpotHistory(msgspec.Struct):
    prices: list[_SpotPrice] = msgspec.field(name="SpotPriceHistory")


class _SkuPage(msgspec.Struct):
    skus: list[dict[str, Any]]


def read_go_tables(data: bytes, _file: FileContext) -> SourceFacts:
    """Go code: maps of regions to machine types to prices, in one literal or one per region."""
    text = data.decode("utf-8")
    region, prices = "", []
    for token in GO_TOKEN.finditer(text):
        if token["type"] is None:
            region = token["assigned"] or token["nested"]
        elif region:
            prices.append(InstancePrice(region, token["type"], float(token["price"])))
    if not prices:
        raise ValueError("no table of regions and prices in it")
    made = GENERATED_ON.search(text)
    return SourceFacts(as_of=made[1] if made else "", prices=tuple(prices))


def read_region_tables(data: bytes, _file: FileContext) -> SourceFacts:
    """JSON: region -> on_demand and spot -> machine type -> USD an hour."""
    prices = []
    for region, table in msgspec.json.decode(data, type=_RegionTables).prices.items():
        prices += [InstancePrice(region, name, price, table.spot.get(name)) for name, price in table.on_demand.items()]
    return SourceFacts(prices=tuple(prices))


def _list_prices(found: PricesByTerm) -> tuple[InstancePrice, ...]:
    """Those with a list price."""
    return tuple(
        InstancePrice(*key, of[LIST_TERM], of.get(SPOT_TERM), of.get(1), of.get(3))
        for key, of in found.items()
        if LIST_TERM in of
    )


def read_offer_file(data: bytes, _file: FileContext) -> SourceFacts:
    """Shared Linux machines of a bulk offer file: lines of words, then CSV by product and term."""
    lines = read_lines(data)
    words = list(islice(lines, PREAMBLE_LINES))
    if not words or not words[0].strip().strip('"').startswith(OFFER_FORMAT):
        raise ValueError("no bulk offer file: it does not begin with its format's version")
    stated = {row[0]: row[1] for row in csv.reader(words) if len(row) > 1}
    found: PricesByTerm = defaultdict(dict)
    # An empty line may stand before the columns' names. Of hundreds of megabytes only wanted lines are taken apart.
    names = next((line for line in lines if line.strip()), "")
    wanted = (line for line in lines if all(word in line for word in REQUIRED_TEXTS))
    for line in read_csv_rows(data, OFFER_COLUMNS, chain([names], wanted)):
        years = _offer_term(line)
        if years is not None and all((line.get(name) or "") in said for name, said in SHARED_LINUX_HOURLY.items()):
            price = float(line["PricePerUnit"])
            if price > 0:
                found[line["Region Code"], line["Instance Type"]].setdefault(years, price)
    return SourceFacts(as_of=stated.get(PUBLISHED, "")[:10], prices=_list_prices(found))


def _offer_term(line: dict[str, str]) -> int | None:
    """None for another kind of term, or for a commitment that is partly paid up front."""
    if line["TermType"] == "OnDemand":
        return LIST_TERM
    plain = line.get("PurchaseOption") == "No Upfront" and line.get("OfferingClass") == "standard"
    return OFFER_TERMS.get(line.get("LeaseContractLength") or "") if line["TermType"] == "Reserved" and plain else None


def read_retail_prices(data: bytes, _file: FileContext) -> SourceFacts:
    """Pages of a retail price interface, one item per meter: list, spot and reserved prices.

    A reservation's price is that of its whole term. Prices in another currency are conversions, and refused.
    """
    found: PricesByTerm = defaultdict(dict)
    for item in (item for page in decode_pages(data, _RetailPage) for item in page.items):
        require_usd(item.currency_code)
        term = _retail_term(item)
        if term is not None:
            hours = HOURS_IN_YEAR * term if term > 0 else 1
            found[item.arm_region_name, item.arm_sku_name].setdefault(term, item.retail_price / hours)
    return SourceFacts(prices=_list_prices(found))


def _retail_term(item: _RetailItem) -> int | None:
    """None for what is no plain machine by the hour."""
    words = f"{item.product_name} {item.sku_name} {item.meter_name}".lower()
    machine = item.service_name == "Virtual Machines" and item.unit_of_measure == "1 Hour" and item.arm_sku_name
    if not machine or item.retail_price <= 0 or any(other in words for other in EXCLUDED_PRODUCTS):
        return None
    if item.type == "Reservation":
        return RETAIL_TERMS.get(item.reservation_term)
    return None if item.type != "Consumption" else SPOT_TERM if "spot" in words else LIST_TERM


def read_spot_history(data: bytes, _file: FileContext) -> SourceFacts:
    """Spot prices by zone and time: the newest of each zone, their median for the region."""
    newest: dict[tuple[str, str], _SpotPrice] = {}
    for price in (price for page in decode_pages(data, _SpotHistory) for price in page.prices):
        before = newest.get((price.zone, price.machine))
        if price.system.startswith("Linux/UNIX") and (before is None or before.time < price.time):
            newest[price.zone, price.machine] = price
    zones: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (zone, machine), price in newest.items():
        region = ZONE_REGION.fullmatch(zone)
        zones[region[1] if region else zone, machine].append(float(price.price))
    return SourceFacts(
        as_of=max((price.time for price in newest.values()), default="")[:10],
        spots=tuple(SpotPrice(*key, statistics.median(prices)) for key, prices in zones.items()),
    )


def read_component_rates(data: bytes, _file: FileContext) -> SourceFacts:
    """Pages of a billing catalogue: one SKU per part of a machine and use, its first tier."""
    skus = (sku for page in decode_pages(data, _SkuPage) for sku in page.skus)
    return SourceFacts(rates=tuple(rate for sku in skus for rate in _component_rates(sku)))


def _component_rates(document: dict[str, Any]) -> list[ComponentRate]:
    sku = read_fields(document, SKU_FIELDS)
    pricing = [read_fields(entry, PRICING_FIELDS) for entry in sku["pricing"]]
    tiers = [read_fields(tier, TIER_FIELDS) for tier in pricing[-1]["tiers"]] if pricing else []
    spot, unit = SPOT_BY_USE.get(sku["use"]), PART_UNITS.get(pricing[-1]["unit"]) if pricing else None
    description = sku["description"]
    if spot is None or unit is None or not tiers or EXCLUDED_PARTS.search(description):
        return []
    part = PART.match(description) if sku["family"] == "Compute" else None
    if part is None and not SSD.match(description):
        return []
    of, kind = (part["of"], part["part"].lower()) if part else ("", "ssd")
    require_usd(tiers[0]["currency"])
    usd = (int(tiers[0]["units"]) + tiers[0]["nanos"] / 1e9) * unit
    # Disks of spot machines are billed as if they were sold by demand; only the words say so.
    spot = spot or "preemptible" in description.lower()
    return [ComponentRate(region, of, kind, usd, spot) for region in sku["regions"]]
