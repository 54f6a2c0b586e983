"""Charts of a report: cost of the options, years, predictions and sensitivity."""

import math
from collections.abc import Iterable

from archwright.contract.decision import CostDriver
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Prediction
from archwright.contract.plan import Option, Plan
from archwright.contract.record import replace
from archwright.report import number_format as fmt
from archwright.report import svg
from archwright.report.bill import YearCost
from archwright.report.document import FigureBlock

WIDTH = 760.0
LEFT, RIGHT = 196.0, 150.0
PLOT_WIDTH = WIDTH - LEFT - RIGHT
BESIDE_PLOT = LEFT + PLOT_WIDTH + 14
MOST_OPTIONS, MOST_YEARS, MOST_PREDICTIONS, MOST_DRIVERS = 14, 7, 24, 6

YEAR_COLOURS = {"Purchases": svg.PALETTE[1], "Running cost": svg.PALETTE[0], "Staff": svg.PALETTE[6]}


class RowChart(svg.SvgCanvas):
    """Horizontal rows: a label on the left, a plot in the middle, text on the right."""

    def __init__(self, rows: int, step: float, top: float = 12.0) -> None:
        super().__init__(WIDTH)
        self._step, self._top = step, top
        self.bottom = top + step * rows

    def find_row(self, row: int) -> float:
        return self._top + self._step * row

    def draw_axis(self, largest: float) -> float:
        """Draw rules at round numbers. Return the width of one unit."""
        marks = svg.axis_ticks(largest)
        scale = PLOT_WIDTH / marks[-1]
        for mark in marks:
            self.draw_tick(LEFT + mark * scale, fmt.format_tick(mark))
        return scale

    def draw_tick(self, x: float, text: str, stroke: str = svg.RULE) -> None:
        self.line((x, 6), (x, self.bottom), stroke)
        self.text((x, self.bottom + 18), text, size=12, fill=svg.QUIET, anchor="middle")

    def draw_whisker(self, band: Estimate, scale: float, y: float) -> None:
        low, high = LEFT + max(band.low, 0.0) * scale, LEFT + max(band.high, 0.0) * scale
        for start, end in (((low, y), (high, y)), *(((x, y - 5), (x, y + 5)) for x in (low, high))):
            self.line(start, end, svg.INK, stroke_width=1.4)

    def draw_label(self, name: str, y: float, *, bold: bool = False) -> None:
        """A name to the left of its row, on two lines if it is long."""
        size = 13.0 if svg.text_width(name, 13) <= LEFT - 24 else 12.0
        lines = svg.wrap_text(name, size, LEFT - 24, 2)
        for row, line in enumerate(lines):
            self.text((LEFT - 12, y + 13 * row - 6.5 * (len(lines) - 1)), line, size=size, anchor="end", bold=bold)

    def finish(self, title: str, caption: str, alts: Iterable[str], note: str = "") -> FigureBlock:
        self.text((LEFT, self.bottom + 40), caption, size=12, fill=svg.QUIET)
        return FigureBlock(title, self.render(self.bottom + 52), "; ".join(alts), note)


def order_options(options: Iterable[Option], chosen: str | None) -> list[Option]:
    """The chosen option, then feasible, then other options, each by cost; options without a price last."""

    def rank(option: Option) -> tuple[bool, bool, bool, float]:
        cost = option.total_cost
        return option.name != chosen, not option.feasible, cost is None, cost.value if cost else 0.0

    return sorted(options, key=rank)


def draw_option_costs(plan: Plan) -> FigureBlock | None:
    """A bar for each option, with its 90 % interval as a whisker."""
    ordered = order_options(plan.options, plan.chosen)
    drawn = [(option, cost) for option in ordered if (cost := option.total_cost) is not None][:MOST_OPTIONS]
    if not drawn:
        return None
    chart = RowChart(len(drawn), 34.0)
    scale = chart.draw_axis(max(max(cost.high, cost.value) for _, cost in drawn))
    for row, (option, cost) in enumerate(drawn):
        top, is_chosen = chart.find_row(row), option.name == plan.chosen
        fill = svg.CHOSEN if is_chosen else svg.OTHER if option.feasible else svg.PAPER
        edge = {} if option.feasible else {"stroke": svg.OTHER, "stroke_dasharray": "4 3"}
        chart.rect((LEFT, top + 4), (cost.value * scale, 20), fill, rx=2, **edge)
        if cost.low != cost.high:
            chart.draw_whisker(cost, scale, top + 14)
        chart.draw_label(option.name, top + 19, bold=is_chosen)
        verdict = ", chosen" if is_chosen else "" if option.feasible else ", not feasible"
        text = svg.fit_text(fmt.format_compact(cost.value) + verdict, 13, RIGHT - 20)
        chart.text((BESIDE_PLOT, top + 19), text, bold=is_chosen)
    rest = len(plan.options) - len(drawn)
    return chart.finish(
        "Cost of the options over the horizon",
        f"{plan.currency} over {plan.horizon_months} months; whisker: 90 % interval",
        (f"{option.name}: {fmt.format_compact(cost.value)} {plan.currency}" for option, cost in drawn),
        f"{fmt.format_count(rest, 'more option')} in the table: more expensive, or without a price." if rest else "",
    )


