"""Which of several places is the nearest: where the traffic comes from, then the organisation's country, then the
groups that its country belongs to (the catalog knows no other neighbours).
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, Workload

# Shares of traffic that differ by less are the same.
SHARE_DIGITS = 9


class ProximityRank(NamedTuple):
    """The smaller, the nearer."""

    traffic_elsewhere: float
    abroad: bool
    outside_groups: bool


def rank_proximity(needs: Needs, catalog: Catalog, country: str) -> ProximityRank:
    """Of something in `country` from the organisation; traffic counts in workloads whose traffic names places."""
    elsewhere, home = 0.0, needs.organisation.country
    for workload in needs.workloads:
        elsewhere += sum(share for place, share in workload.regions.items() if not catalog.is_inside(country, place))
    return ProximityRank(
        traffic_elsewhere=round(elsewhere, SHARE_DIGITS),
        abroad=country != home,
        outside_groups=not _list_country_groups(catalog, country) & _list_country_groups(catalog, home),
    )


def list_user_places(needs: Needs, workload: Workload) -> tuple[str, ...]:
    """Where a workload is asked from: the places of its traffic, else the organisation's country."""
    return tuple(place for place, share in workload.regions.items() if share > 0) or (needs.organisation.country,)


def is_near_users(needs: Needs, catalog: Catalog, workload: Workload, country: str) -> bool:
    """Whether a country lies where the workload is asked from, or shares a group with it."""
    return any(_shares_group(catalog, country, place) for place in list_user_places(needs, workload))


def select_round_trip(needs: Needs, catalog: Catalog, workload: Workload, country: str) -> str:
    """The part of the catalog that says how long a message is there and back, from the nearest users."""
    places = list_user_places(needs, workload)
    if country in places:
        return "roundtrip.country"
    return "roundtrip.group" if any(_shares_group(catalog, country, place) for place in places) else "roundtrip.far"


def _shares_group(catalog: Catalog, country: str, place: str) -> bool:
    shared = _list_country_groups(catalog, country) & _list_country_groups(catalog, place)
    return bool(shared) or catalog.is_inside(country, place)


def _list_country_groups(catalog: Catalog, country: str) -> frozenset[str]:
    known = catalog.countries.get(country)
    return frozenset({country, *known.places}) if known is not None else frozenset({country})
