"""Machines whose price is too old to buy by, and those whose price nobody dated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import ConstraintViolation, Plan
from archwright.plan.options.option_builder import BuiltOption
from archwright.plan.options.purchase_rules import describe_undated_prices, prefer_unexpired_prices

from ..cost.test_operating_costs import needs_of as needs_named
from ..fleet_samples import own_fleet
from ..option_samples import buy, draft

Make = Callable[..., Plan]
LATE = ConstraintViolation(constraint="a.deadline_h", value=2.0, limit=1.0)


def made(catalog: Catalog, node: str, usd: float, *misses: ConstraintViolation) -> BuiltOption:
    fleet = own_fleet(needs_named("clinic"), catalog, node, ("letters",))
    return BuiltOption(draft("on-premises", buy(usd), misses=misses, placement="on-premises", fleets=(fleet,)))


def francs(usd: float) -> str:
    return f"{usd / 2:,.0f} CHF"


def test_what_an_expired_price_would_save_is_said(catalog: Catalog) -> None:
    dated = made(catalog, "8x-h100", 900)
    assert not catalog.may_advise_buying(catalog.nodes["8x-b200"]), "the row that the rule is about"
    found = prefer_unexpired_prices(dated, made(catalog, "8x-b200", 600), catalog, francs)
    assert found.draft.fleets == dated.draft.fleets and not found.draft.misses
    assert found.draft.notes == (
        "an option with 8x-b200, whose price has expired, costs 150 CHF less over the horizon. "
        "To accept the price, use --accept-stale",
    )
    assert prefer_unexpired_prices(dated, made(catalog, "8x-b200", 950), catalog, francs) == dated


def test_where_only_an_expired_price_would_do_it_is_what_is_missed(catalog: Catalog) -> None:
    found = prefer_unexpired_prices(made(catalog, "8x-h100", 900, LATE), made(catalog, "8x-b200", 600), catalog, francs)
    assert [miss.constraint for miss in found.draft.misses] == ["stale_facts"]
    both = prefer_unexpired_prices(
        made(catalog, "8x-h100", 900, LATE), made(catalog, "8x-b200", 600, LATE), catalog, francs
    )
    assert [miss.constraint for miss in both.draft.misses] == ["a.deadline_h"]


def test_a_price_without_a_date_is_asked_for_first(catalog: Catalog) -> None:
    assert describe_undated_prices(made(catalog, "8x-h100", 1).draft) == ()
    (note,) = describe_undated_prices(made(catalog, "8x-mi300x", 1).draft)
    assert note.startswith("request a quote first: the price of 8x-mi300x")


def test_a_house_is_planned_without_what_has_expired(plan_of: Make, catalog: Catalog) -> None:
    def better(document: dict[str, Any]) -> None:
        next(w for w in document["workloads"] if w["name"] == "assistant")["quality"] = {"mmlu_pro": 0.8}
        document["placement"]["allow"] = ["on-premises"]

    plan = plan_of("manufacturer", better)
    (option,) = plan.options
    assert option.feasible and set(option.models) >= {"assistant", "house-model", "downtime"}
    bought = {one.machine for one in option.purchases if one.kind == "bought"}
    assert bought and all(catalog.may_advise_buying(catalog.nodes[name]) for name in bought)
    assert any(note.startswith("request a quote first") for note in option.notes)
