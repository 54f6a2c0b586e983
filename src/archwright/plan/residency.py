"""Where data may go. A place is a country, EEA, US, APAC, any, or a provider's region.

A region passes when, for every data set of the workload, one of its residency places holds the region, and one
of `placement.regions` does too. A region whose country the catalog does not know passes only "any" and itself.
"""

from __future__ import annotations

from archwright.catalog.facts import Catalog
from archwright.contract.needs import Needs, Workload

ANYWHERE = "any"
Bounds = tuple[tuple[str, ...], ...]


def bounds_of(needs: Needs, workload: Workload) -> Bounds:
    """Groups of places; a region must lie in one place of each group."""
    groups = [data.residency for data in needs.data if data.name in workload.data]
    if needs.placement.regions is not None:
        groups.append(needs.placement.regions)
    return tuple(group for group in groups if ANYWHERE not in group)


def bounds_of_all(needs: Needs) -> Bounds:
    """The groups of every workload together: inside them all data are near each other."""
    return tuple(dict.fromkeys(group for workload in needs.workloads for group in bounds_of(needs, workload)))


def region_inside(catalog: Catalog, bounds: Bounds, provider: str, region: str) -> bool:
    known = catalog.region(provider, region)
    country = known.country if known is not None else None
    return all(any(place == region or _holds(catalog, place, country) for place in group) for group in bounds)


def country_inside(catalog: Catalog, bounds: Bounds, country: str) -> bool:
    return all(any(_holds(catalog, place, country) for place in group) for group in bounds)


def _holds(catalog: Catalog, place: str, country: str | None) -> bool:
    """Only countries and groups hold others: another region of the same country is not the region that was named."""
    if country is None or not (place in catalog.countries or place in catalog.groups):
        return False
    return catalog.inside(country, place)


def in_words(bounds: Bounds) -> str:
    """ "US", "DE or FR, and EEA": what a miss prints as its limit."""
    return ", and ".join(dict.fromkeys(" or ".join(group) for group in bounds)) or ANYWHERE


def place_inside(catalog: Catalog, bounds: Bounds, place: str) -> bool:
    """Whether all of `place`, a country or a group of countries, lies inside."""
    members = [row.country for row in catalog.countries.values() if place in row.places] or [place]
    return all(country_inside(catalog, bounds, country) for country in members)
