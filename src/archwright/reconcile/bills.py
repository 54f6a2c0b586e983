"""Compare bills in FOCUS (CSV, CSV.gz, Parquet) with the recurring cost lines of the chosen option.

EffectiveCost is compared, because the plan spreads commitments over time too. Taxes, credits and corrections of earlier
periods are left out, and their sum is stated. If a row carries the tag `archwright/plan`, `archwright/option` or
`archwright/pool` (or these words joined by - _ or :), only rows with the digest, the chosen option or a pool of this
plan count; else the whole bill counts. Bundles tag by option: a digest would change every resource with every plan.
Columns: https://focus.finops.org/focus-specification/v1-2/
"""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from archwright.contract.estimate import exact_estimate
from archwright.contract.evidence import Deviation, MeasuredValue
from archwright.contract.plan import CostCategory, CostLine, Option, Plan
from archwright.errors import ErrorLocation, ReconcileError, require_extra
from archwright.reconcile.plan_costs import HOURS_PER_MONTH, compare_cost, list_recurring_lines, sum_monthly_lines

# Managed endpoints are sold under this category too: without tokens to buy, it counts as machines.
MODELS = "AI and Machine Learning"
# Groups of a bill: categories of the plan's lines, and service categories of FOCUS.
GROUPS: dict[str, tuple[tuple[CostCategory, ...], tuple[str, ...]]] = {
    "machines": (("compute", "platform", "licence"), ("Compute", "Databases", "Management and Governance")),
    "storage": (("storage",), ("Storage",)),
    "network": (("egress", "network"), ("Networking",)),
    "tokens": (("tokens",), (MODELS,)),
}
BILLED_LINES: tuple[CostCategory, ...] = tuple(category for categories, _ in GROUPS.values() for category in categories)
# A label of a cloud holds fewer characters than a digest.
DIGEST_CHARACTERS = 8
# The limit of the csv module by default; another part of the program may have raised it.
MOST_CHARACTERS = 131_072
TAG = re.compile(r"(?:^|.*[^a-z])archwright[^a-z]+(plan|option|pool)$")


class _FocusCharge(msgspec.Struct, rename="pascal"):
    charge_period_start: datetime
    charge_period_end: datetime
    billing_currency: str
    service_category: str
    effective_cost: float
    charge_category: str = "Usage"
    charge_class: str = ""
    tags: Any = None

    def __post_init__(self) -> None:
        """Times without a zone are UTC. Raises ValueError for amounts and periods that cannot be added up."""
        start, end = self.charge_period_start, self.charge_period_end
        self.charge_period_start, self.charge_period_end = (
            at if at.tzinfo else at.replace(tzinfo=UTC) for at in (start, end)
        )
        if self.charge_period_end < self.charge_period_start or not math.isfinite(self.effective_cost):
            raise ValueError("EffectiveCost is not finite, or the period ends before it starts")

    @property
    def is_left_out(self) -> bool:
        return self.charge_category in ("Tax", "Credit") or self.charge_class == "Correction"

    def find_owner(self, plan: Plan) -> bool | None:
        """Return True if a tag names the plan, its option or pool, None without our tags.

        The most exact tag of a row decides. Raises ValueError for broken tags.
        """
        tags = msgspec.json.decode(self.tags) if isinstance(self.tags, str) else self.tags or {}
        found = ((TAG.match(str(key).lower()), str(value)) for key, value in dict(tags).items())
        ours = [(match[1], value) for match, value in found if match is not None]
        digests = [value for kind, value in ours if kind == "plan"]
        if digests:
            return any(plan.digest.startswith(one) and len(one) >= DIGEST_CHARACTERS for one in digests)
        options = [value for kind, value in ours if kind == "option"]
        if options:
            return plan.chosen in options
        return any(value in {pool.name for pool in plan.pools} for _, value in ours) if ours else None


