"""Pages of a provider's retail price interface: one item per meter; list, spot and reserved prices of machines.

A reservation's price is that of its whole term. Prices in another currency are the provider's own conversion: refused.
"""

from __future__ import annotations

import msgspec

from archwright.catalog.sources import pagination
from archwright.catalog.sources.source_records import FileContext, InstancePrice, SourceFacts

HOURS_IN_YEAR = 8760
MACHINES, HOURLY = "Virtual Machines", "1 Hour"
TERMS = {"1 Year": 1, "3 Years": 3}
SPOT = "spot"
# Products that share a machine's name and are not the machine.
EXCLUDED_PRODUCTS = ("windows", "low priority", "cloudservices", "cloud services", "dedicated host")
LIST_TERM, SPOT_TERM = 0, -1


class _Item(msgspec.Struct, rename="camel"):
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
    tier_minimum_units: float = 0.0


class _Page(msgspec.Struct):
    items: list[_Item] = msgspec.field(name="Items")


def read(data: bytes, _file: FileContext) -> SourceFacts:
    found: dict[tuple[str, str], dict[int, float]] = {}
    for page in pagination.decode_pages(data, _Page):
        for item in page.items:
            if item.currency_code != "USD":
                raise ValueError(f"prices in {item.currency_code}, not in USD")
            which = _price_term(item)
            if which is not None:
                hours = HOURS_IN_YEAR * which if which > 0 else 1
                found.setdefault((item.arm_region_name, item.arm_sku_name), {}).setdefault(
                    which, item.retail_price / hours
                )
    return SourceFacts(
        prices=tuple(
            InstancePrice(*key, of[LIST_TERM], of.get(SPOT_TERM), of.get(1), of.get(3))
            for key, of in found.items()
            if LIST_TERM in of
        )
    )


def _price_term(item: _Item) -> int | None:
    """0 for the list price, -1 for spot, else the years promised; None for what is no plain machine by the hour."""
    words = f"{item.product_name} {item.sku_name} {item.meter_name}".lower()
    machine = item.service_name == MACHINES and item.unit_of_measure == HOURLY and item.arm_sku_name
    if not machine or item.retail_price <= 0 or any(other in words for other in EXCLUDED_PRODUCTS):
        return None
    if item.type == "Reservation":
        return TERMS.get(item.reservation_term)
    return None if item.type != "Consumption" else SPOT_TERM if SPOT in words else LIST_TERM
