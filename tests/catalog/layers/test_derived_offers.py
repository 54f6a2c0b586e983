"""Offers by rule: a stated price with a build from elsewhere, and a home price times the family's ratio."""

from __future__ import annotations

import pytest

from archwright.catalog.layers.derived_offers import OfferDeriver
from archwright.catalog.load import load_catalog
from archwright.catalog.refresh import fact_view
from archwright.contract.record import replace

CATALOG = load_catalog()
DERIVED = {row.id: row for of in CATALOG.derived_offers.values() for row in of.values()}
STATED = {(row.provider, row.region, row.instance_type) for row in CATALOG.availability}


def test_a_price_stated_for_a_region_needs_only_a_build() -> None:
    sold = [replace(row, region="eastus", id="azure:eastus:" + row.instance_type) for row in CATALOG.offers_of("azure")]
    stated = [row for row in CATALOG.availability if row.provider == "azure"]
    row = OfferDeriver(sold, stated, CATALOG.geo).offers(())["azure:australiaeast:Standard_NC24ads_A100_v4"]
    assert (row.on_demand_usd_per_hour, row.price_kind, row.confidence, row.geo) == (5.326, "list", "high", "Asia")
    assert row.accelerator == "A100-80GB-PCIe" and row.spot_usd_per_hour is None
    row = DERIVED["aws:eu-north-1:p5.4xlarge"]
    assert fact_view.view_fact(CATALOG, "offers", row.id, row).chain[0].layer == "derived"


def test_a_price_by_ratio_says_so() -> None:
    row = DERIVED["aws:eu-north-1:p5.4xlarge"]
    home = next(offer for offer in CATALOG.offers if offer.id == "aws:us-east-1:p5.4xlarge")
    assert row.on_demand_usd_per_hour == pytest.approx((home.on_demand_usd_per_hour or 0) * 1.07)
    assert (row.price_kind, row.confidence, row.region) == ("derived", "medium", "eu-north-1")
    assert "us-east-1 list price x 1.07" in row.source
    assert CATALOG.kind_of_source(row.source) == "derived"


def test_a_region_nobody_knows_and_a_home_without_a_price_give_no_offer() -> None:
    (home,) = [row for row in CATALOG.offers if row.id == "aws:us-east-1:p5.4xlarge"]
    ratios = [row for row in CATALOG.region_ratios if row.read_from == "p5.48xlarge"]
    unpriced = replace(home, on_demand_usd_per_hour=None)
    for offer, geo, count in ((home, CATALOG.geo, 4), (home, lambda *_region: None, 0), (unpriced, CATALOG.geo, 0)):
        assert len(OfferDeriver([offer], CATALOG.availability, geo).offers(ratios)) == count


def test_a_shipped_offer_is_never_derived() -> None:
    shipped = {row.id for of in CATALOG.shipped_offers.values() for row in of.values()}
    assert not shipped & DERIVED.keys()


def test_an_accelerator_is_derived_only_where_it_is_stated() -> None:
    for row in DERIVED.values():
        if row.accelerator and row.price_kind == "derived":
            stated = (row.provider, row.region, row.instance_type) in STATED
            assert stated or any(ratio.read_from == row.instance_type for ratio in CATALOG.region_ratios)


def test_nothing_is_offered_where_a_machine_is_excluded() -> None:
    assert ("aws", "eu-north-1", "p5.48xlarge") in STATED and ("aws", "eu-central-1", "p5.48xlarge") not in STATED
    types = {row.instance_type for row in CATALOG.offers if row.region == "eu-central-1"}
    assert types and not any(name.startswith("p5.") for name in types)


def test_every_region_of_an_offer_has_a_part_of_the_world() -> None:
    assert CATALOG.geo("aws", "eu-west-2") == "UK"
    assert CATALOG.geo("aws", "sa-east-1") == "other"
    assert CATALOG.geo("aws", "mars") is None
    for row in CATALOG.offers:
        assert (CATALOG.geo(row.provider, row.region) or "unspecified") == row.geo, row.id


def test_what_nobody_sells_is_reported() -> None:
    unpriced = set(CATALOG.unpriced_accelerators())
    assert {"TPU7x", "Trainium2", "Gaudi2"} <= unpriced
    assert not unpriced & {"H100-SXM-80GB", "MI300X", "Gaudi3", "L4"}
    assert not any(CATALOG.accelerators[name].kind == "cpu" for name in unpriced)


def test_where_hosted_models_process_and_what_they_score() -> None:
    assert CATALOG.hosted_places("mistral", "mistral-large-3") == ("EU",)
    assert CATALOG.hosted_places("openai", "gpt-5") == ("US",)
    assert CATALOG.hosted_places("nobody", "gpt-5") is None
    assert all(place in CATALOG.places for row in CATALOG.hosted_facts if row.kind == "place" for place in [row.name])
    assert CATALOG.hosted_evidence("anyone", "gpt-oss-120b")["gpqa"].value > 0.5
    assert CATALOG.hosted_evidence("openai", "gpt-5")["gpqa"].value > 0.8
