"""Report as a workbook: numbers as numbers, sums as formulas, and every text as text."""

import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.number_format import format_duration
from archwright.contract.plan import Option, Plan
from archwright.errors import require_extra
from archwright.report.bill import build_bill, sum_years
from archwright.report.charts import name_drivers, order_options
from archwright.report.decision_chapters import describe_switch_point
from archwright.report.delivery_chapters import list_tasks
from archwright.report.document import Document
from archwright.report.plan_texts import describe_miss
from archwright.report.procurement import quotation_terms
from archwright.report.risk_register import list_risks

LONGEST_TEXT = 32_767
# A text with such a start would become a formula if somebody retypes it or saves the sheet as CSV.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
WORKBOOK_OPTIONS = {
    **dict.fromkeys(("strings_to_formulas", "strings_to_urls", "strings_to_numbers"), False),
    "in_memory": True,
}
NUMBER_AXIS = {"num_format": "#,##0", "major_gridlines": {"visible": True, "line": {"color": "#DBE1E7"}}}
BAND_COLUMNS = ("value", "low", "high")


class Formula(NamedTuple):
    """`value`: the result, for programs that do not calculate."""

    text: str
    value: float


Value = str | float | bool | Formula | None


class WorkbookWriter:
    """Writes sheets of rows with the formats of the workbook."""

    def __init__(self, workbook: Any) -> None:
        self.workbook, wrapped = workbook, {"text_wrap": True, "valign": "top"}
        self.text = workbook.add_format(wrapped)
        self.quoted = workbook.add_format({**wrapped, "quote_prefix": True})
        self.head = workbook.add_format({"bold": True, "bottom": 1, "text_wrap": True, "bg_color": "#F3F6F9"})
        self.title = workbook.add_format({"bold": True, "font_size": 16})
        self.bold = workbook.add_format({**wrapped, "bold": True})
        self.whole = workbook.add_format({"num_format": "#,##0", "valign": "top"})
        self.cents = workbook.add_format({"num_format": "#,##0.00", "valign": "top"})
        self.small = workbook.add_format({"num_format": "0.0000", "valign": "top"})
        self.total = workbook.add_format({"num_format": "#,##0", "bold": True, "top": 1})

    def number_style(self, value: float) -> Any:
        """A format with the digits that suit the size of the number."""
        if abs(value) >= 100 or value == round(value):
            return self.whole
        return self.cents if abs(value) >= 1 else self.small

    def add_sheet(self, name: str, heads: Sequence[str], widths: Sequence[float]) -> Any:
        """An empty sheet with a frozen head row, printed on the width of one page."""
        sheet = self.workbook.add_worksheet(name)
        for column, width in enumerate(widths):
            sheet.set_column(column, column, width)
        for column, head in enumerate(heads):
            sheet.write_string(0, column, head[:LONGEST_TEXT], self.head)
        if heads:
            sheet.freeze_panes(1, 1)
            sheet.repeat_rows(0)
        sheet.set_landscape()
        sheet.fit_to_pages(1, 0)
        sheet.set_footer("&L&A&R&P / &N")
        return sheet

    def write_cell(self, sheet: Any, row: int, column: int, value: Value, style: Any = None) -> None:
        """Write a value by its type. Text stays text, whatever its first character."""
        if isinstance(value, str):
            style = self.quoted if value.startswith(FORMULA_STARTS) else style or self.text
            sheet.write_string(row, column, value[:LONGEST_TEXT], style)
        elif isinstance(value, bool):
            sheet.write_string(row, column, "yes" if value else "no", self.text)
        elif isinstance(value, Formula):
            sheet.write_formula(row, column, value.text, style or self.number_style(value.value), value.value)
        elif value is not None:
            sheet.write_number(row, column, value, style or self.number_style(value))

    def write_table(self, name: str, columns: Mapping[str, float], rows: Iterable[Iterable[Value]]) -> None:
        """A sheet of rows; `columns`: head and width."""
        self.write_rows(self.add_sheet(name, tuple(columns), tuple(columns.values())), rows)

    def write_rows(self, sheet: Any, rows: Iterable[Iterable[Value]], *, start: int = 1) -> int:
        """Return the row after the last."""
        for values in rows:
            for column, value in enumerate(values):
                self.write_cell(sheet, start, column, value)
            start += 1
        return start


