"""Comparison of options: near alternatives, facts that would change the choice, and the return.

All options use the same samples of the facts (`monte_carlo`), so options that share a fact also share its error.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from archwright.catalog.tables.records import BAND
from archwright.contract.decision import TIE_COST_SHARE, TIE_PROBABILITY, CostDriver, Decision, Rival
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs
from archwright.contract.number_format import format_number, format_share
from archwright.contract.plan import BUDGET_LIMITS, Option
from archwright.contract.record import replace
from archwright.plan.accounting.budget import BudgetConverter, OptionDraft, is_capex, is_monthly
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.decision.roi import describe_present_value, estimate_return, estimate_timeline
from archwright.plan.decision.selection import (
    PRICE_TOLERANCE,
    choose_option,
    get_total_cost,
    rank_simplicity,
)
from archwright.plan.decision.sensitivity import AttributedAmount, BudgetCandidate, SwitchPoint, SwitchPointFinder

if TYPE_CHECKING:
    from archwright.plan.accounting.monte_carlo import Worlds

# Limits of a close option: the probability of being cheaper, and the cost difference as a share of the cost.
CLOSE_CHANCES = (0.2, 0.8)
CLOSE_COST_SHARE = 0.2
MAX_NOTES = 3
# A driver is shown if it causes this share of the variance, or if it changes the choice inside its interval.
MIN_DRIVER_SHARE = 0.01
MAX_DRIVERS = 20
# Confidence of a driver by the width of its band: the catalog's rows of a confidence have this band.
CONFIDENCE_BANDS = (("exact", 1.0), ("high", BAND["high"]), ("medium", BAND["medium"]), ("low", BAND["low"]))
LOWEST_CONFIDENCE = "very low"


Options = tuple[Option, ...]
Drafts = tuple[OptionDraft, ...]
# Criteria of which less is better: the values of the options by name; None: not known.
Axes = dict[str, list[float | None]]


class PricedOption(NamedTuple):
    option: Option
    terms: tuple[CashFlow, ...]


class OptionComparison(NamedTuple):
    """`options`: those given, the chosen one with notes on near alternatives and on its present value."""

    chosen: str | None
    options: tuple[Option, ...]
    decision: Decision


def compare_options(
    needs: Needs, options: Options, drafts: Drafts, converter: BudgetConverter, *, best_effort: bool = False
) -> OptionComparison:
    """Choose among `options`, which `converter` made from `drafts`, and compare the others with the choice."""
    chosen, options = choose_option(options, needs.placement.prefer, best_effort=best_effort)
    decision = build_decision(needs, options, drafts, chosen, converter)
    best = next((option for option in options if option.name == chosen), None)
    if best is None:
        return OptionComparison(None, options, decision)
    terms = next(draft.terms for draft in drafts if draft.name == chosen) or ()
    notes = [*best.notes, *describe_close_options(best, options, decision)]
    notes.append(describe_present_value(needs, terms, estimate_timeline(best, needs, converter), converter))
    noted = replace(best, notes=tuple(filter(None, notes)))
    return OptionComparison(chosen, tuple(noted if option is best else option for option in options), decision)


def build_decision(
    needs: Needs, options: Options, drafts: Drafts, chosen: str | None, converter: BudgetConverter
) -> Decision:
    """Compare all `options`, which `converter` made from `drafts`; `chosen`: the name of one, or None."""
    feasible = [option for option in options if option.feasible and option.total_cost is not None]
    axes = _build_axes(feasible)
    frontier = tuple(option.name for option in select_pareto_options(feasible, axes))
    compared = Decision(axes=tuple(axes), pareto=frontier)
    if chosen is None:
        return compared
    terms = {draft.name: draft.terms for draft in drafts if draft.terms is not None}
    priced = [PricedOption(option, terms[option.name]) for option in options if option.name in terms]
    best = next(one for one in priced if one.option.name == chosen)
    causes = _map_causes_to_drivers(best, priced, converter)
    possible = [one for one in priced if one.option.feasible or one is best]  # a best-effort choice misses limits
    dates = {one.option.name: estimate_timeline(one.option, needs, converter) for one in possible}
    return replace(
        compared,
        rivals=_compare_rivals(best, [one for one in possible if one is not best], converter),
        drivers=_rank_drivers(best, _list_budget_candidates(needs, best, priced, converter), causes, converter),
        confidence=_compute_confidence_shares(best.terms, converter),
        returns=estimate_return(needs, best.option, best.terms, dates[chosen], converter),
        schedules=tuple(timeline.schedule for timeline in dates.values()),
    )


# --- the Pareto set


def _build_axes(options: list[Option]) -> Axes:
    """Criteria known for at least two options; cost is always included."""
    axes: Axes = {}
    for name in ("total_cost", "capex", "carbon_kg_per_month", "power_kw"):
        estimates: list[Estimate | None] = [getattr(option, name) for option in options]
        axes[name] = [one.value if one is not None else None for one in estimates]
    axes["uncertain_limits"] = [float(len(option.doubts)) for option in options]
    return {name: axis for name, axis in axes.items() if len(axis) - axis.count(None) > 1 or name == "total_cost"}


def select_pareto_options(options: list[Option], axes: Axes) -> list[Option]:
    """Options that no other option dominates on the axes that are known for both."""

    def dominates(one: int, other: int) -> bool:
        pairs = [(axis[one], axis[other]) for axis in axes.values()]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        return all(a <= b for a, b in known) and any(a < b for a, b in known)

    every = range(len(options))
    return [option for index, option in enumerate(options) if not any(dominates(other, index) for other in every)]


# --- rivals


def compute_chance_cheaper(one: Worlds, other: Worlds) -> float:
    """Share of the samples in which `one` costs less; equal samples count half."""
    return float(((one < other) + 0.5 * (one == other)).mean())


def _compare_rivals(best: PricedOption, others: list[PricedOption], converter: BudgetConverter) -> tuple[Rival, ...]:
    ours = converter.sample_total(best.terms)

    def compared(other: PricedOption) -> Rival:
        theirs = converter.sample_total(other.terms)
        cheaper, widest = compute_chance_cheaper(theirs, ours), float(abs(ours).max())
        return Rival(
            option=other.option.name,
            cheaper=cheaper,
            equal=bool((abs(theirs - ours) <= PRICE_TOLERANCE * widest).all()),
            tie=_is_tie(other.option, best.option, cheaper),
            break_even_month=find_break_even_month(best.option.cumulative_cost, other.option.cumulative_cost),
        )

    ranked = sorted(others, key=lambda one: (get_total_cost(one.option), one.option.name))
    return tuple(map(compared, ranked))


def _is_tie(one: Option, best: Option, cheaper: float) -> bool:
    gap = abs(get_total_cost(one) - get_total_cost(best))
    near = gap < TIE_COST_SHARE * abs(get_total_cost(best)) or gap == 0
    return near and TIE_PROBABILITY[0] <= cheaper <= TIE_PROBABILITY[1]


def describe_close_options(best: Option, options: tuple[Option, ...], decision: Decision) -> tuple[str, ...]:
    named, cost = {option.name: option for option in options}, get_total_cost(best)
    unit = best.total_cost.unit if best.total_cost is not None else ""
    (least, most), notes = CLOSE_CHANCES, list[str]()
    for place, rival in enumerate(decision.rivals):
        more = get_total_cost(named[rival.option]) - cost
        near = least <= rival.cheaper <= most and abs(more) <= CLOSE_COST_SHARE * abs(cost)
        # Only the cheapest of several cheaper options is noted.
        near = near and (more >= 0 or place == 0)
        if rival.equal:
            note = f"a tie: {rival.option} costs the same in every sample"
        else:
            difference = f"{format_number(abs(more))} {unit} {'more' if more >= 0 else 'less'} over the horizon"
            note = f"{rival.closeness or 'close'}: {rival.option} costs {difference}, and is cheaper in "
            note += f"{format_share(rival.cheaper)} of the samples"
        notes += [note] if rival.tie or near else []
    return tuple(notes[:MAX_NOTES])


def find_break_even_month(ours: tuple[float, ...], theirs: tuple[float, ...]) -> int | None:
    """The first month by whose end less has been paid than in `theirs`, or None."""
    paid = zip(ours, theirs, strict=True)
    return next((month for month, (mine, other) in enumerate(paid, 1) if mine < other), None)


# --- drivers


def _list_budget_candidates(
    needs: Needs, best: PricedOption, priced: Iterable[PricedOption], converter: BudgetConverter
) -> list[BudgetCandidate]:
    """The options that only the budget rules out, and the chosen one."""
    ours = converter.sample_total(best.terms)

    def ties(one: PricedOption) -> bool:
        return _is_tie(one.option, best.option, compute_chance_cheaper(converter.sample_total(one.terms), ours))

    return [
        BudgetCandidate(
            name=one.option.name,
            order=rank_simplicity(one.option),
            preferred=one.option.placement == needs.placement.prefer,
            doubts=len(one.option.doubts),
            near=one is not best and ties(one),
            total=_attribute_amount(one.terms, converter, 1),
            month=_attribute_amount(filter(is_monthly, one.terms), converter, converter.budget.horizon_months),
            capex=_attribute_amount(filter(is_capex, one.terms), converter, 1),
        )
        for one in priced
        if one is best or all(miss.constraint in BUDGET_LIMITS for miss in one.option.misses)
    ]


def _attribute_amount(terms: Iterable[CashFlow], converter: BudgetConverter, by: int) -> AttributedAmount:
    value, moved = 0.0, dict[Hashable, float]()
    for term in terms:
        amount = term.sum * converter.exchange_rate / by
        value += amount
        for cause in dict.fromkeys(map(converter.ledger.uncertainty_key, converter.list_drivers(term))):
            moved[cause] = moved.get(cause, 0.0) + amount
    return AttributedAmount(value, moved)


def _rank_drivers(
    best: PricedOption, candidates: list[BudgetCandidate], named: Mapping[Hashable, str], converter: BudgetConverter
) -> tuple[CostDriver, ...]:
    """Drivers that change the choice inside their interval come first, the nearest first; then by variance share."""
    own = next(candidate.total.moved_by for candidate in candidates if candidate.name == best.option.name)
    variances = {
        cause: moved**2 * float(converter.draws.sample_driver(named[cause]).var()) for cause, moved in own.items()
    }
    whole = sum(variances.values()) or 1.0
    finder = SwitchPointFinder(candidates, best.option.name, converter.budget)
    found = []
    for cause in dict.fromkeys(cause for candidate in candidates for cause in candidate.total.moved_by):
        name = named[cause]
        switch = finder.nearest_switch(cause, converter.ledger.driver_estimate(name))
        driver = _build_driver(name, converter.ledger, variances.get(cause, 0.0) / whole, switch)
        if driver.inside or driver.share >= MIN_DRIVER_SHARE:
            away = switch.away if switch is not None and driver.inside else 1.0
            found.append((not driver.inside, away, -driver.share, name, driver))
    return tuple(driver for *_, driver in sorted(found, key=lambda entry: entry[:4])[:MAX_DRIVERS])


def _map_causes_to_drivers(
    best: PricedOption, others: Iterable[PricedOption], converter: BudgetConverter
) -> dict[Hashable, str]:
    """The driver to show for each cause: one of the chosen option if it has one, else the first by name."""
    named = dict[Hashable, str]()
    rest = sorted({driver for one in others for term in one.terms for driver in converter.list_drivers(term)})
    own = sorted({driver for term in best.terms for driver in converter.list_drivers(term)})
    for driver in (*own, *rest):
        named.setdefault(converter.ledger.uncertainty_key(driver), driver)
    return named


def _build_driver(name: str, ledger: PlanProvenance, share: float, switch: SwitchPoint | None) -> CostDriver:
    estimate = ledger.driver_estimate(name)
    at = estimate.value * switch.factor if switch is not None else None
    return CostDriver(
        basis=name,
        name=ledger.definition(name),
        estimate=estimate,
        share=share,
        flips_to=switch.to if switch is not None else None,
        flips_at=at,
        limit=switch.limit if switch is not None else "",
        inside=at is not None and estimate.low < estimate.high and estimate.contains(at),
    )


def _compute_confidence_shares(terms: tuple[CashFlow, ...], converter: BudgetConverter) -> dict[str, float]:
    """Share of the cost by confidence of its facts; a cost line counts equally for each of its facts."""
    weights: dict[str, float] = {}
    for term in terms:
        widths = [converter.ledger.driver_estimate(driver).factor for driver in converter.list_drivers(term)] or [1.0]
        for width in widths:
            name = next((name for name, factor in CONFIDENCE_BANDS if width <= factor * (1 + 1e-9)), LOWEST_CONFIDENCE)
            weights[name] = weights.get(name, 0.0) + abs(term.sum) / len(widths)
    whole = sum(weights.values()) or 1.0
    order = [name for name, _ in CONFIDENCE_BANDS] + [LOWEST_CONFIDENCE]
    return {name: weights[name] / whole for name in order if weights.get(name)}
