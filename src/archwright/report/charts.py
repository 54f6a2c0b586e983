"""The charts of a report: what options cost and why, when it is built, what is promised, what flips the choice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.contract.decision import CostDriver, Schedule
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Prediction
from archwright.contract.plan import CostCategory, Option
from archwright.contract.record import replace
from archwright.report import svg
from archwright.report.document import FigureBlock
from archwright.report.number_format import (
    SPACE,
    format_band,
    format_compact,
    format_count,
    format_measure,
    format_number,
    format_percent,
    format_tick,
    format_with_band,
)

WIDTH = 760.0
LEFT, RIGHT = 196.0, 150.0
PLOT_WIDTH = WIDTH - LEFT - RIGHT
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


def _draw_axis(canvas: svg.SvgCanvas, largest: float, bottom: float) -> float:
    """Rules from the top to `bottom` at round numbers; returns units per value."""
    marks = svg.axis_ticks(largest)
    scale = PLOT_WIDTH / marks[-1]
    for mark in marks:
        x = LEFT + mark * scale
        canvas.line((x, 8), (x, bottom))
        canvas.text((x, bottom + 18), format_tick(mark), size=12, fill=svg.QUIET, anchor="middle")
    return scale


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
    canvas.text((LEFT, bottom + 40), f"{currency} over {months} months; whisker: 90 % band", size=12, fill=svg.QUIET)
    alt = "; ".join(f"{o.name}: {format_compact(o.total_cost.value)} {currency}" for o in drawn if o.total_cost)
    left_out = len(options) - len(drawn)
    note = f"{format_count(left_out, 'more option')} in the table: dearer, or without a price." if left_out else ""
    return FigureBlock("Cost of the options over the horizon", canvas.render(bottom + 52), alt, note)


def _draw_cost_bar(canvas: svg.SvgCanvas, option: Option, top: float, scale: float, *, is_chosen: bool) -> None:
    cost = option.total_cost
    assert cost is not None
    fill = svg.CHOSEN if is_chosen else svg.OTHER if option.feasible else svg.PAPER
    edge = {} if option.feasible else {"stroke": svg.OTHER, "stroke_dasharray": "4 3"}
    canvas.rect((LEFT, top + 4), (cost.value * scale, 20), fill, rx=2, **edge)
    middle, low, high = top + 14, LEFT + max(cost.low, 0.0) * scale, LEFT + cost.high * scale
    if cost.low != cost.high:
        canvas.line((low, middle), (high, middle), svg.INK, stroke_width=1.4)
        for end in (low, high):
            canvas.line((end, middle - 5), (end, middle + 5), svg.INK, stroke_width=1.4)
    _draw_label(canvas, option.name, top + 19, bold=is_chosen)
    verdict = "chosen" if is_chosen else "" if option.feasible else "not feasible"
    text = f"{format_compact(cost.value)}{', ' if verdict else ''}{verdict}"
    canvas.text((LEFT + PLOT_WIDTH + 14, top + 19), svg.fit_text(text, 13, RIGHT - 20), bold=is_chosen)


def _draw_label(canvas: svg.SvgCanvas, name: str, y: float, *, bold: bool = False) -> None:
    """A name to the left of its bar, in two lines where one is too short."""
    size = 13.0 if svg.text_width(name, 13) <= LEFT - 24 else 12.0
    lines = svg.wrap_text(name, size, LEFT - 24, 2)
    for row, line in enumerate(lines):
        canvas.text((LEFT - 12, y + 13 * row - 6.5 * (len(lines) - 1)), line, size=size, anchor="end", bold=bold)


class CostShare(NamedTuple):
    group: str
    amount: float


def sum_cost_groups(option: Option, months: int) -> tuple[CostShare, ...]:
    """An option's total by group; what is sold at the end lowers what was bought."""
    sums = dict.fromkeys(CATEGORY_GROUPS, 0.0)
    for line in option.cost_lines:
        group = next(name for name, categories in CATEGORY_GROUPS.items() if line.category in categories)
        sums[group] += line.total_over(months)
    return tuple(CostShare(group, amount) for group, amount in sums.items())


