"""How much work a text workload brings: requests, tokens, growth over the horizon.

Month m (counted from 0) carries (1 + growth_per_year)^(m / 12) of today's load: growth compounds monthly.
Capacity is planned for the busiest month's peak; consumption is the mean over all months. A month has 730 h.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.contract.needs import TEXT_KINDS, Length, Needs, Workload

HOURS_PER_MONTH = 730.0
OFF_HOURS_SHARE = 0.05


class Demand(NamedTuple):
    """The load of one text workload. Rates are requests per second, today; volumes are per month, today."""

    workload: Workload
    mean: float
    peak: float
    input_tokens: Length
    output_tokens: Length
    growth: tuple[float, ...]
    requests_per_month: float

    @property
    def peak_at_horizon(self) -> float:
        return self.peak * max(self.growth)

    @property
    def mean_growth(self) -> float:
        return sum(self.growth) / len(self.growth)

    @property
    def context_tokens(self) -> int:
        """Room for the 95th percentile of prompt and answer together."""
        return round(self.input_tokens.p95 + self.output_tokens.p95)


def text_demands(needs: Needs) -> tuple[Demand, ...]:
    """The workloads this release sizes: text in, text out, with a rate and both lengths."""
    found = (demand_of(workload, needs.budget.horizon_months) for workload in needs.workloads)
    return tuple(demand for demand in found if demand is not None)


def demand_of(workload: Workload, horizon_months: int) -> Demand | None:
    traffic = workload.traffic
    if workload.kind not in TEXT_KINDS or traffic is None:
        return None
    rate, reads, writes = traffic.requests_per_second, traffic.input_tokens, traffic.output_tokens
    if rate is None or reads is None or writes is None:
        return None
    hours = traffic.hours_per_day
    share = (hours + OFF_HOURS_SHARE * (24 - hours)) / 24
    return Demand(
        workload=workload,
        mean=rate.mean,
        peak=rate.peak,
        input_tokens=reads,
        output_tokens=writes,
        growth=tuple((1 + traffic.growth_per_year) ** (month / 12) for month in range(horizon_months)),
        requests_per_month=rate.mean * share * HOURS_PER_MONTH * 3600,
    )


def unsized(needs: Needs) -> tuple[Workload, ...]:
    """Workloads whose cost this release cannot say."""
    sized = {demand.workload.name for demand in text_demands(needs)}
    return tuple(workload for workload in needs.workloads if workload.name not in sized)
