"""The rules behind the types: everything that a Needs of the right shape can still get wrong.

Each rule yields problems and knows nothing of the others; `reader` tells the one that stands first in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs
from archwright.needs import catalog_checks, kind_fields, number_checks, text_checks
from archwright.needs.needs_problem import Problem

_INSIDE = (
    text_checks.sizes,
    text_checks.forms,
    text_checks.twice,
    text_checks.references,
    text_checks.bases,
    text_checks.addresses,
    number_checks.ranges,
    number_checks.pairs,
)
_CATALOG = (
    catalog_checks.country_codes,
    catalog_checks.places,
    catalog_checks.offers,
    catalog_checks.models,
    catalog_checks.benchmarks,
    catalog_checks.machines,
)


def problems(needs: Needs, lines: Mapping[str, int], catalog: Catalog) -> Iterator[Problem]:
    """`lines` tells which fields the file itself sets."""
    for inside in _INSIDE:
        yield from inside(needs)
    yield from kind_fields.kinds(needs, lines)
    for known in _CATALOG:
        yield from known(needs, catalog)
