"""Chart of the cumulative payments by month: lines, break-evens and labels that do not overlap."""

import math
from collections.abc import Callable, Iterable

from archwright.contract.number_format import format_list, format_money, format_number
from archwright.contract.plan import Option, Plan
from archwright.report import svg
from archwright.report.charts import WIDTH, order_options
from archwright.report.document import FigureBlock

PointMapper = Callable[[float, float], tuple[float, float]]
MOST_LINES = 5
# Options whose payments always differ by less than this share are drawn as one line.
SAME_LINE = 0.01
DASHES = ("none", "7 4", "2 3", "10 3 2 3", "4 4")


def draw_cumulative_costs(plan: Plan) -> FigureBlock | None:
    """Cumulative payments of the feasible options, with the break-evens of the chosen option."""
    ordered = order_options(plan.options, plan.chosen)
    lines = _group_alike_options(option for option in ordered if option.cumulative_cost and option.feasible)
    drawn = [option for line in lines for option in line]
    if not drawn:
        return None
    left, right, bottom, canvas = 66.0, 570.0, 300.0, svg.SvgCanvas(WIDTH)
    months = max(len(option.cumulative_cost) for option in drawn)
    marks = svg.axis_ticks(max(max(option.cumulative_cost) for option in drawn))
    per_month, per_value = (right - left) / months, (bottom - 16) / marks[-1]

    def at(month: float, value: float) -> tuple[float, float]:
        return left + month * per_month, bottom - value * per_value

    _draw_grid(canvas, (left, right, bottom), marks, months, at)
    ends = []
    for rank, line in enumerate(lines):
        points = [at(month + 1, value) for month, value in enumerate(line[0].cumulative_cost)]
        canvas.path(points, svg.PALETTE[rank], stroke_dasharray=DASHES[rank], stroke_linejoin="round")
        ends.append((points[-1][1], svg.PALETTE[rank], line))
    _draw_end_labels(canvas, ends, right + 10, plan.chosen)
    crossed = _draw_break_evens(canvas, lines, plan, at)
    shared = (format_list([option.name for option in line]) for line in lines if len(line) > 1)
    crossed += [f"{names} differ by less than 1 % and share one line." for names in shared]
    canvas.text((left, bottom + 44), f"month; {plan.currency} paid by the end of the month", size=12, fill=svg.QUIET)
    alt = "; ".join(f"{o.name} ends at {format_money(o.cumulative_cost[-1], plan.currency)}" for o in drawn)
    picture = canvas.render(bottom + 56)
    return FigureBlock("Cumulative payments by month", picture, "; ".join([alt, *crossed]), " ".join(crossed))


def _group_alike_options(options: Iterable[Option]) -> list[list[Option]]:
    """Options by line, at most MOST_LINES lines. Options with the same payments share a line."""
    lines: list[list[Option]] = []
    for option in options:
        paid = option.cumulative_cost
        for line in lines:
            pairs = zip(line[0].cumulative_cost, paid, strict=False)
            if len(line[0].cumulative_cost) == len(paid) and all(math.isclose(*p, rel_tol=SAME_LINE) for p in pairs):
                line.append(option)
                break
        else:
            lines += [[option]] if len(lines) < MOST_LINES else []
    return lines


def _draw_grid(
    canvas: svg.SvgCanvas, edges: tuple[float, float, float], marks: tuple[float, ...], months: int, at: PointMapper
) -> None:
    left, right, _bottom = edges
    for mark in marks:
        _, y = at(0, mark)
        canvas.line((left, y), (right, y))
        canvas.text((left - 10, y + 4), format_number(mark), size=12, fill=svg.QUIET, anchor="end")
    step = next(s for s in (1, 3, 6, 12, 24, 60, 120, 1200) if months / s <= 13)
    for month in range(0, months + 1, step):
        x, y = at(month, 0)
        canvas.line((x, y), (x, y + 5), svg.QUIET)
        canvas.text((x, y + 21), str(month), size=12, fill=svg.QUIET, anchor="middle")


def _draw_end_labels(
    canvas: svg.SvgCanvas, ends: list[tuple[float, str, list[Option]]], x: float, chosen: str | None
) -> None:
    """Names at the ends of the lines, moved apart if they overlap; a shared line shows its first name and a count."""
    placed = -math.inf
    for y, colour, line in sorted(ends, key=lambda end: end[0]):
        first, more = line[0].name, f" +{len(line) - 1}" if len(line) > 1 else ""
        name = svg.fit_text(first, 13, WIDTH - x - 16 - svg.text_width(more, 13)) + more
        placed = max(y, placed + 19)
        canvas.dot((x + 3, placed), 4, colour)
        canvas.text((x + 12, placed + 4), name, bold=first == chosen)


def _draw_break_evens(canvas: svg.SvgCanvas, lines: list[list[Option]], plan: Plan, at: PointMapper) -> list[str]:
    """Mark the break-evens of the chosen option with options of other lines. Return a sentence for each."""
    own = next((line[0] for line in lines if line[0].name == plan.chosen), None)
    if own is None:
        return []
    names = {option.name for line in lines if line[0] is not own for option in line}
    months, sentences, near = dict[int, list[str]](), list[str](), list[list[int]]()
    for rival in plan.decision.rivals:
        month = rival.break_even_month
        if rival.option in names and month is not None and 1 < month <= len(own.cumulative_cost):
            months.setdefault(month, []).append(rival.option)
    for month, overtaken in sorted(months.items()):
        x, y = at(month, own.cumulative_cost[month - 1])
        canvas.dot((x, y), 6, svg.PAPER, stroke=svg.INK, stroke_width=2)
        if near and x - at(near[-1][-1], 0)[0] < svg.text_width(_format_months([88, 88]), 12):
            near[-1].append(month)
        else:
            near.append([month])
        sentences.append(f"From month {month}, the chosen option is cheaper in total than {format_list(overtaken)}.")
    for group in near:
        middle, _ = at((group[0] + group[-1]) / 2, 0)
        _, top = at(0, max(own.cumulative_cost[month - 1] for month in group))
        canvas.text((middle, top - 14), _format_months(group), size=12, anchor="middle", bold=True)
    return sentences


def _format_months(group: list[int]) -> str:
    return f"month {group[0]}" if len(group) == 1 else f"months {group[0]} to {group[-1]}"
