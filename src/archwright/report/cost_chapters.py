"""The chapters about money: what it is spent on, when it is paid, when it comes back, and the bill line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from archwright.contract.decision import Rival
from archwright.contract.estimate import Estimate
from archwright.contract.plan import CostLine, Option, Plan
from archwright.report import charts, cumulative_cost_chart, number_format
from archwright.report.document import Block, Cell, Chapter, Column, Paragraph, TableBlock, build_notes, build_rows


def cost_summary_chapter(plan: Plan, option: Option) -> Chapter:
    """Where the money goes, by category, and what it returns; the lines stand at the end of the document."""
    blocks: list[Block] = []
    picture = charts.draw_cost_breakdown(plan.options, option.name, plan.currency, plan.horizon_months)
    if picture is not None:
        blocks.append(picture)
    if option.cost_lines:
        blocks.append(_category_table(plan, option))
    returns = plan.decision.returns
    if returns is not None:
        cost, net = number_format.format_compact(returns.cost.value), number_format.format_compact(returns.net.value)
        value = number_format.format_compact(returns.value)
        text = f"The goals are worth {plan.currency} {value} over the horizon by the needs' own "
        text += (
            f"figures, nothing before production and growing after it; the platform costs {cost}. That leaves {net} "
        )
        share = number_format.format_percent(returns.pays)
        text += f"({number_format.format_compact_band(returns.net)}), and is above nothing in {share} of the draws."
        blocks.append(Paragraph(text))
    lead = f"Every amount in {plan.currency}, over {plan.horizon_label} where nothing else is said."
    return Chapter("money", "Money", lead, tuple(blocks))


def _category_table(plan: Plan, option: Option) -> TableBlock:
    """Every category that costs or brings something, the largest first."""
    sums = option.cost_by_category(plan.horizon_months)
    counts = Counter(line.category for line in option.cost_lines)
    whole = sum(sums.values())
    columns = (
        Column("Category", 3),
        Column("Over the horizon", 1.6, numeric=True),
        Column("Of the total", 1.2, numeric=True),
        Column("Lines", 1, numeric=True),
    )
    ordered = sorted(sums.items(), key=lambda pair: -abs(pair[1]))
    body: list[tuple[Cell | str, ...]] = [
        (
            number_format.CATEGORIES[category],
            number_format.format_money(amount),
            number_format.format_percent(amount / whole) if whole else "",
            number_format.format_exact(counts[category]),
        )
        for category, amount in ordered
    ]
    total = option.total_cost
    if total is not None:
        last = Cell(
            number_format.format_money(total.value),
            build_notes(("", number_format.format_compact_band(total))),
            "strong",
        )
        body.append((Cell("Total", tone="strong"), last, "", number_format.format_exact(len(option.cost_lines))))
    note = (
        "Each line with its band: chapter Cost lines. Staff counts in the total, not in the budget's limit per month."
    )
    return TableBlock(f"Cost of {option.name} by category", columns, build_rows(body), note=note)


def cost_lines_chapter(plan: Plan, option: Option) -> Chapter:
    """The bill line by line."""
    months = plan.horizon_months
    ordered = sorted(option.cost_lines, key=lambda c: -abs(c.total_over(months)))
    columns = (
        Column("Cost line", 3),
        Column("A month", 1.3, numeric=True),
        Column("Once", 1.3, numeric=True),
        Column("Over the horizon", 1.6, numeric=True),
    )
    table = TableBlock("Cost lines", columns, build_rows(_cost_row(line, months) for line in ordered))
    lead = f"The bill of {option.name} in {plan.currency}, the largest first; small figures: 90 % band."
    return Chapter("costs", "Cost lines", lead, (table,))


def _cost_row(line: CostLine, months: int) -> tuple[Cell, ...]:
    amount = Cell(
        number_format.format_money(line.amount.value), build_notes(("", number_format.format_compact_band(line.amount)))
    )
    whole = number_format.format_money(line.total_over(months))
    named = Cell(line.name, build_notes(("", number_format.CATEGORIES[line.category])))
    return (named, Cell(), amount, Cell(whole)) if line.once else (named, amount, Cell(), Cell(whole))


def schedule_chapter(plan: Plan, option: Option) -> Chapter:
    """When it stands, when money leaves and when it comes back."""
    blocks: list[Block] = [*_schedule_table(plan)]
    picture = cumulative_cost_chart.draw_cumulative_costs(plan.options, option.name, plan.decision, plan.currency)
    if picture is not None:
        blocks.append(picture)
    rivals = [rival for rival in plan.decision.rivals if rival.option != option.name]
    if rivals:
        columns = (
            Column("Against", 3),
            Column("Break-even", 2),
            Column("Cheaper than the chosen one", 2, numeric=True),
        )
        body = build_rows(
            (r.option, _describe_break_even(r), f"{number_format.format_percent(r.cheaper)} likely") for r in rivals
        )
        blocks.append(TableBlock("Break-even between options", columns, body))
    returns = plan.decision.returns
    lead = f"The horizon is {number_format.format_count(plan.horizon_months, 'month')}."
    if returns is not None:
        paid = returns.payback_month
        lead += f" The goals' worth covers the cost from month {paid} on." if paid else ""
        lead += "" if paid else " The goals' worth does not cover the cost within the horizon."
    return Chapter("time", "Time", lead, tuple(blocks))


def _schedule_table(plan: Plan) -> Iterable[TableBlock]:
    """When each option's steps end; the chosen one first."""
    dated = sorted(plan.decision.schedules, key=lambda one: one.option != plan.chosen)
    names = list(dict.fromkeys(phase.name for one in dated for phase in one.phases))
    if not names:
        return
    columns = (
        Column("Option", 2.4),
        *(Column(f"{name[0].upper()}{name[1:]} ends", 1.5, numeric=True) for name in names),
    )
    body = list[tuple[Cell, ...]]()
    for one in dated:
        ends = {phase.name: phase.ends for phase in one.phases}
        body.append(
            (
                Cell(one.option),
                *(_date_cell(ends[name]) if name in ends else Cell("none", tone="quiet") for name in names),
            )
        )
    note = "Months from the signature, with their 90 % band: assumptions, each a line of your own facts away from being"
    yield TableBlock(
        "From the signature to whole use",
        columns,
        build_rows(body),
        0 if dated[0].option == plan.chosen else None,
        f"{note} changed. Production begins when the pilot ends; from there the goals' worth grows evenly.",
    )


def _date_cell(date: Estimate) -> Cell:
    return Cell(
        f"month {number_format.format_number(date.value, 2)}",
        build_notes(("", f"{number_format.format_number(date.low, 2)} to {number_format.format_number(date.high, 2)}")),
    )


def _describe_break_even(rival: Rival) -> str:
    month = rival.break_even_month
    if rival.equal:
        return "costs the same in every month"
    if month is None:
        return "the chosen one never costs less within the horizon"
    return (
        "the chosen one costs less from the start" if month <= 1 else f"the chosen one costs less from month {month} on"
    )
