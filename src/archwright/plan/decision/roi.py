"""When an option stands, and what it earns from then on: order, build, pilot, and a use that grows to the whole.

Nobody earns from a platform that is not there. How long each step takes is a fact of the catalog with a band; it is
drawn with all others, so the net and the present value carry the error of costs, dates and the price of money at once.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from archwright.contract.decision import Phase, ReturnOnInvestment, Schedule
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs
from archwright.contract.plan import Option
from archwright.plan.accounting.budget import BudgetConverter
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.monte_carlo import SAMPLE_COUNT, estimate_band
from archwright.plan.cost.prices import PriceBook
from archwright.plan.demand.forecast import MONTHS_PER_YEAR

if TYPE_CHECKING:
    from archwright.plan.accounting.monte_carlo import Worlds

CAPITAL_PART, PILOT_PART, ADOPTION_PART = "capital", "pilot.months", "adoption.months"
# What is waited for, and who builds: by how machines are had, the slowest first.
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
    """Months from the signature, at the facts' own values and in every world."""

    schedule: Schedule
    production: Estimate
    starts: Worlds
    adoption: tuple[float, Worlds]
    facts: tuple[str, ...]


def list_rollout_steps(option: Option) -> tuple[tuple[str, str], ...]:
    """The steps until production in their order: name, and the part of the catalog that says how long ("": no wait)."""
    had = {"on-demand" if one.kind not in ("bought", "owned") else one.kind for one in option.purchases}
    order, build = next(
        ((order, build) for kind, order, build in LEAD_TIMES_BY_PURCHASE if kind in had),
        LEAD_TIMES_BY_PLACEMENT.get(option.placement, LEAD_TIMES_BY_PURCHASE[-1][1:]),
    )
    return (("procurement", order), ("build", build), ("pilot", PILOT_PART), ("growing use", ADOPTION_PART))


def estimate_timeline(option: Option, needs: Needs, purse: BudgetConverter) -> RolloutTimeline:
    import numpy as np  # noqa: PLC0415

    quotes, at, worlds, facts = PriceBook(needs, purse.catalog, purse.ledger), 0.0, np.zeros(SAMPLE_COUNT), list[str]()
    phases, production = list[Phase](), (0.0, worlds)
    taken = (0.0, worlds)
    for name, part in list_rollout_steps(option):
        if not part:
            continue
        if part == ADOPTION_PART:
            production = (at, worlds)
        before = _estimate_month(purse, at, worlds, tuple(facts))
        price = quotes.part(part)
        facts += price.drivers
        taken = (price.usd, price.usd * purse.draws.sample_product(price.drivers))
        at, worlds = at + taken[0], worlds + taken[1]
        phases.append(Phase(name=name, starts=before, ends=_estimate_month(purse, at, worlds, tuple(facts))))
    stands = _estimate_month(purse, *production, tuple(facts[:-1]))
    schedule = Schedule(option=option.name, phases=tuple(phases))
    return RolloutTimeline(schedule, stands, production[1], taken, tuple(facts))


def _estimate_month(purse: BudgetConverter, value: float, worlds: Worlds, facts: tuple[str, ...]) -> Estimate:
    name = f"schedule.{'+'.join(fact.removeprefix('part.').removesuffix('.months') for fact in facts) or 'signature'}"
    what, formula = "months from the signature", "the steps so far, one after the other"
    basis = purse.ledger.create_basis(name, "formula", what, formula=formula, facts=facts)
    return estimate_band(value, worlds, "months", basis)


def estimate_return(
    needs: Needs, option: Option, terms: tuple[CashFlow, ...], dates: RolloutTimeline, purse: BudgetConverter
) -> ReturnOnInvestment | None:
    """None where no goal says what it is worth, or nothing has a price."""
    stated = [goal.value_per_month for goal in needs.goals if goal.value_per_month is not None]
    cost, months = option.total_cost, needs.budget.horizon_months
    if not stated or cost is None:
        return None
    import numpy as np  # noqa: PLC0415

    worth = sum(stated)
    shares = _compute_benefit_shares(months, np.array([dates.production.value]), np.array([dates.adoption[0]]))[0]
    drawn = worth * _compute_benefit_shares(months, dates.starts, dates.adoption[1])
    earned = tuple(itertools.accumulate(worth * float(share) for share in shares))
    value, net = earned[-1], drawn.sum(axis=1) - purse.sample_total(terms)
    basis = purse.ledger.create_basis(
        "decision.return",
        "formula",
        "what the goals are worth over the horizon less what the plan costs; nothing before production, then evenly "
        "more until the use is whole; everything is paid from the first month on",
        formula=f"{worth:,.10g} {needs.budget.currency}/month x months of whole use - total cost; band: joint draws",
        facts=(cost.basis, *dates.facts),
    )
    purse.ledger.add_assumptions(
        f"the goals' worth begins in month {dates.production.value:.3g} ({dates.production.low:.2g} .. "
        f"{dates.production.high:.2g}) after the signature, and grows evenly to the whole within "
        f"{dates.adoption[0]:.2g} more"
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
    """The share of the goals' worth that a month brings, by the use in its middle; a row for each world."""
    import numpy as np  # noqa: PLC0415

    middles = np.arange(months) + 0.5
    return np.clip((middles[None, :] - starts[:, None]) / adoption[:, None], 0.0, 1.0)


def describe_present_value(
    needs: Needs, terms: tuple[CashFlow, ...], dates: RolloutTimeline, purse: BudgetConverter
) -> str:
    """A sentence: all payments, and what the goals bring, at today's value; "" when nothing is paid."""
    import numpy as np  # noqa: PLC0415

    months, unit = needs.budget.horizon_months, needs.budget.currency
    if not any(term.sum for term in terms):
        return ""
    price = PriceBook(needs, purse.catalog, purse.ledger).part(CAPITAL_PART)
    # The first row is at the facts' own values.
    rates = price.usd * np.append(1.0, purse.draws.sample_product(price.drivers))
    discount = (1 + rates)[:, None] ** (-np.arange(months + 1)[None, :] / MONTHS_PER_YEAR)
    flows: dict[tuple[str, ...], Worlds] = {}
    for term in terms:
        drivers = purse.list_drivers(term)
        flows[drivers] = flows.get(drivers, np.zeros(months)) + np.array(term.flow) * purse.exchange_rate
    costs = np.zeros(SAMPLE_COUNT + 1)
    for drivers, flow in flows.items():
        costs += np.append(1.0, purse.draws.sample_product(drivers)) * (discount[:, :-1] @ flow)
    rate = purse.catalog.parameter(CAPITAL_PART)
    said = f"present value of all payments at {rate.value:.0%} a year ({rate.low:.0%} .. {rate.high:.0%}): "
    said += _format_range(costs, unit)
    goals = sum(goal.value_per_month or 0.0 for goal in needs.goals)
    if not goals:
        return said
    # Paid at the start of a month, earned by its end.
    starts = np.append(dates.production.value, dates.starts)
    shares = _compute_benefit_shares(months, starts, np.append(*dates.adoption))
    nets = goals * (shares * discount[:, 1:]).sum(axis=1) - costs
    return f"{said}; with what the goals bring, net {_format_range(nets, unit)}"


def _format_range(worlds: Worlds, unit: str) -> str:
    found = estimate_band(float(worlds[0]), worlds[1:], unit, "")
    return f"{found.value:,.0f} {unit} ({found.low:,.0f} .. {found.high:,.0f})"
