"""Which of several places is the nearest: where the traffic comes from, then the organisation's country, then the
groups that its country belongs to (the catalog knows no other neighbours).
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.facts import Catalog
from archwright.contract.needs import Needs

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
        shares = (workload.traffic.regions or {}) if workload.traffic is not None else {}
        elsewhere += sum(share for place, share in shares.items() if not catalog.inside(country, place))
    return Distance(
        traffic_elsewhere=round(elsewhere, SHARE_DIGITS),
        abroad=country != home,
        outside_groups=not _groups(catalog, country) & _groups(catalog, home),
    )


def _groups(catalog: Catalog, country: str) -> frozenset[str]:
    known = catalog.countries.get(country)
    return frozenset({country, *known.places}) if known is not None else frozenset({country})
