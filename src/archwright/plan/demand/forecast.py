"""Demand forecast: requests and tokens per second, runs per month, growth over the horizon.

Month m (counted from 0) has (1 + growth_per_year)^(m / 12) of today's load: growth compounds monthly.
Capacity is planned for the busiest month's peak; consumption is the mean over all months. A month has 730 h.

Machines that follow the load see three levels per day: the peak for PEAK_SHARE of the open hours, the mean for the
other open hours, and OFF_HOURS_SHARE of the mean outside open hours.
Design: the levels have a higher mean than stated, because with the exact mean a higher peak could cost less.
Documents with a deadline run at the peak until all are done; then their machines stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from archwright.contract.needs import SERVING_KINDS, TEXT_KINDS, Needs, Period, TokenLength, Traffic, Workload

HOURS_PER_MONTH = 730.0
HOURS_PER_DAY = 24.0
MONTHS_PER_YEAR = 12
SECONDS_PER_HOUR = 3600
OFF_HOURS_SHARE = 0.05
PEAK_SHARE = 1 / 8
NO_TOKENS = TokenLength(mean=0.0, p95=0.0)
RUNS_PER_MONTH: dict[Period, float] = {
    "day": HOURS_PER_MONTH / 24,
    "week": HOURS_PER_MONTH / 168,
    "month": 1.0,
    "quarter": 1 / 3,
}
# Default deadline of a job, as a share of the time between two runs.
DEADLINE_SHARE = 0.25
PRETRAIN_DEADLINE_H = 2160.0


class LoadLevel(NamedTuple):
    """A load level: its hours per month, and today's requests per second in these hours."""

    hours: float
    rate: float