def render_xlsx(document: Document) -> bytes:
    """Raises MissingError AW-GET-01 without the extra `report`."""
    with require_extra("report", "a report as a workbook"):
        import xlsxwriter  # noqa: PLC0415
    stream, plan = io.BytesIO(), document.plan
    workbook = xlsxwriter.Workbook(stream, WORKBOOK_OPTIONS)
    made = {"title": document.title, "author": "archwright", "created": _creation_time(plan)}
    workbook.set_properties({**made, "comments": f"plan {plan.digest[:12]}"})
    book = WorkbookWriter(workbook)
    option = plan.chosen_option
    _write_decision(book, document, option)
    _write_options(book, plan)
    if option is not None:
        lines = _write_bill(book, plan, option)
        _write_quotation(book, document)
        _write_years(book, plan, option)
        _write_months(book, plan, option, lines)
    _write_tasks(book, plan, option)
    _write_platform(book, plan)
    _write_predictions(book, plan)
    _write_lists(book, document)
    workbook.close()
    return stream.getvalue()


def _creation_time(plan: Plan) -> datetime:
    """The time of the plan without a time zone; the first day of the format if it is not a valid time."""
    try:
        return datetime.fromisoformat(plan.created_at).astimezone(UTC).replace(tzinfo=None)
    except ValueError:
        return datetime(1980, 1, 1)


def _estimate_cells(estimate: Estimate | None) -> tuple[Value, Value, Value]:
    return (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)


def _write_decision(book: WorkbookWriter, document: Document, option: Option | None) -> None:
    plan = document.plan
    sheet = book.add_sheet("Decision", (), (46, 24, 16, 16, 18, 70))
    book.write_cell(sheet, 0, 0, document.title, book.title)
    sheet.merge_range(1, 0, 1, 5, "", book.text)
    book.write_cell(sheet, 1, 0, document.sentence)
    sheet.set_row(1, 50)
    facts = ((fact.lead, fact.text) for fact in document.facts)
    row = book.write_rows(sheet, [*facts, ("Chosen", plan.chosen or "none")], start=3)
    for title, rows in _decision_blocks(plan, option):
        found = [tuple(values) for values in rows]
        if found:
            heads = (title, *BAND_COLUMNS, "unit") if len(found[0]) > 1 else (title,)
            for column, text in enumerate(heads):
                book.write_cell(sheet, row + 1, column, text, book.bold)
            row = book.write_rows(sheet, found, start=row + 2)


def _decision_blocks(plan: Plan, option: Option | None) -> Iterable[tuple[str, Iterable[Iterable[Value]]]]:
    """Title and rows of each block: label, value, low, high, unit, words."""
    sums = (
        (f"Total over {plan.horizon_label}", option.total_cost if option else None),
        ("Per month, without staff", option.cost_per_month if option else None),
        ("Purchases over the horizon", option.capex if option else None),
        ("Power at the plug", option.power_kw if option else None),
    )
    yield "Money", ((label, *_estimate_cells(e), e.unit) for label, e in sums if e is not None)
    returns = plan.decision.returns
    if returns is not None:
        yield (
            "Return",
            (
                ("Value of the goals", returns.value, None, None, plan.currency),
                ("Value less cost", *_estimate_cells(returns.net), returns.net.unit),
                ("Paid back in month", returns.payback_month),
                ("Pays within the horizon, share of the samples", returns.pays),
            ),
        )
    for dates in plan.decision.schedules:
        if option is not None and dates.option == option.name:
            ends = ((f"End of {p.name}", *_estimate_cells(p.ends), "months") for p in dates.phases)
            yield "Dates, months from the signature", ends
    drivers = plan.decision.drivers
    names = name_drivers(drivers)
    facts = ((names[d.basis], *_estimate_cells(d.estimate), d.estimate.unit, describe_switch_point(d)) for d in drivers)
    yield "Facts with the largest effect on cost", facts
    yield "Notes", ((note,) for note in (option.notes if option else ()))
    yield "Not sized or not predicted", ((text,) for text in plan.not_sized)


