"""Data residency: places inside other places, bounds of data."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.record import replace
from archwright.errors import PlanError
from archwright.plan.demand.data_residency import (
    ResidencyBounds,
    collect_bounds,
    format_bounds,
    is_country_inside,
    is_region_inside,
    reject_residency_conflict,
)

from ..conftest import GONE, Read, edit


@pytest.mark.parametrize(
    ("bounds", "provider", "region", "inside"),
    [
        ((), "aws", "us-east-1", True),
        ((("US",),), "aws", "us-east-1", True),
        ((("EEA",),), "aws", "us-east-1", False),
        ((("EEA", "US"),), "aws", "us-east-1", True),
        ((("EEA",), ("US",)), "aws", "us-east-1", False),
        ((("us-west-2",),), "aws", "us-east-1", False),
        ((("us-east-1",),), "aws", "us-east-1", True),
        ((("eu-central-1",), ("DE",)), "aws", "eu-central-1", True),
        ((("EEA",),), "aws", "eu-west-2", False),
        ((("US",),), "nobody", "nowhere", False),
        ((("nowhere",),), "nobody", "nowhere", True),
    ],
)
def test_region_inside(catalog: Catalog, bounds: ResidencyBounds, provider: str, region: str, inside: bool) -> None:
    assert is_region_inside(catalog, bounds, provider, region) is inside


def test_bounds_join_the_data_and_the_pinned_regions(catalog: Catalog, needs_of: Read) -> None:
    assert is_country_inside(catalog, (("EEA",), ("DE", "FR")), "DE")
    assert not is_country_inside(catalog, (("EEA",),), "GB")
    needs, _ = needs_of("startup")
    assert collect_bounds(needs, needs.workloads[0]) == (("US",), ("US",))
    assert format_bounds(collect_bounds(needs, needs.workloads[0])) == "US"

    needs, _ = needs_of("startup", edit({"placement.regions": GONE}))
    assert collect_bounds(needs, needs.workloads[0]) == (("US",),)
    assert collect_bounds(needs, needs.workloads[2]) == ()
    assert format_bounds(()) == "any"
    assert format_bounds((("DE", "FR"), ("EEA",))) == "DE or FR, and EEA"


@pytest.mark.parametrize(
    ("tickets", "handbook", "regions", "named"),
    [
        (["DE"], ["US"], None, ("tickets (DE, line ", "handbook (US, line ")),
        (["EEA"], ["any"], ["us-east-1"], ("tickets (EEA, line ", "placement.regions (us-east-1, line ")),
        (["DE", "FR"], ["FR", "US"], ["US", "DE"], ("tickets (DE or FR", "handbook (FR or US", "regions (US or DE")),
        (["DE"], ["EEA"], ["eu-central-1"], ()),
        (["any"], ["any"], ["a-region-of-tomorrow"], ()),
    ],
)
def test_bounds_that_contradict_each_other_are_named(
    catalog: Catalog, needs_of: Read, tickets: list[str], handbook: list[str], regions: Any, named: tuple[str, ...]
) -> None:
    bounded = edit({"data.0.residency": tickets, "data.1.residency": handbook, "placement.regions": GONE})
    needs, source = needs_of("startup", bounded)
    if regions is not None:
        needs = replace(needs, placement=replace(needs.placement, regions=tuple(regions)))
    if not named:
        reject_residency_conflict(needs, source, catalog)
        return
    with pytest.raises(PlanError) as caught:
        reject_residency_conflict(needs, source, catalog)
    assert all(name in str(caught.value) for name in named) and caught.value.code == "AW-PLAN-03"
    assert "workload support-chat" in str(caught.value) and caught.value.where is not None