def draw_cost_breakdown(
    options: tuple[Option, ...], chosen: str | None, currency: str, months: int
) -> FigureBlock | None:
    """What each option's total is made of, stacked."""
    drawn = [o for o in order_options(options, chosen) if o.total_cost is not None and o.cost_lines][:6]
    if not drawn:
        return None
    parts = {option.name: sum_cost_groups(option, months) for option in drawn}
    used = [
        group for group in CATEGORY_GROUPS if any(s.amount > 0 for ss in parts.values() for s in ss if s.group == group)
    ]
    colours = dict(zip(CATEGORY_GROUPS, svg.PALETTE, strict=True))
    canvas, step, top = svg.SvgCanvas(WIDTH), 36.0, 12.0
    bottom = top + step * len(drawn)
    scale = _draw_axis(canvas, max(sum(max(s.amount, 0.0) for s in ss) for ss in parts.values()), bottom)
    for row, option in enumerate(drawn):
        y = top + row * step
        _draw_label(canvas, option.name, y + 21, bold=option.name == chosen)
        end = _draw_stacked_bar(canvas, parts[option.name], y, (scale, colours))
        canvas.text((end + 10, y + 21), format_compact(sum(s.amount for s in parts[option.name])))
    height = _draw_legend(canvas, used, colours, bottom + 42)
    alt = "; ".join(
        f"{o.name}: " + ", ".join(f"{s.group} {format_compact(s.amount)}" for s in parts[o.name] if s.amount)
        for o in drawn
    )
    return FigureBlock("What the cost is made of", canvas.render(height), alt, f"{currency} over {months} months.")


def _draw_stacked_bar(
    canvas: svg.SvgCanvas, parts: tuple[CostShare, ...], y: float, style: tuple[float, dict[str, str]]
) -> float:
    """Segments from left to right, each with its amount where there is room; returns where they end."""
    (scale, colours), x = style, LEFT
    for share in parts:
        width = max(share.amount, 0.0) * scale
        if width <= 0:
            continue
        canvas.rect((x, y + 5), (width, 24), colours[share.group], stroke=svg.PAPER)
        text = format_compact(share.amount)
        if svg.text_width(text, 11) + 8 < width:
            dark = colours[share.group] in (svg.PALETTE[0], svg.PALETTE[5])
            canvas.text((x + width / 2, y + 21), text, size=11, fill="#fff" if dark else "#000", anchor="middle")
        x += width
    return x


def _draw_legend(canvas: svg.SvgCanvas, used: list[str], colours: dict[str, str], y: float) -> float:
    x = LEFT
    for group in used:
        wide = svg.text_width(group, 12) + 40
        if x + wide > WIDTH - 10:
            x, y = LEFT, y + 22
        canvas.rect((x, y - 10), (12, 12), colours[group], rx=2)
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
        canvas.line((low, y + 14), (high, y + 14), svg.INK, stroke_width=1.4)
        for edge in (low, high):
            canvas.line((edge, y + 9), (edge, y + 19), svg.INK, stroke_width=1.4)
        canvas.text(
            (LEFT + PLOT_WIDTH + 14, y + 13),
            f"until month {format_number(phase.ends.value, 2)}",
            size=12,
            bold=True,
        )
        canvas.text((LEFT + PLOT_WIDTH + 14, y + 26), _format_date_band(phase.ends), size=11, fill=svg.QUIET)
    canvas.text((LEFT, bottom + 40), "months from the signature; whisker: 90 % band", size=12, fill=svg.QUIET)
    alt = "; ".join(
        f"{p.name} until month {format_number(p.ends.value, 2)}, {_format_date_band(p.ends)}" for p in dates.phases
    )
    return FigureBlock(f"From the signature to whole use: {dates.option}", canvas.render(bottom + 52), alt)