def compare_bills(plan: Plan, files: Sequence[str]) -> tuple[Deviation, ...]:
    """Return a row for each group of services, and one for the total, per month of the bills' period.

    Raises ReconcileError: AW-REC-35 (a file cannot be read, or no charge counts), AW-REC-36 (a column is missing or
    broken), AW-REC-37 (another currency).
    """
    option = plan.chosen_option
    charges = [charge for file in dict.fromkeys(files) for charge in _read_charges(plan, file)]
    tagged = any(owned is not None for _, owned in charges)
    taken = [charge for charge, owned in charges if owned or not tagged]
    counted = [one for one in taken if not one.is_left_out]
    if option is None or not counted:
        message = "no charge of the bill belongs to the plan" if charges else "the bill has no charges"
        hint = "check the files, the tags archwright/plan and archwright/pool, and that the plan has a chosen option"
        raise ReconcileError("AW-REC-35", message, where=ErrorLocation(", ".join(files)), hint=hint)
    # A purchase may have the period of its commitment.
    period = [one for one in counted if one.charge_category == "Usage"] or counted
    start, end = min(one.charge_period_start for one in period), max(one.charge_period_end for one in period)
    left_out = sum(one.effective_cost for one in taken if one.is_left_out)
    evidence = (
        f"EffectiveCost of {', '.join(files)}, {start:%Y-%m-%d} to {end:%Y-%m-%d}, "
        f"{'rows with the tags of the plan' if tagged else 'all rows, as none has the tag archwright/plan'}; "
        f"left out: {left_out:,.2f} {plan.currency} of taxes, credits and corrections"
    )
    seconds, unit, rows = max((end - start).total_seconds(), 1.0), f"{plan.currency}/month", list[Deviation]()
    for name, lines, costs in _group_charges(option, counted):
        value = sum(costs) * HOURS_PER_MONTH * 3600 / seconds
        measured = MeasuredValue(value=value, unit=unit, statistic="mean", samples=len(costs), window_s=seconds)
        predicted = sum_monthly_lines(plan, lines, start.timestamp()) if lines else exact_estimate(0.0, unit)
        caveat = "" if lines else "the plan has no line for these services"
        caveat = caveat or ("" if costs else "the bill has no charge for these services")
        rows.append(compare_cost(f"bill.cost_per_month.{name}", predicted, measured, evidence, caveat))
    return tuple(rows)


def _group_charges(option: Option, charges: list[_FocusCharge]) -> Iterator[tuple[str, list[CostLine], list[float]]]:
    """Yield each group with its lines and costs, then services that the plan has no line for, then the total."""
    names = {service: name for name, (_, services) in GROUPS.items() for service in services}
    if not list_recurring_lines(option, GROUPS["tokens"][0]):
        names[MODELS] = "machines"
    costs: dict[str, list[float]] = {name: [] for name in GROUPS}
    for one in charges:
        costs.setdefault(names.get(one.service_category, one.service_category), []).append(one.effective_cost)
    for name, found in costs.items():
        lines = list_recurring_lines(option, GROUPS[name][0]) if name in GROUPS else []
        if lines or found:
            yield name, lines, found
    yield "total", list_recurring_lines(option, BILLED_LINES), [one.effective_cost for one in charges]


def _read_charges(plan: Plan, file: str) -> Iterator[tuple[_FocusCharge, bool | None]]:
    for number, row in _read_rows(file):
        try:
            cells = {key: cell for key, cell in row.items() if cell not in ("", None)}
            charge = msgspec.convert(cells, _FocusCharge, strict=False)
            owned = charge.find_owner(plan)
        except (ValueError, TypeError) as error:
            hint = "export the bill as FOCUS 1.0 or newer with all mandatory columns, and correct this row"
            _, found, column = str(error).rpartition("$.")
            where = ErrorLocation(file, number, column.strip("`") if found else None)
            raise ReconcileError("AW-REC-36", f"the bill is not FOCUS: {error}", where=where, hint=hint) from error
        if charge.billing_currency != plan.currency:
            message = f"the bill is in {charge.billing_currency}, the plan in {plan.currency}"
            where = ErrorLocation(file, number, "BillingCurrency")
            hint = "state the currency of the bill in the needs (budget.currency), and plan again"
            raise ReconcileError("AW-REC-37", message, where=where, hint=hint)
        yield charge, owned


def _read_rows(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows with their numbers; the header of a table is row 1."""
    try:
        with Path(file).open("rb") as data:
            if file.endswith(".parquet"):
                with require_extra("lake", "a bill in Parquet"):
                    from pyarrow import parquet  # noqa: PLC0415
                yield from enumerate(parquet.read_table(data).to_pylist(), 2)
                return
            plain = gzip.GzipFile(fileobj=data) if file.endswith(".gz") else data
            rows = csv.DictReader(io.TextIOWrapper(plain, encoding="utf-8-sig", newline=""))
            if len(names := list(filter(None, rows.fieldnames or ()))) > len(set(names)):
                raise ValueError(f"its columns are not unique: {', '.join(names)}")
            for number, row in enumerate(rows, 2):
                if any(len(cell) > MOST_CHARACTERS for cell in row.values() if isinstance(cell, str)):
                    raise ValueError(f"row {number} has a cell of over {MOST_CHARACTERS:,} characters")
                yield number, row
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        message, hint = f"the bill cannot be read: {error}", "give a FOCUS export as .csv, .csv.gz or .parquet"
        raise ReconcileError("AW-REC-35", message, where=ErrorLocation(file), hint=hint) from error