def draw_years(plan: Plan, years: tuple[YearCost, ...]) -> FigureBlock | None:
    """A stacked bar for each year: purchases, running cost and staff; one part if the plan does not split them."""
    drawn = years[:MOST_YEARS]
    if not drawn:
        return None
    chart, alts = RowChart(len(drawn), 30.0), list[str]()
    parts = [
        {"Purchases": year.purchases or 0.0, "Running cost": year.running or 0.0, "Staff": year.staff or 0.0}
        if year.purchases is not None
        else {"Running cost": year.total}
        for year in drawn
    ]
    scale = chart.draw_axis(max(sum(max(amount, 0.0) for amount in one.values()) for one in parts))
    for row, (year, sums) in enumerate(zip(drawn, parts, strict=True)):
        y = chart.find_row(row)
        chart.draw_label(f"Year {year.year}", y + 21)
        end = _draw_stacked_bar(chart, sums, y, scale)
        chart.text((end + 10, y + 21), fmt.format_compact(year.total), bold=True)
        split = ", ".join(f"{name} {fmt.format_compact(amount)}" for name, amount in sums.items() if amount)
        alts.append(f"year {year.year}: {split}")
    x, y = LEFT, chart.bottom + 42
    for name in (name for name in YEAR_COLOURS if any(one.get(name) and len(one) > 1 for one in parts)):
        chart.rect((x, y - 10), (12, 12), YEAR_COLOURS[name], rx=2)
        chart.text((x + 18, y), name, size=12)
        x += svg.text_width(name, 12) + 40
    note = f"{plan.currency}, paid in each year." + (
        f" The first {MOST_YEARS} years." if len(years) > MOST_YEARS else ""
    )
    note += " Resale values reduce the last total." if any(year.resale for year in drawn) else ""
    return FigureBlock("Cost by year", chart.render(y + 14), "; ".join(alts), note)


def _draw_stacked_bar(chart: RowChart, parts: dict[str, float], y: float, scale: float) -> float:
    """Draw the segments from left to right, with their amounts if there is room. Return the end of the bar."""
    x = LEFT
    for name, amount in parts.items():
        width = max(amount, 0.0) * scale
        if width <= 0:
            continue
        chart.rect((x, y + 5), (width, 20), YEAR_COLOURS[name], stroke=svg.PAPER)
        text = fmt.format_compact(amount)
        if svg.text_width(text, 11) + 8 < width:
            fill = "#000" if YEAR_COLOURS[name] == svg.PALETTE[1] else "#fff"
            chart.text((x + width / 2, y + 19), text, size=11, fill=fill, anchor="middle")
        x += width
    return x


def draw_predictions(predictions: tuple[Prediction, ...]) -> FigureBlock | None:
    """Every predicted latency with its interval, on one logarithmic axis."""
    timed = [p for p in predictions if p.estimate.unit == "s" and p.estimate.low > 0]
    drawn = timed[:MOST_PREDICTIONS]
    if not drawn:
        return None
    low = 10 ** math.floor(math.log10(min(p.estimate.low for p in drawn)))
    high = 10 ** math.ceil(math.log10(max(p.estimate.high for p in drawn)) + 1e-9)
    scale = PLOT_WIDTH / math.log10(high / low)
    chart = RowChart(len(drawn), 34.0, top=8.0)
    for power in range(round(math.log10(high / low)) + 1):
        chart.draw_tick(LEFT + power * scale, fmt.format_measure(low * 10**power, "s"))
    for row, prediction in enumerate(drawn):
        y, band = chart.find_row(row) + 17.0, prediction.estimate
        start, value, end = (LEFT + math.log10(x / low) * scale for x in (band.low, band.value, band.high))
        chart.draw_label(prediction.id, y + 4)
        chart.rect((start, y - 4), (max(end - start, 2), 8), svg.PALETTE[4], rx=4)
        chart.dot((value, y), 5.5, svg.CHOSEN)
        chart.text((BESIDE_PLOT, y - 1), fmt.format_measure(band.value, "s"), bold=True)
        chart.text((BESIDE_PLOT, y + 13), fmt.format_band(band), size=11, fill=svg.QUIET)
    alts = (f"{p.id}: {fmt.format_with_band(p.estimate)}" for p in drawn)
    note = f"{len(timed) - len(drawn)} more in the table." if len(timed) > len(drawn) else ""
    return chart.finish("Predicted times", "dot: value; bar: 90 % interval; logarithmic axis", alts, note)


