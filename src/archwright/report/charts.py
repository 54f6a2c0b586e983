"""The charts of a report: what options cost and why, when it is built, what is promised, what flips the choice."""

from __future__ import annotations

import math
from collections.abc import Iterable

from archwright.contract.decision import CostDriver, Schedule
from archwright.contract.evidence import Prediction
from archwright.contract.plan import CostCategory, Option
from archwright.contract.record import replace
from archwright.report import number_format as fmt
from archwright.report import svg
from archwright.report.document import FigureBlock

WIDTH = 760.0
LEFT, RIGHT = 196.0, 150.0
PLOT_WIDTH = WIDTH - LEFT - RIGHT
BESIDE_PLOT = LEFT + PLOT_WIDTH + 14
MOST_OPTIONS, MOST_PROMISES, MOST_DRIVERS = 14, 24, 6

# Fourteen categories are too many for the eye: what a reader budgets together is drawn together.
CATEGORY_GROUPS: dict[str, tuple[CostCategory, ...]] = {
    "Machines rented, tokens": ("compute", "tokens", "platform"),
    "Machines bought": ("purchase", "refresh", "residual"),
    "Support, licences": ("support", "licence"),
    "Electricity, space": ("energy", "facility"),
    "Network, traffic": ("network", "egress"),
    "Storage": ("storage",),
    "Staff": ("staff",),
}
GROUP_COLOURS = dict(zip(CATEGORY_GROUPS, svg.PALETTE, strict=True))


def _draw_axis(canvas: svg.SvgCanvas, largest: float, bottom: float) -> float:
    """Rules from the top to `bottom` at round numbers; returns units per value."""
    marks = svg.axis_ticks(largest)
    scale = PLOT_WIDTH / marks[-1]
    for mark in marks:
        _draw_tick(canvas, (LEFT + mark * scale, 8), bottom, fmt.format_tick(mark))
    return scale


def _draw_tick(
    canvas: svg.SvgCanvas, top: tuple[float, float], bottom: float, text: str, stroke: str = svg.RULE
) -> None:
    """A vertical rule with its label below."""
    canvas.line(top, (top[0], bottom), stroke)
    canvas.text((top[0], bottom + 18), text, size=12, fill=svg.QUIET, anchor="middle")


def _draw_whisker(canvas: svg.SvgCanvas, low: float, high: float, y: float) -> None:
    canvas.line((low, y), (high, y), svg.INK, stroke_width=1.4)
    for end in (low, high):
        canvas.line((end, y - 5), (end, y + 5), svg.INK, stroke_width=1.4)


def _render_with_caption(canvas: svg.SvgCanvas, bottom: float, caption: str) -> str:
    canvas.text((LEFT, bottom + 40), caption, size=12, fill=svg.QUIET)
    return canvas.render(bottom + 52)


def order_options(options: Iterable[Option], chosen: str | None) -> list[Option]:
    """Chosen, then feasible, then the others, each from cheap to dear, the unpriced last."""

    def rank(option: Option) -> tuple[bool, bool, bool, float]:
        cost = option.total_cost
        return option.name != chosen, not option.feasible, cost is None, cost.value if cost else 0.0

    return sorted(options, key=rank)


def draw_option_costs(
    options: tuple[Option, ...], chosen: str | None, currency: str, months: int
) -> FigureBlock | None:
    """A bar for each option, its 90 % band as a whisker."""
    priced = [option for option in order_options(options, chosen) if option.total_cost is not None]
    if not priced:
        return None
    drawn = priced[:MOST_OPTIONS]
    canvas, step = svg.SvgCanvas(WIDTH), 34.0
    bottom = 12 + step * len(drawn)
    scale = _draw_axis(canvas, max(max(o.total_cost.high, o.total_cost.value) for o in drawn if o.total_cost), bottom)
    for number, option in enumerate(drawn):
        _draw_cost_bar(canvas, option, 12 + step * number, scale, is_chosen=option.name == chosen)
    picture = _render_with_caption(canvas, bottom, f"{currency} over {months} months; whisker: 90 % band")
    alt = "; ".join(f"{o.name}: {fmt.format_compact(o.total_cost.value)} {currency}" for o in drawn if o.total_cost)
    left_out = len(options) - len(drawn)
    note = f"{fmt.format_count(left_out, 'more option')} in the table: dearer, or without a price." if left_out else ""
    return FigureBlock("Cost of the options over the horizon", picture, alt, note)


