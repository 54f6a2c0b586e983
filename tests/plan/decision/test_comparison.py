"""What stands beside a choice: rivals, the Pareto set, drivers, confidence, return."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from archwright.catalog.catalog import Catalog
from archwright.contract.decision import Decision, Rival
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.plan import ConstraintViolation, Option, Plan
from archwright.contract.record import replace
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.accounting.cash_flow import make_varying_flow
from archwright.plan.decision.comparison import (
    OptionComparison,
    build_decision,
    compare_options,
    compute_chance_cheaper,
    find_break_even_month,
)
from archwright.plan.decision.selection import choose_option

from ..option_samples import MONTHS, Made, World, buy, doubtful, draft, fact, needs, rent, world, worlds

QUICK = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
A, B = fact("a", 10, 1.5), fact("b", 20, 1.5)
FACTS = {"a": A, "b": B}


def compare(made: World) -> OptionComparison:
    return compare_options(made.needs, made.options, made.drafts, made.purse)


def decided(made: World) -> tuple[str | None, Decision]:
    found = compare(made)
    return found.chosen, found.decision


# --- rivals


@pytest.mark.parametrize(
    ("usd", "name", "chances", "tie"),
    [
        pytest.param(110, "a", (0.0, 0.0), False, id="the same facts"),
        pytest.param(102, "b", (0.4, 0.5), True, id="facts of its own"),
        pytest.param(101.5, "a", (0.0, 0.0), False, id="dearer in every sample"),
        pytest.param(106, "b", (0.4, 0.5), False, id="totals too far apart"),
    ],
)
def test_a_rival_is_a_tie_when_close(
    catalog: Catalog, usd: float, name: str, chances: tuple[float, float], tie: bool
) -> None:
    made = world(catalog, needs(), FACTS, draft("x", rent(100, "a")), draft("y", rent(usd, name)))
    chosen, decision = decided(made)
    (rival,) = decision.rivals
    assert (chosen, rival.option, rival.tie, rival.break_even_month) == ("x", "y", tie, 1)
    assert chances[0] <= rival.cheaper <= chances[1]


def test_equal_options_share_the_chance_and_are_called_equal(catalog: Catalog) -> None:
    made = world(catalog, needs(), FACTS, draft("x", rent(100, "a")), draft("y", rent(100, "a")))
    chosen, decision = decided(made)
    assert chosen == "x" and decision.rivals[0].cheaper == 0.5 and decision.rivals[0].equal
    assert notes_of(made)[0] == "a tie: y costs the same in every sample"
    unlike = world(catalog, needs(), FACTS, draft("x", rent(100, "a")), draft("y", rent(100, "b")))
    assert not decided(unlike)[1].rivals[0].equal


def test_rivals_are_the_feasible_ones_the_cheapest_first(catalog: Catalog) -> None:
    late = draft("late", rent(1), misses=(ConstraintViolation(constraint="x.ttft_p95_s", value=2.0, limit=1.0),))
    unpriced = OptionDraft(name="none", placement="cloud", provider="p")
    made = world(catalog, needs(), {}, draft("x", rent(1)), draft("z", rent(3)), draft("y", rent(3)), late, unpriced)
    assert [rival.option for rival in decided(made)[1].rivals] == ["y", "z"]


@given(worlds())
@QUICK
def test_the_chances_of_two_options_sum_to_one(catalog: Catalog, given_: Made) -> None:
    made = world(catalog, *given_[:2], *given_[2])
    one, two = (made.purse.sample_total(draft.terms or ()) for draft in made.drafts[:2])
    assert compute_chance_cheaper(one, two) + compute_chance_cheaper(two, one) == pytest.approx(1)


@pytest.mark.parametrize(
    ("ours", "theirs", "month"),
    [((1, 2, 3), (2, 3, 4), 1), ((5, 6, 7), (3, 6, 9), 3), ((5, 6, 7), (1, 2, 3), None), ((1, 2), (1, 2), None)],
)
def test_break_even_is_the_first_month_with_less_paid(
    ours: tuple[float, ...], theirs: tuple[float, ...], month: int | None
) -> None:
    assert find_break_even_month(ours, theirs) == month


def test_buying_breaks_even_later_than_renting_begins(catalog: Catalog) -> None:
    made = world(catalog, needs(capex=1e6), {}, draft("buy", buy(500), rent(10)), draft("rent", rent(100)))
    chosen, decision = decided(made)
    assert chosen == "buy"
    assert decision.rivals[0].break_even_month == 6  # 500 + 10 m < 100 m


# --- the choice and its notes


def notes_of(made: World) -> tuple[str, ...]:
    found = compare(made)
    return next(option.notes for option in found.options if option.name == found.chosen)


def test_ties_and_close_options_are_reported(catalog: Catalog) -> None:
    near = (draft("x", rent(100, "a")), draft("y", rent(104, "b")), draft("z", rent(118, "b")), draft("far", rent(900)))
    wide = draft("wide", rent(130, "c"))
    notes = notes_of(world(catalog, needs(), {**FACTS, "c": fact("c", 1, 4.0)}, *near, wide))
    assert notes[0].startswith("a tie: y costs 40 USD more over the horizon, and is cheaper in ")
    assert notes[1].startswith("close: z costs 180 USD more")
    assert not any("far" in note for note in notes)
    assert not any("close: wide" in note for note in notes)


def test_of_several_cheaper_options_the_cheapest_is_the_one_to_know(catalog: Catalog) -> None:
    mine = draft("mine", rent(110, "a"), placement="on-premises")
    narrow = {"a": fact("a", 1, 1.3), "b": fact("b", 1, 1.3)}
    drafts = (mine, draft("near", rent(99, "b")), draft("low", rent(70, "b")))
    notes = notes_of(world(catalog, needs(prefer="on-premises"), narrow, *drafts))
    assert not any("near costs" in note for note in notes)
    assert notes[0] == "preferred over low, at an extra cost of 400 USD over the horizon"


def test_a_preferred_option_may_be_dearer_than_its_tie(catalog: Catalog) -> None:
    drafts = (draft("x", rent(105, "b"), placement="hybrid"), draft("y", rent(100, "a")))
    notes = notes_of(world(catalog, needs(prefer="hybrid"), FACTS, *drafts))
    assert notes[0] == "preferred over y, at an extra cost of 50 USD over the horizon"
    assert "y costs 50 USD less" in notes[1]


def test_the_value_today_is_as_uncertain_as_what_it_is_made_of(catalog: Catalog) -> None:
    """Its band is that of the prices and of the rate, drawn together, and not of the rate alone."""

    def band(*drivers: str) -> float:
        note = notes_of(world(catalog, needs(), FACTS, draft("x", rent(100, *drivers))))[-1]
        low, _, high = note.rpartition("(")[2].partition(" to ")
        return float(high.strip(")").replace(",", "")) - float(low.replace(",", ""))

    assert band("a") > 10 * band()


def test_the_value_of_the_payments_today_is_reported(catalog: Catalog) -> None:
    rate = catalog.parameter("capital").value
    today = sum(100 / (1 + rate) ** (month / 12) for month in range(MONTHS))
    plain = notes_of(world(catalog, needs(), {}, draft("x", rent(100))))
    assert f"{today:,.0f} USD" in plain[-1] and "goals" not in plain[-1]
    worth = notes_of(world(sooner(catalog), needs(worth=150.0), {}, draft("x", rent(100))))
    gain = sum(150 / (1 + rate) ** ((month + 1) / 12) for month in range(MONTHS)) - today
    assert f"net of the value of the goals: {gain:,.0f} USD" in worth[-1]
    assert notes_of(world(catalog, needs(), {}, draft("free", rent(0)))) == ()


def test_nothing_feasible_leaves_nothing_to_compare(catalog: Catalog) -> None:
    made = world(catalog, needs(per_month=1.0, worth=5.0), {}, draft("x", rent(2)))
    found = compare(made)
    assert (found.chosen, found.options) == (None, made.options)
    assert found.decision == Decision(axes=("total_cost",))


# --- the Pareto set


def frontier(made: World) -> tuple[tuple[str, ...], tuple[str, ...]]:
    decision = decided(made)[1]
    return decision.axes, decision.pareto


KG: dict[str, Any] = {"carbon_kg_per_month": exact_estimate(5, "kg")}
CLEAN: dict[str, Any] = {"carbon_kg_per_month": exact_estimate(1, "kg"), "power_kw": exact_estimate(9, "kW")}
DIRTY = (draft("dirty", rent(20), **KG), draft("clean", rent(30), **CLEAN))
RISKY = draft("risky", rent(10), limits=(doubtful("w.ttft_p95_s", 1.0, 2.0),))


@pytest.mark.parametrize(
    ("drafts", "axis", "expected"),
    [
        pytest.param(
            (draft("cheap", rent(10), buy(500)), draft("light", rent(90)), draft("worse", rent(91))),
            (),
            ("cheap", "light"),
            id="beaten on every axis",
        ),
        pytest.param((draft("dark", rent(10)), *DIRTY), ("carbon_kg_per_month",), ("dark",), id="known for two"),
        pytest.param(DIRTY, ("carbon_kg_per_month",), ("dirty", "clean"), id="known for both"),
        pytest.param((RISKY, draft("safe", rent(20)), draft("dear", rent(21))), (), ("risky", "safe"), id="uncertain"),
        pytest.param((draft("x", rent(1)), draft("y", rent(1))), (), ("x", "y"), id="equal"),
    ],
)
def test_the_frontier_is_what_no_other_option_beats(
    catalog: Catalog, drafts: tuple[OptionDraft, ...], axis: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    axes = ("total_cost", "capex", *axis, "uncertain_limits")
    assert frontier(world(catalog, needs(capex=1e6), {}, *drafts)) == (axes, expected)


# --- drivers


def test_drivers_share_the_variance_and_are_named_by_their_basis(catalog: Catalog) -> None:
    made = world(catalog, needs(), FACTS, draft("x", rent(100, "a"), rent(50, "b"), rent(1000)))
    drivers = decided(made)[1].drivers
    assert [(driver.basis, driver.name) for driver in drivers] == [("a", "price of a"), ("b", "price of b")]
    assert [driver.share for driver in drivers] == pytest.approx([0.8, 0.2], abs=0.01)
    assert [(driver.flips_to, driver.flips_at, driver.inside) for driver in drivers] == [(None, None, False)] * 2


def test_what_moves_nothing_is_no_driver(catalog: Catalog) -> None:
    facts = {"a": A, "sure": fact("sure", 3, 1.0)}
    made = world(catalog, needs(), facts, draft("x", rent(1000, "a"), rent(1, "sure")))
    assert [driver.basis for driver in decided(made)[1].drivers] == ["a"]
    sure = world(catalog, needs(), facts, draft("x", rent(1, "sure")))
    assert decided(sure)[1].drivers == ()


X, NEAR, DEAR = draft("x", rent(100, "a")), draft("y", rent(101.5, "b")), draft("y", rent(120, "b"))
LATE = draft("y", rent(101, "b"), misses=(ConstraintViolation(constraint="x.ttft_p95_s", value=2.0, limit=1.0),))
# Bought is cheaper over the horizon, and only too dear to buy today.
BUY = (draft("rent", rent(100)), draft("buy", buy(400, "a"), placement="on-premises"))
OWN = (X, NEAR, draft("z", rent(110, "c")))
Flips = list[tuple[str, str | None, float | None, str]]


@pytest.mark.parametrize(
    ("limits", "drafts", "flips"),
    [
        ({}, (X, DEAR), [("a", "y", 12, ""), ("b", "y", 20 * 100 / 120, "")]),
        ({"per_month": 110.0}, (X,), [("a", None, 11, "per_month")]),
        ({"capex": 350.0}, BUY, [("a", "buy", 8.75, "capex")]),
        ({}, (X, LATE), [("a", None, None, "")]),  # money cannot help
        ({}, (X, NEAR), [("a", None, None, "")]),  # which of two near ties is taken is no flip
        ({}, (X, NEAR, draft("z", rent(110, "b"))), [("a", None, None, "")]),  # y is before z
        ({}, OWN, [("c", "z", 300 / 11, ""), ("a", None, None, "")]),  # were a dearer, y would be chosen and not z
    ],
)
def test_a_fact_can_change_the_choice(
    catalog: Catalog, limits: Any, drafts: tuple[OptionDraft, ...], flips: Flips
) -> None:
    drivers = decided(world(catalog, needs(**limits), {**FACTS, "c": fact("c", 30, 1.5)}, *drafts))[1].drivers
    found = [(driver.basis, driver.flips_to, driver.flips_at, driver.limit) for driver in drivers]
    assert [(basis, to, at and pytest.approx(at), limit) for basis, to, at, limit in flips] == found
    assert [driver.inside for driver in drivers] == [at is not None for _, _, at, _ in flips]


def test_a_switch_point_states_what_would_happen(catalog: Catalog) -> None:
    (driver,) = decided(world(catalog, needs(per_month=110.0), FACTS, X))[1].drivers
    assert driver.consequence == "the budget's per month limit is reached and nothing would be feasible"
    assert replace(driver, flips_to="y", limit="").consequence == "y would be chosen"


def test_the_exchange_rate_is_a_driver_that_only_limits_can_switch(catalog: Catalog) -> None:
    rate = catalog.exchange_rate("USD", "EUR")
    wanted = needs("EUR", per_month=100 * rate.value * 1.01)
    made = world(catalog, wanted, FACTS, draft("x", rent(100)), draft("y", rent(100.5, "a")))
    drivers = {driver.basis: driver for driver in decided(made)[1].drivers}
    assert drivers["exchange.usd-eur"].flips_to is None
    assert drivers["exchange.usd-eur"].flips_at == pytest.approx(rate.value * 1.01)


def test_numbers_from_one_fact_are_one_driver(catalog: Catalog) -> None:
    """Machines of two options follow the speed of one engine: neither is dearer because the other is not."""
    facts = {"mine": fact("mine", 3, 1.5), "theirs": fact("theirs", 3, 1.5), "b": B}
    drafts = (draft("x", rent(100, "mine")), draft("y", rent(110, "theirs")), draft("z", rent(115, "b")))
    made = world(catalog, needs(), {}, *drafts)
    made.ledger.create_basis("speed", "calibrated", "requests/s")
    for name, estimate in facts.items():
        made.ledger.create_basis(name, "formula", "machines", facts=("speed",) if name != "b" else ())
        made.ledger.register_driver(estimate)
    decision = decided(made)[1]
    assert decision.rivals[0].option == "y" and decision.rivals[0].cheaper == 0.0
    assert [(driver.basis, driver.flips_to) for driver in decision.drivers] == [("mine", "z"), ("b", "z")]


@given(worlds())
@QUICK
def test_a_switch_point_is_where_the_choice_changes_and_not_before(catalog: Catalog, given_: Made) -> None:
    """Each driver's flip against the choice made anew, with the flows that rest on it at another value."""
    first = world(catalog, *given_[:2], *given_[2])
    best = next((o for o in first.options if o.name == decided(first)[0]), None)
    if best is None:
        return
    apart = [o.name for o in first.options if o is best or abs(cost_of(o) - cost_of(best)) >= 0.02 * cost_of(best)]
    made = world(catalog, *given_[:2], *(one for one in given_[2] if one.name in apart or one.name == best.name))
    chosen, decision = decided(made)
    for driver in decision.drivers:
        value = driver.estimate.value
        if driver.flips_at is None:
            for factor in (0.11, 0.5, 0.9, 1.1, 2.0, 9.0):
                assert chosen_at(made, driver.basis, factor) == chosen
            continue
        factor = driver.flips_at / value
        beyond, before = (factor * (1 + by * (1e-4 if factor > 1 else -1e-4)) for by in (1, -1))
        if abs(factor - 1) > 1e-3:
            assert chosen_at(made, driver.basis, beyond) == driver.flips_to
            assert chosen_at(made, driver.basis, before) == chosen
            assert chosen_at(made, driver.basis, (1 + factor) / 2) == chosen
        assert not driver.inside or driver.estimate.low < driver.estimate.high


