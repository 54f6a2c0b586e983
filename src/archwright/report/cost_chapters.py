"""The chapters about money: what it is spent on, when it is paid, when it comes back, and the bill line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from archwright.contract.decision import Rival
from archwright.contract.plan import CostLine, Option, Plan
from archwright.report.charts import draw_cost_breakdown
from archwright.report.cumulative_cost_chart import draw_cumulative_costs
from archwright.report.document import (
    Cell,
    Chapter,
    Column,
    Paragraph,
    TableBlock,
    build_cell,
    build_money_cell,
    build_table,
    keep_blocks,
)
from archwright.report.number_format import (
    CATEGORIES,
    format_compact,
    format_compact_band,
    format_count,
    format_exact,
    format_money,
    format_month_band,
    format_number,
    format_percent,
)


def cost_summary_chapter(plan: Plan, option: Option) -> Chapter:
    """Where the money goes, by category, and what it returns; the lines stand at the end of the document."""
    picture = draw_cost_breakdown(plan.options, option.name, plan.currency, plan.horizon_months)
    table = _category_table(plan, option) if option.cost_lines else None
    lead = f"Every amount in {plan.currency}, over {plan.horizon_label} where nothing else is said."
    return Chapter("money", "Money", lead, keep_blocks(picture, table, _describe_returns(plan)))


def _describe_returns(plan: Plan) -> Paragraph | None:
    returns = plan.decision.returns
    if returns is None:
        return None
    worth, cost, left = (format_compact(amount) for amount in (returns.value, returns.cost.value, returns.net.value))
    return Paragraph(
        f"The goals are worth {plan.currency} {worth} over the horizon by the needs' own figures, nothing before "
        f"production and growing after it; the platform costs {cost}. That leaves {left} "
        f"({format_compact_band(returns.net)}), and is above nothing in {format_percent(returns.pays)} of the draws."
    )


def _category_table(plan: Plan, option: Option) -> TableBlock:
    """Every category that costs or brings something, the largest first."""
    sums = option.cost_by_category(plan.horizon_months)
    counts = Counter(line.category for line in option.cost_lines)
    whole = sum(sums.values())
    body: list[tuple[Cell | str, ...]] = [
        (
            CATEGORIES[category],
            format_money(amount),
            format_percent(amount / whole) if whole else "",
            format_exact(counts[category]),
        )
        for category, amount in sorted(sums.items(), key=lambda pair: -abs(pair[1]))
    ]
    if option.total_cost is not None:
        total = build_money_cell(option.total_cost, "strong")
        body.append((Cell("Total", tone="strong"), total, "", format_exact(len(option.cost_lines))))
    note = (
        "Each line with its band: chapter Cost lines. Staff counts in the total, not in the budget's limit per month."
    )
    columns = {"Category": 3, "Over the horizon": 1.6, "Of the total": 1.2, "Lines": 1}
    return build_table(f"Cost of {option.name} by category", columns, body, numeric=(1, 2, 3), note=note)


def cost_lines_chapter(plan: Plan, option: Option) -> Chapter:
    """The bill line by line."""
    months = plan.horizon_months
    ordered = sorted(option.cost_lines, key=lambda c: -abs(c.total_over(months)))
    columns = {"Cost line": 3, "A month": 1.3, "Once": 1.3, "Over the horizon": 1.6}
    table = build_table("Cost lines", columns, (_cost_row(line, months) for line in ordered), numeric=(1, 2, 3))
    lead = f"The bill of {option.name} in {plan.currency}, the largest first; small figures: 90 % band."
    return Chapter("costs", "Cost lines", lead, (table,))


def _cost_row(line: CostLine, months: int) -> tuple[Cell, ...]:
    amount, whole = build_money_cell(line.amount), Cell(format_money(line.total_over(months)))
    named = build_cell(line.name, CATEGORIES[line.category])
    return (named, Cell(), amount, whole) if line.once else (named, amount, Cell(), whole)


def schedule_chapter(plan: Plan, option: Option) -> Chapter:
    """When it stands, when money leaves and when it comes back."""
    picture = draw_cumulative_costs(plan.options, option.name, plan.decision, plan.currency)
    rivals = [rival for rival in plan.decision.rivals if rival.option != option.name]
    body = ((r.option, _describe_break_even(r), f"{format_percent(r.cheaper)} likely") for r in rivals)
    columns = {"Against": 3, "Break-even": 2, "Cheaper than the chosen one": 2}
    table = build_table("Break-even between options", columns, body, numeric=(2,)) if rivals else None
    lead, returns = f"The horizon is {format_count(plan.horizon_months, 'month')}.", plan.decision.returns
    if returns is not None and returns.payback_month:
        lead += f" The goals' worth covers the cost from month {returns.payback_month} on."
    elif returns is not None:
        lead += " The goals' worth does not cover the cost within the horizon."
    return Chapter("time", "Time", lead, (*_schedule_table(plan), *keep_blocks(picture, table)))


def _schedule_table(plan: Plan) -> Iterable[TableBlock]:
    """When each option's steps end; the chosen one first."""
    dated = sorted(plan.decision.schedules, key=lambda one: one.option != plan.chosen)
    names = list(dict.fromkeys(phase.name for one in dated for phase in one.phases))
    if not names:
        return
    columns = [
        Column("Option", 2.4),
        *(Column(f"{name[0].upper()}{name[1:]} ends", 1.5, numeric=True) for name in names),
    ]
    body = []
    for one in dated:
        ends = {
            phase.name: build_cell(f"month {format_number(phase.ends.value, 2)}", format_month_band(phase.ends))
            for phase in one.phases
        }
        body.append((Cell(one.option), *(ends.get(name, Cell("none", tone="quiet")) for name in names)))
    note = "Months from the signature, with their 90 % band: assumptions, each a line of your own facts away from being"
    yield TableBlock(
        "From the signature to whole use",
        tuple(columns),
        tuple(body),
        0 if dated[0].option == plan.chosen else None,
        f"{note} changed. Production begins when the pilot ends; from there the goals' worth grows evenly.",
    )


def _describe_break_even(rival: Rival) -> str:
    month = rival.break_even_month
    if rival.equal:
        return "costs the same in every month"
    if month is None:
        return "the chosen one never costs less within the horizon"
    return f"the chosen one costs less from {'the start' if month <= 1 else f'month {month} on'}"
