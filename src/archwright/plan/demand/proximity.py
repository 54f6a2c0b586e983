"""Which of several places is the nearest: where the traffic comes from, then the organisation's country, then the
groups that its country belongs to (the catalog knows no other neighbours).
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, Workload

# Shares of traffic that differ by less are the same.
SHARE_DIGITS = 9


class Distance(NamedTuple):
    """The smaller, the nearer."""

    traffic_elsewhere: float
    abroad: bool
    outside_groups: bool


def distance(needs: Needs, catalog: Catalog, country: str) -> Distance:
    """Of something in `country` from the organisation; traffic counts in workloads whose traffic names places."""
    elsewhere, home = 0.0, needs.organisation.country
    for workload in needs.workloads:
        elsewhere += sum(share for place, share in workload.regions.items() if not catalog.inside(country, place))
    return Distance(
        traffic_elsewhere=round(elsewhere, SHARE_DIGITS),
        abroad=country != home,
        outside_groups=not _groups(catalog, country) & _groups(catalog, home),
    )


def users(needs: Needs, workload: Workload) -> tuple[str, ...]:
    """Where a workload is asked from: the places of its traffic, else the organisation's country."""
    return tuple(place for place, share in workload.regions.items() if share > 0) or (needs.organisation.country,)


def near(needs: Needs, catalog: Catalog, workload: Workload, country: str) -> bool:
    """Whether a country lies where the workload is asked from, or shares a group with it."""
    return any(_joined(catalog, country, place) for place in users(needs, workload))


def round_trip(needs: Needs, catalog: Catalog, workload: Workload, country: str) -> str:
    """The part of the catalog that says how long a message is there and back, from the nearest users."""
    places = users(needs, workload)
    if country in places:
        return "roundtrip.country"
    return "roundtrip.group" if any(_joined(catalog, country, place) for place in places) else "roundtrip.far"


def _joined(catalog: Catalog, country: str, place: str) -> bool:
    return catalog.inside(country, place) or not _groups(catalog, country).isdisjoint(_groups(catalog, place))


def _groups(catalog: Catalog, country: str) -> frozenset[str]:
    known = catalog.countries.get(country)
    return frozenset({country, *known.places}) if known is not None else frozenset({country})
