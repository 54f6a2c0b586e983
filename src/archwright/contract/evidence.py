"""Predictions and their evidence: Basis and Query, Prediction and Control, Measurement and Deviation."""

import math
import re
from typing import Literal

from archwright.contract.contention import Contention
from archwright.contract.estimate import Estimate
from archwright.contract.metrics import FAILED_STATUSES, LIMITED_STATUS, METRIC_BY_QUANTITY
from archwright.contract.record import Record

Statistic = Literal["p50", "p95", "p99", "mean", "max", "last", "rate", "share"]
QUANTILE: dict[str, float] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
BasisKind = Literal["formula", "vendor", "simulated", "calibrated", "measured", "quoted", "assumed"]
Verdict = Literal["within", "better", "worse", "unknown"]

# A lower measured value is better for all other metrics.
HIGHER_IS_BETTER = frozenset({"tokens_per_s", "requests_per_s", "requests", "train_tokens_per_s", "control_held"})


class Basis(Record):
    """The justification of a number: definition, formula and facts with their sources.

    `estimate`: the number itself if costs are proportional to it (a price, a rate), without the basis's own name.
    """

    id: str
    kind: BasisKind
    stratum: str
    definition: str
    formula: str = ""
    facts: tuple[str, ...] = ()
    estimate: Estimate | None = None


class Query(Record):
    """A measurement to take, evaluated from our own observations or rendered to PromQL.

    PromQL is never parsed. `phase` names the load under which the measurement counts ("peak", "closed"; "" is any).
    "share" is the share of requests that were answered or were refused for a reason of the client's own. Requests that
    a limit of their caller refused are not among them.
    """

    metric: str
    labels: dict[str, str]
    statistic: Statistic
    window_s: float
    phase: str = ""

    @property
    def quantile(self) -> float | None:
        return QUANTILE.get(self.statistic)

    def promql(self, series: str | None = None, labels: dict[str, str] | None = None) -> str:
        """Render PromQL over `series` (default: our name for `metric`) selected by `labels` (default: own)."""
        name, selector, window = self._promql_parts(series, labels)
        metric = METRIC_BY_QUANTITY[self.metric]
        if self.statistic == "share":
            # A status that no request ended with has no series yet and counts as 0.
            lost = _narrow(selector, f'status=~"{"|".join(FAILED_STATUSES)}"')
            counted = _narrow(selector, f'status!="{LIMITED_STATUS}"')
            failed = f"(sum(increase({name}{lost}[{window}])) or vector(0))"
            return f"1 - {failed} / sum(increase({name}{counted}[{window}]))"
        if metric.kind == "histogram":
            # Read quantiles and the largest bucket (max) from the buckets, mean and rate from sum and count.
            total = f"sum(increase({name}_sum{selector}[{window}]))"
            if self.statistic == "mean":
                return f"{total} / sum(increase({name}_count{selector}[{window}]))"
            if self.statistic == "rate":
                return f"sum(rate({name}_sum{selector}[{window}]))"
            q = 1.0 if self.quantile is None else self.quantile
            return f"histogram_quantile({q}, sum by (le) (increase({name}_bucket{selector}[{window}])))"
        if self.statistic == "rate":
            return f"sum(rate({name}{selector}[{window}]))"
        if metric.kind == "counter":
            return f"sum(increase({name}{selector}[{window}]))"
        if metric.is_per_run:
            # Each run is a series with one value.
            how = {"mean": "avg("}.get(
                self.statistic, "max(" if self.quantile is None else f"quantile({self.quantile}, "
            )
            return f"{how}last_over_time({name}{selector}[{window}]))"
        over = f"sum({name}{selector})[{window}:1s]"
        if self.quantile is not None:
            return f"quantile_over_time({self.quantile}, {over})"
        over_time = {"max": "max_over_time", "mean": "avg_over_time"}.get(self.statistic)
        return f"{over_time}({over})" if over_time else f"sum({name}{selector})"

    def _promql_parts(self, series: str | None, labels: dict[str, str] | None) -> tuple[str, str, str]:
        """Return series name, selector and window in PromQL syntax."""
        chosen = self.labels if labels is None else labels
        inner = ",".join(f'{key}="{escape_label_value(value)}"' for key, value in sorted(chosen.items()))
        name = series or METRIC_BY_QUANTITY[self.metric].name
        return name, f"{{{inner}}}" if inner else "", f"{max(1, round(self.window_s))}s"

    def promql_samples(self, series: str | None = None, labels: dict[str, str] | None = None) -> str:
        """Render PromQL for the number of samples that `promql` uses."""
        name, selector, window = self._promql_parts(series, labels)
        if METRIC_BY_QUANTITY[self.metric].kind == "histogram":
            return f"sum(increase({name}_count{selector}[{window}]))"
        return f"sum(count_over_time({name}{selector}[{window}]))"