def cost_of(option: Option) -> float:
    return option.total_cost.value if option.total_cost is not None else 0.0


def chosen_at(made: World, driver: str, factor: float) -> str | None:
    """The choice when one fact is `factor` of what it is: the flows that rest on it are. The rate moves all."""

    def moved(one: OptionDraft) -> OptionDraft:
        terms = (
            term._replace(flow=tuple(factor * x for x in term.flow))
            if driver in made.purse.list_drivers(term)
            else term
            for term in one.terms or ()
        )
        return one._replace(terms=tuple(terms))

    options = made.purse.price_options(tuple(map(moved, made.drafts)))
    return choose_option(options, made.needs.placement.prefer)[0]


# --- confidence and return


def test_a_line_rests_on_each_of_its_facts_alike(catalog: Catalog) -> None:
    facts = {name: fact(name, 1, by) for name, by in (("hi", 1.1), ("me", 1.2), ("lo", 1.5), ("no", 1.7))}
    terms = (rent(10), rent(20, "hi"), rent(30, "hi", "lo"), rent(25, "me"), rent(15, "no"))
    confidence = decided(world(catalog, needs(), facts, draft("x", *terms)))[1].confidence
    assert list(confidence) == ["exact", "high", "medium", "low", "very low"]
    assert list(confidence.values()) == pytest.approx([0.1, 0.35, 0.25, 0.15, 0.15])


