"""Places that hold places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.facts import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.plan.residency import bounds_of, country_inside, in_words, region_inside

Read = Callable[..., tuple[Needs, NeedsSource]]


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
def test_region_inside(
    catalog: Catalog, bounds: tuple[tuple[str, ...], ...], provider: str, region: str, inside: bool
) -> None:
    assert region_inside(catalog, bounds, provider, region) is inside


def test_country_inside(catalog: Catalog) -> None:
    assert country_inside(catalog, (("EEA",), ("DE", "FR")), "DE")
    assert not country_inside(catalog, (("EEA",),), "GB")


def test_bounds_join_the_data_and_the_pinned_regions(needs_of: Read) -> None:
    needs, _ = needs_of("startup")
    assert bounds_of(needs, needs.workloads[0]) == (("US",), ("US",))
    assert in_words(bounds_of(needs, needs.workloads[0])) == "US"

    def unpinned(document: dict[str, Any]) -> None:
        document["placement"].pop("regions")

    needs, _ = needs_of("startup", unpinned)
    assert bounds_of(needs, needs.workloads[0]) == (("US",),)
    assert bounds_of(needs, needs.workloads[2]) == ()
    assert in_words(()) == "any"
    assert in_words((("DE", "FR"), ("EEA",))) == "DE or FR, and EEA"
