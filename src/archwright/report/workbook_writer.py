"""Sheets of a workbook: numbers as numbers, sums as formulas, and every text as text."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from archwright.report.document import Tone

LONGEST_TEXT = 32_767
# A text with such a start would become a formula if somebody retypes it or saves the sheet as CSV.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
# Numbers from here on are shown without cents.
WHOLE_FROM = 100
WRAPPED = {"text_wrap": True, "valign": "top"}
TONES: dict[Tone, dict[str, Any]] = {
    "": {},
    "good": {"font_color": "#1A7F37"},
    "warn": {"font_color": "#9A6700"},
    "bad": {"font_color": "#B42318"},
    "quiet": {"font_color": "#57606A"},
    "strong": {"bold": True},
}
ROW_HEIGHT = 15


class Formula(NamedTuple):
    """`value`: the result, for programs that do not calculate."""

    text: str
    value: float


Value = str | float | Formula | None


class WorkbookWriter:
    """Writes rows and texts with the formats of the workbook. Rows and columns count from 0."""

    def __init__(self, workbook: Any) -> None:
        self.workbook = workbook
        self.texts: dict[Tone, Any] = {}
        for tone, style in TONES.items():
            self.texts[tone] = workbook.add_format(WRAPPED | style)
        self.bold = self.texts["strong"]
        self.quoted = workbook.add_format(WRAPPED | {"quote_prefix": True})
        self.title = workbook.add_format({"bold": True, "font_size": 16})
        head = {"bold": True, "bottom": 1, "text_wrap": True, "bg_color": "#F3F6F9"}
        self.head = workbook.add_format(head)
        self.whole = workbook.add_format({"num_format": "#,##0", "valign": "top"})
        self.cents = workbook.add_format({"num_format": "#,##0.00", "valign": "top"})
        self.small = workbook.add_format({"num_format": "0.0000", "valign": "top"})
        self.total = workbook.add_format({"num_format": "#,##0", "bold": True, "top": 1})

    def number_style(self, value: float) -> Any:
        """A format with the digits that suit the size of the number."""
        if abs(value) >= WHOLE_FROM or value == round(value):
            return self.whole
        return self.cents if abs(value) >= 1 else self.small

    def add_sheet(self, name: str, widths: Iterable[float]) -> Any:
        """An empty sheet, printed on the width of one page."""
        sheet = self.workbook.add_worksheet(name)
        for column, width in enumerate(widths):
            sheet.set_column(column, column, width)
        sheet.set_landscape()
        sheet.fit_to_pages(1, 0)
        sheet.set_footer("&L&A&R&P / &N")
        return sheet

    def add_list_sheet(self, name: str, titles: Iterable[str], *, widths: Iterable[float]) -> Any:
        """A sheet with a frozen head row."""
        sheet = self.add_sheet(name, widths)
        self.write_row(sheet, 0, titles, style=self.head)
        sheet.freeze_panes(1, 1)
        sheet.repeat_rows(0)
        return sheet

    def write_row(self, sheet: Any, row: int, values: Iterable[Value], *, style: Any = None) -> None:
        for column, value in enumerate(values):
            self.write_cell(sheet, (row, column), value, style=style)

    def write_rows(self, sheet: Any, start: int, rows: Iterable[Iterable[Value]]) -> int:
        """Return the row after the last."""
        row = start
        for values in rows:
            self.write_row(sheet, row, values)
            row += 1
        return row

    def write_cell(self, sheet: Any, cell: tuple[int, int], value: Value, *, style: Any = None) -> None:
        """Write a value by its type. Text stays text, whatever its first character."""
        if isinstance(value, str):
            text_style = style or self.texts[""]
            if value.startswith(FORMULA_STARTS):
                text_style = self.quoted
            sheet.write_string(*cell, value[:LONGEST_TEXT], text_style)
        elif isinstance(value, Formula):
            number_style = style or self.number_style(value.value)
            sheet.write_formula(*cell, value.text, number_style, value.value)
        elif value is not None:
            sheet.write_number(*cell, value, style or self.number_style(value))

    def write_across(
        self, sheet: Any, cell: tuple[int, int], text: str, *, widths: Sequence[float], tone: Tone
    ) -> None:
        """Write a text over the columns from `cell` to the last, with the height that it needs."""
        row, column = cell
        style = self.texts[tone]
        sheet.merge_range(row, column, row, len(widths) - 1, "", style)
        self.write_cell(sheet, cell, text, style=style)
        line_length = sum(widths[column:])
        line_count = 1 + int(len(text) / line_length)
        sheet.set_row(row, ROW_HEIGHT * line_count)


def column_letters(column: int) -> str:
    """0 is A, 26 is AA."""
    earlier, last = divmod(column, 26)
    letter = chr(ord("A") + last)
    return column_letters(earlier - 1) + letter if earlier else letter
