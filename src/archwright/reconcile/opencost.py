"""Actual cost of models from OpenCost's inference gauges, which a Prometheus holds beside the metrics of the engines.

OpenCost 1.121 counts cost in two ways. `allocation` is what it costs to keep a model available: reserved resources with
their idle time and a share of the infrastructure. Only this adds up to the bill, and the plan predicts it. `usage` is
what the requests consumed; the distance between the two is idle capacity. A pod without the label of its model has
tokens and no cost, so a gauge of 0 is no measurement.
Source: https://llm-d.ai/docs/dev/operations/observability/inference-cost
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Deviation, MeasuredValue, escape_label_value
from archwright.contract.plan import Option, Plan, Pool
from archwright.monitor.metrics.prometheus import PrometheusClient
from archwright.reconcile.plan_costs import (
    HOURS_PER_MONTH,
    MACHINE_LINES,
    compare_cost,
    find_exchange_rate,
    list_recurring_lines,
    predict_token_price,
    price_estimate,
    sum_monthly_lines,
)

# The newer name first; OpenCost renamed the gauge before 1.121.
HOURLY_COSTS = ("llm_total_hourly_cost", "llm_total_cost")
TOKEN_COST, CACHED_SHARE = "llm_cost_per_million_tokens", "llm_cache_savings_fraction"
# A day has the busy and the quiet hours, as the plan's mean.
WINDOW_S = 86_400
SPLIT = "the plan weights an output token by hosted prices, OpenCost by the time that it takes"


class _Gauge(NamedTuple):
    """A query and what the plan says of its value. `caveat`: why they are not judged."""

    name: str
    predicted: Estimate
    promql: str
    caveat: str


def compare_model_costs(plan: Plan, prometheus: PrometheusClient, now: float) -> tuple[Deviation, ...]:
    """Compare the cost of the chosen option's pools in both ways; empty if the Prometheus has no such gauges.

    Raises ReconcileError AW-REC-01 and -02, like every query.
    """
    option, rows = plan.chosen_option, dict[str, Deviation]()
    for pool in option.pools if option is not None else ():
        for gauge in _list_gauges(plan, option, pool, now) if option is not None and pool.kind == "text" else ():
            value = None if gauge.name in rows else prometheus.query_instant(gauge.promql, now)
            if value:
                unit, window_s = gauge.predicted.unit, float(WINDOW_S)
                measured = MeasuredValue(value=value, unit=unit, statistic="mean", samples=1, window_s=window_s)
                rows[gauge.name] = compare_cost(gauge.name, gauge.predicted, measured, gauge.promql, gauge.caveat)
    return tuple(rows.values())


def _list_gauges(plan: Plan, option: Option, pool: Pool, now: float) -> Iterator[_Gauge]:
    """Yield the queries of a pool; of two with the same name the second is for an older OpenCost."""
    sharing = [one.name for one in option.pools if one.model == pool.model]
    kept = f"the gauge is for the model of the pools {', '.join(sharing)}" if len(sharing) > 1 else ""
    price, tariff = predict_token_price(plan, option, pool), pool.price_per_token
    lines = list_recurring_lines(option, MACHINE_LINES, pool.name)
    unpriced = "" if price is not None else "the plan has no price per token for this pool"
    rate, month = find_exchange_rate(plan), sum_monthly_lines(plan, lines, now)
    unknown = "" if lines else "the plan has no rented machines of this pool alone"
    unknown = unknown if rate is not None else f"the plan states no exchange rate of USD and {plan.currency}"
    for basis, caveat in (("allocation", kept), ("usage", "consumed only: the plan predicts what is kept available")):
        both = price or price_estimate(0.0)
        sides = (
            ("input", "prompt", tariff and tariff.input_usd),
            ("output", "generation", tariff and tariff.output_usd),
        )
        query = f"avg({_average(pool, TOKEN_COST, cost_basis=basis, phase='')})"
        yield _Gauge(f"{pool.name}.usd_per_million_tokens.{basis}", both, query, caveat or unpriced)
        for side, phase, usd in sides:
            query = f"avg({_average(pool, TOKEN_COST, cost_basis=basis, phase=phase)})"
            name = f"{pool.name}.usd_per_million_{side}.{basis}"
            yield _Gauge(name, price_estimate(usd or 0.0), query, caveat or unpriced or SPLIT)
        for gauge in HOURLY_COSTS:
            query = f"sum({_average(pool, gauge, cost_basis=basis)}) * {HOURS_PER_MONTH * (rate or 1.0):g}"
            yield _Gauge(f"{pool.name}.cost_per_month.{basis}", month, query, caveat or unknown)
    share, query = exact_estimate(pool.options.prefix_hits, "share"), f"avg({_average(pool, CACHED_SHARE)})"
    no_interval = "the plan states the expected share of prompt tokens without an interval"
    yield _Gauge(f"{pool.name}.cached_prompt_share", share, query, no_interval)


def _average(pool: Pool, gauge: str, **labels: str) -> str:
    """Return PromQL for the mean of a gauge of the pool's model, with or without its organisation."""
    named = "".join(f',{name}="{value}"' for name, value in labels.items())
    model = escape_label_value(re.escape(pool.model))
    return f'avg_over_time({gauge}{{model_name=~"(.*/)?{model}"{named}}}[{WINDOW_S}s])'
