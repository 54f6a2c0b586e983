"""Sheets that calculate: bill, request for quotation, payments by year and by month."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from archwright.contract.plan import Option, Plan
from archwright.report.bill import BillLine, YearCost, build_bill, sum_years
from archwright.report.charts import order_options
from archwright.report.document import Document, Position
from archwright.report.procurement import quotation_terms
from archwright.report.workbook_writer import Formula, Value, WorkbookWriter, column_letters

BILL_SHEET = "Bill of materials"
MONTH_SHEET = "By month"
BILL_COLUMNS = {
    "group": 26.0,
    "item": 48.0,
    "quantity": 13.0,
    "unit": 18.0,
    "unit price low": 14.0,
    "unit price typical": 14.0,
    "unit price high": 14.0,
    "months": 9.0,
    "amount": 16.0,
    "year of purchase": 12.0,
    "source": 60.0,
    "date": 14.0,
    "confidence": 13.0,
}
AMOUNT_COLUMN = 8
QUOTATION_WIDTHS = (10, 44, 60, 12, 18, 18, 22, 16, 16, 20)
QUOTATION_HEADS = (
    *("position", "item", "specification", "quantity", "unit", "delivery by", "term"),
    *("unit price", "total price", "delivery offered"),
)
YEAR_TITLES = ("year", "purchases", "running cost", "staff", "resale")
YEAR_WIDTHS = (18,) * 6
MONTH_WIDTH = 16.0
MOST_OPTIONS = 8
AXIS_LINES = {"visible": True, "line": {"color": "#DBE1E7"}}
NUMBER_AXIS = {"num_format": "#,##0", "major_gridlines": AXIS_LINES}


class MonthlyLine(NamedTuple):
    """A recurring line of the bill: its row in formulas, and its mean amount per month."""

    item: str
    sheet_row: int
    amount: float


def write_bill_sheets(book: WorkbookWriter, document: Document, option: Option) -> None:
    lines = build_bill(document.plan, option)
    _write_bill(book, document.plan, option, lines=lines)
    _write_quotation(book, document)
    _write_years(book, document.plan, option)
    _write_months(book, document.plan, option, lines=_list_monthly(lines))


def _write_bill(book: WorkbookWriter, plan: Plan, option: Option, *, lines: tuple[BillLine, ...]) -> None:
    """The lines of the bill, their sum, and its difference to the total of the plan."""
    sheet = book.add_list_sheet(BILL_SHEET, BILL_COLUMNS, widths=BILL_COLUMNS.values())
    book.write_cell(sheet, (0, AMOUNT_COLUMN), f"amount, {plan.currency}", style=book.head)
    for row, line in enumerate(lines, 1):
        book.write_row(sheet, row, _bill_row(line, row + 1))

    end = len(lines) + 1
    total = sum(line.amount for line in lines)
    book.write_cell(sheet, (end, 0), "Sum", style=book.bold)
    summed = Formula(f"=SUM(I2:I{max(end, 2)})", total)
    book.write_cell(sheet, (end, AMOUNT_COLUMN), summed, style=book.total)
    if option.total_cost is None:
        return

    planned = option.total_cost.value
    book.write_cell(sheet, (end + 1, 0), "Total of the plan")
    book.write_cell(sheet, (end + 1, AMOUNT_COLUMN), planned)
    # Without a negative zero.
    difference = round(total - planned, 2) + 0.0
    book.write_cell(sheet, (end + 2, 0), "Difference")
    calculated = Formula(f"=ROUND(I{end + 1}-I{end + 2},2)", difference)
    book.write_cell(sheet, (end + 2, AMOUNT_COLUMN), calculated)


def _bill_row(line: BillLine, sheet_row: int) -> Iterable[Value]:
    yield from (line.group, line.item, line.quantity, line.unit)
    yield from line.unit_price
    yield line.times
    yield Formula(f"=C{sheet_row}*F{sheet_row}*H{sheet_row}", line.amount)
    if line.year is not None:
        yield line.year
    else:
        yield "once" if line.once else "monthly"
    yield from (line.source, line.as_of, line.confidence)


def _list_monthly(lines: tuple[BillLine, ...]) -> list[MonthlyLine]:
    monthly: list[MonthlyLine] = []
    for sheet_row, line in enumerate(lines, 2):
        if not line.once:
            _, typical, _ = line.unit_price
            monthly.append(MonthlyLine(line.item, sheet_row, line.quantity * typical))
    return monthly


def _write_quotation(book: WorkbookWriter, document: Document) -> None:
    """A sheet for vendors: what is asked, without a price or budget of the buyer."""
    sheet = book.add_sheet("Request for quotation", QUOTATION_WIDTHS)
    title = f"Request for quotation: {document.plan.organisation}"
    book.write_cell(sheet, (0, 0), title, style=book.title)

    row = 2
    for name, text in quotation_terms(document.plan):
        book.write_row(sheet, row, ("", name, text))
        row += 1

    row += 1
    book.write_row(sheet, row, QUOTATION_HEADS, style=book.head)
    end = book.write_rows(sheet, row + 1, map(_position_row, document.positions))
    book.write_cell(sheet, (end + 1, 1), "Vendor, date, signature", style=book.bold)


def _position_row(position: Position) -> tuple[Value, ...]:
    return tuple(position)


def _write_years(book: WorkbookWriter, plan: Plan, option: Option) -> None:
    titles = [*YEAR_TITLES, f"total, {plan.currency}"]
    sheet = book.add_list_sheet("By year", titles, widths=YEAR_WIDTHS)

    years = sum_years(plan, option)
    for row, year in enumerate(years, 1):
        book.write_row(sheet, row, _year_row(year, row + 1))

    end = len(years) + 1
    sums = map(_sum_column, zip(*map(_list_amounts, years), strict=True))
    for letter, total in zip("BCDEF", sums, strict=False):
        summed = Formula(f"=SUM({letter}2:{letter}{end})", total)
        book.write_cell(sheet, (end, "ABCDEF".index(letter)), summed, style=book.total)


def _year_row(year: YearCost, sheet_row: int) -> Iterable[Value]:
    yield year.year
    *parts, total = _list_amounts(year)
    yield from parts
    is_split = year.purchases is not None
    if is_split:
        yield Formula(f"=SUM(B{sheet_row}:E{sheet_row})", year.total)
    else:
        yield total


def _list_amounts(year: YearCost) -> tuple[float | None, ...]:
    return year.purchases, year.running, year.staff, year.resale, year.total


def _sum_column(amounts: Iterable[float | None]) -> float:
    return sum(filter(None, amounts))


def _write_months(book: WorkbookWriter, plan: Plan, option: Option, *, lines: list[MonthlyLine]) -> None:
    """Recurring lines at their mean, and cumulative payments of the options with growth."""
    table = MonthTable(plan, option, lines)
    titles = table.list_titles()
    widths = [MONTH_WIDTH] * len(titles)
    sheet = book.add_list_sheet(MONTH_SHEET, titles, widths=widths)
    months = range(1, plan.horizon_months + 1)
    book.write_rows(sheet, 1, map(table.list_values, months))

    last_row = plan.horizon_months + 1
    book.write_cell(sheet, (last_row, 0), "sum")
    for column, total in enumerate(table.list_sums(), 1):
        letters = column_letters(column)
        summed = Formula(f"=SUM({letters}2:{letters}{last_row})", total)
        book.write_cell(sheet, (last_row, column), summed, style=book.total)
    if table.options:
        _add_lines_chart(book, sheet, table)


class MonthTable:
    """The columns by month: lines, their sum, payments of the option, payments of all options."""

    def __init__(self, plan: Plan, option: Option, lines: list[MonthlyLine]) -> None:
        self._option = option
        self._lines = lines
        self._mean = sum(line.amount for line in lines)
        self.months = plan.horizon_months
        self.options: list[Option] = []
        for candidate in order_options(plan.options, plan.chosen):
            if candidate.cumulative_cost and candidate.feasible:
                self.options.append(candidate)
        del self.options[MOST_OPTIONS:]
        self.first_option = len(lines) + 3

    def list_titles(self) -> list[str]:
        titles = ["month"]
        titles += [line.item for line in self._lines]
        titles += ["recurring, mean", f"paid in the month: {self._option.name}"]
        titles += [f"cumulative: {option.name}" for option in self.options]
        return titles

    def list_values(self, month: int) -> Iterable[Value]:
        yield month
        for line in self._lines:
            quantity = f"'{BILL_SHEET}'!$C${line.sheet_row}"
            price = f"'{BILL_SHEET}'!$F${line.sheet_row}"
            yield Formula(f"={quantity}*{price}", line.amount)
        yield self._sum_lines(month)
        yield self._find_payment(month)
        for option in self.options:
            has_value = month <= len(option.cumulative_cost)
            yield option.cumulative_cost[month - 1] if has_value else None

    def _sum_lines(self, month: int) -> Formula | None:
        if not self._lines:
            return None
        letters = column_letters(len(self._lines))
        return Formula(f"=SUM(B{month + 1}:{letters}{month + 1})", self._mean)

    def _find_payment(self, month: int) -> Formula | None:
        """The payment of the option in a month: the difference of its cumulative payments."""
        paid = self._option.cumulative_cost
        is_first = bool(self.options) and self.options[0].name == self._option.name
        if not is_first or month > len(paid):
            return None
        letters = column_letters(self.first_option)
        if month == 1:
            return Formula(f"={letters}2", paid[0])
        payment = paid[month - 1] - paid[month - 2]
        return Formula(f"={letters}{month + 1}-{letters}{month}", payment)

    def list_sums(self) -> list[float]:
        sums = [line.amount * self.months for line in self._lines]
        sums.append(self._mean * self.months)
        if self.options:
            paid = self._option.cumulative_cost
            sums.append(paid[-1] if paid else 0.0)
        return sums


def _add_lines_chart(book: WorkbookWriter, sheet: Any, table: MonthTable) -> None:
    chart = book.workbook.add_chart({"type": "line"})
    months = [MONTH_SHEET, 1, 0, table.months, 0]
    for number in range(len(table.options)):
        column = table.first_option + number
        name = [MONTH_SHEET, 0, column]
        values = [MONTH_SHEET, 1, column, table.months, column]
        chart.add_series({"name": name, "categories": months, "values": values})
    chart.set_title({"name": "Cumulative payments"})
    chart.set_x_axis({"interval_unit": max(1, table.months // 12)})
    chart.set_y_axis(NUMBER_AXIS)
    chart.set_size({"width": 900, "height": 420})
    description = {"description": "cumulative payments of each option by month"}
    sheet.insert_chart(table.months + 4, 1, chart, description)