def _draw_cost_bar(canvas: svg.SvgCanvas, option: Option, top: float, scale: float, *, is_chosen: bool) -> None:
    cost = option.total_cost
    assert cost is not None
    fill = svg.CHOSEN if is_chosen else svg.OTHER if option.feasible else svg.PAPER
    edge = {} if option.feasible else {"stroke": svg.OTHER, "stroke_dasharray": "4 3"}
    canvas.rect((LEFT, top + 4), (cost.value * scale, 20), fill, rx=2, **edge)
    if cost.low != cost.high:
        _draw_whisker(canvas, LEFT + max(cost.low, 0.0) * scale, LEFT + cost.high * scale, top + 14)
    _draw_label(canvas, option.name, top + 19, bold=is_chosen)
    verdict = "chosen" if is_chosen else "" if option.feasible else "not feasible"
    text = f"{fmt.format_compact(cost.value)}{', ' if verdict else ''}{verdict}"
    canvas.text((BESIDE_PLOT, top + 19), svg.fit_text(text, 13, RIGHT - 20), bold=is_chosen)


def _draw_label(canvas: svg.SvgCanvas, name: str, y: float, *, bold: bool = False) -> None:
    """A name to the left of its bar, in two lines where one is too short."""
    size = 13.0 if svg.text_width(name, 13) <= LEFT - 24 else 12.0
    lines = svg.wrap_text(name, size, LEFT - 24, 2)
    for row, line in enumerate(lines):
        canvas.text((LEFT - 12, y + 13 * row - 6.5 * (len(lines) - 1)), line, size=size, anchor="end", bold=bold)


def sum_cost_groups(option: Option, months: int) -> dict[str, float]:
    """An option's total by group; what is sold at the end lowers what was bought."""
    sums = dict.fromkeys(CATEGORY_GROUPS, 0.0)
    for line in option.cost_lines:
        group = next(name for name, categories in CATEGORY_GROUPS.items() if line.category in categories)
        sums[group] += line.total_over(months)
    return sums


def draw_cost_breakdown(
    options: tuple[Option, ...], chosen: str | None, currency: str, months: int
) -> FigureBlock | None:
    """What each option's total is made of, stacked."""
    drawn = [o for o in order_options(options, chosen) if o.total_cost is not None and o.cost_lines][:6]
    if not drawn:
        return None
    parts = {option.name: sum_cost_groups(option, months) for option in drawn}
    used = [group for group in CATEGORY_GROUPS if any(sums[group] > 0 for sums in parts.values())]
    canvas, step, top = svg.SvgCanvas(WIDTH), 36.0, 12.0
    bottom = top + step * len(drawn)
    scale = _draw_axis(
        canvas, max(sum(max(amount, 0.0) for amount in sums.values()) for sums in parts.values()), bottom
    )
    for row, option in enumerate(drawn):
        y = top + row * step
        _draw_label(canvas, option.name, y + 21, bold=option.name == chosen)
        end = _draw_stacked_bar(canvas, parts[option.name], y, scale)
        canvas.text((end + 10, y + 21), fmt.format_compact(sum(parts[option.name].values())))
    height = _draw_legend(canvas, used, bottom + 42)
    alt = "; ".join(
        f"{o.name}: "
        + ", ".join(f"{group} {fmt.format_compact(amount)}" for group, amount in parts[o.name].items() if amount)
        for o in drawn
    )
    return FigureBlock("What the cost is made of", canvas.render(height), alt, f"{currency} over {months} months.")


def _draw_stacked_bar(canvas: svg.SvgCanvas, parts: dict[str, float], y: float, scale: float) -> float:
    """Segments from left to right, each with its amount where there is room; returns where they end."""
    x = LEFT
    for group, amount in parts.items():
        width = max(amount, 0.0) * scale
        if width <= 0:
            continue
        canvas.rect((x, y + 5), (width, 24), GROUP_COLOURS[group], stroke=svg.PAPER)
        text = fmt.format_compact(amount)
        if svg.text_width(text, 11) + 8 < width:
            dark = GROUP_COLOURS[group] in (svg.PALETTE[0], svg.PALETTE[5])
            canvas.text((x + width / 2, y + 21), text, size=11, fill="#fff" if dark else "#000", anchor="middle")
        x += width
    return x