def _format_date_band(date: Estimate) -> str:
    return f"{format_number(date.low, 2)} to {format_number(date.high, 2)}"


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
        x = LEFT + power * scale
        canvas.line((x, 6), (x, bottom))
        text = format_measure(low * 10**power, "s")
        canvas.text((x, bottom + 18), text, size=12, fill=svg.QUIET, anchor="middle")
    for row, promise in enumerate(drawn):
        y = 8 + step * row + step / 2
        start, value, end = (
            LEFT + math.log10(x / low) * scale
            for x in (promise.estimate.low, promise.estimate.value, promise.estimate.high)
        )
        _draw_label(canvas, promise.id, y + 4)
        canvas.rect((start, y - 4), (max(end - start, 2), 8), svg.PALETTE[4], rx=4)
        canvas.dot((value, y), 5.5, svg.CHOSEN)
        shown = format_measure(promise.estimate.value, "s")
        canvas.text((LEFT + PLOT_WIDTH + 14, y - 1), shown, bold=True)
        canvas.text((LEFT + PLOT_WIDTH + 14, y + 13), format_band(promise.estimate), size=11, fill=svg.QUIET)
    canvas.text((LEFT, bottom + 40), "dot: value; bar: 90 % band; logarithmic axis", size=12, fill=svg.QUIET)
    alt = "; ".join(f"{p.id}: {format_with_band(p.estimate)}" for p in drawn)
    note = f"{len(timed) - len(drawn)} more in the table." if len(timed) > len(drawn) else ""
    return FigureBlock("Promised times", canvas.render(bottom + 52), alt, note)


def draw_sensitivity(drivers: tuple[CostDriver, ...]) -> FigureBlock | None:
    """How far each fact may move, as a factor of its value, and where it would change the choice."""
    drawn = [d for d in drivers if d.estimate.low > 0][:MOST_DRIVERS]
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
            canvas.line((x, 6), (x, bottom), svg.QUIET if factor == 1 else svg.RULE)
            label = f"x{SPACE}{format_number(factor)}"
            canvas.text((x, bottom + 18), label, size=12, fill=svg.QUIET, anchor="middle")
    names = name_drivers(drivers)
    for row, driver in enumerate(drawn):
        _draw_driver_row(
            canvas, replace(driver, name=names[driver.basis]), 8 + step * row + step / 2, (middle, half, edge)
        )
    text = "bar: 90 % band of the fact; diamond: where another option would be chosen"
    canvas.text((LEFT, bottom + 40), text, size=12, fill=svg.QUIET)
    alt = "; ".join(_describe_driver(replace(driver, name=names[driver.basis])) for driver in drawn)
    return FigureBlock("How far the facts may move before the choice does", canvas.render(bottom + 52), alt)


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
    unit = driver.estimate.unit
    text = f"{driver.name}: {format_with_band(driver.estimate)}"
    if driver.flips_to is None or driver.flips_at is None:
        return f"{text}, flips nothing in reach"
    return f"{text}, at {format_measure(driver.flips_at, unit)} {driver.flips_to} is chosen"


def _draw_driver_row(canvas: svg.SvgCanvas, driver: CostDriver, y: float, axis: tuple[float, float, float]) -> None:
    middle, half, edge = axis

    def at(value: float) -> float:
        place = math.log(value / driver.estimate.value) / edge
        return middle + min(max(place, -1.0), 1.0) * half

    named = svg.wrap_text(driver.name, 12, LEFT - 16, 3)
    top = y + 4 - 7 * len(named)
    for row, text in enumerate(named):
        canvas.text((LEFT - 12, top + 14 * row), text, size=12, anchor="end", bold=driver.inside)
    about = f"{format_percent(driver.share)} of the cost's variance" if driver.share else "in a rival's cost only"
    canvas.text((LEFT - 12, top + 14 * len(named)), about, size=11, fill=svg.QUIET, anchor="end")
    start, end = at(driver.estimate.low), at(driver.estimate.high)
    canvas.rect((start, y - 5), (max(end - start, 2), 10), svg.PALETTE[4], rx=5)
    canvas.dot((middle, y), 4, svg.CHOSEN)
    right = LEFT + PLOT_WIDTH + 14
    if driver.flips_to is None or driver.flips_at is None or driver.flips_at <= 0:
        canvas.text((right, y + 4), "flips nothing in reach", size=11, fill=svg.QUIET)
        return
    x = at(driver.flips_at)
    canvas.polygon([(x, y - 9), (x + 7, y), (x, y + 9), (x - 7, y)], svg.WARN, stroke=svg.PAPER)
    where = f"at {format_measure(driver.flips_at, driver.estimate.unit)}:"
    canvas.text((right, y - 2), svg.fit_text(where, 12, RIGHT - 16), size=12, bold=True)
    canvas.text((right, y + 13), svg.fit_text(driver.flips_to, 11, RIGHT - 16), size=11)
