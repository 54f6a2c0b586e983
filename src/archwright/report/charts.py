"""Charts of a report: cost of the options, and payments by year."""

from collections.abc import Iterable

from archwright.contract import number_format as fmt
from archwright.contract.decision import CostDriver
from archwright.contract.estimate import Estimate
from archwright.contract.plan import Option, Plan
from archwright.report import svg
from archwright.report.bill import YearCost
from archwright.report.document import FigureBlock

WIDTH = 760.0
LEFT, RIGHT = 196.0, 150.0
PLOT_WIDTH = WIDTH - LEFT - RIGHT
BESIDE_PLOT = LEFT + PLOT_WIDTH + 14
MOST_OPTIONS, MOST_YEARS = 14, 7

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
            self.draw_tick(LEFT + mark * scale, fmt.format_number(mark))
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
        text = svg.fit_text(fmt.format_money(cost.value) + verdict, 13, RIGHT - 20)
        chart.text((BESIDE_PLOT, top + 19), text, bold=is_chosen)
    rest = len(plan.options) - len(drawn)
    return chart.finish(
        "Cost of the options over the horizon",
        f"{plan.currency} over {plan.horizon_months} months; whisker: 90 % interval",
        (f"{option.name}: {fmt.format_money(cost.value, plan.currency)}" for option, cost in drawn),
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
        chart.text((end + 10, y + 21), fmt.format_money(year.total), bold=True)
        split = ", ".join(f"{name} {fmt.format_money(amount)}" for name, amount in sums.items() if amount)
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
        text = fmt.format_money(amount)
        if svg.text_width(text, 11) + 8 < width:
            fill = "#000" if YEAR_COLOURS[name] == svg.PALETTE[1] else "#fff"
            chart.text((x + width / 2, y + 19), text, size=11, fill=fill, anchor="middle")
        x += width
    return x


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
