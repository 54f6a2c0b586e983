"""Promise and proof: Basis and Query, Prediction and Control, Measurement and Deviation."""

from __future__ import annotations

from typing import Literal

from archwright.contract.estimate import Estimate
from archwright.contract.metrics import BY_QUANTITY
from archwright.contract.record import Record

Statistic = Literal["p50", "p95", "p99", "mean", "max", "last", "rate"]
QUANTILE: dict[str, float] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
BasisKind = Literal["formula", "vendor", "simulated", "calibrated", "measured", "quoted", "assumed"]
Verdict = Literal["within", "better", "worse", "unknown"]

# A lower measured value is better for everything but these.
HIGHER_IS_BETTER = frozenset({"tokens_per_s", "requests_per_s"})


class Basis(Record):
    """Why a number may be believed: definition, formula and the facts (with their sources) it rests on."""

    id: str
    kind: BasisKind
    stratum: str
    definition: str
    formula: str = ""
    facts: tuple[str, ...] = ()


class Query(Record):
    """What to measure: evaluated by the embedded ring, or rendered to PromQL. We never parse PromQL.

    `phase` names the load under which the answer counts ("peak", "closed"; "" is any): a prediction made for
    a saturated engine is not contradicted by an idle one.
    """

    metric: str
    labels: dict[str, str]
    statistic: Statistic
    window_s: float
    phase: str = ""

    @property
    def q(self) -> float | None:
        return QUANTILE.get(self.statistic)

    def promql(self, series: str | None = None, labels: dict[str, str] | None = None) -> str:
        """PromQL over `series` (default: our own name for `metric`) selected by `labels` (default: own)."""
        metric = BY_QUANTITY[self.metric]
        name = series or metric.name
        chosen = self.labels if labels is None else labels
        inner = ",".join(f'{key}="{escape(value)}"' for key, value in sorted(chosen.items()))
        selector = f"{{{inner}}}" if inner else ""
        window = f"[{max(1, round(self.window_s))}s]"
        if self.q is not None:
            return f"histogram_quantile({self.q}, sum by (le) (increase({name}_bucket{selector}{window})))"
        if self.statistic == "mean":
            top = f"sum(increase({name}_sum{selector}{window}))"
            return f"{top} / sum(increase({name}_count{selector}{window}))"
        if self.statistic == "rate":
            return f"sum(rate({name}{selector}{window}))"
        if self.statistic == "max":
            return f"max_over_time(sum({name}{selector})[{max(1, round(self.window_s))}s:1s])"
        return f"sum({name}{selector})"

    def promql_samples(self, series: str | None = None, labels: dict[str, str] | None = None) -> str:
        """PromQL for how many samples stand behind `promql`."""
        metric = BY_QUANTITY[self.metric]
        name = series or metric.name
        chosen = self.labels if labels is None else labels
        inner = ",".join(f'{key}="{escape(value)}"' for key, value in sorted(chosen.items()))
        selector = f"{{{inner}}}" if inner else ""
        window = f"[{max(1, round(self.window_s))}s]"
        if metric.kind == "histogram":
            return f"sum(increase({name}_count{selector}{window}))"
        return f"sum(count_over_time({name}{selector}{window}))"


def escape(value: str) -> str:
    """A label value as PromQL writes it."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Prediction(Record):
    """One promise of a plan; `query` is how the running platform will be asked whether it held."""

    id: str
    metric: str
    workload: str
    estimate: Estimate
    query: Query


class Control(Record):
    """A security or compliance promise: what must hold, who demands it, what proves it on the platform."""

    id: str
    demanded_by: str
    demand: str
    feature: str
    evidence: str
    status: Literal["built-in", "configured", "organisational", "later"]


class Measured(Record):
    """A measured number as reconcile prints it."""

    value: float
    unit: str
    statistic: Statistic
    samples: int
    window_s: float


class Measurement(Record):
    """A measurement kept by `monitor`, keyed by the prediction it answers.

    `at` is seconds since the epoch at the window's end; `source` is gateway, client, supervisor or prometheus.
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

    def measured(self) -> Measured:
        return Measured(
            value=self.value,
            unit=self.unit,
            statistic=self.statistic,
            samples=self.samples,
            window_s=self.window_s,
        )


class Deviation(Record):
    """Prediction against measurement. `within` exactly when low <= measured <= high."""

    prediction_id: str
    metric: str
    workload: str
    predicted: Estimate
    measured: Measured | None
    verdict: Verdict
    evidence: str


class Reconciliation(Record):
    """What `reconcile --json` prints. `coverage`: share of measured predictions inside their band."""

    plan_digest: str
    coverage: float | None
    deviations: tuple[Deviation, ...]


def judge(metric: str, predicted: Estimate, measured: float | None) -> Verdict:
    """The verdict follows from band and measurement alone."""
    if measured is None:
        return "unknown"
    if predicted.holds(measured):
        return "within"
    above = measured > predicted.high
    return "better" if above == (metric in HIGHER_IS_BETTER) else "worse"
