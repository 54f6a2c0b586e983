"""How far a fact may be trusted: its layer, its kind of source, its age, and the band that all three earn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from functools import cached_property

from archwright.catalog import cost_rows, fact_rows, freshness, rows
from archwright.catalog.fact_rows import SourceKind, State, TimeToLive
from archwright.catalog.named import name_of
from archwright.catalog.shipped import Tables
from archwright.contract.estimate import Estimate
from archwright.contract.record import replace

# Record types and the names `ttl.csv` has for them; what is missing does not age.
TABLE_OF: dict[type[rows.Fact], str] = {
    rows.Offer: "offers",
    rows.HostedModel: "hosted",
    rows.EnergyTariff: "tariffs",
    rows.ExchangeRate: "exchange_rates",
    rows.Accelerator: "accelerators",
    rows.QualityScore: "scores",
    rows.Regulation: "regulations",
    rows.ResidencyRule: "residency_rules",
    rows.Region: "regions",
    cost_rows.Part: "parts",
    cost_rows.Node: "nodes",
    cost_rows.StoragePrice: "storage_prices",
    cost_rows.Commitment: "commitments",
    cost_rows.Surcharge: "surcharges",
    fact_rows.HostedFact: "hosted_facts",
    fact_rows.Availability: "availability",
    fact_rows.RegionRatio: "region_ratios",
}
SPOT = "spot"
PROCESSOR, ACCELERATOR = "processor", "accelerator"


class Provenance(Tables):
    """`today` is the day ages are counted at. Without one, the shipped rows are judged at the day of the newest."""

    @cached_property
    def today(self) -> date:
        return self._today or self.snapshot

    @cached_property
    def snapshot(self) -> date:
        """The day the shipped rows were last looked up: the newest of the days they state."""
        stated = (freshness.date_of(row.as_of) for row in (*self.residency_rules, *self.refresh_sources))
        return max((day for day in stated if day is not None), default=date.min)

    # --- age

    def time_to_live(self, row: rows.Fact, *, spot: bool = False) -> TimeToLive | None:
        """The rule of the row's class; None for what does not age."""
        table = TABLE_OF.get(type(row), "")
        kind = self._kind_of(row)
        names = (SPOT,) if spot else (f"{table}:{kind}", table)
        return next((self._rules[name] for name in names if name in self._rules), None)

    def _kind_of(self, row: rows.Fact) -> str:
        if isinstance(row, rows.Offer):
            device = self.accelerators.get(row.accelerator or "")
            return (
                PROCESSOR if row.accelerator is None or (device is not None and device.kind == "cpu") else ACCELERATOR
            )
        return row.kind if isinstance(row, cost_rows.Part) else ""

    @cached_property
    def _rules(self) -> dict[str, TimeToLive]:
        return {name: rule for rule in self.times_to_live for name in rule.applies_to}

    def freshness(self, row: rows.Fact) -> State:
        return freshness.state(self.time_to_live(row), freshness.age_days(row.as_of, self.today))

    def stale(self, facts: Iterable[rows.Fact]) -> tuple[str, ...]:
        """Those of `facts` that are stale or expired, each once, in words: what a plan must name."""
        return tuple(dict.fromkeys(self._old(row) for row in facts if self.freshness(row) in ("stale", "expired")))

    def _old(self, row: rows.Fact) -> str:
        rule, age = self.time_to_live(row), freshness.age_days(row.as_of, self.today)
        since = "undated" if age is None else f"of {row.as_of}, about {age} days old"
        return f"{name_of(row)}: {rule.id if rule else 'fact'} {since}" + (
            f" (good for {rule.ttl_days})" if rule else ""
        )

    def may_advise_buying(self, node: cost_rows.Node) -> bool:
        """Whether a plan may advise to buy `node`: not on a purchase price past its limit."""
        return self.freshness(node) != "expired"

    # --- bands

    def estimate(self, row: rows.Fact, value: float, unit: str, basis: str = "") -> Estimate:
        """`value`, a figure of `row`, with the band its confidence earns, wider when it is old: how every price
        enters a plan. A node's typical price lies between its low and its high.
        """
        spot = isinstance(row, rows.Offer) and value == row.spot_usd_per_hour
        made = replace(row.band(value, unit), basis=basis)
        if isinstance(row, cost_rows.Node) and value == row.price_usd:
            made = replace(made, low=min(row.price_low_usd, value), high=max(row.price_high_usd, value))
        return self._aged(row, made, spot=spot)

    def part(self, name: str, basis: str = "") -> Estimate:
        """A figure of running machines of one's own, between the source's low and high, wider when it is old."""
        row = self.parts[name]
        widest = row.band(row.typical, row.unit)
        low, high = (row.low, row.high) if row.low < row.high else (widest.low, widest.high)
        return self._aged(row, Estimate(value=row.typical, low=low, high=high, unit=row.unit, basis=basis))

    def _aged(self, row: rows.Fact, made: Estimate, *, spot: bool = False) -> Estimate:
        rule = self.time_to_live(row, spot=spot)
        return freshness.widened(made, freshness.drifted(rule, freshness.age_days(row.as_of, self.today)))

    # --- where from

    def kind_of_source(self, source: str) -> SourceKind:
        """From the words of a source, by the rows of source_kinds.csv."""
        return next((words.kind for words, pattern in self._patterns if pattern.search(source)), "third_party")

    @cached_property
    def _patterns(self) -> list[tuple[fact_rows.SourceWords, re.Pattern[str]]]:
        return [(words, re.compile(words.pattern, re.IGNORECASE)) for words in self.source_words]

    def refreshed_offers(self, provider: str) -> frozenset[str]:
        """The ids of the offers that a refresh brought."""
        prices = self.latest.prices.get(provider)
        if prices is None:
            return frozenset()
        pairs = zip(prices.machine, prices.place, strict=True)
        return frozenset(
            f"{provider}:{prices.places[place].region}:{prices.machines[machine].instance_type}"
            for machine, place in pairs
        )