def _write_options(book: WorkbookWriter, plan: Plan) -> None:
    bands = tuple(f"{name}, {end}" for name in ("total", "per month", "purchases") for end in BAND_COLUMNS)
    heads = ("option", "verdict", *bands, "placement", "provider", "regions", "misses", "Pareto", "models")
    sheet = book.add_sheet("Options", heads, (30, 14, *([14] * 9), 16, 16, 24, 40, 9, 40))
    ordered = order_options(plan.options, plan.chosen)
    end = book.write_rows(sheet, (_option_row(plan, option) for option in ordered))
    if len(ordered) > 1:
        sheet.autofilter(0, 0, end - 1, len(heads) - 1)
    priced = [number for number, option in enumerate(ordered) if option.total_cost is not None]
    if priced:
        last = min(priced[-1] + 1, 15)
        chart = book.workbook.add_chart({"type": "bar"})
        names, values = ["Options", 1, 0, last, 0], ["Options", 1, 2, last, 2]
        chart.add_series({"categories": names, "values": values, "name": plan.currency, "fill": {"color": "#0072B2"}})
        chart.set_title({"name": f"Total over {plan.horizon_label}"})
        chart.set_legend({"none": True})
        chart.set_y_axis({"reverse": True})
        chart.set_x_axis(NUMBER_AXIS)
        chart.set_size({"width": 820, "height": 120 + 28 * last})
        sheet.insert_chart(end + 2, 0, chart, {"description": "total cost of each option"})


def _option_row(plan: Plan, option: Option) -> Iterable[Value]:
    yield option.name
    yield "chosen" if option.name == plan.chosen else "feasible" if option.feasible else "not feasible"
    for estimate in (option.total_cost, option.cost_per_month, option.capex):
        yield from _estimate_cells(estimate)
    yield from (option.placement, option.provider, ", ".join(option.regions))
    yield "; ".join(describe_miss(miss) for miss in option.misses)
    yield option.name in plan.decision.pareto
    yield ", ".join(f"{name}: {model}" for name, model in option.models.items())


def _write_bill(book: WorkbookWriter, plan: Plan, option: Option) -> tuple[tuple[str, int, float], ...]:
    """Write the bill with formulas. Return the monthly lines with their sheet row and mean amount per month."""
    columns = {"group": 26, "item": 48, "quantity": 13, "unit": 18, "unit price low": 14, "unit price typical": 14}
    columns |= {"unit price high": 14, "months": 9, f"amount, {plan.currency}": 16, "year of purchase": 12}
    columns |= {"source": 60, "date": 14, "confidence": 13}
    sheet, monthly, lines = book.add_sheet("Bill of materials", tuple(columns), tuple(columns.values())), [], []
    lines = list(build_bill(plan, option))
    for row, line in enumerate(lines, 1):
        low, typical, high = line.unit_price
        when = line.year or ("once" if line.once else "monthly")
        total = Formula(f"=C{row + 1}*F{row + 1}*H{row + 1}", line.amount)
        values = (line.group, line.item, line.quantity, line.unit, low, typical, high, line.times, total, when)
        book.write_rows(sheet, [(*values, line.source, line.as_of, line.confidence)], start=row)
        if not line.once:
            monthly.append((line.item, row, line.quantity * typical))
    end, whole = len(lines) + 1, sum(line.amount for line in lines)
    book.write_cell(sheet, end, 0, "Sum", book.bold)
    book.write_cell(sheet, end, 8, Formula(f"=SUM(I2:I{max(end, 2)})", whole), book.total)
    if option.total_cost is not None:
        book.write_rows(sheet, [("Total of the plan", *([None] * 7), option.total_cost.value)], start=end + 1)
        difference = Formula(f"=ROUND(I{end + 1}-I{end + 2},2)", round(whole - option.total_cost.value, 2) + 0.0)
        book.write_rows(sheet, [("Difference", *([None] * 7), difference)], start=end + 2)
    return tuple(monthly)


