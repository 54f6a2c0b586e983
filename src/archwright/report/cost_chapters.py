"""Chapters about money: categories of the cost, time of payment and return, and all cost lines."""

from collections import Counter
from collections.abc import Iterable

from archwright.contract.decision import Rival
from archwright.contract.plan import CostLine, Option, Plan
from archwright.report import document as doc
from archwright.report import number_format as fmt
from archwright.report.charts import draw_cost_breakdown
from archwright.report.cumulative_cost_chart import draw_cumulative_costs


def cost_summary_chapter(plan: Plan, option: Option) -> doc.Chapter:
    """Cost by category, and the return. The single lines are at the end of the document."""
    picture = draw_cost_breakdown(plan)
    table = _category_table(plan, option) if option.cost_lines else None
    text, returns = None, plan.decision.returns
    if returns is not None:
        worth, cost, net = (fmt.format_compact(x) for x in (returns.value, returns.cost.value, returns.net.value))
        text = doc.Paragraph(
            f"By the figures of the needs, the goals bring {plan.currency} {worth} over the horizon: nothing before "
            f"production, then a growing amount. The platform costs {cost}. The difference is {net} "
            f"({fmt.format_compact_band(returns.net)}); it is positive in {fmt.format_percent(returns.pays)} "
            "of the samples."
        )
    lead = f"All amounts in {plan.currency}, over {plan.horizon_label} unless stated otherwise."
    return doc.Chapter("money", "Money", lead, doc.keep_blocks(picture, table, text))


def _category_table(plan: Plan, option: Option) -> doc.TableBlock:
    """Every category with a cost or an income, the largest first."""
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
    note = "Chapter Cost lines shows each line with its interval. Staff is in the total, not in the monthly budget."
    columns = {"Category": 3, "Over the horizon": 1.6, "Of the total": 1.2, "Lines": 1}
    return doc.build_table(f"Cost of {option.name} by category", columns, body, numeric=(1, 2, 3), note=note)


def cost_lines_chapter(plan: Plan, option: Option) -> doc.Chapter:
    months = plan.horizon_months
    ordered = sorted(option.cost_lines, key=lambda c: -abs(c.total_over(months)))
    columns = {"Cost line": 3, "A month": 1.3, "Once": 1.3, "Over the horizon": 1.6}
    table = doc.build_table("Cost lines", columns, (_cost_row(line, months) for line in ordered), numeric=(1, 2, 3))
    lead = f"All cost lines of {option.name} in {plan.currency}, the largest first; small figures: 90 % interval."
    return doc.Chapter("costs", "Cost lines", lead, (table,))


def _cost_row(line: CostLine, months: int) -> tuple[doc.Cell, ...]:
    amount, whole = doc.build_money_cell(line.amount), doc.Cell(fmt.format_money(line.total_over(months)))
    named = doc.build_cell(line.name, fmt.CATEGORIES[line.category])
    return (named, doc.Cell(), amount, whole) if line.once else (named, amount, doc.Cell(), whole)


def schedule_chapter(plan: Plan, option: Option) -> doc.Chapter:
    picture = draw_cumulative_costs(plan)
    rivals = [rival for rival in plan.decision.rivals if rival.option != option.name]
    body = ((r.option, _describe_break_even(r), f"{fmt.format_percent(r.cheaper)} likely") for r in rivals)
    columns = {"Against": 3, "Break-even": 2, "Cheaper than the chosen option": 2}
    table = doc.build_table("Break-even between options", columns, body, numeric=(2,)) if rivals else None
    lead, returns = f"The horizon is {fmt.format_count(plan.horizon_months, 'month')}.", plan.decision.returns
    if returns is not None and returns.payback_month:
        lead += f" The value of the goals covers the cost from month {returns.payback_month}."
    elif returns is not None:
        lead += " The value of the goals does not cover the cost within the horizon."
    return doc.Chapter("time", "Time", lead, (*_schedule_table(plan), *doc.keep_blocks(picture, table)))


def _schedule_table(plan: Plan) -> Iterable[doc.TableBlock]:
    """End of each step by option, the chosen option first."""
    dated = sorted(plan.decision.schedules, key=lambda one: one.option != plan.chosen)
    names = list(dict.fromkeys(phase.name for one in dated for phase in one.phases))
    if not names:
        return
    body = []
    for one in dated:
        ends = {
            p.name: doc.build_cell(f"month {fmt.format_number(p.ends.value, 2)}", fmt.format_month_band(p.ends))
            for p in one.phases
        }
        body.append((doc.Cell(one.option), *(ends.get(name, doc.Cell("none", tone="quiet")) for name in names)))
    yield doc.build_table(
        "From the signature to full use",
        {"Option": 2.4} | {f"{name[0].upper()}{name[1:]} ends": 1.5 for name in names},
        body,
        numeric=range(1, len(names) + 1),
        marked=0 if dated[0].option == plan.chosen else None,
        note="Months from the signature with their 90 % interval. These are assumptions; your own facts replace them. "
        "Production begins when the pilot ends. From then on, the value of the goals grows evenly.",
    )


def _describe_break_even(rival: Rival) -> str:
    month = rival.break_even_month
    if rival.equal:
        return "costs the same in every month"
    if month is None:
        return "the chosen option is not cheaper within the horizon"
    return f"the chosen option is cheaper from {'the start' if month <= 1 else f'month {month}'}"
