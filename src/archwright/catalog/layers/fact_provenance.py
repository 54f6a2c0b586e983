"""How far a fact may be trusted: its layer, its kind of source, its age, and the band that all three earn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from functools import cached_property

from archwright.catalog.layers import freshness
from archwright.catalog.layers.packaged_tables import CatalogTables
from archwright.catalog.tables import cost_records, metadata_records, records
from archwright.catalog.tables.metadata_records import FreshnessState, SourceKind, TimeToLive
from archwright.catalog.tables.row_names import row_name
from archwright.contract.estimate import Estimate
from archwright.contract.record import replace

# Record types and the names `ttl.csv` has for them; what is missing does not age.
TABLE_OF: dict[type[records.Fact], str] = {
    records.Offer: "offers",
    records.HostedModel: "hosted",
    records.EnergyTariff: "tariffs",
    records.ExchangeRate: "exchange_rates",
    records.Accelerator: "accelerators",
    records.QualityScore: "scores",
    records.Regulation: "regulations",
    records.ResidencyRule: "residency_rules",
    records.Region: "regions",
    cost_records.PlanningParameter: "parts",
    cost_records.ServerSpec: "nodes",
    cost_records.StoragePrice: "storage_prices",
    cost_records.CommitmentDiscount: "commitments",
    cost_records.PlatformSurcharge: "surcharges",
    metadata_records.HostedModelFact: "hosted_facts",
    metadata_records.RegionAvailability: "availability",
    metadata_records.RegionRatio: "region_ratios",
}


class FactProvenance(CatalogTables):
    """`today` is the day ages are counted at. Without one, the shipped rows are judged at the day of the newest."""

    @cached_property
    def today(self) -> date:
        return self._today or self.snapshot_date

    @cached_property
    def snapshot_date(self) -> date:
        """The day the shipped rows were last looked up: the newest of the days they state."""
        stated = (freshness.parse_as_of(row.as_of) for row in (*self.residency_rules, *self.refresh_sources))
        return max((day for day in stated if day is not None), default=date.min)

    # --- age

    def time_to_live(self, row: records.Fact, *, spot: bool = False) -> TimeToLive | None:
        """The rule of the row's class; None for what does not age."""
        table = TABLE_OF.get(type(row), "")
        kind = self._fact_kind(row)
        names = ("spot",) if spot else (f"{table}:{kind}", table)
        return next((self._ttl_rules[name] for name in names if name in self._ttl_rules), None)

    def _fact_kind(self, row: records.Fact) -> str:
        if isinstance(row, records.Offer):
            device = self.accelerators.get(row.accelerator or "")
            is_processor = row.accelerator is None or (device is not None and device.kind == "cpu")
            return "processor" if is_processor else "accelerator"
        return row.kind if isinstance(row, cost_records.PlanningParameter) else ""

    @cached_property
    def _ttl_rules(self) -> dict[str, TimeToLive]:
        return {name: rule for rule in self.times_to_live for name in rule.applies_to}

    def freshness(self, row: records.Fact) -> FreshnessState:
        return freshness.freshness_state(self.time_to_live(row), freshness.age_days(row.as_of, self.today))

    def describe_stale_facts(self, facts: Iterable[records.Fact]) -> tuple[str, ...]:
        """Those of `facts` that are stale or expired, each once, in words: what a plan must name."""
        old = (row for row in facts if self.freshness(row) in ("stale", "expired"))
        return tuple(dict.fromkeys(map(self._describe_age, old)))

    def _describe_age(self, row: records.Fact) -> str:
        rule, age = self.time_to_live(row), freshness.age_days(row.as_of, self.today)
        since = "undated" if age is None else f"of {row.as_of}, about {age} days old"
        limit = f" (good for {rule.ttl_days})" if rule else ""
        return f"{row_name(row)}: {rule.id if rule else 'fact'} {since}{limit}"

    def may_advise_buying(self, node: cost_records.ServerSpec) -> bool:
        """Whether a plan may advise to buy `node`: not on a purchase price past its limit."""
        return self.freshness(node) != "expired"

    # --- bands

    def estimate(self, row: records.Fact, value: float, unit: str, basis: str = "") -> Estimate:
        """`value`, a figure of `row`, with the band of its confidence (a node: low to high), wider when old."""
        spot = isinstance(row, records.Offer) and value == row.spot_usd_per_hour
        made = replace(row.band(value, unit), basis=basis)
        if isinstance(row, cost_records.ServerSpec) and value == row.price_usd:
            made = replace(made, low=min(row.price_low_usd, value), high=max(row.price_high_usd, value))
        return self._widen_with_age(row, made, spot=spot)

    def parameter(self, name: str, basis: str = "") -> Estimate:
        """A figure of running machines of one's own, between the source's low and high, wider when it is old."""
        row = self.parts[name]
        widest = row.band(row.typical, row.unit)
        low, high = (row.low, row.high) if row.low < row.high else (widest.low, widest.high)
        return self._widen_with_age(row, Estimate(value=row.typical, low=low, high=high, unit=row.unit, basis=basis))

    def _widen_with_age(self, row: records.Fact, made: Estimate, *, spot: bool = False) -> Estimate:
        rule = self.time_to_live(row, spot=spot)
        return freshness.widen_by_drift(made, freshness.drift_factors(rule, freshness.age_days(row.as_of, self.today)))

    # --- where from

    def kind_of_source(self, source: str) -> SourceKind:
        """From the words of a source, by the rows of source_kinds.csv."""
        return next((kind for kind, pattern in self._patterns if pattern.search(source)), "third_party")

    @cached_property
    def _patterns(self) -> list[tuple[SourceKind, re.Pattern[str]]]:
        return [(words.kind, re.compile(words.pattern, re.IGNORECASE)) for words in self.source_words]

    def refreshed_offers(self, provider: str) -> frozenset[str]:
        """The ids of the offers that a refresh brought."""
        prices = self.refreshed_layer.prices.get(provider)
        if prices is None:
            return frozenset()
        types = [machine.instance_type for machine in prices.machines]
        regions = [place.region for place in prices.places]
        pairs = zip(prices.machine, prices.place, strict=True)
        return frozenset(f"{provider}:{regions[place]}:{types[machine]}" for machine, place in pairs)
