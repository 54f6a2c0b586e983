"""What differs between two plans, and why."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.contract.decision import Decision
from archwright.contract.estimate import exact_estimate, within_factor
from archwright.contract.evidence import Basis, Control
from archwright.contract.plan import ConstraintViolation, CostLine, Option, Plan, Pool, Purchase
from archwright.contract.record import replace
from archwright.plan.explain.diff import EstimateChange, PlanDiff, TextChange, diff_plans
from archwright.plan.explain.what_if import WhatIfSummary, compare_what_if

from ..conftest import MACHINE
from ..option_samples import build_option


def option(name: str, cost: float, *, misses: tuple[ConstraintViolation, ...] = (), **more: Any) -> Option:
    price = exact_estimate(cost, "EUR", f"{name}.cost")
    monthly = price.scaled(0.1, unit="EUR/month")
    return build_option(name, price, *misses, cost_per_month=monthly, capex=exact_estimate(0.0, "EUR"), **more)


def fact(price: str) -> Basis:
    return Basis(id="price.x", kind="quoted", stratum="s", definition="d", facts=(price,))


@pytest.fixture
def before(null_plan: Plan) -> Plan:
    line = CostLine(name="rent", amount=exact_estimate(10.0, "EUR/month"), category="compute")
    bought = Purchase(pool="assistant", machine="m", kind="on-demand", machines=2.0, peak=3)
    options = (option("x", 100, cost_lines=(line,), purchases=(bought,)), option("y", 120))
    return replace(null_plan, chosen="x", options=options, bases=(*null_plan.bases, fact("1 USD/h")))


def named(found: tuple[TextChange, ...] | tuple[EstimateChange, ...]) -> list[str]:
    return [one.name for one in found]


def test_the_same_plan_differs_in_nothing(before: Plan) -> None:
    found = diff_plans(before, replace(before, created_at="later"))
    assert found.is_empty and found.because == () and found.chosen is None
    assert found == PlanDiff(before=before.digest, after=before.digest, because=(), chosen=None)


def test_the_reasons_are_named(before: Plan) -> None:
    digests = {"needs_digest": "1" * 64, "catalog_digest": "2" * 64}
    found = diff_plans(before, replace(before, **digests, stale_facts=("x: 40 days",), needs_file="other.yaml"))
    reasons = [reason.split(" (")[0] for reason in found.because]
    assert reasons == ["the needs differ", "the catalog's facts differ", "facts have aged"]
    assert "needs.yaml and other.yaml" in found.because[0]
    assert not found.is_empty


@pytest.mark.parametrize(
    ("old", "new", "aged"),
    [
        ((), ("x: 40 days",), True),
        (("x: 40 days",), ("x: 41 days",), True),
        (("gone: 4 days",), ("gone: 5 days",), True),
        ((), ("y:z: another choice's price, 40 days",), False),
        (("x: 40 days",), (), False),
    ],
)
def test_a_fact_has_aged_when_the_plan_rested_on_it(
    before: Plan, old: tuple[str, ...], new: tuple[str, ...], aged: bool
) -> None:
    reasons = diff_plans(replace(before, stale_facts=old), replace(before, stale_facts=new)).because
    assert (reasons == ("facts have aged",)) == aged


def test_this_machine_measured_again_is_a_reason(before: Plan) -> None:
    assert diff_plans(before, replace(before, machine=MACHINE)).because == ("this machine was measured differently",)


def test_another_choice_with_its_money_machines_and_verdicts(before: Plan) -> None:
    misses = (ConstraintViolation(constraint="per_month", value=10.0, limit=9.0),) * 2
    options = (option("x", 100, misses=misses), option("y", 90), option("z", 1))
    found = diff_plans(before, replace(before, chosen="y", options=options))
    assert found.chosen == TextChange(name="chosen", before="x", after="y")
    assert named(found.costs) == ["total", "per month"]
    assert found.costs[0].before == exact_estimate(100.0, "EUR", "x.cost")
    assert found.costs[0].after == exact_estimate(90.0, "EUR", "y.cost")
    assert found.lines == (EstimateChange(name="rent", before=exact_estimate(10.0, "EUR/month"), after=None),)
    assert found.purchases == (TextChange(name="assistant", before="2 x m on-demand (peak 3)", after=None),)
    assert found.verdicts == (
        TextChange(name="x", before="feasible", after="no: per_month"),
        TextChange(name="z", before=None, after="feasible"),
    )
    assert named(found.totals) == ["y", "z"]


def test_the_text_on_the_choice_differs_by_its_words(before: Plan) -> None:
    """A wish that no option meets is told; a note whose numbers moved keeps its name."""

    def noted(*notes: str) -> Plan:
        return replace(before, options=(option("x", 100, notes=notes),))

    wish = "preferred placement hybrid has no feasible option"
    found = diff_plans(noted("at risk: limit 1 in 0.147 .. 5.38"), noted("at risk: limit 1 in 0.15 .. 7.62", wish))
    moved, new = found.notes
    assert (moved.before, moved.after) == ("at risk: limit 1 in 0.147 .. 5.38", "at risk: limit 1 in 0.15 .. 7.62")
    assert (new.before, new.after) == (None, wish)


def test_the_line_that_moved_most_stands_first(before: Plan) -> None:
    def lines(**amounts: float) -> tuple[Option, ...]:
        made = (CostLine(name=name, amount=exact_estimate(amount, "EUR/month")) for name, amount in amounts.items())
        return (option("x", 100, cost_lines=tuple(made)),)

    found = diff_plans(replace(before, options=lines(a=1, b=5, c=9)), replace(before, options=lines(a=2, b=9, d=3)))
    assert named(found.lines) == ["c", "b", "d", "a"]


def test_a_limit_alone_changes_no_verdict(before: Plan) -> None:
    def over(limit: float) -> tuple[Option, ...]:
        return (option("x", 100, misses=(ConstraintViolation(constraint="per_month", value=10.0, limit=limit),)),)

    assert diff_plans(replace(before, options=over(9.0)), replace(before, options=over(8.0))).verdicts == ()


def test_nothing_chosen_has_no_money(before: Plan) -> None:
    found = diff_plans(before, replace(before, chosen=None))
    assert found.chosen == TextChange(name="chosen", before="x", after=None)
    assert [figure.after for figure in found.costs] == [None, None, None]


def test_pools_models_predictions_controls_and_assumptions(before: Plan) -> None:
    pool: Pool = replace(before.pools[0], replicas=2)
    moved = replace(before.predictions[0], estimate=within_factor(0.05, 2, "s", "null"))
    control = Control(id="c", demanded_by="r", demand="d", feature="f", evidence="", status="built-in")
    after = replace(
        before,
        pools=(pool,),
        workloads=(replace(before.workloads[0], model=None),),
        predictions=(moved, *before.predictions[1:]),
        controls=(control,),
        assumptions=("said",),
        decision=Decision(axes=("total_cost",)),
    )
    found = diff_plans(before, after)
    assert found.pools[0].after == "2 engines of 1 x cpu, on this machine in DE at this-machine: null-model none"
    assert found.models == (TextChange(name="assistant", before="null-model", after=None),)
    assert named(found.predictions) == [moved.id]
    assert found.controls == (TextChange(name="c", before=None, after="built-in"),)
    assert found.assumptions == (TextChange(name="said", before=None, after="yes"),)


def test_facts_that_both_rest_on_and_formulas_that_do_not_count(before: Plan) -> None:
    formula = Basis(id="null", kind="formula", stratum="s", definition="another")
    found = diff_plans(before, replace(before, bases=(formula, fact("2 USD/h"))))
    assert found.facts == (TextChange(name="price.x", before="1 USD/h", after="2 USD/h"),)
    bare = Basis(id="price.x", kind="quoted", stratum="s", definition="d", formula="by hand")
    assert diff_plans(before, replace(before, bases=(bare,))).facts[0].after == "by hand"
    barest = replace(bare, formula="")
    assert diff_plans(before, replace(before, bases=(barest,))).facts[0].after == "d"


def test_another_band_is_a_difference_and_another_basis_is_none(before: Plan) -> None:
    cost = before.options[0].total_cost
    assert cost is not None

    def with_cost(changed: Any) -> Plan:
        return replace(before, options=(replace(before.options[0], total_cost=changed), before.options[1]))

    assert named(diff_plans(before, with_cost(replace(cost, high=200.0))).totals) == ["x"]
    assert diff_plans(before, with_cost(replace(cost, basis="other"))).totals == ()


def test_what_if_holds_both_choices_and_says_what_was_refused(before: Plan) -> None:
    after, chosen = replace(before, chosen=None), before.options[0]
    answer = compare_what_if(before, after, ("budget.per_month=1",), "AW-PLAN-03  no option")
    costs = {name: getattr(chosen, name) for name in ("total_cost", "cost_per_month", "capex")}
    assert answer.before == WhatIfSummary(option="x", **costs)
    assert (answer.after, answer.plan) == (WhatIfSummary(option=None), after)
    assert answer.difference == diff_plans(before, after) and answer.refused.startswith("AW-PLAN-03")
