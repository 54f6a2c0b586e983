"""How rented machines are had: by the hour following the load, promised for one or three years, or interruptible.

The j-th machine (the one that runs only when at least j are needed) is had in the cheapest way for each block of
months: by the hour for the hours it runs, or promised and paid for all hours. A three-year promise must fit the
horizon, so must each one-year promise; what is left is had by the hour. Machines nest (the j-th never runs more than
the one before), so this choice for each alone is the best for all: the newsvendor's rule, month by month.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import CommitmentDiscount
from archwright.catalog.tables.records import Offer
from archwright.contract.plan import PurchaseKind
from archwright.plan.demand.forecast import HOURS_PER_MONTH

YEAR, THREE_YEARS, SPOT = 12, 36, 0
KIND_BY_TERM: dict[int, PurchaseKind] = {SPOT: "spot", YEAR: "commit-1y", THREE_YEARS: "commit-3y"}
# Assumed: interruptions cost batch work this share of its hours, done again from the last checkpoint.
SPOT_REDONE_SHARE = 0.15
# Machines of one run that are all lost when one is taken away: of more, some one always is. Assumed.
MAX_SPOT_MACHINES = 4
PRICE_FIELDS = {SPOT: "spot_usd_per_hour", YEAR: "commit_1y_usd_per_hour", THREE_YEARS: "commit_3y_usd_per_hour"}
UP_FRONT = "all upfront"
CONFIDENCE_ORDER = ("high", "medium", "low", "recalled")


class HourlyPrice(NamedTuple):
    """USD an hour of one machine had in one way. `row` states the discount; None: the offer states the price."""

    kind: PurchaseKind
    usd_per_hour: float
    row: CommitmentDiscount | None = None


class PurchaseTranche(NamedTuple):
    """Machines had in one way: `machines[m]` on average in month m, `usd[m]` paid for them, `peak` at most at once."""

    kind: PurchaseKind
    machines: tuple[float, ...]
    usd: tuple[float, ...]
    peak: int

    @property
    def sum(self) -> float:
        return sum(self.usd)


class RunningHours(NamedTuple):
    """How many machines run in each part of a month, and for how many hours: one month."""

    hours: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def duration_curve(self) -> list[tuple[int, float]]:
        """(count, hours in which at least so many run) for every count that occurs, the greatest first."""
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
        self._rows = catalog.commitments
        self._known: dict[str, tuple[HourlyPrice, ...]] = {}

    def price(self, offer: Offer, term: int) -> HourlyPrice | None:
        """`term` in months, 0 for interruptible machines. The offer's own figure, else the provider's discount."""
        if term == SPOT and not self._spot:
            return None
        own: float | None = getattr(offer, PRICE_FIELDS[term])
        if own is not None:
            return HourlyPrice(KIND_BY_TERM[term], own)
        row = self._find_discount(offer, term)
        listed = offer.on_demand_usd_per_hour or 0.0
        return HourlyPrice(KIND_BY_TERM[term], listed * (1 - row.discount), row) if row is not None else None

    def list_prices(self, offer: Offer) -> tuple[HourlyPrice, ...]:
        """By the hour first, then the promises."""
        if offer.id not in self._known:
            listed = HourlyPrice("on-demand", offer.on_demand_usd_per_hour or 0.0)
            promised = (self.price(offer, term) for term in (YEAR, THREE_YEARS))
            self._known[offer.id] = (listed, *(price for price in promised if price is not None))
        return self._known[offer.id]

    def _find_discount(self, offer: Offer, term: int) -> CommitmentDiscount | None:
        """A row whose scope names machine types holds for these alone. Of general ones the surest, then the least."""
        fitting = []
        for row in self._rows:
            if (row.provider, row.term_months) != (offer.provider, term) or row.payment == UP_FRONT:
                continue
            named = {word.strip(",") for word in row.scope.split()} & self._types
            if not named or offer.instance_type in named:
                fitting.append((not named, CONFIDENCE_ORDER.index(row.confidence), row.discount, row))
        # Interruptible machines have markets of their own: another type's discount says nothing.
        narrow = [one for one in fitting if term != SPOT or not one[0]]
        return min(narrow, key=lambda one: one[:3])[3] if narrow else None


def select_purchase_mix(months: Sequence[RunningHours], ways: Sequence[HourlyPrice]) -> tuple[PurchaseTranche, ...]:
    """The machines of every month in the ways that cost the least over the whole horizon."""
    by_kind = {price.kind: price.usd_per_hour for price in ways}
    machines: dict[PurchaseKind, list[float]] = {price.kind: [0.0] * len(months) for price in ways}
    usd: dict[PurchaseKind, list[float]] = {price.kind: [0.0] * len(months) for price in ways}
    peaks: dict[PurchaseKind, list[int]] = {price.kind: [0] * len(months) for price in ways}
    below = 0
    left = [month.duration_curve for month in months]
    # Between two counts that occur, every machine runs the same hours.
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
    """The way of each month for one machine that runs `hours[m]`: year by year from the last, the best of the rest."""
    years = [hours[first : first + YEAR] for first in range(0, len(hours), YEAR)]
    rest: list[tuple[float, tuple[PurchaseKind, ...]]] = [(0.0, ())]
    three = prices.get("commit-3y")
    for year in reversed(years):
        kind, usd = _select_year_kind(year, prices)
        best = (usd + rest[0][0], (kind,) * len(year) + rest[0][1])
        # Three years from here must be whole; the last block may be a part of a year.
        if three is not None and len(rest) >= 3 and len(rest[0][1]) + len(year) >= THREE_YEARS:
            usd = three * HOURS_PER_MONTH * THREE_YEARS + rest[2][0]
            if usd < best[0]:
                best = (usd, (KIND_BY_TERM[THREE_YEARS],) * THREE_YEARS + rest[2][1])
        rest.insert(0, best)
    return rest[0][1]


def _select_year_kind(hours: tuple[float, ...], prices: dict[PurchaseKind, float]) -> tuple[PurchaseKind, float]:
    listed, one = sum(hours) * prices["on-demand"], prices.get("commit-1y")
    if one is not None and len(hours) == YEAR and one * HOURS_PER_MONTH * YEAR < listed:
        return "commit-1y", one * HOURS_PER_MONTH * YEAR
    return "on-demand", listed