def _write_quotation(book: WorkbookWriter, document: Document) -> None:
    """A sheet for vendors: what is asked, with empty price columns and no price or budget of the buyer."""
    sheet = book.add_sheet("Request for quotation", (), (10, 44, 60, 12, 18, 18, 22, 16, 16, 20))
    book.write_cell(sheet, 0, 0, f"Request for quotation: {document.plan.organisation}", book.title)
    row = book.write_rows(sheet, (("", name, text) for name, text in quotation_terms(document.plan)), start=2)
    heads = ("position", "item", "specification", "quantity", "unit", "delivery by", "term")
    for column, head in enumerate((*heads, "unit price", "total price", "delivery offered")):
        book.write_cell(sheet, row + 1, column, head, book.head)
    positions = (
        (p.number, p.item, p.specification, p.quantity, p.unit, p.delivery, p.term) for p in document.positions
    )
    row = book.write_rows(sheet, positions, start=row + 2)
    book.write_cell(sheet, row + 1, 1, "Vendor, date, signature", book.bold)


def _write_years(book: WorkbookWriter, plan: Plan, option: Option) -> None:
    columns = {"year": 10, "purchases": 18, "running cost": 18, "staff": 18, "resale": 18}
    columns[f"total, {plan.currency}"] = 18
    rows, sheet = [], book.add_sheet("By year", tuple(columns), tuple(columns.values()))
    for row, year in enumerate(sum_years(plan, option), 2):
        split = year.purchases is not None
        total = Formula(f"=SUM(B{row}:E{row})", year.total) if split else year.total
        rows.append((float(year.year), year.purchases, year.running, year.staff, year.resale, total))
    end = book.write_rows(sheet, rows)
    for column, letter in enumerate("BCDEF", 1):
        values = [cell.value if isinstance(cell := row[column], Formula) else cell for row in rows]
        total = sum(value for value in values if isinstance(value, float))
        book.write_cell(sheet, end, column, Formula(f"=SUM({letter}2:{letter}{max(end, 2)})", total), book.total)


def _write_months(book: WorkbookWriter, plan: Plan, option: Option, lines: tuple[tuple[str, int, float], ...]) -> None:
    """By month: the recurring lines at their mean, and the cumulative payments of every option, growth included."""
    others = [o for o in order_options(plan.options, plan.chosen) if o.cumulative_cost and o.feasible][:8]
    names = tuple(f"cumulative: {other.name}" for other in others)
    heads = ("month", *(name for name, _, _ in lines), "recurring, mean", f"paid in the month: {option.name}", *names)
    sheet = book.add_sheet("By month", heads, (8, *([16] * (len(heads) - 1))))
    mean, paid, last = sum(amount for _, _, amount in lines), option.cumulative_cost, plan.horizon_months
    start, end = column_letters(len(lines) + 3), column_letters(len(lines))

    def list_values(month: int) -> Iterable[Value]:
        yield month
        yield from (
            Formula(f"='Bill of materials'!$C${at + 1}*'Bill of materials'!$F${at + 1}", amount)
            for _, at, amount in lines
        )
        yield Formula(f"=SUM(B{month + 1}:{end}{month + 1})", mean) if lines else None
        has_flow = bool(others) and others[0].name == option.name and month <= len(paid)
        earlier, before = (f"-{start}{month}", paid[month - 2]) if has_flow and month > 1 else ("", 0.0)
        yield Formula(f"={start}{month + 1}{earlier}", paid[month - 1] - before) if has_flow else None
        yield from (one.cumulative_cost[month - 1] if month <= len(one.cumulative_cost) else None for one in others)

    book.write_rows(sheet, map(list_values, range(1, last + 1)))
    book.write_cell(sheet, last + 1, 0, "sum")
    sums = [*(amount * last for _, _, amount in lines), mean * last]
    sums += [paid[-1] if paid else 0.0] if others else []
    for column, value in enumerate(sums, 1):
        letters = column_letters(column)
        book.write_cell(sheet, last + 1, column, Formula(f"=SUM({letters}2:{letters}{last + 1})", value), book.total)
    _add_lines_chart(book, sheet, (len(lines) + 3, len(others), last))


