"""Facts age by class: states, bands that widen, what must be named, what no advice to buy may rest on."""

from __future__ import annotations

import math
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers import freshness
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.metadata_records import TimeToLive
from archwright.catalog.tables.records import Offer
from archwright.catalog.tables.row_names import row_name
from archwright.contract.estimate import exact_estimate, within_factor
from archwright.contract.record import replace
from archwright.home import Home

from ..samples import TODAY, list_facts

CATALOG = load_catalog()
RULE = TimeToLive(
    id="thing", ttl_days=30, expires_days=365, drift_down=1.8, drift_up=1.1, applies_to=("things",), source="s"
)


def offer(name: str, catalog: Catalog = CATALOG) -> Offer:
    return next(row for row in catalog.offers if row.id == name)


@pytest.mark.parametrize(
    ("as_of", "day"),
    [
        ("2026-07-20", date(2026, 7, 20)),
        ("2026-11", date(2026, 11, 15)),
        ("2026", date(2026, 7, 2)),
        ("2026 mid", date(2026, 7, 2)),
        ("2025-2026", date(2025, 12, 31)),
        ("2023-2024 list", date(2024, 1, 1)),
        ("2026 (undated stored copy)", date(2026, 7, 2)),
        ("", None),
        ("undated", None),
        ("2026-02-31", None),
    ],
)
def test_a_date_is_the_middle_of_what_is_stated(as_of: str, day: date | None) -> None:
    assert freshness.parse_as_of(as_of) == day


def test_an_age_is_never_below_zero() -> None:
    assert freshness.age_days("2026-11", date(2026, 11, 1)) == 0
    assert freshness.age_days("2026-11-20", TODAY) == 4
    assert freshness.age_days("", TODAY) is None


@pytest.mark.parametrize(
    ("age", "state"),
    [(0, "fresh"), (30, "fresh"), (31, "ageing"), (60, "ageing"), (61, "stale"), (365, "stale"), (366, "expired")],
)
def test_states_follow_the_time_to_live(age: int, state: str) -> None:
    assert freshness.freshness_state(RULE, age) == state


def test_without_a_date_a_fact_is_stale_and_without_a_rule_it_does_not_age() -> None:
    assert freshness.freshness_state(RULE, None) == "stale"
    assert freshness.drift_factors(RULE, None) == pytest.approx((1.8, 1.1))
    assert freshness.freshness_state(None, None) == freshness.freshness_state(None, 9999) == "fresh"
    assert freshness.drift_factors(None, 9999) == (1.0, 1.0)
    assert freshness.freshness_state(replace(RULE, expires_days=None), 9999) == "stale"


def test_drift_comes_in_between_once_and_twice_the_time_to_live() -> None:
    assert freshness.drift_factors(RULE, 30) == (1.0, 1.0)
    assert freshness.drift_factors(RULE, 45) == pytest.approx((1.8**0.5, 1.1**0.5))
    assert freshness.drift_factors(RULE, 60) == freshness.drift_factors(RULE, 600) == pytest.approx((1.8, 1.1))


def test_a_drift_is_independent_of_the_band_it_widens() -> None:
    wide = freshness.widen_by_drift(within_factor(100.0, 1.1, "USD"), (1.8, 1.2))
    assert wide.low == pytest.approx(100 / math.exp(math.hypot(math.log(1.1), math.log(1.8))))
    assert wide.high == pytest.approx(100 * math.exp(math.hypot(math.log(1.1), math.log(1.2))))
    assert freshness.widen_by_drift(exact_estimate(5.0, "USD"), (1.0, 1.0)) == exact_estimate(5.0, "USD")
    nothing = exact_estimate(0.0, "USD")
    assert freshness.widen_by_drift(nothing, (2.0, 2.0)) == nothing
    from_zero = replace(exact_estimate(0.1, "fraction"), low=0.0, high=0.2)
    assert freshness.widen_by_drift(from_zero, (2.0, 2.0)).low == 0.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 400), st.floats(0.01, 1e6), st.floats(1.0, 3.0))
def test_an_older_figure_is_never_narrower(age: int, later: int, value: float, factor: float) -> None:
    band = within_factor(value, factor, "USD")
    young, old = (freshness.widen_by_drift(band, freshness.drift_factors(RULE, days)) for days in (age, age + later))
    assert old.low <= young.low * (1 + 1e-9) and old.high >= young.high * (1 - 1e-9)
    assert old.low <= old.value <= old.high


