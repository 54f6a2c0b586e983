"""The service levels, predicted bands, engines with their series, and costs that a plan asks to be watched.

Expressions over these records are in the templates; only windows, thresholds and measured sides are computed here.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import sum_estimates
from archwright.contract.evidence import HIGHER_IS_BETTER, Prediction, Query, Statistic, escape_label_value
from archwright.contract.metrics import LIMITED_STATUS, METRIC_BY_QUANTITY
from archwright.contract.plan import LoadSpec, Option, Plan
from archwright.contract.record import replace
from archwright.deploy.deployment import Deployment, PoolDeployment

SHORTEST_WINDOW_S = 1800.0  # of a measurement: a prediction's own may be shorter than two scrapes
# Below this share of the planned rate every latency is better. Tokens/s are predicted for all slots (as reconcile).
COMPARABLE_SHARE, BUSY_SHARE = 0.5, 0.8
# Limits of the needs that requests can measure -> quantity and statistic. A p95 allows 5 % slower requests.
LIMITS: dict[str, tuple[str, Statistic]] = {
    "availability": ("requests", "share"),
    "ttft_p95_s": ("ttft_s", "p95"),
    "tpot_p95_s": ("tpot_s", "p95"),
    "latency_p95_s": ("latency_s", "p95"),
}
SLOW_SHARE = 0.05
# Quantity of an engine -> title, unit and query of its panel.
ENGINE_PANELS = {
    "in_flight": ("Requests running in the engine", "none", "sum({})"),
    "waiting": ("Requests waiting in the engine", "none", "sum({})"),
    "kv_share": ("Key-value cache in use", "percentunit", "max({})"),
    "tokens_per_s": ("Output tokens of the engine per second", "short", "sum(rate({}[$__rate_interval]))"),
}
LOAD_GAUGES = ("in_flight", "waiting", "kv_share")  # in every scrape; others may wait for the first request


class BurnRate(NamedTuple):
    """An alert if the error budget of 30 days is used `factor` times too fast, in a long and a short window."""

    factor: float
    long: str
    long_s: int
    short: str
    hold: str
    severity: str


# Google SRE Workbook, chapter 5: 2 % of the budget in 1 h, 5 % in 6 h, 10 % in 3 d; short = long / 12.
BURN_RATES = (
    BurnRate(14.4, "1h", 3600, "5m", "2m", "page"),
    BurnRate(6.0, "6h", 6 * 3600, "30m", "15m", "page"),
    BurnRate(1.0, "3d", 3 * 86400, "6h", "1h", "ticket"),
)
WINDOWS = ("5m", "30m", "1h", "6h", "3d")


class ServiceLevel(NamedTuple):
    """A limit of the needs: `budget` is the share of requests that may be bad.

    `bound`: a request is too slow above this bucket of the histogram, the first one from the limit on, less than 67 %
    above it and equal to it for a round limit; "": bad by status.
    """

    id: str
    workload: str
    selector: str
    series: str
    bound: str
    budget: float
    stated: float
    reason: str
    predictions: tuple[str, ...]

    @property
    def counted(self) -> str:
        """Select the requests of which a share may be bad: all in a histogram of answers, else not the limited ones."""
        return self.selector if self.bound else f'{self.selector},status!="{LIMITED_STATUS}"'

    def find_threshold(self, rate: BurnRate) -> float:
        """Return the share of bad requests that uses the budget at this rate; above 0.9 it would never be reached."""
        return round(min(rate.factor * self.budget, 0.9), 9)


class PredictedBand(NamedTuple):
    """A prediction with PromQL: `comparable` ("" for always) holds under its load; `needs_load`: for both sides."""

    prediction: Prediction
    measured: str
    samples: str
    comparable: str
    needs_load: bool
    reason: str

    @property
    def outside(self) -> str:
        """PromQL that holds while the measurement is outside the band; fewer than 20 requests say nothing.

        A quantile from buckets is known to one bucket, so the whole bucket has to be outside."""
        at, query, estimate = f'{{prediction="{self.prediction.id}"}}', self.prediction.query, self.prediction.estimate
        bounds = METRIC_BY_QUANTITY[query.metric].bounds if query.quantile is not None else ()
        lowest = max((bound for bound in bounds if bound <= estimate.low), default=0.0)
        highest = next((bound for bound in bounds if bound >= estimate.high), 0.0)
        under = f"plan:prediction:measured{at} < on(prediction) plan:prediction:low"
        over = f"plan:prediction:measured{at} > on(prediction) plan:prediction:high"
        if bounds:
            under, over = f"{under} <= {lowest:g}", f"{over} > {highest:g}"
        worse, better = (under, over) if self.prediction.metric in HIGHER_IS_BETTER else (over, under)
        load = f" and on() ({self.comparable})" if self.comparable else ""
        either = f"({worse} or {better}){load}" if self.needs_load else f"({worse} or ({better}{load}))"
        return either + (f" and on(prediction) plan:prediction:samples{at} >= 20" if self.samples else "")


class PoolWatch(NamedTuple):
    """A pool and its engines as a scrape job. `series`: names by quantity in this `version` ("": unknown).

    `addresses` are empty if no Prometheus beside the gateway reaches the engines: on sockets, or at another site.
    `longest_queue`: requests that can wait and still begin in time (Little: planned rate x longest wait).
    """

    pool: PoolDeployment
    name: str
    job: str
    engine: str
    version: str
    addresses: tuple[str, ...]
    series: dict[str, str]
    longest_queue: int

    @property
    def expected(self) -> tuple[tuple[str, str, bool], ...]:
        """Quantity and name of each series that a scrape has, and whether it needs traffic first."""
        kinds = {name: METRIC_BY_QUANTITY[name].kind for name in self.series if name in METRIC_BY_QUANTITY}
        named = {name: series + "_count" * (kinds.get(name) == "histogram") for name, series in self.series.items()}
        return tuple((name, series, name not in LOAD_GAUGES) for name, series in named.items())

    @property
    def panels(self) -> tuple[tuple[str, str, str], ...]:
        """Title, unit and query of each series that the dashboard Engines shows."""
        at = f'{{job="{self.job}"}}'
        shown = [(ENGINE_PANELS[name], series) for name, series in self.series.items() if name in ENGINE_PANELS]
        return tuple((title, unit, query.format(series + at)) for (title, unit, query), series in shown)


class CostLimit(NamedTuple):
    """A cost per month in USD that what runs should not exceed; `excess` says what a higher one means."""

    alert: str
    usd: float
    reason: str
    excess: str


class Watched(NamedTuple):
    levels: tuple[ServiceLevel, ...]
    bands: tuple[PredictedBand, ...]
    pools: tuple[PoolWatch, ...]
    loads: tuple[LoadSpec, ...]
    costs: tuple[CostLimit, ...]

    @property
    def engines(self) -> tuple[PoolWatch, ...]:
        return tuple(one for one in self.pools if one.addresses and one.series)


def collect_watched(deployment: Deployment, catalog: Catalog, engine_url: str) -> Watched:
    """Return what the plan's option asks to be watched. `engine_url`: pattern of the engines' URLs, "" for sockets."""
    plan, option = deployment.plan, deployment.option
    served = {name for pool in (*option.pools, *plan.upstreams) for name in pool.workloads}
    skipped = "process" if engine_url else ""  # no supervisor measures processes beside engines with URLs
    found = (one for one in _list_predictions(plan, option) if one.workload in {*served, ""})
    predictions = tuple(one for one in found if skipped not in METRIC_BY_QUANTITY[one.metric].labels)
    loads = {one.workload: one for one in plan.loads if one.workload in served}
    urls = {pool.name: engine_url for pool in deployment.main_site.pools if pool.container is not None}
    levels = tuple(one for one in _list_levels(option, predictions) if one.workload in served)
    bands = tuple(_build_band(one, loads.get(one.workload)) for one in predictions)
    pools = tuple(_build_pool(deployment, pool, catalog, urls.get(pool.name, "")) for pool in deployment.pools)
    costs = tuple(_list_costs(option, plan.currency, catalog.exchange_rate(plan.currency, "USD").value))
    watched = Watched(levels, bands, pools, tuple(loads.values()), costs)
    rented = [one for one in watched.engines if one.pool.pool.price_usd_per_hour]
    return watched if rented or (plan.upstreams and deployment.is_chosen) else watched._replace(costs=())


def _list_costs(option: Option, currency: str, usd: float) -> Iterator[CostLimit]:
    """Yield the upper end of what the plan predicts for running machines and tokens, then the limit of the needs."""
    running = [one.amount for one in option.cost_lines if one.category in ("compute", "tokens") and not one.once]
    if running:
        cost = sum_estimates(running, currency)
        reason = (
            f"the plan predicts {cost.value:.4g} ({cost.low:.4g} to {cost.high:.4g}) {currency} of machines a month"
        )
        yield CostLimit("CostAbovePlan", cost.high * usd, reason, "more than planned")
    limit = next((one for one in option.limits if one.limit == "per_month"), None)
    if running and limit is not None:
        reason = f"the needs allow {limit.stated:g} {currency} per month, the plan costs {limit.predicted.value:.4g}"
        yield CostLimit("BudgetExceeded", limit.stated * usd, reason, "more than the budget")


def _list_predictions(plan: Plan, option: Option) -> Iterator[Prediction]:
    """Yield what requests and processes can measure; for an option that the plan did not choose, from its limits."""
    if option.name == plan.chosen:
        known = METRIC_BY_QUANTITY.keys() - {
            "control_held"
        }  # only `reconcile` asks controls; a plan may be of another release
        yield from (one for one in plan.predictions if {one.metric, one.query.metric} <= known)
        return
    for limit in option.limits:
        workload, _, name = limit.limit.rpartition(".")
        if name in LIMITS:
            metric, statistic = LIMITS[name]
            query = Query(metric=metric, labels={"workload": workload}, statistic=statistic, window_s=SHORTEST_WINDOW_S)
            stated = {"id": f"limit.{limit.limit}", "metric": metric, "workload": workload}
            yield Prediction(**stated, estimate=limit.predicted, query=query)


def _list_levels(option: Option, predictions: tuple[Prediction, ...]) -> Iterator[ServiceLevel]:
    for limit in option.limits:
        workload, _, name = limit.limit.rpartition(".")
        metric, statistic = LIMITS.get(name, ("", "p95"))
        budget = round(1 - limit.stated, 9) if statistic == "share" else SLOW_SHARE
        if not metric or budget <= 0:
            continue
        wanted = (workload, metric, statistic)
        known = tuple(p.id for p in predictions if (p.workload, p.metric, p.query.statistic) == wanted)
        bounds = METRIC_BY_QUANTITY[metric].bounds
        bucket = "" if statistic == "share" else str(next((one for one in bounds if one >= limit.stated), bounds[-1]))
        name, selector = METRIC_BY_QUANTITY[metric].name, f'workload="{escape_label_value(workload)}"'
        value, unit = limit.predicted.value, limit.predicted.unit
        reason = (
            f"the needs state {limit.stated:g} {unit}, the plan predicts {value:.4g} {unit} (chance {limit.chance})"
        )
        yield ServiceLevel(limit.limit, workload, selector, name, bucket, budget, limit.stated, reason, known)


def _build_band(prediction: Prediction, load: LoadSpec | None) -> PredictedBand:
    query, estimate = prediction.query, prediction.estimate
    kind = METRIC_BY_QUANTITY[query.metric].kind
    asked = query if kind == "gauge" else replace(query, window_s=max(query.window_s, SHORTEST_WINDOW_S))
    comparable = ""
    if load is not None and query.phase in ("peak", "closed"):
        metric, least = "requests", COMPARABLE_SHARE * load.requests_per_second
        if query.phase == "closed":  # seconds of latency per second are requests in flight
            metric, least = "latency_s", BUSY_SHARE * load.concurrency
        comparable = f"{replace(asked, metric=metric, statistic='rate').promql()} >= {least:.6g}"
    samples = asked.promql_samples() if kind == "histogram" else ""
    band = f"{estimate.value:.4g} {estimate.unit} ({estimate.low:.4g} to {estimate.high:.4g})"
    reason = f"the plan predicts {prediction.id} = {band} with {100 * estimate.level:.0f} %"
    return PredictedBand(prediction, asked.promql(), samples, comparable, query.phase == "closed", reason)


def _build_pool(deployment: Deployment, pool: PoolDeployment, catalog: Catalog, url: str) -> PoolWatch:
    engine = pool.server if url else pool.engine
    version = next((one.version for one in catalog.components.values() if one.engine == engine), "")
    rows = [row for row in catalog.engine_metrics if row.engine == engine and row.covers(version)]
    urls = [url.format(pool=pool.name, replica=replica, port=pool.port) for replica in range(pool.pool.replicas)]
    waits = [one.waits.wait_s for one in deployment.plan.workloads if one.name in pool.pool.workloads and one.waits]
    rate = pool.load.requests_per_second if pool.load is not None else 0.0
    in_time = math.ceil(min(waits) * rate) if waits and rate else pool.in_flight * pool.pool.replicas
    series = {row.quantity: row.series for row in rows} or pool.pool.launch.metrics
    addresses = tuple(dict.fromkeys(one.partition("//")[2].partition("/")[0] for one in urls if one))
    name, job = pool.pool.name, f"engine-{pool.name}"
    return PoolWatch(pool, name, job, engine, version, addresses, series, max(1, in_time))
