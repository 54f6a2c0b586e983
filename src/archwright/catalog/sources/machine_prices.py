"""Prices of machines per hour by region: the providers' own lists, and tables generated from them."""

import csv
import re
import statistics
from collections import defaultdict
from itertools import chain, islice
from typing import Any

from archwright.catalog.sources.file_formats import read_lines
from archwright.catalog.sources.row_reader import load_formats, read_csv_rows, read_rows, select_rows
from archwright.catalog.sources.source_records import (
    ComponentRate,
    FileContext,
    InstancePrice,
    SourceFacts,
    SpotPrice,
    require_usd,
)

HOURS_IN_YEAR = 8760
# Region and machine type -> term -> USD an hour; the term of a commitment is its number of years.
PricesByTerm = dict[tuple[str, str], dict[int, float]]
LIST_TERM, SPOT_TERM = 0, -1

GO_TOKEN = re.compile(
    r'\["(?P<assigned>[\w-]+)"\]\s*=\s*map|"(?P<nested>[\w-]+)":\s*\{|"(?P<type>[^"\n]+)":\s*(?P<price>\d+(?:\.\d+)?)'
)
GENERATED_ON = re.compile(r"generated at (\d{4}-\d{2}-\d{2})")
OFFER_FORMAT, PUBLISHED = "FormatVersion", "Publication Date"
PREAMBLE_LINES = 5
# Products that share a machine's name but are not the machine.
EXCLUDED_PRODUCTS = ("windows", "low priority", "cloudservices", "cloud services", "dedicated host")
# A zone outside the region's own zones (`us-west-2-lax-1a`) counts as a region.
ZONE_REGION = re.compile(r"([a-z]{2,}(?:-[a-z]+)+-\d+)[a-z]")
PART = re.compile(r"^(?:spot preemptible )?(?P<of>.+?) (?P<part>gpu|ram|core)\b", re.IGNORECASE)
SSD = re.compile(r"^ssd backed local storage", re.IGNORECASE)
# Rates of other ways to buy the same parts.
EXCLUDED_PARTS = re.compile(r"sole tenancy|reserved|premium|custom|suspended|calendar mode|extended", re.IGNORECASE)


def read_go_tables(data: bytes, _file: FileContext) -> SourceFacts:
    """Read Go code: maps of regions to machine types to prices, in one literal or one per region."""
    text = data.decode("utf-8")
    region, prices = "", []
    for token in GO_TOKEN.finditer(text):
        if token["type"] is None:
            region = token["assigned"] or token["nested"]
        elif region:
            prices.append(InstancePrice(region, token["type"], float(token["price"])))
    if not prices:
        raise ValueError("the file has no table of regions and prices")
    made = GENERATED_ON.search(text)
    return SourceFacts(as_of=made[1] if made else "", prices=tuple(prices))


def read_region_tables(data: bytes, _file: FileContext) -> SourceFacts:
    prices = []
    for row in read_rows("region-prices", data):
        listed = row["listed"].items()
        prices += [InstancePrice(row["region"], name, price, row["spot"].get(name)) for name, price in listed]
    return SourceFacts(prices=tuple(prices))


def _list_prices(found: PricesByTerm) -> tuple[InstancePrice, ...]:
    listed = ((key, of) for key, of in found.items() if LIST_TERM in of)
    return tuple(InstancePrice(*key, of[LIST_TERM], of.get(SPOT_TERM), of.get(1), of.get(3)) for key, of in listed)


def read_offer_file(data: bytes, _file: FileContext) -> SourceFacts:
    """Read shared Linux machines of a bulk offer file: lines of metadata, then CSV by product and term."""
    lines = read_lines(data)
    preamble = list(islice(lines, PREAMBLE_LINES))
    if not preamble or not preamble[0].strip().strip('"').startswith(OFFER_FORMAT):
        raise ValueError("this is not a bulk offer file: its first line must state the format's version")
    stated = {row[0]: row[1] for row in csv.reader(preamble) if len(row) > 1}
    found: PricesByTerm = defaultdict(dict)
    # An empty line may precede the header. Lines without the required texts are skipped before they are parsed.
    header = next((line for line in lines if line.strip()), "")
    texts = [str(among[0]) for among in load_formats()["offer-file"].only.values() if len(among) == 1]
    candidates = (line for line in lines if all(text in line for text in texts))
    for row in read_csv_rows("offer-file", chain([header], candidates)):
        term = _offer_term(row)
        if term is not None and float(row["price"]) > 0:
            found[row["region"], row["machine"]].setdefault(term, float(row["price"]))
    return SourceFacts(as_of=stated.get(PUBLISHED, "")[:10], prices=_list_prices(found))