class Demand(NamedTuple):
    """A steady load: today's rates in requests per second and today's volumes per month.

    Kinds without tokens have lengths of 0. `elsewhere`: requests per second that other machines serve, per month.
    `adapters`: names of the fine-tuned variants of the model that are served together with it.
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
    adapters: tuple[str, ...] = ()

    def rates(self, month: int) -> tuple[float, ...]:
        """Return requests per second at each load level in a month, without the load served elsewhere."""
        growth = self.growth[month]
        if not self.elsewhere:
            return tuple([level.rate * growth for level in self.levels])
        served_elsewhere = self.elsewhere[month]
        return tuple([max(0.0, level.rate * growth - served_elsewhere) for level in self.levels])

    def requests(self, month: int) -> float:
        """Return the requests of a month by its load levels, which is more than by the mean."""
        levels = zip(self.levels, self.rates(month), strict=True)
        return sum(level.hours * rate for level, rate in levels) * SECONDS_PER_HOUR

    def sum_machine_hours(self, machines: Sequence[float]) -> float:
        """Return the machine-hours of a month; `machines`: those that run at each load level."""
        return sum(level.hours * count for level, count in zip(self.levels, machines, strict=True))

    def excess_over(self, kept: tuple[float, ...]) -> Demand:
        """Return the load above `kept` requests per second in each month."""
        rest, months = self._replace(elsewhere=kept), range(len(self.growth))
        return rest._replace(
            mean=0.0,
            peak=max(max(rest.rates(month)) for month in months) / max(self.growth),
            requests_per_month=sum(rest.requests(month) for month in months) / sum(self.growth),
        )

    @property
    def pauses(self) -> bool:
        """True if no request comes between the runs, so that no machine must wait for one."""
        return self.workload.traffic is not None and self.workload.traffic.deadline_h is not None

    @property
    def peak_at_horizon(self) -> float:
        return self.peak * max(self.growth)

    @property
    def mean_growth(self) -> float:
        return sum(self.growth) / len(self.growth)

    def scaled_by(self, share: float) -> Demand:
        return self._replace(
            mean=self.mean * share,
            peak=self.peak * share,
            requests_per_month=self.requests_per_month * share,
            levels=tuple(level._replace(rate=level.rate * share) for level in self.levels),
        )

    @property
    def context_tokens(self) -> int:
        """95th percentile of the prompt plus that of the answer."""
        return round(self.input_tokens.p95 + self.output_tokens.p95)


class BatchJob(NamedTuple):
    """A recurring batch job; `size` is the input of one run today, in tokens, GiB or pages."""

    workload: Workload
    size: float
    runs_per_month: float
    deadline_h: float
    growth: tuple[float, ...]

    @property
    def every(self) -> Period | None:
        """How often the job runs; None if only once in the horizon."""
        match self.workload.kind:
            case "data-processing":
                return "day"
            case "finetune":
                return self.workload.every or "month"
            case "pretrain":
                return None
            case _:
                traffic = self.workload.traffic or Traffic()
                return traffic.refresh


def load_driver(workload: str) -> str:
    """Return the name of the driver that a derived load has: the actual load / the planned load."""
    return f"load.{workload}"


def split_into_years(months: int) -> tuple[range, ...]:
    """Return the months of each year of a horizon; the last year may be shorter."""
    return tuple(range(first, min(first + MONTHS_PER_YEAR, months)) for first in range(0, months, MONTHS_PER_YEAR))


def compute_monthly_growth(traffic: Traffic | None, months: int) -> tuple[float, ...]:
    yearly = traffic.growth_per_year if traffic is not None else 0.0
    return tuple((1 + yearly) ** (month / MONTHS_PER_YEAR) for month in range(months))


def list_text_demands(needs: Needs) -> tuple[Demand, ...]:
    return tuple(demand for demand in list_steady_demands(needs) if demand.workload.kind in TEXT_KINDS)


def list_steady_demands(needs: Needs) -> tuple[Demand, ...]:
    found = (forecast_demand(workload, needs.budget.horizon_months) for workload in needs.workloads)
    tuned = [one for one in needs.workloads if one.kind == "finetune" and one.method in (None, "lora")]
    demands = list[Demand]()
    for demand in filter(None, found):
        adapters = tuple(one.name for one in tuned if one.base == demand.workload.name)
        demands.append(demand._replace(adapters=adapters))
    return tuple(demands)


def forecast_demand(workload: Workload, horizon_months: int) -> Demand | None:
    traffic = workload.traffic
    if workload.kind not in SERVING_KINDS or traffic is None or traffic.requests_per_second is None:
        return None
    reads, writes = traffic.input_tokens, traffic.output_tokens
    if workload.kind in TEXT_KINDS and (reads is None or writes is None):
        return None
    if (workload.kind == "rerank" and reads is None) or (workload.kind == "speech-to-text" and not traffic.audio_s):
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
        requests_per_month=rate.mean * share * HOURS_PER_MONTH * SECONDS_PER_HOUR,
        levels=(split_batch_levels if traffic.deadline_h else split_load_levels)(rate.mean, rate.peak, hours),
    )


def split_batch_levels(mean: float, peak: float, hours_per_day: float) -> tuple[LoadLevel, ...]:
    """Return the levels of documents that are processed at the peak rate, as soon as they arrive."""
    busy = HOURS_PER_MONTH * hours_per_day / HOURS_PER_DAY * mean / peak
    return LoadLevel(busy, peak), LoadLevel(0.0, mean), LoadLevel(HOURS_PER_MONTH - busy, 0.0)


def split_load_levels(mean: float, peak: float, hours_per_day: float) -> tuple[LoadLevel, ...]:
    """Return the levels peak, mean and off-hours, in this order."""
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
    traffic = workload.traffic or Traffic()
    if workload.kind == "data-processing" and traffic.gib_per_day is not None:
        deadline = traffic.deadline_h or HOURS_PER_DAY
        return BatchJob(workload, traffic.gib_per_day, RUNS_PER_MONTH["day"], deadline, growth)
    if workload.kind == "embedding" and traffic.documents is not None and traffic.tokens_per_document is not None:
        runs, deadline = _schedule_corpus(traffic, horizon_months)
        return BatchJob(workload, traffic.documents * traffic.tokens_per_document, runs, deadline, growth)
    if workload.kind == "document-parsing" and traffic.documents is not None and traffic.pages_per_document is not None:
        runs, deadline = _schedule_corpus(traffic, horizon_months)
        return BatchJob(workload, traffic.documents * traffic.pages_per_document, runs, deadline, growth)
    if workload.kind == "finetune" and workload.tokens is not None:
        runs = RUNS_PER_MONTH[workload.every or "month"]
        deadline = workload.deadline_h or DEADLINE_SHARE * HOURS_PER_MONTH / runs
        return BatchJob(workload, workload.tokens, runs, deadline, growth)
    if workload.kind == "pretrain" and workload.tokens is not None:
        deadline = workload.deadline_h or PRETRAIN_DEADLINE_H
        return BatchJob(workload, workload.tokens, 1 / horizon_months, deadline, growth)
    return None


def _schedule_corpus(traffic: Traffic, horizon_months: int) -> tuple[float, float]:
    """Return runs per month and the deadline in hours: the whole corpus at every refresh, or once in the horizon."""
    runs = RUNS_PER_MONTH[traffic.refresh] if traffic.refresh else 1 / horizon_months
    return runs, traffic.deadline_h or DEADLINE_SHARE * HOURS_PER_MONTH / max(runs, 1.0)
