"""Rollout schedule and return: procurement, build, pilot, adoption, and the value of the goals from production on.

The duration of each step is a fact of the catalog with a band. It is sampled together with all other facts, so the net
value and the present value include the errors of costs, dates and the discount rate.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from archwright.contract.decision import Phase, ReturnOnInvestment, Schedule
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs
from archwright.contract.number_format import format_estimate, format_exact, format_number, format_share
from archwright.contract.plan import Option
from archwright.plan.accounting.budget import BudgetConverter
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.monte_carlo import SAMPLE_COUNT, estimate_band
from archwright.plan.cost.prices import PriceBook
from archwright.plan.demand.forecast import MONTHS_PER_YEAR

if TYPE_CHECKING:
    from archwright.plan.accounting.monte_carlo import Worlds

CAPITAL_PART, PILOT_PART, ADOPTION_PART = "capital", "pilot.months", "adoption.months"
# Order time and build time by the kind of purchase, the slowest first.
LEAD_TIMES_BY_PURCHASE = (
    ("bought", "order.bought.months", "build.own.months"),
    ("owned", "", "build.own.months"),
    ("on-demand", "order.rented.months", "build.rented.months"),
)
LEAD_TIMES_BY_PLACEMENT = {
    "hosted-api": ("order.hosted.months", "build.hosted.months"),
    "this-machine": ("", "build.hosted.months"),
}


class RolloutTimeline(NamedTuple):
    """Months from the signature, at the values of the facts and in every sample."""

    schedule: Schedule
    production: Estimate
    starts: Worlds
    adoption: tuple[float, Worlds]
    facts: tuple[str, ...]


def list_rollout_steps(option: Option) -> tuple[tuple[str, str], ...]:
    """The steps in order: name, and the catalog part with its duration ("": no wait)."""
    kinds = {"on-demand" if one.kind not in ("bought", "owned") else one.kind for one in option.purchases}
    order, build = next(
        ((order, build) for kind, order, build in LEAD_TIMES_BY_PURCHASE if kind in kinds),
        LEAD_TIMES_BY_PLACEMENT.get(option.placement, LEAD_TIMES_BY_PURCHASE[-1][1:]),
    )
    return (("procurement", order), ("build", build), ("pilot", PILOT_PART), ("growing use", ADOPTION_PART))


def estimate_timeline(option: Option, needs: Needs, converter: BudgetConverter) -> RolloutTimeline:
    import numpy as np  # noqa: PLC0415

    quotes, at, worlds = PriceBook(needs, converter.catalog, converter.ledger), 0.0, np.zeros(SAMPLE_COUNT)
    facts, phases = list[str](), list[Phase]()
    production = taken = (0.0, worlds)
    for name, part in list_rollout_steps(option):
        if not part:
            continue
        if part == ADOPTION_PART:
            production = (at, worlds)
        before = _estimate_month(converter, at, worlds, tuple(facts))
        price = quotes.part(part)
        facts += price.drivers
        taken = (price.usd, price.usd * converter.draws.sample_product(price.drivers))
        at, worlds = at + taken[0], worlds + taken[1]
        phases.append(Phase(name=name, starts=before, ends=_estimate_month(converter, at, worlds, tuple(facts))))
    stands = _estimate_month(converter, *production, tuple(facts[:-1]))
    schedule = Schedule(option=option.name, phases=tuple(phases))
    return RolloutTimeline(schedule, stands, production[1], taken, tuple(facts))


def _estimate_month(converter: BudgetConverter, value: float, worlds: Worlds, facts: tuple[str, ...]) -> Estimate:
    name = f"schedule.{'+'.join(fact.removeprefix('part.').removesuffix('.months') for fact in facts) or 'signature'}"
    what, formula = "months from the signature", "sum of the steps so far"
    basis = converter.ledger.create_basis(name, "formula", what, formula=formula, facts=facts)
    return estimate_band(value, worlds, "months", basis)


def estimate_return(
    needs: Needs, option: Option, terms: tuple[CashFlow, ...], dates: RolloutTimeline, converter: BudgetConverter
) -> ReturnOnInvestment | None:
    """Return on investment; None if no goal states a value or the option has no price."""
    stated = [goal.value_per_month for goal in needs.goals if goal.value_per_month is not None]
    cost, months = option.total_cost, needs.budget.horizon_months
    if not stated or cost is None:
        return None
    import numpy as np  # noqa: PLC0415

    worth = sum(stated)
    shares = _compute_benefit_shares(months, np.array([dates.production.value]), np.array([dates.adoption[0]]))[0]
    drawn = worth * _compute_benefit_shares(months, dates.starts, dates.adoption[1])
    earned = tuple(itertools.accumulate(worth * float(share) for share in shares))
    value, net = earned[-1], drawn.sum(axis=1) - converter.sample_total(terms)
    basis = converter.ledger.create_basis(
        "decision.return",
        "formula",
        "value of the goals over the horizon less the total cost. The value starts at production and grows evenly "
        "until full use; the costs start in the first month.",
        formula=(
            f"{format_exact(worth)} {needs.budget.currency}/month x months of full use - total cost; "
            "band: joint samples"
        ),
        facts=(cost.basis, *dates.facts),
    )
    converter.ledger.add_assumptions(
        f"the value of the goals starts {format_estimate(dates.production)} after the signature, and grows evenly to "
        f"its full amount within {format_number(dates.adoption[0])} further months"
    )
    paid = zip(earned, option.cumulative_cost, strict=True)
    return ReturnOnInvestment(
        value=value,
        cost=cost,
        net=estimate_band(value - cost.value, net, cost.unit, basis),
        payback_month=next((month for month, (got, spent) in enumerate(paid, 1) if got >= spent), None),
        pays=float((net > 0).mean()),
    )


def _compute_benefit_shares(months: int, starts: Worlds, adoption: Worlds) -> Worlds:
    """Share of the goals' value that each month brings, by its use at mid-month; one row per sample."""
    import numpy as np  # noqa: PLC0415

    middles = np.arange(months) + 0.5
    return np.clip((middles[None, :] - starts[:, None]) / adoption[:, None], 0.0, 1.0)


