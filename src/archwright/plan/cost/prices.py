"""Prices and assumptions as facts of the ledger; every fact has one basis, which all cost lines share.

If the catalog has no price of a kind for a provider, the median of the other providers' prices is used with the widest
interval. The tables state one region per provider, so the price of another region has its own factor and interval.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Unpack

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec, StoragePrice
from archwright.catalog.tables.records import BAND, Fact, Offer
from archwright.contract.estimate import Estimate, exact_estimate, within_factor
from archwright.contract.evidence import BasisKind
from archwright.contract.needs import Needs
from archwright.contract.number_format import format_ends, format_exact, format_money, format_number
from archwright.plan.accounting.budget import USD
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import BasisDetails, PlanProvenance
from archwright.sizing.infrastructure.storage import StorageTier

TB = 1e12
# Lower bound of the residual share: a residual of 0 has no root.
MIN_RESIDUAL_SHARE = 0.02
# For each storage tier: the kind of its price rows, and the quantile by price (0: cheapest, 1: most expensive).
STORAGE_ROWS = {"object": ("object", 1.0), "archive": ("object", 0.0), "block": ("block", 0.5), "file": ("file", 0.0)}
# A part with such a source is an assumption of the project, not a quoted price.
# Source, date and confidence of a fact that the needs state.
STATED_BY_NEEDS = "the needs, stated by the organisation, high confidence"
# The price at the start of a fact's text, which its source follows.
PRICE_PATTERN = re.compile(r"^[\d,.e+-]+(?: \.\. [\d,.e+-]+)*(?: [^ ,]+){0,2}, ")
ASSUMED_SOURCES = ("assumed", "counted", "recalled")


class AgedHardware(NamedTuple):
    """Units of hardware, `age` of `life` months old."""

    units: float
    age: float
    life: float


def compute_resale_share(age: float, life: float, resale: float, residual: float) -> float:
    """Return the value of used hardware in prices of new hardware: `resale` at once, `residual` after its life."""
    return float(resale * (max(MIN_RESIDUAL_SHARE, residual) / resale) ** (age / life))


class EgressPriceList(NamedTuple):
    """A price list of traffic: `steps` of (first byte per month, USD per byte), and the region's `factor`."""

    steps: tuple[tuple[float, float], ...]
    drivers: tuple[str, ...]
    factor: float

    def cost_usd(self, amount: float) -> float:
        """Return the cost of `amount` bytes per month: each step has its price; bytes below the first are free."""
        ends = [*(start for start, _ in self.steps[1:]), float("inf")]
        steps = zip(self.steps, ends, strict=True)
        return self.factor * sum(usd * max(0.0, min(amount, end) - start) for (start, usd), end in steps)


class UnitPrice(NamedTuple):
    """USD per unit at the facts' central values, and the bases that it is proportional to."""

    usd: float
    drivers: tuple[str, ...]


