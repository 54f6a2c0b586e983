"""Prices and assumptions as facts of the ledger: each under one basis, so that whoever pays for it names the same.

Where a provider has no price of a kind in the catalog, the middle of the others' stands in, with the widest band; the
tables state one region a provider, so another region's price has a factor and a band of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec, StoragePrice
from archwright.catalog.tables.records import BAND, Fact, Offer
from archwright.contract.estimate import Estimate, exact_estimate, within_factor
from archwright.contract.evidence import BasisKind
from archwright.contract.needs import Needs
from archwright.contract.record import replace
from archwright.plan.accounting.budget import USD
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.sizing.infrastructure.storage import StorageTier

TB = 1e12
# A residual of nothing has no root: scrap is worth something.
MIN_RESIDUAL_SHARE = 0.02
# The kind of a tier's rows of prices, and which of them by price: 0 the cheapest, 1 the dearest.
STORAGE_ROWS = {"object": ("object", 1.0), "archive": ("object", 0.0), "block": ("block", 0.5), "file": ("file", 0.0)}
# A part whose source starts so is ours and nobody's price.
ASSUMED_SOURCES = ("assumed", "counted", "recalled")


class VolumePriceTier(NamedTuple):
    """A price per byte that holds from `start` bytes of a month on."""

    start: float
    usd_per_byte: float


class AgedHardware(NamedTuple):
    """Units of hardware, `age` of `life` months old."""

    units: float
    age: int
    life: int


class EgressPriceList(NamedTuple):
    """A price list of traffic: `driver` is the basis its flows are proportional to, beside the region's."""

    steps: tuple[VolumePriceTier, ...]
    drivers: tuple[str, ...]
    factor: float

    def cost_usd(self, amount: float) -> float:
        """What `amount` bytes of a month cost: each step's price for what lies in it; below the first they are free."""
        ends = [*(step.start for step in self.steps[1:]), float("inf")]
        steps = zip(self.steps, ends, strict=True)
        return self.factor * sum(step.usd_per_byte * max(0.0, min(amount, end) - step.start) for step, end in steps)


class UnitPrice(NamedTuple):
    """USD of one unit at the facts' own values, and the bases it is proportional to."""

    usd: float
    drivers: tuple[str, ...]


