"""Where data may go. A place is a country, EEA, US, APAC, any, or a provider's region.

A region passes when, for every data set of the workload, one of its residency places holds the region, and one
of `placement.regions` does too. A region whose country the catalog does not know passes only "any" and itself.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import DataProfile, Needs, NeedsSource, Workload
from archwright.errors import PlanError, Where

ANYWHERE = "any"
Bounds = tuple[tuple[str, ...], ...]


def bounds_of(needs: Needs, workload: Workload) -> Bounds:
    """Groups of places; a region must lie in one place of each group."""
    return tuple(one.group for one in _stated(needs, workload) if ANYWHERE not in one.group)


def bounds_of_data(data: DataProfile) -> Bounds:
    return () if ANYWHERE in data.residency else (data.residency,)


def refuse_conflict(needs: Needs, source: NeedsSource, catalog: Catalog) -> None:
    """Raises PlanError AW-PLAN-03 where what bounds a workload's data leaves no place on earth: no provider and no
    house could help, so none is looked at.
    """
    for workload in needs.workloads:
        stated = [one for one in _stated(needs, workload) if ANYWHERE not in one.group]
        pairs = ([one, other] for index, one in enumerate(stated) for other in stated[index + 1 :])
        apart = next((pair for pair in (*pairs, stated) if len(pair) > 1 and not _somewhere(catalog, pair)), None)
        if apart is not None:
            said = [f"{one.name} ({' or '.join(one.group)}, line {source.lines.get(one.field, 1)})" for one in apart]
            where = apart[-1].field
            raise PlanError(
                "AW-PLAN-03",
                f"workload {workload.name}: no place is inside {' and '.join(said)}",
                where=Where(source.file, source.lines.get(where, 1), where),
                hint="widen one of them, or split the workload by its data",
            )


class Stated(NamedTuple):
    """What bounds a workload, and the field that says it."""

    name: str
    field: str
    group: tuple[str, ...]


def _stated(needs: Needs, workload: Workload) -> list[Stated]:
    found = [
        Stated(f"the residency of {data.name}", f"data[{index}].residency", data.residency)
        for index, data in enumerate(needs.data)
        if data.name in workload.data
    ]
    pinned = needs.placement.regions
    return found if pinned is None else [*found, Stated("placement.regions", "placement.regions", pinned)]


def _somewhere(catalog: Catalog, stated: list[Stated]) -> bool:
    bounds = tuple(one.group for one in stated)
    regions = dict.fromkeys([*catalog.regions, *((offer.provider, offer.region) for offer in catalog.offers)])
    known = (region_inside(catalog, bounds, provider, region) for provider, region in regions)
    return any(country_inside(catalog, bounds, country) for country in catalog.countries) or any(known)


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