def test_ninety_days_later_accelerator_prices_are_marked_and_processor_prices_not() -> None:
    accelerated, plain = offer("aws:us-east-1:p5.48xlarge"), offer("aws:us-east-1:m8g.16xlarge")
    day = freshness.parse_as_of(accelerated.as_of)
    assert day is not None
    now, later = load_catalog(today=day), load_catalog(today=day + timedelta(days=90))
    assert [now.freshness(row) for row in (accelerated, plain)] == ["fresh", "fresh"]
    assert now.describe_stale_facts([accelerated, plain]) == ()
    assert later.describe_stale_facts([accelerated, plain, accelerated]) == (
        "aws:us-east-1:p5.48xlarge: accelerator list price of 2026-09-19, about 90 days old (valid for 30 days)",
    )
    price = accelerated.on_demand_usd_per_hour or 0.0
    assert later.estimate(accelerated, price, "USD/h").low < now.estimate(accelerated, price, "USD/h").low
    low = later.estimate(plain, plain.on_demand_usd_per_hour or 0.0, "USD/h").low
    assert low == now.estimate(plain, plain.on_demand_usd_per_hour or 0.0, "USD/h").low


def test_a_spot_price_ages_within_a_day() -> None:
    row = offer("aws:us-east-1:p5.48xlarge")
    assert row.spot_usd_per_hour and row.on_demand_usd_per_hour
    day = freshness.parse_as_of(row.as_of)
    assert day is not None
    later = load_catalog(today=day + timedelta(days=3))
    assert later.estimate(row, row.spot_usd_per_hour, "USD/h").factor > 2.2
    assert later.estimate(row, row.on_demand_usd_per_hour, "USD/h").factor == pytest.approx(1.1)


def test_only_a_dated_price_within_its_limit_is_valid() -> None:
    node, undated = CATALOG.nodes["8x-h100"], offer("scaleway:fr-par:H100-1-80G")
    assert CATALOG.has_valid_price(node) and CATALOG.has_valid_price(offer("aws:us-east-1:p5.48xlarge"))
    assert not CATALOG.has_valid_price(CATALOG.nodes["8x-gaudi3"]), "a price of 2024"
    assert not CATALOG.has_valid_price(undated) and freshness.parse_as_of(undated.as_of), "the years of a copy"
    late = load_catalog(today=date(2028, 1, 1))
    assert not late.has_valid_price(node)
    assert late.accept_stale_prices().has_valid_price(node) and not late.has_valid_price(node)


def test_a_nodes_price_keeps_its_own_low_and_high() -> None:
    node = CATALOG.nodes["8x-h100"]
    new = load_catalog(today=date(2026, 7, 2)).estimate(node, node.price_usd, "USD", "basis")
    assert (new.low, new.high, new.basis) == (node.price_low_usd, node.price_high_usd, "basis")
    old = CATALOG.estimate(node, node.price_usd, "USD")
    assert old.low < node.price_low_usd < node.price_high_usd < old.high
    assert load_catalog(today=date(2026, 7, 2)).estimate(node, node.power_w, "W").factor == pytest.approx(1.25)


def test_parts_age_by_their_kind() -> None:
    young, old = load_catalog(today=date(2026, 7, 2)), load_catalog(today=date(2027, 7, 2))
    assert old.parameter("gpu.h100").low < young.parameter("gpu.h100").low == CATALOG.parts["gpu.h100"].low
    assert old.parameter("life.gpu") == young.parameter("life.gpu")
    assert young.parameter("residual").low == 0.0


def test_ages_are_counted_today_for_a_home_and_at_the_snapshot_without_one(tmp_path: object) -> None:
    assert CATALOG.today == TODAY == CATALOG.snapshot_date
    home = Home(str(tmp_path))
    assert load_catalog(home, today=date(2027, 1, 1)).today == date(2027, 1, 1)
    assert load_catalog(home).today >= date(2026, 11, 24)


def test_every_class_of_ttl_is_met_by_some_row() -> None:
    met = {rule.id for row in list_facts(CATALOG) if (rule := CATALOG.time_to_live(row)) is not None}
    assert met == {rule.id for rule in CATALOG.times_to_live} - {"spot price"}
    assert CATALOG.time_to_live(CATALOG.quantisations["bf16"]) is None


def test_rows_are_named_as_people_read_them() -> None:
    egress = [row for row in CATALOG.storage_prices if (row.provider, row.kind) == ("aws", "egress")]
    assert [row_name(row) for row in egress[:2]] == [
        f"aws us-east-1 Internet egress from {start} GB" for start in (100, 10000)
    ]
    assert [row_name(row) for row in CATALOG.tariffs[:2]] == ["electricity US", "electricity US-VA"]
    rows = (CATALOG.hosted[0], CATALOG.exchange_rates[0], CATALOG.commitments[0], CATALOG.quantisations["bf16"])
    names = ["anthropic:claude-fable-5", "EUR/USD", "aws EC2 all Linux types 12 no upfront", "bf16"]
    assert [row_name(row) for row in rows] == names
