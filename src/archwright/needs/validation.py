"""The rules behind the types: each yields problems, `reader` reports the first in the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs
from archwright.needs import catalog_checks, kind_fields, number_checks, text_checks
from archwright.needs.needs_problem import NeedsProblem

_FILE_RULES = (
    text_checks.check_list_sizes,
    text_checks.check_texts,
    text_checks.check_duplicates,
    text_checks.check_references,
    text_checks.check_bases,
    text_checks.check_addresses,
    number_checks.check_ranges,
    number_checks.check_pairs,
)
_CATALOG_RULES = (
    catalog_checks.check_country_codes,
    catalog_checks.check_places,
    catalog_checks.check_providers_regulations_currency,
    catalog_checks.check_models,
    catalog_checks.check_benchmarks,
    catalog_checks.check_machines,
)


def find_problems(needs: Needs, lines: Mapping[str, int], catalog: Catalog) -> Iterator[NeedsProblem]:
    """`lines` tells which fields the file itself sets."""
    for inside in _FILE_RULES:
        yield from inside(needs)
    yield from kind_fields.check_kind_fields(needs, lines)
    for known in _CATALOG_RULES:
        yield from known(needs, catalog)
