"""The choice, and the answer when there is none."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.contract.estimate import exact_estimate, within_factor
from archwright.contract.needs import NeedsSource
from archwright.contract.plan import ConstraintViolation, Option, WorkloadPlan, assess_limit
from archwright.contract.record import replace
from archwright.errors import PlanError
from archwright.plan.decision.selection import build_infeasible_error, choose_option

from ..option_samples import EMPTY_PLAN, build_option, doubtful

LINES = {"budget": 9, "budget.per_month": 9, "workloads[0]": 3, "workloads[0].slo": 5, "placement.allow": 7}
LINES["workloads[0].deadline_h"] = 4
SOURCE = NeedsSource(file="needs.yaml", digest="0" * 64, lines=LINES)


def option(name: str, *misses: ConstraintViolation, cost: float | None = None, placement: Any = "cloud") -> Option:
    return build_option(name, None if cost is None else exact_estimate(cost, "EUR"), *misses, placement=placement)


def refuse(*options: Option) -> PlanError:
    """The error of a plan with these options, none of which is feasible."""
    workload = WorkloadPlan(name="triage", model=None, pools=())
    return build_infeasible_error(replace(EMPTY_PLAN, currency="EUR", options=options, workloads=(workload,)), SOURCE)


def over(value: float | str, limit: float | str, name: str = "per_month") -> ConstraintViolation:
    return ConstraintViolation(constraint=name, value=value, limit=limit)


UNSIZED = ConstraintViolation(constraint="not sized yet", value="hybrid", limit=None)


def test_the_cheapest_feasible_wins_and_nothing_else_changes() -> None:
    options = (option("a", cost=20), option("b", cost=10), option("c", over(2, 1), cost=1))
    assert choose_option(options, None) == ("b", options)
    assert choose_option(options[2:], None) == (None, options[2:])


def test_of_equal_prices_the_simplest_placement_is_taken_and_then_the_first_name() -> None:
    options = (option("a", cost=1, placement="hybrid"), option("b", cost=1 + 1e-12, placement="on-premises"))
    assert choose_option(options, None)[0] == "b"
    assert choose_option(options, "hybrid")[0] == "a"
    assert choose_option((option("b", cost=1), option("a", cost=1)), None)[0] == "a"


def test_limits_that_hold_with_the_certainty_come_before_the_price_and_the_price_of_certainty_is_reported() -> None:
    hoped = replace(option("a", cost=1000, placement="hosted-api"), limits=(doubtful("w.ttft_p95_s", 1.0, 1.0),))
    held, dear = replace(option("b", cost=3000), limits=(doubtful("w.ttft_p95_s", 1.0, 0.6),)), option("c", cost=4000)
    assert hoped.doubts == hoped.limits and held.doubts == ()
    name, changed = choose_option((hoped, held, dear), None)
    assert name == "b"
    assert changed[1].notes == (
        "price of certainty: 89 % for 2,000 EUR over the horizon. In a, w.ttft_p95_s <= 1 s holds with 50 %, less than "
        "the required 70 %",
    )
    also = replace(hoped, name="d", total_cost=exact_estimate(2000, "EUR"))
    said = choose_option((also, hoped, held), None)[1][2].notes
    assert said[0].startswith("price of certainty: 89 % for") and said[1] == "cheaper and less certain too: d"
    assert choose_option((hoped,), None)[0] == "a", "where nothing else is feasible it is better than nothing"
    assert choose_option((hoped, held), "hosted-api")[0] == "a", "who prefers it knows"
    assert choose_option((replace(hoped, total_cost=exact_estimate(5000, "EUR")), held), None)[1][1].notes == ()


@pytest.mark.parametrize(("certainty", "chosen"), [(0.5, "cheap"), (0.7, "sure"), (0.95, "cheap")])
def test_the_certainty_changes_the_choice(certainty: float, chosen: str) -> None:
    def holding(name: str, cost: float, value: float) -> Option:
        limit = assess_limit(("w.ttft_p95_s", 1.0, certainty), within_factor(value, 2.0, "s"))
        return replace(option(name, cost=cost), limits=(limit,))

    # They hold the limit with 60 % and 89 %; at 95 % neither does, so the price decides again.
    cheap, sure = holding("cheap", 1000, 0.9), holding("sure", 2000, 0.6)
    assert [round(one.limits[0].probability, 2) for one in (cheap, sure)] == [0.6, 0.89]
    assert choose_option((cheap, sure), None)[0] == chosen


def test_a_preference_wins_and_its_price_is_printed() -> None:
    options = (option("a", cost=2000), option("b", cost=1000), option("h", cost=1500, placement="hosted-api"))
    name, changed = choose_option(options, "hosted-api")
    assert name == "h"
    assert changed[2].notes == ("preferred over b, at an extra cost of 500 EUR over the horizon",)
    assert changed[:2] == options[:2]


def test_a_preference_that_is_cheapest_costs_nothing_and_one_that_nothing_meets_is_reported() -> None:
    options = (option("a", cost=1), option("b", cost=2, placement="hosted-api"))
    assert choose_option(options, "cloud") == ("a", options)
    name, changed = choose_option(options[:1], "on-premises")
    assert name == "a" and "no feasible option" in changed[0].notes[0]


def test_the_nearest_option_and_its_relaxation_are_named() -> None:
    far, near = option("far", over(9000, 3000), cost=9000), option("near", over(3300.5, 3000), cost=3300)
    error = refuse(far, near, option("x", UNSIZED))
    assert error.code == "AW-PLAN-03"
    assert "nearest option, near, misses per_month: 3,300, limit 3,000" in error.message
    assert (error.where.line, error.where.field) == (9, "budget.per_month")
    assert error.hint.startswith(
        "relax the needs: near with budget.per_month 3,310, or far with budget.per_month 9,000 (5,700 EUR more)"
    )
    assert error.nearest == ("near", "far", "x")
    assert len(error.lines().splitlines()) == 3


def test_an_option_without_a_prediction_is_no_near_option() -> None:
    hoped = ConstraintViolation(constraint="triage.ttft_p95_s", value=0.3, limit=0.2, at_best=True)
    known = over(2, 0.2, "triage.ttft_p95_s")
    error = refuse(option("hoped", hoped, cost=1), option("known", known, cost=2))
    assert error.nearest == ("known", "hoped") and "hoped with workloads[0].slo.ttft_p95_s at best 0.3" in error.hint
    alone = refuse(option("hoped", hoped, cost=1), option("x", UNSIZED))
    assert "the nearest option, hoped, misses triage.ttft_p95_s: at best 0.3, limit 0.2" in alone.message


@pytest.mark.parametrize(
    ("miss", "field", "line"),
    [
        (over(0.3, 0.2, "triage.ttft_p95_s"), "workloads[0].slo.ttft_p95_s", 5),
        (over(0.3, 0.4, "triage.quality.mmlu_pro"), "workloads[0].quality.mmlu_pro", 3),
        (ConstraintViolation(constraint="residency", value="unknown", limit="US"), "placement", 1),
        (UNSIZED, "placement.allow", 7),
        (over(0.3, 0.2, "other.ttft_p95_s"), "placement", 1),
        (over(5, 0, "capex"), "budget.capex", 9),
        (over(30, 24, "triage.deadline_h"), "workloads[0].deadline_h", 4),
        (over(30, 24, "triage.gib_per_day"), "workloads[0].traffic.gib_per_day", 3),
        (ConstraintViolation(constraint="triage.base", value="x", limit="y"), "workloads[0].base", 3),
        (over(50, 40, "power_kw"), "placement.site.power_kw", 1),
    ],
)
def test_the_place_is_the_field_or_what_encloses_it(miss: ConstraintViolation, field: str, line: int) -> None:
    error = refuse(option("a", miss))
    assert (error.where.field, error.where.line) == (field, line)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ([option("a", over(0.99, 0.999, "triage.availability"))], "availability 0.99"),
        ([option("a", UNSIZED)], "allow another placement"),
        ([option("a")], "allow another placement"),
        (
            [option("near", over(11, 10), cost=900), option("far", over(20, 10), cost=300)],
            "far with budget.per_month 20 (600 EUR less)",
        ),
        (
            [option("own", over("node x", "new", "stale_facts"), cost=500)],
            "relax the needs: own with a quote in catalog/user.yaml or --accept-stale (500 EUR)",
        ),
        ([option("a", over("rules bar x to y", "", "export"))], "choose a smaller accelerator"),
        ([option("a", over(740_000, 100_000, "capacity of aws, accelerators"))], "state fewer requests"),
    ],
)
def test_the_hint_is_what_makes_an_option_feasible(options: list[Option], hint: str) -> None:
    assert hint in refuse(*options).hint


def pinned(name: str, constraint: str, value: str, cost: float | None) -> Option:
    return option(name, over(value, "what was wished", constraint), cost=cost)


def test_another_place_or_device_is_offered_where_one_exists_with_its_price() -> None:
    """The wish cannot be had: the nearest that exist, the cheapest first, and how their prices differ."""
    error = refuse(
        pinned("nowhere", "regions", "no offer inside", None),
        pinned("north", "regions", "eu-north-1", 500),
        pinned("other", "accelerators", "L40S", 400),
    )
    assert "; the nearest option, other, misses accelerators: L40S, limit what was wished" in error.message
    assert error.hint == (
        "relax the needs: other with placement.accelerators L40S (400 EUR), or north with placement.regions "
        "eu-north-1 (100 EUR more)"
    )
    assert error.where.field == "placement.accelerators"
    assert error.nearest == ("other", "north", "nowhere")


def test_what_stands_against_the_preference_is_reported_first() -> None:
    """A device that a provider has elsewhere alone."""
    wish = pinned("cloud", "accelerators", "no offer in eu-central-1", None)
    error = refuse(pinned("other", "accelerators", "L40S", 400), wish)
    assert error.message == (
        "no option satisfies the needs; cloud misses accelerators: no offer in eu-central-1, limit what was wished; "
        "the nearest option, other, misses accelerators: L40S, limit what was wished"
    )


def test_no_budget_at_all_is_farther_than_any_other_number() -> None:
    error = refuse(option("a", over(5, 0, "capex")), option("b", over(9e6, 1)))
    assert error.nearest == ("b", "a")
    assert "a with budget.capex 5" in error.hint


def test_an_option_that_misses_nothing_has_no_price_and_there_may_be_no_options() -> None:
    assert "misses price: none, limit a price for every part" in refuse(option("a")).message
    error = refuse()
    assert (error.code, error.where.field) == ("AW-PLAN-03", "placement.allow")


def test_owned_machines_that_could_not_be_counted_on_are_named() -> None:
    note = "owned 2 x 4x X are left out: no row of a bought machine is like them"
    found = replace(option("own", over(2, 1, "capex"), cost=1), notes=("said", note))
    assert refuse(found).message.endswith(f"; {note}")


def test_the_nearest_option_counts_all_of_its_misses_by_their_ratios() -> None:
    """Three misses of 40 % are farther than one by a factor of two: the greatest miss alone does not decide."""
    three = [over(14, 10, "triage.ttft_p95_s"), over(1.4, 1, "triage.tpot_p95_s"), over(0.5, 0.7, "triage.quality.x")]
    error = refuse(option("three", *three, cost=1), option("one", over(20, 10), cost=9))
    assert error.nearest == ("one", "three")
    two = refuse(option("two", *three[:2], cost=1), option("one", over(20, 10), cost=9))
    assert two.nearest == ("two", "one")
    assert "misses triage.ttft_p95_s: 14, limit 10; triage.tpot_p95_s: 1.4, limit 1" in two.message
    lost = refuse(option("lost", over(1.1, 1), UNSIZED, cost=1), option("one", over(2000, 10), cost=9))
    assert lost.nearest == ("one", "lost"), "what no relaxation mends comes last"


def test_an_availability_is_as_far_as_the_time_that_is_lost() -> None:
    """99 % for 99.9 % is ten times the outages, not one per cent of difference."""
    down = option("down", over(0.99, 0.999, "triage.availability"), cost=1)
    assert refuse(down, option("dear", over(90, 10), cost=9)).nearest == ("dear", "down")
    assert refuse(down, option("dear", over(110, 10), cost=9)).nearest == ("down", "dear")