def _draw_legend(canvas: svg.SvgCanvas, used: list[str], y: float) -> float:
    x = LEFT
    for group in used:
        wide = svg.text_width(group, 12) + 40
        if x + wide > WIDTH - 10:
            x, y = LEFT, y + 22
        canvas.rect((x, y - 10), (12, 12), GROUP_COLOURS[group], rx=2)
        canvas.text((x + 18, y), group, size=12)
        x += wide
    return y + 14


def draw_schedule(dates: Schedule) -> FigureBlock | None:
    """The steps from the signature to whole use, each with the band of its end."""
    if not dates.phases:
        return None
    canvas, step = svg.SvgCanvas(WIDTH), 34.0
    bottom = 12 + step * len(dates.phases)
    scale = _draw_axis(canvas, max(phase.ends.high for phase in dates.phases), bottom)
    for row, phase in enumerate(dates.phases):
        y, start, end = 12 + step * row, LEFT + phase.starts.value * scale, LEFT + phase.ends.value * scale
        canvas.text((LEFT - 12, y + 19), phase.name, anchor="end")
        canvas.rect((start, y + 4), (end - start, 20), svg.PALETTE[row % len(svg.PALETTE)], rx=2)
        low, high = (LEFT + max(edge, 0.0) * scale for edge in (phase.ends.low, phase.ends.high))
        _draw_whisker(canvas, low, high, y + 14)
        canvas.text((BESIDE_PLOT, y + 13), f"until month {fmt.format_number(phase.ends.value, 2)}", size=12, bold=True)
        canvas.text((BESIDE_PLOT, y + 26), fmt.format_month_band(phase.ends), size=11, fill=svg.QUIET)
    picture = _render_with_caption(canvas, bottom, "months from the signature; whisker: 90 % band")
    alt = "; ".join(
        f"{p.name} until month {fmt.format_number(p.ends.value, 2)}, {fmt.format_month_band(p.ends)}"
        for p in dates.phases
    )
    return FigureBlock(f"From the signature to whole use: {dates.option}", picture, alt)


def draw_predictions(predictions: tuple[Prediction, ...]) -> FigureBlock | None:
    """Every promised latency with its band, on one logarithmic axis."""
    timed = [p for p in predictions if p.estimate.unit == "s" and p.estimate.low > 0]
    drawn = timed[:MOST_PROMISES]
    if not drawn:
        return None
    low = 10 ** math.floor(math.log10(min(p.estimate.low for p in drawn)))
    high = 10 ** math.ceil(math.log10(max(p.estimate.high for p in drawn)) + 1e-9)
    scale = PLOT_WIDTH / math.log10(high / low)
    canvas, step = svg.SvgCanvas(WIDTH), 34.0
    bottom = 8 + step * len(drawn)
    for power in range(round(math.log10(high / low)) + 1):
        _draw_tick(canvas, (LEFT + power * scale, 6), bottom, fmt.format_measure(low * 10**power, "s"))
    for row, promise in enumerate(drawn):
        y = 8 + step * row + step / 2
        band = promise.estimate
        start, value, end = (LEFT + math.log10(x / low) * scale for x in (band.low, band.value, band.high))
        _draw_label(canvas, promise.id, y + 4)
        canvas.rect((start, y - 4), (max(end - start, 2), 8), svg.PALETTE[4], rx=4)
        canvas.dot((value, y), 5.5, svg.CHOSEN)
        canvas.text((BESIDE_PLOT, y - 1), fmt.format_measure(band.value, "s"), bold=True)
        canvas.text((BESIDE_PLOT, y + 13), fmt.format_band(band), size=11, fill=svg.QUIET)
    picture = _render_with_caption(canvas, bottom, "dot: value; bar: 90 % band; logarithmic axis")
    alt = "; ".join(f"{p.id}: {fmt.format_with_band(p.estimate)}" for p in drawn)
    note = f"{len(timed) - len(drawn)} more in the table." if len(timed) > len(drawn) else ""
    return FigureBlock("Promised times", picture, alt, note)