def describe_present_value(
    needs: Needs, terms: tuple[CashFlow, ...], dates: RolloutTimeline, converter: BudgetConverter
) -> str:
    """A sentence with the present value of all payments and of the goals; "" if nothing is paid."""
    import numpy as np  # noqa: PLC0415

    months, unit = needs.budget.horizon_months, needs.budget.currency
    if not any(term.sum for term in terms):
        return ""
    price = PriceBook(needs, converter.catalog, converter.ledger).part(CAPITAL_PART)
    # The first row holds the values of the facts themselves.
    rates = price.usd * np.append(1.0, converter.draws.sample_product(price.drivers))
    discount = (1 + rates)[:, None] ** (-np.arange(months + 1)[None, :] / MONTHS_PER_YEAR)
    flows: dict[tuple[str, ...], Worlds] = {}
    for term in terms:
        drivers = converter.list_drivers(term)
        flows[drivers] = flows.get(drivers, np.zeros(months)) + np.array(term.flow) * converter.exchange_rate
    costs = np.zeros(SAMPLE_COUNT + 1)
    for drivers, flow in flows.items():
        costs += np.append(1.0, converter.draws.sample_product(drivers)) * (discount[:, :-1] @ flow)
    rate = converter.catalog.parameter(CAPITAL_PART)
    yearly = f"{format_share(rate.value)} per year ({format_share(rate.low)} to {format_share(rate.high)})"
    text = f"present value of all payments at {yearly}: "
    text += _format_range(costs, unit)
    goals = sum(goal.value_per_month or 0.0 for goal in needs.goals)
    if not goals:
        return text
    # Paid at the start of a month, earned by its end.
    starts = np.append(dates.production.value, dates.starts)
    shares = _compute_benefit_shares(months, starts, np.append(*dates.adoption))
    nets = goals * (shares * discount[:, 1:]).sum(axis=1) - costs
    return f"{text}; net of the value of the goals: {_format_range(nets, unit)}"


def _format_range(worlds: Worlds, unit: str) -> str:
    found = estimate_band(float(worlds[0]), worlds[1:], unit, "")
    return format_estimate(found)
