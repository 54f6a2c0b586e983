"""Usage as FOCUS 1.2 rows, one per day, tenant, key, user and model.

The columns are rows of focus_export.csv. Amounts are decimal and equal those of `archwright usage`
to the nano-dollar.
"""

import csv
import io
import json
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

from archwright.contract.record import as_dict
from archwright.monitor.usage import UsageRow
from archwright.monitor.usage_totals import NANO

FOCUS_GROUPS = "day,tenant,key,user,model"


def format_focus(rows: Iterable[UsageRow]) -> str:
    """Return CSV with a header line. The rows must be grouped by FOCUS_GROUPS."""
    templates = _read_templates()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")

    writer.writerow(templates)
    for row in rows:
        values = _list_values(row)
        writer.writerow(template.format(**values) for template in templates.values())
    return text.getvalue()


def _read_templates() -> dict[str, str]:
    """Return the text of each column, with the values of a row in braces."""
    templates: dict[str, str] = {}
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            templates[row["column"]] = row["value"]
    return templates


def _list_values(row: UsageRow) -> dict[str, object]:
    values: dict[str, object] = as_dict(row)
    values["cost"] = _format_usd(row.cost_usd)
    values["saved"] = _format_usd(row.saved_usd)
    values["tokens"] = row.input_tokens + row.output_tokens

    day = date.fromisoformat(row.day)
    month = day.replace(day=1)
    day_of_next_month = month + timedelta(days=31)
    values["day_end"] = day + timedelta(days=1)
    values["month"] = month
    values["month_end"] = day_of_next_month.replace(day=1)

    tags = {"archwright/key": row.key, "archwright/user": row.user}
    values["tags"] = json.dumps(tags)
    return values


def _format_usd(usd: float) -> str:
    nano_usd = round(usd * NANO)
    dollars, nano_rest = divmod(nano_usd, round(NANO))
    return f"{dollars}.{nano_rest:09d}"
