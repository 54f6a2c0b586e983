"""Actual cost of models from OpenCost's inference gauges, which a Prometheus holds beside the metrics of the engines.

OpenCost 1.121 counts cost in two ways. `allocation` is what it costs to keep a model available: reserved resources with
their idle time and a share of the infrastructure. Only this adds up to the bill, and the plan predicts it. `usage` is
what the requests consumed; the distance between the two is idle capacity. A pod without the label of its model has
tokens and no cost, so a gauge of 0 is no measurement.
Source: https://llm-d.ai/docs/dev/operations/observability/inference-cost
"""

import re
from collections.abc import Iterator

from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Deviation, MeasuredValue, escape_label_value
from archwright.contract.plan import Option, Plan, Pool
from archwright.monitor.metrics.prometheus import PrometheusClient
from archwright.reconcile.plan_costs import (
    HOURS_PER_MONTH,
    MACHINE_LINES,
    PRICE_UNIT,
    TOKENS_PER_PRICE,
    compare_cost,
    find_exchange_rate,
    list_recurring_lines,
    predict_token_price,
    sum_monthly_lines,
)

# The newer name first; OpenCost renamed the gauge before 1.121.
HOURLY_COSTS = ("llm_total_hourly_cost", "llm_total_cost")
TOKEN_COST, CACHED_SHARE = "llm_cost_per_million_tokens", "llm_cache_savings_fraction"
# A day has the busy and the quiet hours, as the plan's mean.
WINDOW_S = 86_400
KEPT, CONSUMED = ("allocation", "kept available"), ("usage", "consumed")
PHASES = (("", "usd_per_million_tokens"), ("prompt", "usd_per_million_input"), ("generation", "usd_per_million_output"))


def compare_model_costs(plan: Plan, prometheus: PrometheusClient, now: float) -> tuple[Deviation, ...]:
    """Compare the cost of the chosen option's pools in both ways; empty if the Prometheus has no such gauges.

    Raises ReconcileError AW-REC-01 and -02, like every query.
    """
    option = plan.chosen_option
    if option is None:
        return ()
    pools = [pool for pool in option.pools if pool.kind == "text"]
    rows = (row for pool in pools for row in _PoolMeter(plan, option, pool, prometheus, now).compare())
    return tuple(rows)


class _PoolMeter:
    def __init__(self, plan: Plan, option: Option, pool: Pool, prometheus: PrometheusClient, now: float) -> None:
        self._plan, self._option, self._pool = plan, option, pool
        self._prometheus, self._now = prometheus, now
        sharing = [one.name for one in option.pools if one.model == pool.model]
        self._shared = f"the gauge is for the model of the pools {', '.join(sharing)}" if len(sharing) > 1 else ""

    def compare(self) -> Iterator[Deviation]:
        for basis, words in (KEPT, CONSUMED):
            caveat = self._shared if basis == KEPT[0] else f"{words} only: the plan predicts what is {KEPT[1]}"
            yield from self._compare_tokens(basis, caveat)
            yield from self._compare_month(basis, caveat)
        planned = exact_estimate(self._pool.options.prefix_hits, "share")
        no_interval = "the plan states the expected share of prompt tokens without an interval"
        yield from self._compare("cached_prompt_share", planned, f"avg({self._average(CACHED_SHARE)})", no_interval)

    def _compare_tokens(self, basis: str, caveat: str) -> Iterator[Deviation]:
        for phase, metric in PHASES:
            predicted, other = self._predict_tokens(phase)
            query = f"avg({self._average(TOKEN_COST, cost_basis=basis, phase=phase)})"
            yield from self._compare(f"{metric}.{basis}", predicted, query, caveat or other)

    def _predict_tokens(self, phase: str) -> tuple[Estimate, str]:
        """Return the predicted price per million tokens of a phase, and why it is not judged."""
        both, tariff = predict_token_price(self._plan, self._option, self._pool), self._pool.price_per_token
        if isinstance(both, str) or tariff is None:
            return exact_estimate(0.0, PRICE_UNIT), str(both)
        if not phase:
            return both, ""
        usd = (tariff.input_usd if phase == "prompt" else tariff.output_usd) * TOKENS_PER_PRICE
        return exact_estimate(
            usd, PRICE_UNIT
        ), "the plan weights an output token by hosted prices, OpenCost by its time"

    def _compare_month(self, basis: str, caveat: str) -> Iterator[Deviation]:
        lines = list_recurring_lines(self._option, MACHINE_LINES, self._pool.name)
        rate = find_exchange_rate(self._plan)
        if rate is None:
            caveat = caveat or f"the plan states no exchange rate of USD and {self._plan.currency}"
        if not lines:
            caveat = caveat or "the plan has no rented machines of this pool alone"
        predicted = sum_monthly_lines(self._plan, lines, self._now)
        for gauge in HOURLY_COSTS:
            query = f"sum({self._average(gauge, cost_basis=basis)}) * {HOURS_PER_MONTH * (rate or 1.0):g}"
            found = list(self._compare(f"cost_per_month.{basis}", predicted, query, caveat))
            if found:
                yield from found
                return

    def _average(self, gauge: str, **labels: str) -> str:
        """Return PromQL for the mean of a gauge of the pool's model, with or without its organisation."""
        named = "".join(f',{name}="{value}"' for name, value in labels.items())
        model = escape_label_value(re.escape(self._pool.model))
        return f'avg_over_time({gauge}{{model_name=~"(.*/)?{model}"{named}}}[{WINDOW_S}s])'

    def _compare(self, metric: str, predicted: Estimate, promql: str, caveat: str) -> Iterator[Deviation]:
        """Yield a row if the query has a value above 0."""
        value = self._prometheus.query_instant(promql, self._now)
        if value:
            window_s = float(WINDOW_S)
            measured = MeasuredValue(value=value, unit=predicted.unit, statistic="mean", samples=1, window_s=window_s)
            yield compare_cost(f"{self._pool.name}.{metric}", predicted, measured, promql, caveat)