def draw_sensitivity(drivers: tuple[CostDriver, ...]) -> FigureBlock | None:
    """The band of each fact as a factor of its value, and the factor that would change the choice."""
    names = name_drivers(drivers)
    drawn = [replace(d, name=names[d.basis]) for d in drivers if d.estimate.low > 0][:MOST_DRIVERS]
    if not drawn:
        return None
    ratios = [at / d.estimate.value for d in drawn if (at := _find_switch(d)) is not None and at > 0]
    reach = max(1.5, *(d.estimate.factor for d in drawn), *(max(ratio, 1 / ratio) for ratio in ratios))
    edge = math.log(min(reach, 6.0) * 1.08)
    chart = RowChart(len(drawn), 62.0, top=8.0)
    for factor in (0.2, 0.5, 1.0, 2.0, 5.0) if edge > math.log(2) else (0.7, 0.8, 1.0, 1.25, 1.5):
        if abs(math.log(factor)) <= edge:
            x = LEFT + (1 + math.log(factor) / edge) * PLOT_WIDTH / 2
            label, stroke = f"x{fmt.SPACE}{fmt.format_number(factor)}", svg.QUIET if factor == 1 else svg.RULE
            chart.draw_tick(x, label, stroke)
    for row, driver in enumerate(drawn):
        _draw_driver_row(chart, driver, chart.find_row(row) + 31.0, edge)
    caption = "bar: 90 % interval of the fact; diamond: value at which another option would be chosen"
    return chart.finish("How far a fact can change before the choice changes", caption, map(_describe_driver, drawn))


def name_drivers(drivers: Iterable[CostDriver]) -> dict[str, str]:
    """Names of the facts by basis. Facts of the same name are identified by the difference of their bases."""
    alike: dict[str, list[str]] = {}
    for driver in drivers:
        alike.setdefault(driver.name, []).append(driver.basis)
    named: dict[str, str] = {}
    for name, bases in alike.items():
        named |= dict(zip(bases, _strip_shared_prefix(bases) if len(bases) > 1 else [name], strict=True))
    return named


def _strip_shared_prefix(bases: list[str]) -> list[str]:
    """Dotted names without their common first parts."""
    parts = [basis.split(".") for basis in bases]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return [".".join(part[shared:]) for part in parts]


def _find_switch(driver: CostDriver) -> float | None:
    """The value at which another option would be chosen, or None."""
    return driver.flips_at if driver.flips_to is not None else None


def _describe_driver(driver: CostDriver) -> str:
    text, at = f"{driver.name}: {fmt.format_with_band(driver.estimate)}", _find_switch(driver)
    if at is None:
        return f"{text}, does not change the choice"
    return f"{text}, at {fmt.format_measure(at, driver.estimate.unit)} {driver.flips_to} is chosen"


def _draw_driver_row(chart: RowChart, driver: CostDriver, y: float, edge: float) -> None:
    def place(value: float) -> float:
        ratio = math.log(value / driver.estimate.value) / edge
        return LEFT + (1 + min(max(ratio, -1.0), 1.0)) * PLOT_WIDTH / 2

    named = svg.wrap_text(driver.name, 12, LEFT - 16, 3)
    top = y + 4 - 7 * len(named)
    for row, text in enumerate(named):
        chart.text((LEFT - 12, top + 14 * row), text, size=12, anchor="end", bold=driver.inside)
    about = f"{fmt.format_percent(driver.share)} of the cost's variance" if driver.share else "in a rival's cost only"
    chart.text((LEFT - 12, top + 14 * len(named)), about, size=11, fill=svg.QUIET, anchor="end")
    start, end = place(driver.estimate.low), place(driver.estimate.high)
    chart.rect((start, y - 5), (max(end - start, 2), 10), svg.PALETTE[4], rx=5)
    chart.dot((LEFT + PLOT_WIDTH / 2, y), 4, svg.CHOSEN)
    at = _find_switch(driver)
    if at is None or at <= 0:
        chart.text((BESIDE_PLOT, y + 4), "does not change the choice", size=11, fill=svg.QUIET)
        return
    x, where = place(at), f"at {fmt.format_measure(at, driver.estimate.unit)}:"
    chart.polygon([(x, y - 9), (x + 7, y), (x, y + 9), (x - 7, y)], svg.WARN, stroke=svg.PAPER)
    chart.text((BESIDE_PLOT, y - 2), svg.fit_text(where, 12, RIGHT - 16), size=12, bold=True)
    chart.text((BESIDE_PLOT, y + 13), svg.fit_text(driver.flips_to or "", 11, RIGHT - 16), size=11)