def _offer_term(row: dict[str, Any]) -> int | None:
    """Return None for other terms and for a commitment that is partly paid up front."""
    if row["term"] == "OnDemand":
        return LIST_TERM
    without_upfront = row["payment"] == "No Upfront" and row["offering"] == "standard"
    years: int | None = row["years"] if row["term"] == "Reserved" and without_upfront else None
    return years


def read_retail_prices(data: bytes, _file: FileContext) -> SourceFacts:
    """Read pages of a retail price API, one item per meter: list, spot and reserved prices.

    The price of a reservation covers its whole term. Prices in another currency are conversions and are refused.
    """
    found: PricesByTerm = defaultdict(dict)
    for row in read_rows("retail-prices", data):
        require_usd(row["currency"])
        term = _retail_term(row)
        if term is not None:
            hours = HOURS_IN_YEAR * term if term > 0 else 1
            found[row["region"], row["machine"]].setdefault(term, row["price"] / hours)
    return SourceFacts(prices=_list_prices(found))


def _retail_term(row: dict[str, Any]) -> int | None:
    """Return None for an item that is not a plain machine by the hour."""
    names = f"{row['product']} {row['sku']} {row['meter']}".lower()
    is_machine = row["service"] == "Virtual Machines" and row["unit"] == "1 Hour" and row["machine"]
    if not is_machine or row["price"] <= 0 or any(other in names for other in EXCLUDED_PRODUCTS):
        return None
    if row["type"] == "Reservation":
        years: int | None = row["years"]
        return years
    return None if row["type"] != "Consumption" else SPOT_TERM if "spot" in names else LIST_TERM


def read_spot_history(data: bytes, _file: FileContext) -> SourceFacts:
    """Read spot prices by zone and time: the newest price of each zone, their median for the region."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read_rows("spot-history", data):
        before = newest.get((row["zone"], row["machine"]))
        if row["system"].startswith("Linux/UNIX") and (before is None or before["time"] < row["time"]):
            newest[row["zone"], row["machine"]] = row
    zones: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (zone, machine), row in newest.items():
        region = ZONE_REGION.fullmatch(zone)
        zones[region[1] if region else zone, machine].append(float(row["price"]))
    return SourceFacts(
        as_of=max((row["time"] for row in newest.values()), default="")[:10],
        spots=tuple(SpotPrice(*key, statistics.median(prices)) for key, prices in zones.items()),
    )


def read_component_rates(data: bytes, _file: FileContext) -> SourceFacts:
    """Read pages of a billing catalogue: one SKU per part of a machine and use, its first tier."""
    return SourceFacts(rates=tuple(rate for sku in read_rows("part-prices", data) for rate in _component_rates(sku)))


def _component_rates(sku: dict[str, Any]) -> list[ComponentRate]:
    pricing = list(select_rows("part-prices.pricing", sku["pricing"]))
    tiers = list(select_rows("part-prices.tiers", pricing[-1]["tiers"])) if pricing else []
    description, spot = sku["description"], sku["spot"]
    if spot is None or not tiers or pricing[-1]["hours"] is None or EXCLUDED_PARTS.search(description):
        return []
    part = PART.match(description) if sku["family"] == "Compute" else None
    if part is None and not SSD.match(description):
        return []
    of, kind = (part["of"], part["part"].lower()) if part else ("", "ssd")
    require_usd(tiers[0]["currency"])
    usd = (int(tiers[0]["units"]) + tiers[0]["nanos"] / 1e9) * (1.0 / pricing[-1]["hours"])
    # Disks of spot machines have the use of on-demand ones; only the description tells them apart.
    spot = spot or "preemptible" in description.lower()
    return [ComponentRate(region, of, kind, usd, spot) for region in sku["regions"]]