class PriceBook:
    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger

    def part(self, name: str) -> UnitPrice:
        """A figure of running machines of one's own, or of running at all."""
        row = self._catalog.parts[name]
        kind: BasisKind = "assumed" if row.source.startswith(ASSUMED_SOURCES) else "quoted"
        fact = f"{row.id}: {row.low:g} .. {row.typical:g} .. {row.high:g} {row.unit}, {_format_source(row)}"
        basis = self._ledger.create_basis(f"part.{name}", kind, row.item, facts=(fact,), stratum=row.kind)
        return self._register_price(self._catalog.parameter(name, basis))

    def drivers(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(driver for name in names for driver in self.part(name).drivers)

    def sources(self, *names: str) -> str:
        return "; ".join(dict.fromkeys(self._catalog.parts[name].source for name in names))

    def node(self, node: ServerSpec) -> UnitPrice:
        return self._register_price(node_price(node, self._catalog, self._ledger))

    def offer(self, offer: Offer) -> UnitPrice:
        """An hour of a rented machine at its list price."""
        return self._register_price(hour_price(offer, self._catalog, self._ledger))

    def electricity(self, country: str) -> UnitPrice:
        """USD/kWh: the site's own price in its country, else the country's."""
        site = self._needs.placement.site
        if site is not None and site.country == country and site.electricity_usd_per_kwh is not None:
            rate = exact_estimate(site.electricity_usd_per_kwh, "USD/kWh")
            fact = f"placement.site.electricity_usd_per_kwh: {rate.value:g}"
        else:
            rate = self._catalog.electricity_usd_per_kwh(country)
            fact = f"electricity in {country}: {rate.value:.3g} USD/kWh ({rate.low:.3g} .. {rate.high:.3g})"
        name = f"electricity in {country}"
        basis = self._ledger.create_basis(f"electricity.{country}".lower(), "quoted", name, facts=(fact,))
        return self._register_price(replace(rate, basis=basis))

    def lifetime_years(self, life: str) -> float:
        return self._catalog.parts[life].typical

    def residual_value(self, left: Sequence[AgedHardware]) -> UnitPrice:
        """What hardware sells for at the end of the horizon, in prices of a new unit: units x residual^(age / life)."""
        residual = self._catalog.parameter("residual")
        low, value, high = (
            sum(one.units * max(MIN_RESIDUAL_SHARE, share) ** (one.age / one.life) for one in left)
            for share in (residual.low, residual.value, residual.high)
        )
        ages = ", ".join(f"{one.units:.4g} after {one.age} of {one.life} months" for one in left)
        basis = self._ledger.create_basis(
            f"worth.{value:.4g}",
            "formula",
            "what hardware sells for at the end of the horizon, in prices of a new one",
            formula=f"residual share ^ (age / life), summed: {ages}",
            facts=self.part("residual").drivers,
        )
        return self._register_price(Estimate(value=value, low=low, high=high, unit="prices", basis=basis))

    def storage(self, where: Location, tier: StorageTier) -> UnitPrice:
        """USD per byte and month at a provider. Data in use lie on the dearest object class (the others charge for
        reading); what nobody reads lies on the cheapest; shared files on the cheapest file system; volumes on the
        middle one.
        """
        kind, quantile = STORAGE_ROWS[tier]
        row, stand_in = self._select_price_row(where.provider, lambda row: row.kind == kind, quantile)
        return self._byte_price(where, row, f"storage.{tier}.{where.provider}", f"{tier} storage", stand_in=stand_in)

    def egress(self, where: Location) -> EgressPriceList:
        rows, stand_in = self._select_price_rows(
            where.provider,
            lambda row: row.kind == "egress" and row.item.lower().startswith("internet"),
            lambda rows: sorted(rows, key=lambda row: row.from_bytes),
        )
        first = next((row for row in rows if row.usd_per_byte), rows[0])
        price = self._byte_price(where, first, f"egress.{where.provider}", "traffic to the internet", stand_in=stand_in)
        steps = tuple(VolumePriceTier(row.from_bytes, row.usd_per_byte) for row in rows)
        return EgressPriceList(steps, price.drivers, price.usd / first.usd_per_byte if first.usd_per_byte else 1.0)

    def between_regions(self, where: Location) -> UnitPrice:
        """USD per byte between regions of one provider."""
        row, stand_in = self._select_price_row(where.provider, lambda row: "inter-region" in row.item.lower(), 0.5)
        name = f"between-regions.{where.provider}"
        return self._byte_price(where, row, name, "traffic between regions", stand_in=stand_in)

    def between_zones(self, where: Location) -> UnitPrice | None:
        """USD per byte and direction between zones of a region, None where the catalog knows of no charge."""
        rows = (row for row in self._catalog.storage_prices if "inter-az" in row.item.lower())
        own = next((row for row in rows if row.provider == where.provider), None)
        name = f"between-zones.{where.provider}"
        return None if own is None else self._byte_price(where, own, name, "traffic between zones", stand_in=False)

    def _select_price_row(
        self, provider: str, wanted: Callable[[StoragePrice], bool], quantile: float
    ) -> tuple[StoragePrice, bool]:
        def pick(rows: Sequence[StoragePrice]) -> list[StoragePrice]:
            ordered = sorted(rows, key=lambda row: (row.usd_per_byte, row.item))
            return [ordered[int(quantile * (len(ordered) - 1))]]

        rows, stand_in = self._select_price_rows(provider, wanted, pick)
        return rows[0], stand_in

    def _select_price_rows(
        self,
        provider: str,
        wanted: Callable[[StoragePrice], bool],
        pick: Callable[[Sequence[StoragePrice]], list[StoragePrice]],
    ) -> tuple[list[StoragePrice], bool]:
        """The provider's rows, picked; else the middle provider's that charges, as a stand-in."""
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
                f"{where.provider}: no price of {what} in the catalog; {row.provider}'s stands in"
            )
        basis = self._ledger.create_basis(
            name,
            "assumed" if stand_in else "quoted",
            f"{what} at {where.provider}",
            facts=(f"{row.provider} {row.item}: {row.usd_per_byte * 1e9:.4g} USD/GB, {_format_source(row)}",),
            stratum="another provider's price" if stand_in else "list price",
        )
        price = self._register_price(replace(estimate, basis=basis))
        if not row.region or row.region == where.region:
            return price
        spread = self.part("region.spread")
        return UnitPrice(price.usd * spread.usd, (*price.drivers, *spread.drivers))

    def _register_price(self, estimate: Estimate) -> UnitPrice:
        return UnitPrice(estimate.value, (self._ledger.register_driver(estimate),))


def _format_source(fact: Fact) -> str:
    return f"{fact.source}, {fact.as_of or 'undated'}"


def node_price(node: ServerSpec, catalog: Catalog, ledger: PlanProvenance) -> Estimate:
    basis = ledger.create_basis(
        f"price.node.{node.id}",
        "quoted",
        "price of one machine, bought",
        formula="typical price; band: the lowest and highest quoted, wider as they age",
        facts=(f"{node.id}: {node.price_usd:,.0f} {USD}, {node.source}, {node.as_of or 'undated'}",),
        stratum="purchase price",
    )
    aged = catalog.estimate(node, node.price_usd, USD, basis)
    low, high = min(aged.low, node.price_low_usd), max(aged.high, node.price_high_usd)
    return Estimate(value=node.price_usd, low=low, high=high, unit=USD, basis=basis)


def hour_price(offer: Offer, catalog: Catalog, ledger: PlanProvenance) -> Estimate:
    price = offer.on_demand_usd_per_hour or 0.0
    basis = ledger.create_basis(
        f"price.{offer.id}",
        "quoted",
        "on-demand price of one machine for an hour",
        formula=f"{offer.price_kind} price, banded by its age and how surely it is known",
        facts=(f"{offer.id}: {price:g} USD/h, {offer.source}, {offer.as_of or 'undated'}",),
        stratum=f"{offer.price_kind} price",
    )
    return catalog.estimate(offer, price, f"{USD}/h", basis)