class PriceBook:
    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger

    def part(self, name: str) -> UnitPrice:
        row = self._catalog.parts[name]
        kind: BasisKind = "assumed" if row.source.startswith(ASSUMED_SOURCES) else "quoted"
        fact = f"{row.id}: {format_ends(row.low, row.typical, row.high)} {row.unit}, {format_source(row)}"
        found = self._catalog.parameter(name)
        return self._price(found, f"part.{name}", kind, row.item, facts=(fact,), stratum=row.kind)

    def parameter(self, name: str) -> Estimate:
        return self._catalog.parameter(name)

    def ageing(self, what: str, months: Sequence[float], parts: Sequence[str]) -> tuple[str, ...]:
        """Register how age raises a cost; `months`: machine-months at the central, lowest and highest rise."""
        value, low, high = months
        if value <= 0 or low == high:
            return ()
        estimate = Estimate(value=value, low=low, high=high, unit="machine-months as new")
        facts, formula = self.drivers(parts), "sum over machines and months of the rise since the machine was new"
        name, text = f"ageing.{what}.{value:.6g}", f"{what} of ageing machines, in months of a new machine"
        return self._price(estimate, name, "formula", text, formula=formula, facts=facts).drivers

    def drivers(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(driver for name in names for driver in self.part(name).drivers)

    def sources(self, *names: str) -> str:
        return "; ".join(dict.fromkeys(self._catalog.parts[name].source for name in names))

    def node(self, node: ServerSpec) -> UnitPrice:
        price = node_price(node, self._catalog, self._ledger)
        return UnitPrice(price.value, (price.basis,))

    def offer(self, offer: Offer) -> UnitPrice:
        """Return the list price of one hour of a rented machine."""
        price = hour_price(offer, self._catalog, self._ledger)
        return UnitPrice(price.value, (price.basis,))

    def electricity(self, country: str) -> UnitPrice:
        """Return USD/kWh: the price of an own site in its country, else the country's price."""
        placement = self._needs.placement
        sites = [one for one in (placement.site, *placement.sites.values()) if one is not None]
        own = (one.electricity_usd_per_kwh for one in sites if one.country == country)
        if (stated_usd := next((usd for usd in own if usd is not None), None)) is not None:
            rate = exact_estimate(stated_usd, "USD/kWh")
            fact = f"placement.site.electricity_usd_per_kwh: {format_exact(rate.value)} USD/kWh, {STATED_BY_NEEDS}"
        else:
            rate = self._catalog.electricity_usd_per_kwh(country)
            tariffs = (row for row in self._catalog.tariffs if row.country == country)
            if not any(row.commercial_usd_per_kwh or row.industrial_usd_per_kwh for row in tariffs):
                self._ledger.add_assumptions(
                    f"electricity in {country}: no price in the catalog; an average of other countries stands in, with "
                    "a wide interval (state `placement.site.electricity_usd_per_kwh`)"
                )
            source = format_source(self._catalog.electricity_tariff(country))
            fact = f"electricity in {country}: {format_ends(rate.low, rate.value, rate.high)} USD/kWh, {source}"
        return self._price(rate, f"electricity.{country}".lower(), "quoted", f"electricity in {country}", facts=(fact,))

    def lifetime_years(self, life: str) -> float:
        return self._catalog.parts[life].typical

    def residual_value(self, left: Sequence[AgedHardware]) -> UnitPrice:
        """Return the resale value in prices of a new unit, summed over the units."""
        resale, residual = self._catalog.parameter("resale"), self._catalog.parameter("residual")
        ends = ((resale.low, residual.low), (resale.value, residual.value), (resale.high, residual.high))
        low, value, high = (
            sum(one.units * compute_resale_share(one.age, one.life, *end) for one in left) for end in ends
        )
        ages = ", ".join(
            f"{format_number(one.units, 4)} after {format_number(one.age, 4)} of {format_exact(one.life)} months"
            for one in left
        )
        return self._price(
            Estimate(value=value, low=low, high=high, unit="prices"),
            f"worth.{value:.6g}",
            "formula",
            "resale value of used hardware, in prices of new hardware",
            formula=f"resale x (residual / resale) ^ (age / life), summed: {ages}",
            facts=self.drivers(("resale", "residual")),
        )

    def storage(self, where: Location, tier: StorageTier) -> UnitPrice:
        """Return USD per byte and month at a provider.

        Active data use the most expensive object class (the others charge for reads), archives the cheapest, shared
        files the cheapest file system, volumes the median block storage.
        """
        kind, quantile = STORAGE_ROWS[tier]
        (row,), stand_in = self._select_price_rows(where.provider, lambda row: row.kind == kind, quantile)
        return self._byte_price(where, row, f"storage.{tier}.{where.provider}", f"{tier} storage", stand_in=stand_in)

    def egress(self, where: Location) -> EgressPriceList:
        rows, stand_in = self._select_price_rows(
            where.provider, lambda row: row.kind == "egress" and row.item.lower().startswith("internet")
        )
        first = next((row for row in rows if row.usd_per_byte), rows[0])
        price = self._byte_price(where, first, f"egress.{where.provider}", "traffic to the internet", stand_in=stand_in)
        steps = tuple((row.from_bytes, row.usd_per_byte) for row in rows)
        return EgressPriceList(steps, price.drivers, price.usd / first.usd_per_byte if first.usd_per_byte else 1.0)

    def between_regions(self, where: Location) -> UnitPrice:
        """Return USD per byte between regions of one provider."""
        (row,), stand_in = self._select_price_rows(where.provider, lambda row: "inter-region" in row.item.lower(), 0.5)
        name = f"between-regions.{where.provider}"
        return self._byte_price(where, row, name, "traffic between regions", stand_in=stand_in)

    def between_zones(self, where: Location) -> UnitPrice | None:
        """Return USD per byte and direction between zones of a region; None if the catalog has no such price."""
        rows = (row for row in self._catalog.storage_prices if "inter-az" in row.item.lower())
        own = next((row for row in rows if row.provider == where.provider), None)
        name = f"between-zones.{where.provider}"
        return None if own is None else self._byte_price(where, own, name, "traffic between zones", stand_in=False)

    def _select_price_rows(
        self, provider: str, wanted: Callable[[StoragePrice], bool], quantile: float | None = None
    ) -> tuple[list[StoragePrice], bool]:
        """Return the provider's rows, else (True) the median provider's; `quantile`: only one row, by price."""

        def pick(rows: Sequence[StoragePrice]) -> list[StoragePrice]:
            if quantile is None:
                return sorted(rows, key=lambda row: row.from_bytes)
            return [sorted(rows, key=lambda row: (row.usd_per_byte, row.item))[int(quantile * (len(rows) - 1))]]

        by_provider: dict[str, list[StoragePrice]] = {}
        for row in filter(wanted, self._catalog.storage_prices):
            by_provider.setdefault(row.provider, []).append(row)
        if provider in by_provider:
            return pick(by_provider[provider]), False
        others = [pick(rows) for rows in by_provider.values() if any(row.usd_per_byte for row in rows)]
        others.sort(key=lambda rows: (rows[0].usd_per_byte, rows[0].provider))
        return others[(len(others) - 1) // 2], True

    def _byte_price(self, where: Location, row: StoragePrice, name: str, what: str, *, stand_in: bool) -> UnitPrice:
        unit = "USD/byte"
        estimate = self._catalog.estimate(row, row.usd_per_byte, unit)
        if stand_in:
            estimate = within_factor(row.usd_per_byte, max(BAND["recalled"], estimate.factor), unit)
            self._ledger.add_assumptions(
                f"{where.provider}: the catalog has no price of {what}; the price of {row.provider} is used"
            )
        price = self._price(
            estimate,
            name,
            "assumed" if stand_in else "quoted",
            f"{what} at {where.provider}",
            facts=(
                f"{row.provider} {row.item}: {format_number(row.usd_per_byte * 1e9, 4)} USD/GB, {format_source(row)}",
            ),
            stratum="another provider's price" if stand_in else "list price",
        )
        if not row.region or row.region == where.region:
            return price
        spread = self.part("region.spread")
        return UnitPrice(price.usd * spread.usd, (*price.drivers, *spread.drivers))

    def _price(
        self, estimate: Estimate, name: str, kind: BasisKind, definition: str, **details: Unpack[BasisDetails]
    ) -> UnitPrice:
        driver = self._ledger.create_driver(estimate, name, kind, definition, **details)
        return UnitPrice(driver.value, (driver.basis,))


def format_source(fact: Fact) -> str:
    """The end of a fact's text, which `parse_source` reads back."""
    return f"{fact.source}, {fact.as_of or 'undated'}, {fact.confidence} confidence"


def parse_source(text: str) -> tuple[str, str, str]:
    """Return source, date and confidence of a fact's text; plans of older releases do not state the confidence."""
    parts = PRICE_PATTERN.sub("", text.split(": ", 1)[-1]).rsplit(", ", 2)
    if len(parts) == 3 and parts[2].endswith(" confidence"):
        return parts[0], parts[1], parts[2].removesuffix(" confidence")
    source, as_of = ", ".join(parts[:-1]), parts[-1]
    return source or as_of, as_of if source else "not stated", "not stated"


def node_price(node: ServerSpec, catalog: Catalog, ledger: PlanProvenance) -> Estimate:
    """Register and return the purchase price of a machine, as the same fact for every cost line."""
    aged = catalog.estimate(node, node.price_usd, USD)
    low, high = min(aged.low, node.price_low_usd), max(aged.high, node.price_high_usd)
    entered = "highest" if catalog.is_cautious(node) else "typical"
    return ledger.create_driver(
        Estimate(value=node.price_usd, low=low, high=high, unit=USD),
        f"price.node.{node.id}",
        "quoted",
        "purchase price of one machine",
        formula=f"{entered} price; interval: lowest and highest quote, wider with age",
        facts=(f"{node.id}: {format_money(node.price_usd, USD)}, {format_source(node)}",),
        stratum="purchase price",
    )


def hour_price(offer: Offer, catalog: Catalog, ledger: PlanProvenance) -> Estimate:
    """Register and return the list price of a machine's hour, as the same fact for every cost line."""
    price = offer.on_demand_usd_per_hour or 0.0
    return ledger.create_driver(
        catalog.estimate(offer, price, f"{USD}/h"),
        f"price.{offer.id}",
        "quoted",
        "on-demand price per hour of one machine",
        formula=f"{offer.price_kind} price; interval by its age and confidence",
        facts=(f"{offer.id}: {format_exact(price)} USD/h, {format_source(offer)}",),
        stratum=f"{offer.price_kind} price",
    )
