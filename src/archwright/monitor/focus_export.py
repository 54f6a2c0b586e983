"""Usage as FOCUS 1.2 rows, one per day, tenant, key, user and model. The columns are rows of focus_export.csv.

Amounts are decimal and equal those of `archwright usage` to the nano-dollar.
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
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        columns = {row["column"]: row["value"] for row in csv.DictReader(file)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([value.format(**_list_values(row)) for value in columns.values()] for row in rows)
    return text.getvalue()


def _list_values(row: UsageRow) -> dict[str, object]:
    day = date.fromisoformat(row.day)
    month = day.replace(day=1)
    return as_dict(row) | {
        "cost": _format_usd(row.cost_usd),
        "saved": _format_usd(row.saved_usd),
        "tokens": row.input_tokens + row.output_tokens,
        "day_end": day + timedelta(days=1),
        "month": month,
        "month_end": (month + timedelta(days=31)).replace(day=1),
        "tags": json.dumps({"archwright/key": row.key, "archwright/user": row.user}),
    }


def _format_usd(usd: float) -> str:
    dollars, rest = divmod(round(usd * NANO), round(NANO))
    return f"{dollars}.{rest:09d}"
