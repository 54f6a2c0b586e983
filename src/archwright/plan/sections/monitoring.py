"""Monitoring: plan against actual, which series, and for each service level the query and the alert."""

from __future__ import annotations

from collections.abc import Iterator

from archwright.contract.decision import Section, SectionLine
from archwright.contract.evidence import Query, escape_label_value
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.needs import TEXT_KINDS, Workload
from archwright.contract.plan import Pool
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.sections.guidance import list_existing_tools, select_guidance
from archwright.plan.sections.plan_traits import derive_traits

WINDOW_S = 3600.0
MINUTES_PER_MONTH = 30 * 24 * 60.0
# The workbook's fastest pair of windows: this many times the allowed rate uses 2 % of a month's allowance in an hour.
FAST_BURN_RATE, LONG_WINDOW, SHORT_WINDOW = 14.4, "1h", "5m"
QUANTITY_NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency"}
NO_GATEWAY_NOTE = (
    "the query answers once the gateway stands in front of the provider, which this release does not start"
)
NEEDS_FILE = "service levels of the needs file"
TEXT_SERIES = ("ttft_s", "tpot_s", "tokens_per_s", "input_tokens")
ALL_SERIES = ("latency_s", "requests", "in_flight", "decisions")
LOCAL_SERIES = ("peak_memory_bytes", "startup_s", "disk_bytes", "restarts")
TRAINING_SERIES = ("train_s", "train_tokens_per_s", "train_memory_bytes")


def build_monitoring_section(chosen: ChosenOption) -> Section:
    served = ((workload, _find_pool(chosen, workload)) for workload in chosen.needs.workloads)
    levels = tuple(line for workload, pool in served for line in _list_service_levels(workload, pool))
    if "hosted" in derive_traits(chosen):
        levels = tuple(replace(line, why=f"{line.why}; {NO_GATEWAY_NOTE}") for line in levels)
    kept = tuple(line for line in list_existing_tools(chosen) if line.topic.startswith("Monitoring"))
    return Section(
        id="monitoring",
        title="Monitoring",
        summary=(
            f"Every promise is a query: {len(levels)} service levels are watched, and reconcile holds what the plan "
            "promises against what was measured."
        ),
        lines=(*kept, *select_guidance(chosen, "monitoring"), _build_series_line(chosen), *levels),
    )


def _find_pool(chosen: ChosenOption, workload: Workload) -> Pool | None:
    pools = chosen.option.pools if chosen.option is not None else ()
    return next((pool for pool in pools if workload.name in pool.workloads), None)


def _build_series_line(chosen: ChosenOption) -> SectionLine:
    traits = derive_traits(chosen)
    asked = {"text": TEXT_SERIES, "serving": ALL_SERIES, "this-machine": LOCAL_SERIES, "training": TRAINING_SERIES}
    wanted = [quantity for trait, quantities in asked.items() if trait in traits for quantity in quantities]
    requests = Query(metric="requests", labels={}, statistic="rate", window_s=WINDOW_S)
    return SectionLine(
        topic="Series",
        choice=", ".join(METRIC_BY_QUANTITY[quantity].name for quantity in wanted) or "none",
        why=(
            "labels are workload, model and pool and never a caller, so that their number stays small; the gateway "
            "shows them at /metrics" + ("" if wanted else "; nothing of this plan answers requests in this release")
        ),
        proof=requests.promql() if "serving" in traits else "archwright runs list",
        alternative="a label for each caller",
        why_not="a thousand callers would be a thousand times the series; who asked what is in the audit",
    )


def _list_service_levels(workload: Workload, pool: Pool | None) -> Iterator[SectionLine]:
    """One line a service level: what is asked for, the query, and what wakes somebody."""
    slo = workload.slo
    limits = {"latency_s": slo.latency_p95_s}
    if workload.kind in TEXT_KINDS:
        limits = {"ttft_s": slo.ttft_p95_s, "tpot_s": slo.tpot_p95_s, **limits}
    for quantity, limit in limits.items():
        if limit is not None:
            yield _build_latency_line(workload, pool, quantity, limit)
    if slo.availability is not None:
        yield _build_availability_line(workload, slo.availability)


def _build_latency_line(workload: Workload, pool: Pool | None, quantity: str, limit: float) -> SectionLine:
    query = Query(metric=quantity, labels={"workload": workload.name}, statistic="p95", window_s=WINDOW_S)
    series = pool.launch.metrics.get(quantity) if pool is not None else None
    engine = f"; the engine's own series is {series}" if series else ""
    return SectionLine(
        topic=f"{workload.name}: {QUANTITY_NAMES[quantity]}",
        choice=f"p95 at most {limit:g} s over an hour",
        why=(
            f"{METRIC_BY_QUANTITY[quantity].help}; asked for in the needs; wake somebody when it is above {limit:g} "
            f"for {SHORT_WINDOW} and for {LONG_WINDOW}{engine}"
        ),
        proof=query.promql(),
        source=NEEDS_FILE,
    )


def _build_availability_line(workload: Workload, target: float) -> SectionLine:
    name = METRIC_BY_QUANTITY["requests"].name
    own = f'workload="{escape_label_value(workload.name)}"'

    def share(window: str) -> str:
        failed = f'sum(rate({name}{{{own},status=~"failed|rejected"}}[{window}]))'
        return f"{failed} / sum(rate({name}{{{own}}}[{window}]))"

    bound = f"{FAST_BURN_RATE * (1 - target):.6g}"
    return SectionLine(
        topic=f"{workload.name}: availability",
        choice=f"{target:.6g} of requests answered, {MINUTES_PER_MONTH * (1 - target):.3g} minutes of outage in "
        "30 days",
        why=f"asked for in the needs; wake somebody at {FAST_BURN_RATE:g} times the allowed rate, "
        f"over {LONG_WINDOW} and {SHORT_WINDOW}",
        proof=f"{share(LONG_WINDOW)} > {bound} and {share(SHORT_WINDOW)} > {bound}",
        source=NEEDS_FILE,
    )
