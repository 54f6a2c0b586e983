"""How much work the workloads bring: requests and tokens a second, runs a month, growth over the horizon.

Month m (counted from 0) carries (1 + growth_per_year)^(m / 12) of today's load: growth compounds monthly.
Capacity is planned for the busiest month's peak; consumption is the mean over all months. A month has 730 h.

Machines that follow the load see three levels of a day: the peak for PEAK_SHARE of the open hours, the mean for the
rest of them, OFF_HOURS_SHARE of the mean outside. That plans for somewhat more than the mean: on purpose, because
levels that kept the mean exactly would let a higher peak cost less.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.contract.needs import SERVING_KINDS, TEXT_KINDS, Needs, Period, TokenLength, Traffic, Workload

HOURS_PER_MONTH = 730.0
HOURS_PER_DAY = 24.0
OFF_HOURS_SHARE = 0.05
PEAK_SHARE = 1 / 8
NO_TOKENS = TokenLength(mean=0.0, p95=0.0)
RUNS_PER_MONTH: dict[Period, float] = {
    "day": HOURS_PER_MONTH / 24,
    "week": HOURS_PER_MONTH / 168,
    "month": 1.0,
    "quarter": 1 / 3,
}
# Where the needs state no deadline, work with an end may take this share of the time until it starts again.
DEADLINE_SHARE = 0.25
PRETRAIN_DEADLINE_H = 2160.0


class LoadLevel(NamedTuple):
    """A part of the day: hours of it in a month, and requests a second during them, today."""

    hours: float
    rate: float


class Demand(NamedTuple):
    """A steady load. Rates are requests per second, today; volumes are per month, today. Kinds without tokens have
    lengths of 0. `elsewhere`: requests/s of it that somebody else serves, month by month.
    """

    workload: Workload
    mean: float
    peak: float
    input_tokens: TokenLength
    output_tokens: TokenLength
    growth: tuple[float, ...]
    requests_per_month: float
    levels: tuple[LoadLevel, ...] = ()
    elsewhere: tuple[float, ...] = ()

    def rates(self, month: int) -> tuple[float, ...]:
        """Requests/s at each level of the day, in a month, without what is served elsewhere."""
        gone = self.elsewhere[month] if self.elsewhere else 0.0
        return tuple(max(0.0, level.rate * self.growth[month] - gone) for level in self.levels)

    def requests(self, month: int) -> float:
        """Of a month as its levels have it: somewhat more than the mean."""
        return sum(level.hours * rate for level, rate in zip(self.levels, self.rates(month), strict=True)) * 3600

    def excess_over(self, kept: tuple[float, ...]) -> Demand:
        """What is left of the load above so many requests/s in each month."""
        rest, months = self._replace(elsewhere=kept), range(len(self.growth))
        return rest._replace(
            mean=0.0,
            peak=max(max(rest.rates(month)) for month in months) / max(self.growth),
            requests_per_month=sum(rest.requests(month) for month in months) / sum(self.growth),
        )

    @property
    def peak_at_horizon(self) -> float:
        return self.peak * max(self.growth)

    @property
    def mean_growth(self) -> float:
        return sum(self.growth) / len(self.growth)

    def scaled_by(self, share: float) -> Demand:
        """A share of the load, wherever it is served."""
        return self._replace(
            mean=self.mean * share,
            peak=self.peak * share,
            requests_per_month=self.requests_per_month * share,
            levels=tuple(level._replace(rate=level.rate * share) for level in self.levels),
        )

    @property
    def context_tokens(self) -> int:
        """Room for the 95th percentile of prompt and answer together."""
        return round(self.input_tokens.p95 + self.output_tokens.p95)


class BatchJob(NamedTuple):
    """Work with an end, done again and again. `size` is what one run works through today: tokens, or GiB."""

    workload: Workload
    size: float
    runs_per_month: float
    deadline_h: float
    growth: tuple[float, ...]


def split_into_years(months: int) -> tuple[range, ...]:
    """The months of each year of a horizon; the last may be a part of one."""
    return tuple(range(first, min(first + 12, months)) for first in range(0, months, 12))


def compute_monthly_growth(traffic: Traffic | None, months: int) -> tuple[float, ...]:
    yearly = traffic.growth_per_year if traffic is not None else 0.0
    return tuple((1 + yearly) ** (month / 12) for month in range(months))


def list_text_demands(needs: Needs) -> tuple[Demand, ...]:
    return tuple(demand for demand in list_steady_demands(needs) if demand.workload.kind in TEXT_KINDS)


def list_steady_demands(needs: Needs) -> tuple[Demand, ...]:
    found = (forecast_demand(workload, needs.budget.horizon_months) for workload in needs.workloads)
    return tuple(demand for demand in found if demand is not None)


def forecast_demand(workload: Workload, horizon_months: int) -> Demand | None:
    traffic = workload.traffic
    if workload.kind not in SERVING_KINDS or traffic is None or traffic.requests_per_second is None:
        return None
    reads, writes = traffic.input_tokens, traffic.output_tokens
    if workload.kind in TEXT_KINDS and (reads is None or writes is None):
        return None
    rate, hours = traffic.requests_per_second, traffic.hours_per_day
    share = (hours + OFF_HOURS_SHARE * (HOURS_PER_DAY - hours)) / HOURS_PER_DAY
    return Demand(
        workload=workload,
        mean=rate.mean,
        peak=rate.peak,
        input_tokens=reads or NO_TOKENS,
        output_tokens=writes or NO_TOKENS,
        growth=compute_monthly_growth(traffic, horizon_months),
        requests_per_month=rate.mean * share * HOURS_PER_MONTH * 3600,
        levels=split_load_levels(rate.mean, rate.peak, hours),
    )


def split_load_levels(mean: float, peak: float, hours_per_day: float) -> tuple[LoadLevel, ...]:
    """Peak, mean and off-hours, in this order."""
    days = HOURS_PER_MONTH / HOURS_PER_DAY
    return (
        LoadLevel(days * hours_per_day * PEAK_SHARE, peak),
        LoadLevel(days * hours_per_day * (1 - PEAK_SHARE), mean),
        LoadLevel(days * (HOURS_PER_DAY - hours_per_day), OFF_HOURS_SHARE * mean),
    )


def list_batch_jobs(needs: Needs) -> tuple[BatchJob, ...]:
    found = (derive_batch_job(workload, needs.budget.horizon_months) for workload in needs.workloads)
    return tuple(job for job in found if job is not None)


def derive_batch_job(workload: Workload, horizon_months: int) -> BatchJob | None:
    growth = compute_monthly_growth(workload.traffic, horizon_months)
    if workload.kind == "data-processing":
        return _derive_data_job(workload, growth)
    if workload.kind == "embedding":
        return _derive_corpus_job(workload, growth)
    if workload.kind == "finetune" and workload.tokens is not None:
        runs = RUNS_PER_MONTH[workload.every or "month"]
        deadline = workload.deadline_h or DEADLINE_SHARE * HOURS_PER_MONTH / runs
        return BatchJob(workload, workload.tokens, runs, deadline, growth)
    if workload.kind == "pretrain" and workload.tokens is not None:
        deadline = workload.deadline_h or PRETRAIN_DEADLINE_H
        return BatchJob(workload, workload.tokens, 1 / horizon_months, deadline, growth)
    return None


def _derive_data_job(workload: Workload, growth: tuple[float, ...]) -> BatchJob | None:
    traffic = workload.traffic
    if traffic is None or traffic.gib_per_day is None:
        return None
    return BatchJob(workload, traffic.gib_per_day, RUNS_PER_MONTH["day"], traffic.deadline_h or HOURS_PER_DAY, growth)


def _derive_corpus_job(workload: Workload, growth: tuple[float, ...]) -> BatchJob | None:
    """A corpus that is embedded, again at every refresh; without one, once in the horizon."""
    traffic = workload.traffic
    if traffic is None or traffic.documents is None or traffic.tokens_per_document is None:
        return None
    runs = RUNS_PER_MONTH[traffic.refresh] if traffic.refresh else 1 / len(growth)
    deadline = traffic.deadline_h or DEADLINE_SHARE * HOURS_PER_MONTH / max(runs, 1.0)
    return BatchJob(workload, traffic.documents * traffic.tokens_per_document, runs, deadline, growth)
