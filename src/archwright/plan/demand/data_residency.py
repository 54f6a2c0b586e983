"""Data residency: the places where data may be, and the proximity of places to users.

A place is a country, EEA, US, APAC, any, or a provider's region. A region is allowed if, for every data set of the
workload, one of its residency places contains the region, and one of `placement.regions` does too. A region whose
country is not in the catalog is inside only "any" and itself. Proximity: the origin of the traffic first, then the
organisation's country, then the groups of that country (the catalog knows no other neighbours).
"""

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import DataProfile, Needs, NeedsSource, Workload
from archwright.errors import ErrorLocation, PlanError

UNRESTRICTED = "any"
ResidencyBounds = tuple[tuple[str, ...], ...]


def collect_bounds(needs: Needs, workload: Workload) -> ResidencyBounds:
    """Return groups of places; a region must be inside one place of each group."""
    return tuple(one.group for one in _list_constraints(needs, workload) if UNRESTRICTED not in one.group)


def collect_data_bounds(data: DataProfile) -> ResidencyBounds:
    return () if UNRESTRICTED in data.residency else (data.residency,)


def reject_residency_conflict(needs: Needs, source: NeedsSource, catalog: Catalog) -> None:
    """Raise PlanError AW-PLAN-03 if no place is inside all bounds of a workload's data."""
    for workload in needs.workloads:
        stated = [one for one in _list_constraints(needs, workload) if UNRESTRICTED not in one.group]
        pairs = ([one, other] for index, one in enumerate(stated) for other in stated[index + 1 :])
        apart = next((pair for pair in (*pairs, stated) if len(pair) > 1 and not _is_satisfiable(catalog, pair)), None)
        if apart is not None:
            bounds = [f"{one.name} ({' or '.join(one.group)}, line {source.lines.get(one.field, 1)})" for one in apart]
            where = apart[-1].field
            raise PlanError(
                "AW-PLAN-03",
                f"workload {workload.name}: no place is inside {' and '.join(bounds)}",
                where=ErrorLocation(source.file, source.lines.get(where, 1), where),
                hint="widen `residency` of one data set or `placement.regions`, or split the workload by its data",
            )


class ResidencyConstraint(NamedTuple):
    """A bound on a workload's place, and the field of the needs that states it."""

    name: str
    field: str
    group: tuple[str, ...]


def _list_constraints(needs: Needs, workload: Workload) -> list[ResidencyConstraint]:
    found = [
        ResidencyConstraint(f"the residency of {data.name}", f"data[{index}].residency", data.residency)
        for index, data in enumerate(needs.data)
        if data.name in workload.data
    ]
    pinned = needs.placement.regions
    return found if pinned is None else [*found, ResidencyConstraint("placement.regions", "placement.regions", pinned)]


def _is_satisfiable(catalog: Catalog, stated: list[ResidencyConstraint]) -> bool:
    bounds = tuple(one.group for one in stated)
    regions = dict.fromkeys([*catalog.regions, *((offer.provider, offer.region) for offer in catalog.offers)])
    known = (is_region_inside(catalog, bounds, provider, region) for provider, region in regions)
    return any(is_country_inside(catalog, bounds, country) for country in catalog.countries) or any(known)


def collect_all_bounds(needs: Needs) -> ResidencyBounds:
    """Return the groups of all workloads together; a place inside them may hold all data."""
    every = (collect_bounds(needs, workload) for workload in needs.workloads)
    return tuple(dict.fromkeys(group for bounds in every for group in bounds))


def is_region_inside(catalog: Catalog, bounds: ResidencyBounds, provider: str, region: str) -> bool:
    known = catalog.region(provider, region)
    country = known.country if known is not None else None
    return all(any(p == region or _contains_country(catalog, p, country) for p in group) for group in bounds)


def is_country_inside(catalog: Catalog, bounds: ResidencyBounds, country: str) -> bool:
    return all(any(_contains_country(catalog, place, country) for place in group) for group in bounds)


def _contains_country(catalog: Catalog, place: str, country: str | None) -> bool:
    """True if `place` is a country or group that contains `country`; a named region contains no other region."""
    if country is None or not (place in catalog.countries or place in catalog.country_groups):
        return False
    return catalog.is_inside(country, place)


def format_bounds(bounds: ResidencyBounds) -> str:
    """Format bounds as the limit of a violation, for example "US" or "DE or FR, and EEA"."""
    return ", and ".join(dict.fromkeys(" or ".join(group) for group in bounds)) or UNRESTRICTED


def is_place_inside(catalog: Catalog, bounds: ResidencyBounds, place: str) -> bool:
    """True if all of `place`, a country or a group of countries, is inside the bounds."""
    members = [row.country for row in catalog.countries.values() if place in row.places] or [place]
    return all(is_country_inside(catalog, bounds, country) for country in members)


# Traffic shares are equal if they differ only after these decimal places.
SHARE_DIGITS = 9


# Traffic from elsewhere, another country, another group of countries; a smaller rank is nearer.
ProximityRank = tuple[float, bool, bool]


def rank_proximity(needs: Needs, catalog: Catalog, country: str) -> ProximityRank:
    """Rank the proximity of `country` to the organisation and to the traffic of workloads that name its origin."""
    elsewhere, home = 0.0, needs.organisation.country
    for workload in needs.workloads:
        elsewhere += sum(share for place, share in workload.regions.items() if not catalog.is_inside(country, place))
    shared = _list_country_groups(catalog, country) & _list_country_groups(catalog, home)
    return round(elsewhere, SHARE_DIGITS), country != home, not shared


def list_user_places(needs: Needs, workload: Workload) -> tuple[str, ...]:
    """Return the places of a workload's users: the places of its traffic, else the organisation's country."""
    return tuple(place for place, share in workload.regions.items() if share > 0) or (needs.organisation.country,)


def is_near_users(needs: Needs, catalog: Catalog, workload: Workload, country: str) -> bool:
    """True if users of the workload are in `country` or in a country of the same group."""
    return any(_shares_group(catalog, country, place) for place in list_user_places(needs, workload))


def select_round_trip(needs: Needs, catalog: Catalog, workload: Workload, country: str) -> str:
    """Return the catalog part with the round-trip time from the nearest users to `country`."""
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
