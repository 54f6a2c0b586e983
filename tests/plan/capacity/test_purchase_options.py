"""Purchase options of rented machines: the cheapest for every machine and month."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Offer
from archwright.contract.record import replace
from archwright.plan.capacity.purchase_options import (
    SPOT,
    THREE_YEARS,
    YEAR,
    HourlyPrice,
    OfferPrices,
    RunningHours,
    select_purchase_mix,
)

LISTED = HourlyPrice("on-demand", 1.0)
WAYS = (LISTED, HourlyPrice("commit-1y", 0.7), HourlyPrice("commit-3y", 0.5))


def months(*counts: int, hours: float = 730.0) -> list[RunningHours]:
    return [RunningHours((hours,), (count,)) for count in counts]


def offer_of(catalog: Catalog, provider: str, accelerator: str | None = None) -> Offer:
    return next(o for o in catalog.offers if o.provider == provider and o.accelerator == accelerator)


def test_a_machine_that_always_runs_is_committed_for_as_long_as_fits() -> None:
    assert select_purchase_mix(months(0, 0), WAYS) == select_purchase_mix([], WAYS) == ()
    assert [t.kind for t in select_purchase_mix(months(*[1] * 11), WAYS)] == ["on-demand"]
    assert [t.kind for t in select_purchase_mix(months(*[1] * 12), WAYS)] == ["commit-1y"]
    assert [t.kind for t in select_purchase_mix(months(*[1] * 36), WAYS)] == ["commit-3y"]
    found = {t.kind: t for t in select_purchase_mix(months(*[1] * 50), WAYS)}
    assert {kind: sum(t.machines) for kind, t in found.items()} == {"commit-1y": 12, "commit-3y": 36, "on-demand": 2}


def test_a_machine_that_seldom_runs_is_on_demand_and_a_commitment_may_begin_later() -> None:
    month = RunningHours((100.0, 630.0), (3, 1))
    found = {t.kind: t for t in select_purchase_mix([month] * 12, WAYS)}
    assert found["commit-1y"].peak == 1 and found["on-demand"].peak == 2
    assert found["on-demand"].usd[0] == pytest.approx(200.0)
    assert found["on-demand"].machines[0] == pytest.approx(200 / 730)
    assert found["commit-1y"].usd[0] == pytest.approx(511.0)
    later = {t.kind: t for t in select_purchase_mix(months(*[1] * 12, *[2] * 36), WAYS)}
    assert later["commit-3y"].machines[0] == 0 and later["commit-3y"].machines[-1] == 2, "it may begin later"


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40),
    st.floats(0.2, 1.0),
    st.floats(0.2, 1.0),
)
def test_no_other_mix_of_whole_commitments_costs_less(load: list[tuple[int, int]], year: float, three: float) -> None:
    """Against every number of machines promised throughout, the rest by the hour."""
    running = [RunningHours((200.0, 530.0), (max(pair), min(pair))) for pair in load]
    ways = (LISTED, HourlyPrice("commit-1y", year), HourlyPrice("commit-3y", three))
    least = sum(t.sum for t in select_purchase_mix(running, ways))
    whole = len(load) // YEAR * YEAR
    for base in range(5):
        promised = base * year * 730 * whole
        rest = sum(
            hours * max(0, count - (base if month < whole else 0))
            for month, one in enumerate(running)
            for hours, count in zip(one.hours, one.counts, strict=True)
        )
        assert least <= promised + rest + 1e-6


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 39))
def test_a_machine_more_never_costs_less(counts: list[int], at: int) -> None:
    more = list(counts)
    more[at % len(counts)] += 1
    less, greater = (sum(t.sum for t in select_purchase_mix(months(*which), WAYS)) for which in (counts, more))
    assert greater >= less - 1e-9


def test_every_machine_is_had_exactly_once() -> None:
    running = [RunningHours((90.0, 640.0), (5, 2 + month % 3)) for month in range(40)]
    found = select_purchase_mix(running, WAYS)
    for month, one in enumerate(running):
        paid = sum(t.machines[month] for t in found) * 730
        assert paid >= sum(h * c for h, c in zip(one.hours, one.counts, strict=True)) - 1e-6


def test_the_offers_own_price_has_priority_over_the_providers_discount(catalog: Catalog) -> None:
    market = OfferPrices(catalog, spot=True)
    gcp = offer_of(catalog, "gcp", "L4")
    stated = replace(gcp, commit_1y_usd_per_hour=0.1, commit_3y_usd_per_hour=None)
    assert market.price(stated, YEAR) == HourlyPrice("commit-1y", 0.1)
    discounted = market.price(stated, THREE_YEARS)
    assert discounted is not None and discounted.row is not None
    assert discounted.usd_per_hour == pytest.approx((gcp.on_demand_usd_per_hour or 0) * (1 - discounted.row.discount))
    # A discount for one machine type does not apply to other types.
    named = next(o for o in catalog.offers if o.instance_type == "a2-highgpu-1g")
    own, general = (market.price(replace(o, commit_3y_usd_per_hour=None), THREE_YEARS) for o in (named, gcp))
    assert own is not None and general is not None and own.row is not None and general.row is not None
    assert own.row.scope.startswith("a2-highgpu-1g") and not general.row.scope.startswith("a2-highgpu-1g")


def test_up_front_payments_are_no_spend_of_a_month(catalog: Catalog) -> None:
    market = OfferPrices(catalog, spot=False)
    for offer in (offer_of(catalog, "aws", "L4"), offer_of(catalog, "azure", "T4")):
        rows = [price.row for price in market.list_prices(offer)]
        assert all(row is None or row.payment != "all upfront" for row in rows)
    small = next(offer for offer in catalog.offers if offer.provider == "lambda")
    assert [price.kind for price in market.list_prices(small)] == ["on-demand"], "no row states a discount"


def test_on_demand_prices_come_first_and_spot_needs_permission_and_a_price(catalog: Catalog) -> None:
    gcp, azure = offer_of(catalog, "gcp", "L4"), offer_of(catalog, "azure", "T4")
    market, spot = OfferPrices(catalog, spot=False), OfferPrices(catalog, spot=True)
    assert market.price(gcp, SPOT) is None
    price = spot.price(gcp, SPOT)
    assert price is not None and price.kind == "spot" and price.usd_per_hour < (gcp.on_demand_usd_per_hour or 0)
    assert spot.price(azure, SPOT) is None
    for offer in itertools.islice(catalog.offers, 40):
        if offer.on_demand_usd_per_hour:
            assert market.list_prices(offer)[0] == HourlyPrice("on-demand", offer.on_demand_usd_per_hour)
            assert market.list_prices(offer) is market.list_prices(offer)