def _narrow(selector: str, matcher: str) -> str:
    """Return the selector with one more matcher."""
    return f"{selector[:-1]},{matcher}}}" if selector else f"{{{matcher}}}"


def escape_label_value(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Prediction(Record):
    """One predicted number of a plan; `query` measures it on the running platform."""

    id: str
    metric: str
    workload: str
    estimate: Estimate
    query: Query


class Control(Record):
    """A security or compliance requirement: who demands it, which feature meets it, what proves it.

    `checks` of this release prove a control that is built in, or configured by a setting. All others are tasks of the
    `owner`, a role: a `command` to run, a document (organisational), or a part that this release lacks (later).
    `missing`: the parts of the feature that this release lacks; `provided`: commands for its other parts.
    `condition`: when the demand applies; empty: always.
    """

    id: str
    demanded_by: str
    demand: str
    feature: str
    evidence: str
    status: Literal["built-in", "configured", "command", "organisational", "later"]
    checks: tuple[str, ...] = ()
    owner: str = ""
    missing: str = ""
    provided: str = ""
    condition: str = ""

    @property
    def is_task(self) -> bool:
        return not self.checks

    @property
    def retention_days(self) -> int:
        return find_retention_days(self.feature)


_RETENTION_FLOOR = re.compile(r"retention floor (\d+) days")


def find_retention_days(feature: str) -> int:
    """Return the days for which the feature of a control keeps records at least; 0 if it states none."""
    found = _RETENTION_FLOOR.search(feature)
    return int(found[1]) if found is not None else 0


class MeasuredValue(Record):
    """A measured number in the output of reconcile."""

    value: float
    unit: str
    statistic: Statistic
    samples: int
    window_s: float


class Measurement(Record):
    """A measurement stored by `monitor` for one prediction.

    `at` is seconds since the epoch at the window's end; `source` is gateway, client, supervisor, prometheus or report.
    `contention`: of the machine during the bench that measured it; None without a bench and in older rows.
    """

    plan_digest: str
    prediction_id: str
    at: float
    source: str
    value: float
    unit: str
    statistic: Statistic
    samples: int
    window_s: float
    evidence: str
    contention: Contention | None = None

    def to_measured_value(self) -> MeasuredValue:
        return MeasuredValue(**{name: getattr(self, name) for name in MeasuredValue.__struct_fields__})


class Deviation(Record):
    """A prediction compared with its measurement: `within` exactly if low <= measured <= high.

    A measured value with the verdict `unknown` is not judged; the evidence says why.
    """

    prediction_id: str
    metric: str
    workload: str
    predicted: Estimate
    measured: MeasuredValue | None
    verdict: Verdict
    evidence: str


class Reconciliation(Record):
    """The output of `reconcile --json`. `coverage`: share of judged predictions inside their interval.

    `notes`: the definitions of other tools and their conversion, and what was read of a bill. `contention`: during the
    bench of the measurements, if a bench on this machine made them; `planned_contention`: that of the machine for which
    the plan was made.
    """

    plan_digest: str
    coverage: float | None
    deviations: tuple[Deviation, ...]
    notes: tuple[str, ...] = ()
    contention: Contention | None = None
    planned_contention: Contention | None = None


def determine_verdict(metric: str, predicted: Estimate, measured: float | None) -> Verdict:
    """Compare a measurement with the band; None and NaN count as not measured."""
    if measured is None or math.isnan(measured):
        return "unknown"
    if predicted.contains(measured):
        return "within"
    above = measured > predicted.high
    return "better" if above == (metric in HIGHER_IS_BETTER) else "worse"
