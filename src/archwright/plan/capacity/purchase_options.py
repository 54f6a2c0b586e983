"""Purchase options of rented machines: on demand, committed for one or three years, or spot.

The j-th machine (the one that runs only if at least j are needed) uses the cheapest option for each block of months:
on demand for the hours it runs, or a commitment paid for all hours. A commitment of one or three years must fit into
the horizon; the other months are on demand. Machines are nested (the j-th never runs longer than the one before), so
the best option for each machine alone is the best for all: the newsvendor rule, month by month.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import CommitmentDiscount
from archwright.catalog.tables.records import Offer
from archwright.contract.plan import PurchaseKind
from archwright.plan.demand.forecast import HOURS_PER_MONTH

YEAR, THREE_YEARS, SPOT = 12, 36, 0
KIND_BY_TERM: dict[int, PurchaseKind] = {SPOT: "spot", YEAR: "commit-1y", THREE_YEARS: "commit-3y"}
# Assumed: interruptions make batch work repeat this share of its hours from the last checkpoint.
SPOT_REDONE_SHARE = 0.15
# Assumed: the most spot machines of one run. The loss of one machine stops the run; with more, one is always lost.
MAX_SPOT_MACHINES = 4
PRICE_FIELDS = {SPOT: "spot_usd_per_hour", YEAR: "commit_1y_usd_per_hour", THREE_YEARS: "commit_3y_usd_per_hour"}
UP_FRONT = "all upfront"
SPOT_CLASS = "spot"
CONFIDENCE_ORDER = ("high", "medium", "low", "recalled")


class HourlyPrice(NamedTuple):
    """USD per hour of one machine with one purchase option. `row`: source of the discount; None: the offer's price."""

    kind: PurchaseKind
    usd_per_hour: float
    row: CommitmentDiscount | None = None


class ScopedDiscount(NamedTuple):
    """A discount with the machine types that its scope names; without any, it is for all of the provider's."""

    types: frozenset[str]
    row: CommitmentDiscount

    def rank(self) -> tuple[bool, int, float]:
        return not self.types, CONFIDENCE_ORDER.index(self.row.confidence), self.row.discount


class PurchaseTranche(NamedTuple):
    """Machines with one purchase option: `machines[m]` on average in month m at `usd[m]`; at most `peak` at a time."""

    kind: PurchaseKind
    machines: tuple[float, ...]
    usd: tuple[float, ...]
    peak: int

    @property
    def sum(self) -> float:
        return sum(self.usd)


class RunningHours(NamedTuple):
    """Running machines in each part of one month, and the hours of that part."""

    hours: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def duration_curve(self) -> list[tuple[int, float]]:
        """Pairs (count, hours in which at least `count` machines run) for every count, in descending order."""
        steps: dict[int, float] = {}
        above = 0.0
        for count, hours in sorted(zip(self.counts, self.hours, strict=True), reverse=True):
            above += hours
            steps[count] = above
        return list(steps.items())


class OfferPrices:
    def __init__(self, catalog: Catalog, *, spot: bool) -> None:
        self._spot = spot
        self._types = frozenset(offer.instance_type for offer in catalog.offers)
        self._discounts: dict[tuple[str, int], list[ScopedDiscount]] = {}
        for row in catalog.commitments:
            if row.payment != UP_FRONT:
                scope = self._types.intersection(word.strip(",") for word in row.scope.split())
                self._discounts.setdefault((row.provider, row.term_months), []).append(ScopedDiscount(scope, row))
        # A usual discount is no price of today: spot machines are planned at the upper end of their drift.
        self._spot_rise = next((rule.drift_up for rule in catalog.times_to_live if SPOT_CLASS in rule.applies_to), 1.0)
        self._known: dict[str, tuple[HourlyPrice, ...]] = {}

    def price(self, offer: Offer, term: int) -> HourlyPrice | None:
        """Return the offer's own price, else the list price with the provider's discount; None if unknown.

        `term`: months of commitment; 0: spot machines.
        """
        if term == SPOT and not self._spot:
            return None
        own: float | None = getattr(offer, PRICE_FIELDS[term])
        if own is not None:
            return HourlyPrice(KIND_BY_TERM[term], own)
        row, listed = self._find_discount(offer, term), offer.on_demand_usd_per_hour or 0.0
        usd = listed * (1 - row.discount) * (self._spot_rise if term == SPOT else 1.0) if row is not None else listed
        return HourlyPrice(KIND_BY_TERM[term], usd, row) if usd < listed else None

    def list_prices(self, offer: Offer) -> tuple[HourlyPrice, ...]:
        """Return the on-demand price, then the prices of commitments."""
        if offer.id not in self._known:
            listed = HourlyPrice("on-demand", offer.on_demand_usd_per_hour or 0.0)
            committed = (self.price(offer, term) for term in (YEAR, THREE_YEARS))
            self._known[offer.id] = (listed, *(price for price in committed if price is not None))
        return self._known[offer.id]

    def _find_discount(self, offer: Offer, term: int) -> CommitmentDiscount | None:
        """Return the discount row: for this machine type, else the general one with the best confidence.

        A row whose scope names machine types applies only to these. Ties: the lowest discount.
        """
        fitting: list[ScopedDiscount] = []
        for discount in self._discounts.get((offer.provider, term), ()):
            # Each machine type has its own spot market, so a general discount does not apply.
            is_general = not discount.types and term != SPOT
            if is_general or offer.instance_type in discount.types:
                fitting.append(discount)
        return min(fitting, key=ScopedDiscount.rank).row if fitting else None