def draw_sensitivity(drivers: tuple[CostDriver, ...]) -> FigureBlock | None:
    """How far each fact may move, as a factor of its value, and where it would change the choice."""
    names = name_drivers(drivers)
    drawn = [replace(d, name=names[d.basis]) for d in drivers if d.estimate.low > 0][:MOST_DRIVERS]
    if not drawn:
        return None
    reach = max(1.5, *(max(d.estimate.factor, _switch_factor(d) or 1.0) for d in drawn))
    edge = math.log(min(reach, 6.0) * 1.08)
    middle, half = LEFT + PLOT_WIDTH / 2, PLOT_WIDTH / 2
    canvas, step = svg.SvgCanvas(WIDTH), 62.0
    bottom = 8 + step * len(drawn)
    for factor in (0.2, 0.5, 1.0, 2.0, 5.0) if edge > math.log(2) else (0.7, 0.8, 1.0, 1.25, 1.5):
        if abs(math.log(factor)) <= edge:
            x = middle + math.log(factor) / edge * half
            label, stroke = f"x{fmt.SPACE}{fmt.format_number(factor)}", svg.QUIET if factor == 1 else svg.RULE
            _draw_tick(canvas, (x, 6), bottom, label, stroke)
    for row, driver in enumerate(drawn):
        _draw_driver_row(canvas, driver, 8 + step * row + step / 2, (middle, half, edge))
    caption = "bar: 90 % band of the fact; diamond: where another option would be chosen"
    picture = _render_with_caption(canvas, bottom, caption)
    alt = "; ".join(map(_describe_driver, drawn))
    return FigureBlock("How far the facts may move before the choice does", picture, alt)


def name_drivers(drivers: Iterable[CostDriver]) -> dict[str, str]:
    """A fact's name by its basis; facts of one name are told apart by what differs in their bases."""
    alike: dict[str, list[str]] = {}
    for driver in drivers:
        alike.setdefault(driver.name, []).append(driver.basis)
    named: dict[str, str] = {}
    for name, bases in alike.items():
        named |= dict(zip(bases, _strip_shared_prefix(bases) if len(bases) > 1 else [name], strict=True))
    return named


def _strip_shared_prefix(bases: list[str]) -> list[str]:
    """Dotted names without the parts that all of them begin with."""
    parts = [basis.split(".") for basis in bases]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return [".".join(part[shared:]) for part in parts]


def _switch_factor(driver: CostDriver) -> float | None:
    """How far away the flip is, either way; None when nothing flips."""
    at = driver.flips_at
    if driver.flips_to is None or at is None or at <= 0:
        return None
    return max(at / driver.estimate.value, driver.estimate.value / at)


def _describe_driver(driver: CostDriver) -> str:
    text = f"{driver.name}: {fmt.format_with_band(driver.estimate)}"
    if driver.flips_to is None or driver.flips_at is None:
        return f"{text}, flips nothing in reach"
    return f"{text}, at {fmt.format_measure(driver.flips_at, driver.estimate.unit)} {driver.flips_to} is chosen"


def _draw_driver_row(canvas: svg.SvgCanvas, driver: CostDriver, y: float, axis: tuple[float, float, float]) -> None:
    middle, half, edge = axis

    def at(value: float) -> float:
        place = math.log(value / driver.estimate.value) / edge
        return middle + min(max(place, -1.0), 1.0) * half

    named = svg.wrap_text(driver.name, 12, LEFT - 16, 3)
    top = y + 4 - 7 * len(named)
    for row, text in enumerate(named):
        canvas.text((LEFT - 12, top + 14 * row), text, size=12, anchor="end", bold=driver.inside)
    about = f"{fmt.format_percent(driver.share)} of the cost's variance" if driver.share else "in a rival's cost only"
    canvas.text((LEFT - 12, top + 14 * len(named)), about, size=11, fill=svg.QUIET, anchor="end")
    start, end = at(driver.estimate.low), at(driver.estimate.high)
    canvas.rect((start, y - 5), (max(end - start, 2), 10), svg.PALETTE[4], rx=5)
    canvas.dot((middle, y), 4, svg.CHOSEN)
    if driver.flips_to is None or driver.flips_at is None or driver.flips_at <= 0:
        canvas.text((BESIDE_PLOT, y + 4), "flips nothing in reach", size=11, fill=svg.QUIET)
        return
    x = at(driver.flips_at)
    canvas.polygon([(x, y - 9), (x + 7, y), (x, y + 9), (x - 7, y)], svg.WARN, stroke=svg.PAPER)
    where = f"at {fmt.format_measure(driver.flips_at, driver.estimate.unit)}:"
    canvas.text((BESIDE_PLOT, y - 2), svg.fit_text(where, 12, RIGHT - 16), size=12, bold=True)
    canvas.text((BESIDE_PLOT, y + 13), svg.fit_text(driver.flips_to, 11, RIGHT - 16), size=11)