def column_letters(column: int) -> str:
    """0 is A, 26 is AA."""
    return (column_letters(column // 26 - 1) if column >= 26 else "") + chr(ord("A") + column % 26)


def _add_lines_chart(book: WorkbookWriter, sheet: Any, shape: tuple[int, int, int]) -> None:
    first, count, last = shape
    if not count:
        return
    chart = book.workbook.add_chart({"type": "line"})
    for column in range(first, first + count):
        name, months = ["By month", 0, column], ["By month", 1, 0, last, 0]
        chart.add_series({"name": name, "categories": months, "values": ["By month", 1, column, last, column]})
    chart.set_title({"name": "Cumulative payments"})
    chart.set_x_axis({"interval_unit": max(1, last // 12)})
    chart.set_y_axis(NUMBER_AXIS)
    chart.set_size({"width": 900, "height": 420})
    sheet.insert_chart(last + 4, 1, chart, {"description": "cumulative payments of each option by month"})


def _write_tasks(book: WorkbookWriter, plan: Plan, option: Option | None) -> None:
    """Tasks with owner and due phase, and the risk register."""
    columns = {"task": 80, "demand": 40, "demanded by": 26, "owner": 24, "due": 16, "done": 8}
    book.write_table("Tasks", columns, (tuple(task) for task in list_tasks(plan, option)))
    columns = {"risk": 40, "cause": 50, "probability": 13, f"impact, {plan.currency}": 16, "effect": 30}
    columns |= {"mitigation": 60, "trigger": 44, "owner": 20}
    rows = (
        (r.title, r.cause, r.probability, r.impact, r.effect, r.mitigation, r.trigger, r.owner)
        for r in list_risks(plan, option)
    )
    book.write_table("Risks", columns, rows)


def _write_platform(book: WorkbookWriter, plan: Plan) -> None:
    columns = {"part": 16, "topic": 22, "choice": 40, "why": 50, "demanded by": 26, "proof": 30, "alternative": 24}
    columns |= {"why not": 40, "figure": 12, "low": 12, "high": 12, "unit": 12, "source": 40}
    rows = (
        (
            section.title,
            *(line.topic, line.choice, line.why, "; ".join(line.demanded_by)),
            *(line.proof, line.alternative, line.why_not),
            *(*_estimate_cells(line.estimate), line.estimate.unit if line.estimate is not None else ""),
            line.source,
        )
        for section in plan.sections
        for line in section.lines
    )
    book.write_table("Platform", columns, rows)


def _write_predictions(book: WorkbookWriter, plan: Plan) -> None:
    columns = {"prediction": 32, "workload": 18, "value": 14, "low": 14, "high": 14, "unit": 10, "level": 8}
    columns |= {"stratum": 34, "definition": 40, "formula": 50, "query": 34, "PromQL": 60}
    known = {basis.id: basis for basis in plan.bases}
    rows = []
    for prediction in plan.predictions:
        estimate, query = prediction.estimate, prediction.query
        basis = known.get(estimate.basis)
        origin = (basis.stratum, basis.definition, basis.formula) if basis is not None else ("", "", "")
        asked = f"{query.statistic} of {query.metric} over {format_duration(query.window_s)} {query.phase}".strip()
        promql = query.promql() if query.metric in METRIC_BY_QUANTITY else ""
        figures = (*_estimate_cells(estimate), estimate.unit, estimate.level)
        rows.append((prediction.id, prediction.workload, *figures, *origin, asked, promql))
    book.write_table("Predictions", columns, rows)


def _write_lists(book: WorkbookWriter, document: Document) -> None:
    """Assumptions and sources."""
    plan = document.plan
    kinds = {"assumed": plan.assumptions, "not sized": plan.not_sized, "stale fact": plan.stale_facts}
    texts = ((kind, text) for kind, found in kinds.items() for text in found)
    book.write_table("Assumptions", {"kind": 16, "text": 120}, texts)
    columns = {"what": 40, "kind": 16, "definition, source": 60, "formula, date": 50, "facts": 90}
    bases = ((b.id, b.kind, b.definition, b.formula, "\n".join(b.facts)) for b in document.bases)
    book.write_table("Sources", columns, (*document.sources, *bases))