def select_purchase_mix(months: Sequence[RunningHours], prices: Sequence[HourlyPrice]) -> tuple[PurchaseTranche, ...]:
    """Return the purchase options of all machines with the minimum cost over the horizon."""
    by_kind = {price.kind: price.usd_per_hour for price in prices}
    machines: dict[PurchaseKind, list[float]] = {kind: [0.0] * len(months) for kind in by_kind}
    usd: dict[PurchaseKind, list[float]] = {kind: [0.0] * len(months) for kind in by_kind}
    peaks: dict[PurchaseKind, list[int]] = {kind: [0] * len(months) for kind in by_kind}
    below = 0
    curves = {month: month.duration_curve for month in set(months)}
    left = [curves[month].copy() for month in months]
    # All machines between two successive counts run the same hours.
    for count in sorted({count for month in months for count in month.counts if count}):
        alike, below = count - below, count
        for steps in left:
            while steps and steps[-1][0] < count:
                steps.pop()
        hours = tuple([steps[-1][1] if steps else 0.0 for steps in left])
        for month, kind in enumerate(_select_monthly_kinds(hours, by_kind)):
            if kind == "on-demand" and not hours[month]:
                continue
            paid = alike * (hours[month] if kind == "on-demand" else HOURS_PER_MONTH)
            machines[kind][month] += paid / HOURS_PER_MONTH
            usd[kind][month] += paid * by_kind[kind]
            peaks[kind][month] += alike
    return tuple(
        PurchaseTranche(kind, tuple(machines[kind]), tuple(usd[kind]), max(peaks[kind]))
        for kind in machines
        if any(peaks[kind])
    )


def _select_monthly_kinds(hours: tuple[float, ...], prices: dict[PurchaseKind, float]) -> tuple[PurchaseKind, ...]:
    """Return the purchase kind of each month for one machine that runs `hours[m]`, by dynamic programming per year."""
    years = [hours[first : first + YEAR] for first in range(0, len(hours), YEAR)]
    rest: list[tuple[float, tuple[PurchaseKind, ...]]] = [(0.0, ())]
    three = prices.get("commit-3y")
    for year in reversed(years):
        kind, usd = KIND_BY_TERM[YEAR], prices.get("commit-1y", math.inf) * HOURS_PER_MONTH * YEAR
        listed = sum(year) * prices["on-demand"]
        if len(year) < YEAR or usd >= listed:
            kind, usd = "on-demand", listed
        best = (usd + rest[0][0], (kind,) * len(year) + rest[0][1])
        # A commitment of three years needs three whole years; only the last year may be shorter.
        if three is not None and len(rest) >= 3 and len(rest[0][1]) + len(year) >= THREE_YEARS:
            usd = three * HOURS_PER_MONTH * THREE_YEARS + rest[2][0]
            if usd < best[0]:
                best = (usd, (KIND_BY_TERM[THREE_YEARS],) * THREE_YEARS + rest[2][1])
        rest.insert(0, best)
    return rest[0][1]