def sooner(catalog: Catalog, **months: float) -> Catalog:
    """The catalog with other lengths of the steps, each exact: `build` for `build.rented.months`."""
    held = dict(catalog.parts)
    for name, row in catalog.parts.items():
        if name.endswith(".months"):
            length = months.get(name.partition(".")[0], 1e-6)
            held[name] = replace(row, low=length, typical=length, high=length, confidence="high")
    made = copy.copy(catalog)
    object.__setattr__(made, "parts", held)
    return made


def test_what_the_goals_bring_against_what_it_costs(catalog: Catalog) -> None:
    options = draft("x", buy(300, "a"), rent(50))
    made = world(sooner(catalog), needs(worth=150.0, capex=500.0), FACTS, options)
    returns = decided(made)[1].returns
    assert returns is not None
    assert (returns.value, returns.cost.value, returns.net.value) == pytest.approx((1500, 800, 700))
    assert returns.net.low == pytest.approx(1500 - returns.cost.high)
    assert returns.payback_month == 3  # 150 m >= 300 + 50 m
    assert returns.pays == 1.0
    assert {"decision.return", "x.cost", "a"} <= {basis.id for basis in made.ledger.collect_bases(returns)}


def test_nothing_is_earned_before_production_and_the_whole_only_in_time(catalog: Catalog) -> None:
    """Two months of building, then four in which the use grows evenly: (0 0 1/8 3/8 5/8 7/8 1 1 1 1) of the worth."""
    later = sooner(catalog, build=2.0, adoption=4.0)
    made = world(later, needs(worth=150.0, capex=500.0), FACTS, draft("x", buy(300, "a"), rent(50)))
    decision = decided(made)[1]
    returns, (schedule,) = decision.returns, decision.schedules
    assert returns is not None and returns.value == pytest.approx(150 * 6, rel=1e-4)
    assert returns.net.value == pytest.approx(900 - 800, rel=1e-3) and returns.net.low < 0 < returns.net.high
    assert returns.payback_month == 10 and 0.5 < returns.pays < 1
    ends = {phase.name: round(phase.ends.value, 3) for phase in schedule.phases}
    assert ends == {"procurement": 0, "build": 2, "pilot": 2, "growing use": 6}
    assert any("grows evenly to its full amount" in text for text in made.ledger.assumptions)


