"""The cost that a plan predicts, as rows to compare with bills and meters.

The plan states its cost as lines with intervals, and the price of a pool's tokens; no other prediction is needed. Lines
share prices and loads, so the ends of their intervals add up: independent lines would give too narrow an interval.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Deviation, MeasuredValue, determine_verdict
from archwright.contract.plan import CostCategory, CostLine, Option, Plan, Pool
from archwright.contract.record import replace

MONTHS_PER_YEAR = 12
HOURS_PER_MONTH = 730.0
EXCHANGE = "exchange.usd-"
# Lines of rented machines, named "pool: machine in region".
MACHINE_LINES: tuple[CostCategory, ...] = ("compute",)


def sum_monthly_lines(plan: Plan, lines: Sequence[CostLine], at: float | None = None) -> Estimate:
    """Return the sum of recurring lines per month: in the year of `at` (epoch seconds), else the horizon's mean."""
    scaled = [(line.amount, _scale_to_year(plan, line, at)) for line in lines]
    value, low, high = (sum(getattr(one, end) * by for one, by in scaled) for end in ("value", "low", "high"))
    return Estimate(value=value, low=low, high=high, unit=f"{plan.currency}/month", basis="cost lines")


def _scale_to_year(plan: Plan, line: CostLine, at: float | None) -> float:
    """Return cost per month in the year of `at` / mean over the horizon; 1 if the plan does not state years."""
    if at is None or not line.by_year or not line.amount.value:
        return 1.0
    age = (datetime.fromtimestamp(at, UTC) - datetime.fromisoformat(plan.created_at)).days / 365.25
    year = min(max(int(age), 0), len(line.by_year) - 1)
    months = min(MONTHS_PER_YEAR, plan.horizon_months - MONTHS_PER_YEAR * year)
    return line.by_year[year] / months / line.amount.value


def list_recurring_lines(option: Option, categories: Collection[CostCategory], pool: str = "") -> list[CostLine]:
    """Return the recurring lines of the categories; with `pool` only those of its machines ("pool: machine in ...")."""
    recurring = (line for line in option.cost_lines if not line.once and line.category in categories)
    return [line for line in recurring if line.name.startswith(f"{pool}: " if pool else "")]


def price_estimate(usd_per_token: float) -> Estimate:
    return exact_estimate(usd_per_token * 1e6, "USD/million tokens")


def predict_token_price(plan: Plan, option: Option, pool: Pool) -> Estimate | None:
    """Return USD per million tokens of a pool, input and output together; None if the plan has no price or load for it.

    The tariff of the pool weighted by the mean lengths of its first load. Interval: that of the pool's machines, else
    that of the option's monthly cost.
    """
    load = next((load for load in plan.loads if load.workload in pool.workloads), None)
    if pool.price_per_token is None or load is None:
        return None
    sent, generated = load.input_tokens.mean, load.output_tokens.mean
    price = pool.price_per_token.input_usd * sent + pool.price_per_token.output_usd * generated
    exact = price_estimate(price / (sent + generated))
    band = sum_monthly_lines(plan, list_recurring_lines(option, MACHINE_LINES, pool.name))
    band = band if band.value > 0 or option.cost_per_month is None else option.cost_per_month
    low, high = (exact.value * end / band.value if band.value else exact.value for end in (band.low, band.high))
    return replace(exact, low=low, high=high, basis=pool.price_per_token.source)


def find_exchange_rate(plan: Plan) -> float | None:
    """Return units of the plan's currency per USD, None if the plan does not state it."""
    if plan.currency == "USD":
        return 1.0
    name = f"{EXCHANGE}{plan.currency.lower()}"
    found = next((basis.estimate for basis in plan.bases if basis.id == name), None)
    return None if found is None else found.value


def compare_cost(name: str, predicted: Estimate, measured: MeasuredValue, evidence: str, caveat: str = "") -> Deviation:
    """Return a row of the comparison; its metric is the second word of its name.

    `caveat`: why it is not judged; empty if it is."""
    metric = name.split(".")[1]
    judged = None if caveat else measured.value
    return Deviation(
        prediction_id=name,
        metric=metric,
        workload="",
        predicted=predicted,
        measured=measured,
        verdict=determine_verdict(metric, predicted, judged),
        evidence=f"{evidence}  # {caveat}" if caveat else evidence,
    )
