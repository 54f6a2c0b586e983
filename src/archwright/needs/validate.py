"""The rules behind the types: everything that a Needs of the right shape can still get wrong.

Each rule yields problems and knows nothing of the others; `reader` tells the one that stands first in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs
from archwright.needs import facts, kinds, names, numbers
from archwright.needs.problem import Problem

_INSIDE = (
    names.sizes,
    names.forms,
    names.twice,
    names.references,
    names.bases,
    names.addresses,
    numbers.ranges,
    numbers.pairs,
)
_CATALOG = (facts.country_codes, facts.places, facts.offers, facts.models, facts.benchmarks, facts.machines)


def problems(needs: Needs, lines: Mapping[str, int], catalog: Catalog) -> Iterator[Problem]:
    """`lines` tells which fields the file itself sets."""
    for inside in _INSIDE:
        yield from inside(needs)
    yield from kinds.kinds(needs, lines)
    for known in _CATALOG:
        yield from known(needs, catalog)