def test_costs_and_dates_widen_the_net_together(catalog: Catalog) -> None:
    drafts = draft("x", rent(50, "a"))
    sure, unsure = (decided(world(held, needs(worth=150.0), FACTS, drafts))[1] for held in (sooner(catalog), catalog))
    assert sure.returns is not None and unsure.returns is not None
    assert unsure.returns.value < sure.returns.value
    width = [returns.net.high - returns.net.low for returns in (sure.returns, unsure.returns)]
    assert width[1] > width[0]


def test_who_buys_machines_waits_longer_than_who_rents_them(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("clinic")
    stands = {one.option: one.phases[2].ends.value for one in plan.decision.schedules}
    assert stands["on-premises"] > stands["cloud-aws"]
    assert set(stands) == {option.name for option in plan.options if option.feasible}
    bases = {basis.id for basis in plan.bases}
    assert {phase.ends.basis for one in plan.decision.schedules for phase in one.phases} <= bases
    assert {"part.order.bought.months", "part.adoption.months"} <= bases


def test_what_never_pays_back_and_what_is_worth_nothing(catalog: Catalog) -> None:
    returns = decided(world(catalog, needs(worth=10.0), {}, draft("x", rent(50))))[1].returns
    assert returns is not None and returns.payback_month is None and returns.net.value < 0 and returns.pays == 0.0
    assert decided(world(catalog, needs(), {}, draft("x", rent(50))))[1].returns is None


@given(worlds())
@QUICK
def test_the_order_of_options_changes_no_decision(catalog: Catalog, given_: Made) -> None:
    def outcome(facts: dict[str, Estimate], drafts: Iterable[OptionDraft]) -> tuple[Any, ...]:
        chosen, decision = decided(world(catalog, given_[0], facts, *drafts))
        drivers = [(driver.basis, driver.flips_to, driver.inside) for driver in decision.drivers]
        return chosen, set(decision.pareto), [rival.option for rival in decision.rivals], drivers

    _, facts, drafts = given_
    assert outcome(facts, drafts) == outcome(dict(reversed(facts.items())), reversed(drafts))


def test_decide_takes_a_choice_that_was_made(catalog: Catalog) -> None:
    growing = make_varying_flow("rent", "compute", (10.0 * month for month in range(MONTHS)), ["a"])
    made = world(catalog, needs(), FACTS, draft("x", growing), draft("y", rent(1000)))
    (rival,) = build_decision(made.needs, made.options, made.drafts, "y", made.purse).rivals
    assert (rival.option, rival.cheaper, rival.break_even_month) == ("x", 1.0, None)


# --- real plans


@pytest.mark.parametrize("name", ["startup", "clinic", pytest.param("manufacturer", marks=pytest.mark.nightly)])
def test_the_decision_of_a_real_plan_names_what_the_plan_holds(plan_of: Callable[..., Plan], name: str) -> None:
    plan = plan_of(name)
    decision, bases = plan.decision, {basis.id for basis in plan.bases}
    feasible = {option.name for option in plan.options if option.feasible}
    chosen = next(option for option in plan.options if option.name == plan.chosen)
    assert {rival.option for rival in decision.rivals} == feasible - {plan.chosen}
    preferred = any(note.startswith("preferred over") for note in chosen.notes)
    assert set(decision.pareto) <= feasible and (preferred or plan.chosen in decision.pareto)
    assert {driver.basis for driver in decision.drivers} <= bases and decision.drivers
    assert sum(driver.share for driver in decision.drivers) <= 1 + 1e-9
    assert all(driver.flips_to in {None, *(option.name for option in plan.options)} for driver in decision.drivers)
    assert sum(decision.confidence.values()) == pytest.approx(1)
    assert decision.returns is not None and decision.returns.cost == chosen.total_cost
    assert chosen.total_cost is not None
    assert chosen.cumulative_cost[-1] == pytest.approx(chosen.total_cost.value)
    named = {driver for option in plan.options for line in option.cost_lines for driver in line.drivers}
    assert named <= bases


def test_options_that_differ_by_people_alone_are_told_apart(plan_of: Callable[..., Plan]) -> None:
    """How many people a platform takes is one fact: it cannot make the option with more of them the cheaper one."""
    plan = plan_of("manufacturer")
    hybrid = [rival for rival in plan.decision.rivals if rival.option.startswith("hybrid")]
    assert hybrid and not any(rival.tie for rival in hybrid)


def test_totals_with_and_without_people_stand_side_by_side(catalog: Catalog) -> None:
    few = draft("few", rent(30), rent(10, category="staff"))
    many = draft("many", rent(10), rent(50, category="staff"))
    totals = [(one.total_cost, one.cost_without_staff) for one in world(catalog, needs(), {}, few, many).options]
    assert [(whole and whole.value, bare and bare.value) for whole, bare in totals] == [(400, 300), (600, 100)]


@pytest.mark.parametrize(
    ("rival", "said"),
    [
        (Rival(option="y", cheaper=0.5, tie=True, equal=True), "the same"),
        (Rival(option="y", cheaper=0.4, tie=True), "a tie"),
        (Rival(option="y", cheaper=0.05, tie=False), ""),
    ],
)
def test_what_is_nearly_always_dearer_is_no_tie_in_words(rival: Rival, said: str) -> None:
    assert rival.closeness == said
