"""The trust in a fact: its layer, kind of source and age, and the resulting band."""

import copy
import re
from collections.abc import Iterable
from datetime import date
from functools import cached_property
from typing import Self

from archwright.catalog.layers import freshness
from archwright.catalog.layers.packaged_tables import CatalogTables
from archwright.catalog.tables import cost_records, records
from archwright.catalog.tables.csv_table import schema_of
from archwright.catalog.tables.metadata_records import FreshnessState, SourceKind, TimeToLive
from archwright.catalog.tables.row_names import row_name
from archwright.contract.estimate import Estimate
from archwright.contract.record import replace

PricedMachine = records.Offer | cost_records.ServerSpec
# Prices of these confidences enter a plan at the upper end of their band.
CAUTIOUS = ("low", "recalled")
PRICE_FIELDS = ("on_demand_usd_per_hour", "spot_usd_per_hour", "commit_1y_usd_per_hour", "commit_3y_usd_per_hour")


class FactProvenance(CatalogTables):
    """Ages are counted at `today`; without it, at the day of the newest shipped row."""

    accepts_stale = False

    @cached_property
    def today(self) -> date:
        return self._today or self.snapshot_date

    @cached_property
    def snapshot_date(self) -> date:
        """The newest of the days that the shipped rows state."""
        stated = (freshness.parse_as_of(row.as_of) for row in (*self.residency_rules, *self.refresh_sources))
        return max((day for day in stated if day is not None), default=date.min)

    # --- age

    def time_to_live(self, row: records.Fact, *, spot: bool = False) -> TimeToLive | None:
        """Return the rule of the row's class, None if the class does not age."""
        table, kind = schema_of(type(row)).ages_as, ""
        if isinstance(row, records.Offer):
            device = self.accelerators.get(row.accelerator or "")
            is_processor = row.accelerator is None or (device is not None and device.kind == "cpu")
            kind = "processor" if is_processor else "accelerator"
        elif isinstance(row, cost_records.PlanningParameter):
            kind = row.kind
        names = ("spot",) if spot else (f"{table}:{kind}", table)
        return next((self._ttl_rules[name] for name in names if name in self._ttl_rules), None)

    @cached_property
    def _ttl_rules(self) -> dict[str, TimeToLive]:
        return {name: rule for rule in self.times_to_live for name in rule.applies_to}

    def freshness(self, row: records.Fact) -> FreshnessState:
        return freshness.freshness_state(self.time_to_live(row), freshness.age_days(row.as_of, self.today))

    def describe_stale_facts(self, facts: Iterable[records.Fact]) -> tuple[str, ...]:
        """Describe the stale and expired `facts`, each once, for a plan."""
        old = (row for row in facts if self.freshness(row) in ("stale", "expired"))
        return tuple(dict.fromkeys(map(self._describe_age, old)))

    def _describe_age(self, row: records.Fact) -> str:
        rule, age = self.time_to_live(row), freshness.age_days(row.as_of, self.today)
        date_text = "undated" if age is None else f"of {row.as_of}, about {age} days old"
        limit = f" (valid for {rule.ttl_days} days)" if rule else ""
        return f"{row_name(row)}: {rule.id if rule else 'fact'} {date_text}{limit}"

    def has_valid_price(self, row: PricedMachine) -> bool:
        """True if the price is dated and not expired, or the user's own: only such a price decides between options."""
        if self.accepts_stale or row_name(row) in self.user_overlay.overridden_names(schema_of(type(row)).ages_as):
            return True
        return freshness.is_dated(row.as_of) and self.freshness(row) != "expired"

    def accept_stale_prices(self) -> Self:
        """Return a catalog with the same facts in which every price is valid."""
        accepting = copy.copy(self)
        accepting.accepts_stale = True
        return accepting

    def services_of(self, provider: str) -> tuple[cost_records.CloudService, ...]:
        """Return what a cluster at a provider needs beside its machines; none if no bundle makes a cluster there."""
        return tuple(row for row in self.cloud_services if row.provider == provider)

    def sold_offers(self, provider: str) -> tuple[records.Offer, ...]:
        """Return the whole machines of a provider with a valid price, at the prices that plans expect."""
        key = (provider, self.accepts_stale)
        if key not in self._sold:
            whole = (offer for offer in self.offers_of(provider) if offer.accelerator_share == 1)
            listed = (offer for offer in whole if offer.on_demand_usd_per_hour and self.has_valid_price(offer))
            self._sold[key] = tuple(map(self._expect_offer_prices, listed))
        return self._sold[key]

    def sold_nodes(self) -> tuple[cost_records.ServerSpec, ...]:
        """Return all machines to buy or own, at the prices that plans expect; `has_valid_price` says what may win."""
        return tuple(map(self._expect_node_price, self.nodes.values()))

    def _expect_node_price(self, row: cost_records.ServerSpec) -> cost_records.ServerSpec:
        """Return `row` at the upper end of its band if its confidence is low; a quote replaces it."""
        if not self.is_cautious(row):
            return row
        high = self._quote_band(row).high
        return replace(row, price_usd=high, price_high_usd=high)

    def _expect_offer_prices(self, row: records.Offer) -> records.Offer:
        """Enter prices of low confidence at the upper end of their band, and an old spot price at that of its drift."""
        if self.is_cautious(row):
            rise = records.BAND[row.confidence]
            stated = {name: getattr(row, name) for name in PRICE_FIELDS}
            row = replace(row, **{name: None if usd is None else usd * rise for name, usd in stated.items()})
        spot, listed = row.spot_usd_per_hour, row.on_demand_usd_per_hour
        if spot is None or listed is None:
            return row
        age, rule = freshness.age_days(row.as_of, self.today), self.time_to_live(row, spot=True)
        spot *= freshness.drift_factors(rule, age)[1]
        expired = freshness.freshness_state(rule, age) == "expired" and not self.accepts_stale
        # A spot price that is not below the list price is no spot market.
        return replace(row, spot_usd_per_hour=None if expired or spot >= listed else spot)

    # --- bands

    def estimate(self, row: records.Fact, value: float, unit: str, basis: str = "") -> Estimate:
        """Return `value` of `row` with the band of its confidence (a node: low to high), wider with age.

        A price that entered at the upper end of its band (`sold_offers`, `sold_nodes`) has its possible rise in it:
        its band reaches down only.
        """
        spot = isinstance(row, records.Offer) and value == row.spot_usd_per_hour
        band, rule = row.band(value, unit), self.time_to_live(row, spot=spot)
        down, up = freshness.drift_factors(rule, freshness.age_days(row.as_of, self.today))
        if isinstance(row, cost_records.ServerSpec) and value == row.price_usd:
            band = self._quote_band(row)
            up = 1.0 if self.is_cautious(row) and band.high == value else up
        elif isinstance(row, records.Offer) and self.is_cautious(row):
            band, up = replace(band, low=value / records.BAND[row.confidence] ** 2, high=value), 1.0
        return freshness.widen_by_drift(replace(band, unit=unit, basis=basis), (down, up))

    @staticmethod
    def is_cautious(row: records.Fact) -> bool:
        """True if the price of `row` enters a plan at the upper end of its band."""
        return row.confidence in CAUTIOUS

    @staticmethod
    def _quote_band(row: cost_records.ServerSpec) -> Estimate:
        """Return a price between the lowest and highest quote; a single quote has the band of its confidence."""
        band, value = row.band(row.price_usd, "USD"), row.price_usd
        if row.price_low_usd == row.price_high_usd:
            return band
        return replace(band, low=min(row.price_low_usd, value), high=max(row.price_high_usd, value))

    def parameter(self, name: str, basis: str = "") -> Estimate:
        """Return a cost of own machines between the source's low and high, wider with age."""
        row = self.parts[name]
        # A copy of this catalog may have another row of this name.
        cached_row, estimate = self._parameters.get(name, (None, None))
        if estimate is None or cached_row is not row:
            estimate = self._estimate_part(row)
            self._parameters[name] = (row, estimate)
        return replace(estimate, basis=basis) if basis else estimate

    def _estimate_part(self, row: cost_records.PlanningParameter) -> Estimate:
        band = row.band(row.typical, row.unit)
        if row.low < row.high:
            band = replace(band, low=row.low, high=row.high)
        drift = freshness.drift_factors(self.time_to_live(row), freshness.age_days(row.as_of, self.today))
        return freshness.widen_by_drift(band, drift)

    # --- sources

    def kind_of_source(self, source: str) -> SourceKind:
        """Classify the text of a source by the rows of source_kinds.csv."""
        return next((kind for kind, pattern in self._patterns if pattern.search(source)), "third_party")

    @cached_property
    def _patterns(self) -> list[tuple[SourceKind, re.Pattern[str]]]:
        return [(words.kind, re.compile(words.pattern, re.IGNORECASE)) for words in self.source_words]

    def refreshed_offers(self, provider: str) -> frozenset[str]:
        prices = self.refreshed_layer.prices.get(provider)
        if prices is None:
            return frozenset()
        regions, types = [row.region for row in prices.places], [row.instance_type for row in prices.machines]
        pairs = zip(prices.place, prices.machine, strict=True)
        return frozenset(f"{provider}:{regions[place]}:{types[machine]}" for place, machine in pairs)
