"""Prices as facts of the ledger, and hardware over a horizon."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.catalog.load import load_catalog
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.hardware_lifecycle import (
    HardwarePurchase,
    plan_generations,
    price_lifecycle,
    read_ageing_curve,
)
from archwright.plan.cost.prices import TB, AgedHardware, PriceBook, hour_price, node_price

from ..fleet_samples import CLOUD, CLOUD_EU, HOSTED
from .test_operating_costs import needs_of

CATALOG = load_catalog()
GB = 1e9


def quotes(ledger: PlanProvenance | None = None) -> PriceBook:
    return PriceBook(needs_of("clinic"), CATALOG, ledger or PlanProvenance())


# --- traffic


def test_the_first_bytes_of_a_month_are_free_and_each_step_has_its_price() -> None:
    prices = quotes().egress(CLOUD)
    assert prices.cost_usd(100 * GB) == 0
    assert prices.cost_usd(10_000 * GB) == pytest.approx(9_900 * 0.09)
    assert prices.cost_usd(20_000 * GB) == pytest.approx(9_900 * 0.09 + 10_000 * 0.085)
    assert prices.drivers == ("egress.aws",)


def test_another_region_than_the_sources_has_a_spread_and_some_providers_charge_nothing() -> None:
    spread = CATALOG.parameter("region.spread").value
    elsewhere = quotes().egress(CLOUD_EU)
    assert elsewhere.cost_usd(10_000 * GB) == pytest.approx(9_900 * 0.09 * spread)
    assert elsewhere.drivers == ("egress.aws", "part.region.spread")
    assert quotes().egress(Location("cloud", "lambda", "us-east-1", "US")).cost_usd(TB) == 0


@given(st.floats(0, 1e15), st.floats(0, 1e15))
@settings(max_examples=50)
def test_more_traffic_never_costs_less(less: float, more: float) -> None:
    prices = quotes().egress(CLOUD)
    assert prices.cost_usd(less + more) >= prices.cost_usd(less)


def test_regions_and_zones() -> None:
    assert quotes().between_regions(CLOUD).usd == pytest.approx(0.02 / GB)
    zones = quotes().between_zones(CLOUD)
    assert zones is not None and zones.usd == pytest.approx(0.01 / GB)
    assert quotes().between_zones(Location("cloud", "azure", "eastus", "US")) is None


# --- storage


def test_active_data_use_the_storage_class_without_a_price_for_reads() -> None:
    prices = {"object": 0.023, "archive": 0.00099, "block": 0.08, "file": 0.145}
    for tier, usd_per_gb in prices.items():
        assert quotes().storage(CLOUD, tier).usd == pytest.approx(usd_per_gb / GB)  # type: ignore[arg-type]


def test_a_provider_without_a_price_takes_the_middle_of_the_others_with_the_widest_band() -> None:
    ledger = PlanProvenance()
    band = ledger.driver_estimate(quotes(ledger).storage(HOSTED, "object").drivers[0])
    assert band.value == pytest.approx(0.02 / GB) and band.factor >= 1.6
    assert ledger.assumptions == ("openai: the catalog has no price of object storage; the price of gcp is used",)


# --- machines


def test_a_machines_price_is_the_same_fact_for_every_cost_line() -> None:
    ledger = PlanProvenance()
    node, offer = CATALOG.nodes["8x-h100"], next(one for one in CATALOG.offers if one.on_demand_usd_per_hour)
    bought, listed = node_price(node, CATALOG, ledger), hour_price(offer, CATALOG, ledger)
    for price, paid in ((bought, quotes(ledger).node(node)), (listed, quotes(ledger).offer(offer))):
        assert paid.drivers == (price.basis,) and ledger.driver_estimate(price.basis) == price


def test_sources_are_named_once() -> None:
    said = quotes().sources("pue.average", "pue.average", "storage.draw")
    assert said.count(CATALOG.parts["pue.average"].source) == 1 and "assumed by the project" in said


def test_hardware_is_worth_a_falling_share_of_its_price() -> None:
    resale, residual = CATALOG.parameter("resale").value, CATALOG.parameter("residual").value
    assert quotes().residual_value([AgedHardware(2.0, 0, 48)]).usd == pytest.approx(2 * resale)
    assert quotes().residual_value([AgedHardware(1.0, 48, 48)]).usd == pytest.approx(residual)
    both = quotes().residual_value([AgedHardware(1.0, 24, 48), AgedHardware(1.0, 48, 48)]).usd
    assert both == pytest.approx((resale * residual) ** 0.5 + residual)


# --- over a horizon


def cost(units: list[float], life: str = "life.gpu") -> float:
    made = quotes()
    price = made.node(CATALOG.nodes["8x-h100"])
    return sum(term.sum for term in price_lifecycle(made, HardwarePurchase("machines", "purchase", price, units, life)))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=10),
    st.lists(st.integers(0, 5), min_size=10, max_size=10),
    st.sampled_from(["life.gpu", "life.server"]),
)
@settings(max_examples=80)
def test_needing_more_at_any_time_never_costs_less(years: list[int], more: list[int], life: str) -> None:
    few = [float(count) for count in years for _ in range(12)]
    many = [float(count + extra) for count, extra in zip(years, more, strict=False) for _ in range(12)]
    assert cost(many, life) >= cost(few, life) - 1e-6


def test_purchases_per_year_are_supported_to_the_end_and_sold_by_their_age() -> None:
    assert cost([0.0] * 24) == 0
    made = quotes()
    price = made.node(CATALOG.nodes["8x-h100"])
    units = [1.0] * 12 + [3.0] * 48
    first, sold = price_lifecycle(made, HardwarePurchase("machines", "purchase", price, units, "life.gpu"))
    assert {month: usd / price.usd for month, usd in enumerate(first.flow) if usd} == {0: 1, 12: 2}
    curve = read_ageing_curve(CATALOG.parameter, "life.gpu")
    assert sold.flow[-1] == pytest.approx(-price.usd * (curve.worth(60) + 2 * curve.worth(48)))


@given(st.floats(1.0, 4.0), st.integers(1, 120), st.integers(1, 40))
def test_a_renewal_pays_for_itself_and_none_is_bought_for_the_last_months(rise: float, months: int, term: int) -> None:
    """The schedule costs no more than one machine to the end, or than a renewal at the end of any year."""
    curve = read_ageing_curve(CATALOG.parameter, "life.gpu", CATALOG.nodes["8x-h100"])
    curve = curve._replace(support_rise=rise, term=float(term))
    kept = plan_generations(curve, months)
    total = sum(map(curve.hold, kept))
    assert sum(kept) == months and total <= curve.hold(months) + 1e-6
    for year in range(12, months, 12):
        assert total <= curve.hold(year) + curve.hold(months - year) + 1e-6


def test_steep_support_is_renewed_and_flat_support_is_extended() -> None:
    curve = read_ageing_curve(CATALOG.parameter, "life.gpu", CATALOG.nodes["8x-h100"])
    assert plan_generations(curve, 60) == (60,)
    assert plan_generations(curve._replace(support_rise=4.0), 84) == (48, 36)
    assert plan_generations(curve._replace(support_rise=4.0), 50) == (50,), "no purchase for the last two months"


@given(st.floats(0, 200), st.floats(0.01, 1))
def test_costs_of_age_have_no_step(age: float, more: float) -> None:
    curve = read_ageing_curve(CATALOG.parameter, "life.gpu", CATALOG.nodes["8x-h100"])
    for now, later in (
        (curve.worth(age), curve.worth(age + more)),
        (curve.upkeep(12, age), curve.upkeep(12, age + more)),
    ):
        assert abs(later - now) <= 0.05 * more * max(now, later)
    assert curve.upkeep(12, age + more) > curve.upkeep(12, age) and curve.worth(age + more) < curve.worth(age)


# --- electricity


def test_a_country_without_a_price_of_electricity_states_its_stand_in() -> None:
    ledger = PlanProvenance()
    book = quotes(ledger)
    assert book.electricity("FR").usd == pytest.approx(0.1534 * 1.1172, abs=1e-4)
    assert not ledger.assumptions
    assert book.electricity("GB").usd == pytest.approx(0.15)  # the catalog knows its grid and no price
    assert [text.split(":")[0] for text in ledger.assumptions] == ["electricity in GB"]
