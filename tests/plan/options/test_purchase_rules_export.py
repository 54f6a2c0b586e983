"""Accelerators bought for countries under export control."""

from __future__ import annotations

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.export_rules import read_export_rules
from archwright.contract.plan import PurchaseKind
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.options.purchase_rules import (
    ADVANCED_PERFORMANCE,
    check_export_control,
    compute_total_performance,
)
from archwright.report.number_format import describe_miss

from ..cost.test_operating_costs import needs_of as needs_named
from ..fleet_samples import house, own_fleet
from ..option_samples import draft


def bought(catalog: Catalog, country: str, node: str = "8x-h100", purchase: PurchaseKind = "bought") -> OptionDraft:
    fleet = own_fleet(needs_named("clinic"), catalog, node, ("letters",), where=house(country))
    return draft("on-premises", placement="on-premises", fleets=(fleet._replace(purchase=purchase),))


@pytest.mark.parametrize(
    ("country", "headquarters", "outcome"),
    [
        ("DE", "DE", ""),
        ("CN", "CN", "condition"),
        ("DE", "CN", "condition"),
        ("KP", "KP", "export"),
        ("CU", "CU", "export"),
        ("IL", "IL", ""),
    ],
)
def test_where_it_stands_and_who_buys_it_count(catalog: Catalog, country: str, headquarters: str, outcome: str) -> None:
    found = check_export_control(bought(catalog, country), headquarters)
    said = [note.partition(":")[0] for note in found.notes] + [miss.constraint for miss in found.misses]
    assert said == ([outcome] if outcome else [])


def test_a_bar_is_a_sentence(catalog: Catalog) -> None:
    (miss,) = check_export_control(bought(catalog, "KP"), "KP").misses
    assert describe_miss(miss) == "US export rules block H100-SXM-80GB in KP (group E:1)"


def test_what_is_there_is_rented_or_small_is_not_asked(catalog: Catalog) -> None:
    plain = bought(catalog, "CN", "cpu-2-socket")
    owned = bought(catalog, "CN", purchase="owned")
    assert check_export_control(plain, "CN") == plain and check_export_control(owned, "CN") == owned
    assert (
        compute_total_performance(catalog.accelerators["H100-SXM-80GB"])
        > 4800
        > ADVANCED_PERFORMANCE
        > compute_total_performance(catalog.accelerators["T4"])
    )


def test_every_rule_names_its_groups_and_source() -> None:
    assert all(rule.groups and rule.source for rule in read_export_rules().values())
    assert {name for name, rule in read_export_rules().items() if rule.outcome == "denied"} == {"CU", "IR", "KP", "SY"}
