"""The chapters about money: what it is spent on, when it is paid, when it comes back, and the bill line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from archwright.contract.decision import Rival
from archwright.contract.plan import CostLine, Option, Plan
from archwright.report import document as doc
from archwright.report import number_format as fmt
from archwright.report.charts import draw_cost_breakdown
from archwright.report.cumulative_cost_chart import draw_cumulative_costs


def cost_summary_chapter(plan: Plan, option: Option) -> doc.Chapter:
    """Where the money goes, by category, and what it returns; the lines stand at the end of the document."""
    picture = draw_cost_breakdown(plan.options, option.name, plan.currency, plan.horizon_months)
    table = _category_table(plan, option) if option.cost_lines else None
    lead = f"Every amount in {plan.currency}, over {plan.horizon_label} where nothing else is said."
    return doc.Chapter("money", "Money", lead, doc.keep_blocks(picture, table, _describe_returns(plan)))


def _describe_returns(plan: Plan) -> doc.Paragraph | None:
    returns = plan.decision.returns
    if returns is None:
        return None
    worth, cost, left = (
        fmt.format_compact(amount) for amount in (returns.value, returns.cost.value, returns.net.value)
    )
    return doc.Paragraph(
        f"The goals are worth {plan.currency} {worth} over the horizon by the needs' own figures, nothing before "
        f"production and growing after it; the platform costs {cost}. That leaves {left} "
        f"({fmt.format_compact_band(returns.net)}), and is above nothing in {fmt.format_percent(returns.pays)} "
        "of the draws."
    )


def _category_table(plan: Plan, option: Option) -> doc.TableBlock:
    """Every category that costs or brings something, the largest first."""
    sums = option.cost_by_category(plan.horizon_months)
    counts = Counter(line.category for line in option.cost_lines)
    whole = sum(sums.values())
    body: list[tuple[doc.Cell | str, ...]] = [
        (
            fmt.CATEGORIES[category],
            fmt.format_money(amount),
            fmt.format_percent(amount / whole) if whole else "",
            fmt.format_exact(counts[category]),
        )
        for category, amount in sorted(sums.items(), key=lambda pair: -abs(pair[1]))
    ]
    if option.total_cost is not None:
        total = doc.build_money_cell(option.total_cost, "strong")
        body.append((doc.Cell("Total", tone="strong"), total, "", fmt.format_exact(len(option.cost_lines))))
    note = (
        "Each line with its band: chapter Cost lines. Staff counts in the total, not in the budget's limit per month."
    )
    columns = {"Category": 3, "Over the horizon": 1.6, "Of the total": 1.2, "Lines": 1}
    return doc.build_table(f"Cost of {option.name} by category", columns, body, numeric=(1, 2, 3), note=note)


def cost_lines_chapter(plan: Plan, option: Option) -> doc.Chapter:
    """The bill line by line."""
    months = plan.horizon_months
    ordered = sorted(option.cost_lines, key=lambda c: -abs(c.total_over(months)))
    columns = {"Cost line": 3, "A month": 1.3, "Once": 1.3, "Over the horizon": 1.6}
    table = doc.build_table("Cost lines", columns, (_cost_row(line, months) for line in ordered), numeric=(1, 2, 3))
    lead = f"The bill of {option.name} in {plan.currency}, the largest first; small figures: 90 % band."
    return doc.Chapter("costs", "Cost lines", lead, (table,))


def _cost_row(line: CostLine, months: int) -> tuple[doc.Cell, ...]:
    amount, whole = doc.build_money_cell(line.amount), doc.Cell(fmt.format_money(line.total_over(months)))
    named = doc.build_cell(line.name, fmt.CATEGORIES[line.category])
    return (named, doc.Cell(), amount, whole) if line.once else (named, amount, doc.Cell(), whole)


def schedule_chapter(plan: Plan, option: Option) -> doc.Chapter:
    """When it stands, when money leaves and when it comes back."""
    picture = draw_cumulative_costs(plan.options, option.name, plan.decision, plan.currency)
    rivals = [rival for rival in plan.decision.rivals if rival.option != option.name]
    body = ((r.option, _describe_break_even(r), f"{fmt.format_percent(r.cheaper)} likely") for r in rivals)
    columns = {"Against": 3, "Break-even": 2, "Cheaper than the chosen one": 2}
    table = doc.build_table("Break-even between options", columns, body, numeric=(2,)) if rivals else None
    lead, returns = f"The horizon is {fmt.format_count(plan.horizon_months, 'month')}.", plan.decision.returns
    if returns is not None and returns.payback_month:
        lead += f" The goals' worth covers the cost from month {returns.payback_month} on."
    elif returns is not None:
        lead += " The goals' worth does not cover the cost within the horizon."
    return doc.Chapter("time", "Time", lead, (*_schedule_table(plan), *doc.keep_blocks(picture, table)))


def _schedule_table(plan: Plan) -> Iterable[doc.TableBlock]:
    """When each option's steps end; the chosen one first."""
    dated = sorted(plan.decision.schedules, key=lambda one: one.option != plan.chosen)
    names = list(dict.fromkeys(phase.name for one in dated for phase in one.phases))
    if not names:
        return
    columns = [
        doc.Column("Option", 2.4),
        *(doc.Column(f"{name[0].upper()}{name[1:]} ends", 1.5, numeric=True) for name in names),
    ]
    body = []
    for one in dated:
        ends = {
            phase.name: doc.build_cell(
                f"month {fmt.format_number(phase.ends.value, 2)}", fmt.format_month_band(phase.ends)
            )
            for phase in one.phases
        }
        body.append((doc.Cell(one.option), *(ends.get(name, doc.Cell("none", tone="quiet")) for name in names)))
    note = "Months from the signature, with their 90 % band: assumptions, each a line of your own facts away from being"
    yield doc.TableBlock(
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
