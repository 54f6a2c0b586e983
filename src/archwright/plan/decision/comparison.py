"""What stands beside the choice: who else was near, which facts would change it, what it earns.

Everything is judged with the same draws of the same facts (draws.py), so two options that share a fact share its error.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from archwright.catalog.tables.records import BAND
from archwright.contract.decision import EVEN, NEAR, Decision, Driver, Rival
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs
from archwright.contract.plan import Option
from archwright.contract.record import replace
from archwright.plan.accounting.budget import AT_RISK, Draft, Purse, is_capex, is_monthly
from archwright.plan.accounting.cash_flow import Term
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.decision.roi import dates_of, present_value, returns_of
from archwright.plan.decision.selection import BUDGET, EQUAL, choose, simplicity, unproven
from archwright.plan.decision.sensitivity import Flip, Flips, Sum, Way
from archwright.plan.explain.formatting import digits

if TYPE_CHECKING:
    from archwright.plan.accounting.monte_carlo import Worlds

# Beyond a tie, still worth a word: as uncertain as this, and no further apart than this share of the cost.
ALMOST = (0.2, 0.8)
APART = 0.2
MOST_NOTES = 3
PEOPLE = "staff"
# A driver is shown when it makes up this share of the error, or flips the choice inside its own band.
SMALLEST_SHARE = 0.01
MOST_DRIVERS = 20
# What a driver's band says about it: that of the catalog's rows of this confidence.
CONFIDENCES = (("exact", 1.0), ("high", BAND["high"]), ("medium", BAND["medium"]), ("low", BAND["low"]))
WORST = "very low"


class Axis(NamedTuple):
    """Something of which less is better, and how to read it from an option; None: not known."""

    name: str
    values: tuple[float | None, ...]


class Priced(NamedTuple):
    """An option with its flows."""

    option: Option
    terms: tuple[Term, ...]


class Conclusion(NamedTuple):
    """`options` are those given, the chosen one with notes on what was near and what it is worth today."""

    chosen: str | None
    options: tuple[Option, ...]
    decision: Decision


def conclude(
    needs: Needs, options: tuple[Option, ...], drafts: tuple[Draft, ...], ledger: Ledger, purse: Purse
) -> Conclusion:
    """The choice among `options`, which `purse` made from `drafts`, and everything that stands beside it."""
    chosen, options = choose(options, needs.placement.prefer)
    decision = decide(needs, options, drafts, ledger, chosen, purse)
    best = next((option for option in options if option.name == chosen), None)
    if best is None:
        return Conclusion(None, options, decision)
    people = without_people(best, options, drafts, purse)
    terms = next(draft.terms for draft in drafts if draft.name == chosen) or ()
    today = present_value(needs, terms, dates_of(best, needs, purse), purse)
    notes = (*near_notes(best, options, decision), *people, *filter(None, (today,)))
    noted = replace(best, notes=(*best.notes, *notes))
    return Conclusion(chosen, tuple(noted if option is best else option for option in options), decision)


def decide(
    needs: Needs,
    options: tuple[Option, ...],
    drafts: tuple[Draft, ...],
    ledger: Ledger,
    chosen: str | None,
    purse: Purse,
) -> Decision:
    """The comparison of all `options`, which `purse` made from `drafts`; `chosen` names one, or nothing."""
    feasible = [option for option in options if option.feasible and option.total_cost is not None]
    axes = _axes(feasible)
    frontier = tuple(option.name for option in pareto(feasible, axes))
    named = tuple(axis.name for axis in axes)
    if chosen is None:
        return Decision(axes=named, pareto=frontier)
    terms = {draft.name: draft.terms for draft in drafts if draft.terms is not None}
    priced = [Priced(option, terms[option.name]) for option in options if option.name in terms]
    best = next(one for one in priced if one.option.name == chosen)
    return Decision(
        axes=named,
        pareto=frontier,
        rivals=_rivals(best, [one for one in priced if one.option.feasible and one is not best], purse),
        drivers=_drivers(best, _ways(needs, best, priced, purse), _names(best, priced, purse), purse),
        confidence=_confidence(best.terms, ledger, purse),
        returns=returns_of(needs, best.option, best.terms, dates_of(best.option, needs, purse), purse),
        schedules=tuple(dates_of(one.option, needs, purse).schedule for one in priced if one.option.feasible),
    )


# --- the Pareto set


def _axes(options: list[Option]) -> tuple[Axis, ...]:
    """The axes on which at least two options can be compared; cost always."""

    def known(estimates: Iterable[Estimate | None]) -> tuple[float | None, ...]:
        return tuple(estimate.value if estimate is not None else None for estimate in estimates)

    axes = (
        Axis("total_cost", known(o.total_cost for o in options)),
        Axis("capex", known(o.capex for o in options)),
        Axis("carbon_kg_per_month", known(o.carbon_kg_per_month for o in options)),
        Axis("power_kw", known(o.power_kw for o in options)),
        Axis("limits_at_risk", tuple(float(sum(n.startswith(AT_RISK) for n in o.notes)) for o in options)),
    )
    return tuple(axis for axis in axes if sum(value is not None for value in axis.values) > 1 or axis is axes[0])


def pareto(options: list[Option], axes: tuple[Axis, ...]) -> list[Option]:
    """The options that no other beats: as good on every axis both are known on, better on one."""
    return [
        option
        for index, option in enumerate(options)
        if not any(_beats(axes, other, index) for other in range(len(options)) if other != index)
    ]


def _beats(axes: tuple[Axis, ...], one: int, other: int) -> bool:
    pairs = [(axis.values[one], axis.values[other]) for axis in axes]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return all(a <= b for a, b in known) and any(a < b for a, b in known)


# --- rivals


def chance_cheaper(one: Worlds, other: Worlds) -> float:
    """In which share of the draws `one` costs less; equal ones count half."""
    return float(((one < other) + 0.5 * (one == other)).mean())


def _rivals(best: Priced, others: list[Priced], purse: Purse) -> tuple[Rival, ...]:
    """The feasible others against the chosen one, the cheapest first."""
    ours = purse.worlds(best.terms)

    def compared(other: Priced) -> Rival:
        theirs = purse.worlds(other.terms)
        cheaper, widest = chance_cheaper(theirs, ours), float(abs(ours).max())
        return Rival(
            option=other.option.name,
            cheaper=cheaper,
            equal=bool((abs(theirs - ours) <= EQUAL * widest).all()),
            tie=_near(other.option, best.option) or EVEN[0] <= cheaper <= EVEN[1],
            break_even_month=break_even(best.option.cumulative_cost, other.option.cumulative_cost),
        )

    return tuple(compared(other) for other in sorted(others, key=lambda one: (_cost(one.option), one.option.name)))


def _cost(option: Option) -> float:
    return option.total_cost.value if option.total_cost is not None else 0.0


def _near(one: Option, other: Option) -> bool:
    return abs(_cost(one) - _cost(other)) < NEAR * abs(_cost(other))


def near_notes(best: Option, options: tuple[Option, ...], decision: Decision) -> tuple[str, ...]:
    """Ties and near-ties of the chosen option, in words."""
    named, unit, cost = (
        {option.name: option for option in options},
        best.total_cost.unit if best.total_cost is not None else "",
        _cost(best),
    )
    notes = list[str]()
    for place, rival in enumerate(decision.rivals):
        more = _cost(named[rival.option]) - cost
        near = ALMOST[0] <= rival.cheaper <= ALMOST[1] and abs(more) <= APART * abs(cost)
        # That one of several cheaper options is nearly as dear says nothing: the cheapest is the one to know.
        near = near and (more >= 0 or place == 0)
        if (rival.tie or near) and len(notes) < MOST_NOTES:
            notes.append(_tied(rival, more, unit))
    return tuple(notes)


def _tied(rival: Rival, more: float, unit: str) -> str:
    if rival.equal:
        return f"a tie: {rival.option} costs the same in every draw"
    word = rival.closeness or "a near-tie"
    apart = f"{digits(abs(more))} {unit} {'more' if more >= 0 else 'less'}"
    often = f"and is the cheaper one in {rival.cheaper:.0%} of the draws"
    return f"{word}: {rival.option} costs {apart} over the horizon, {often}"


def without_people(
    best: Option, options: tuple[Option, ...], drafts: tuple[Draft, ...], purse: Purse
) -> tuple[str, ...]:
    """How many people an option takes is assumed; where another one is cheaper without them, the order without them."""
    compared = {one.name for one in options if one.feasible and unproven(one) == unproven(best)}
    paid = sorted(
        (sum(term.sum for term in draft.terms if term.category != PEOPLE) * purse.rate, draft.name)
        for draft in drafts
        if draft.terms is not None and draft.name in compared
    )
    if not paid or paid[0][1] == best.name:
        return ()
    said = ", ".join(f"{name} {digits(usd)}" for usd, name in dict.fromkeys([*paid[:MOST_NOTES], *_of(best, paid)]))
    return (f"without people, whose number is assumed, in {purse.budget.currency} over the horizon: {said}",)


def _of(best: Option, paid: list[tuple[float, str]]) -> Iterable[tuple[float, str]]:
    return (one for one in paid if one[1] == best.name)


def break_even(ours: tuple[float, ...], theirs: tuple[float, ...]) -> int | None:
    """The first month by whose end less has been paid than in `theirs`."""
    paid = zip(ours, theirs, strict=True)
    return next((month for month, (mine, other) in enumerate(paid, 1) if mine < other), None)


# --- drivers


def _ways(needs: Needs, best: Priced, priced: Iterable[Priced], purse: Purse) -> list[Way]:
    """The options that could be chosen if only the money were right."""
    return [
        Way(
            name=one.option.name,
            order=simplicity(one.option),
            preferred=one.option.placement == needs.placement.prefer,
            proven=not unproven(one.option),
            near=one is not best and _near(one.option, best.option),
            total=_sum(one.terms, purse, 1),
            month=_sum(filter(is_monthly, one.terms), purse, purse.budget.horizon_months),
            capex=_sum(filter(is_capex, one.terms), purse, 1),
        )
        for one in priced
        if one is best or all(miss.constraint in BUDGET for miss in one.option.misses)
    ]


def _sum(terms: Iterable[Term], purse: Purse, by: int) -> Sum:
    value, moved = 0.0, dict[Hashable, float]()
    for term in terms:
        amount = term.sum * purse.rate / by
        value += amount
        for cause in dict.fromkeys(map(purse.ledger.cause, purse.drivers(term))):
            moved[cause] = moved.get(cause, 0.0) + amount
    return Sum(value, moved)


def _drivers(best: Priced, ways: list[Way], named: Mapping[Hashable, str], purse: Purse) -> tuple[Driver, ...]:
    """First those that flip the choice inside their own band, the nearest flip first; then by their share."""
    own = next(way.total.moved_by for way in ways if way.name == best.option.name)
    variances = {cause: moved**2 * float(purse.draws.fact(named[cause]).var()) for cause, moved in own.items()}
    whole = sum(variances.values()) or 1.0
    flips = Flips(ways, best.option.name, purse.budget)
    found = []
    for cause in dict.fromkeys(cause for way in ways for cause in way.total.moved_by):
        name = named[cause]
        flip = flips.nearest(cause, purse.ledger.driver(name))
        driver = _driver(name, purse.ledger, variances.get(cause, 0.0) / whole, flip)
        if driver.inside or driver.share >= SMALLEST_SHARE:
            away = flip.away if flip is not None and driver.inside else 1.0
            found.append((not driver.inside, away, -driver.share, name, driver))
    return tuple(driver for *_, driver in sorted(found, key=lambda entry: entry[:4])[:MOST_DRIVERS])


def _names(best: Priced, others: Iterable[Priced], purse: Purse) -> dict[Hashable, str]:
    """For each cause the driver to show: one of the chosen option's where it has one, else the first by name."""
    named = dict[Hashable, str]()
    rest = sorted({driver for one in others for term in one.terms for driver in purse.drivers(term)})
    own = sorted({driver for term in best.terms for driver in purse.drivers(term)})
    for driver in (*own, *rest):
        named.setdefault(purse.ledger.cause(driver), driver)
    return named


def _driver(name: str, ledger: Ledger, share: float, flip: Flip | None) -> Driver:
    estimate = ledger.driver(name)
    at = estimate.value * flip.factor if flip is not None else None
    return Driver(
        basis=name,
        name=ledger.definition(name),
        estimate=estimate,
        share=share,
        flips_to=flip.to if flip is not None else None,
        flips_at=at,
        limit=flip.limit if flip is not None else "",
        inside=at is not None and estimate.low < estimate.high and estimate.holds(at),
    )


def _confidence(terms: tuple[Term, ...], ledger: Ledger, purse: Purse) -> dict[str, float]:
    """The share of the money that rests on facts of each confidence; a line rests on each of its facts alike."""
    weights: dict[str, float] = {}
    for term in terms:
        widths = [ledger.driver(driver).factor for driver in purse.drivers(term)] or [1.0]
        for width in widths:
            name = next((name for name, factor in CONFIDENCES if width <= factor * (1 + 1e-9)), WORST)
            weights[name] = weights.get(name, 0.0) + abs(term.sum) / len(widths)
    whole = sum(weights.values()) or 1.0
    order = [name for name, _ in CONFIDENCES] + [WORST]
    return {name: weights[name] / whole for name in order if weights.get(name)}
