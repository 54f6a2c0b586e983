"""Monitoring section: plan against actual, the series, and the query and alert of each service level."""

from collections.abc import Iterator

from archwright.contract.decision import Section, SectionLine
from archwright.contract.evidence import escape_label_value
from archwright.contract.metrics import FAILED_STATUSES, LIMITED_STATUS, METRIC_BY_QUANTITY
from archwright.contract.needs import TEXT_KINDS, Workload
from archwright.contract.number_format import format_duration
from archwright.contract.plan import Pool
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.sections.guidance import fill_line, list_existing_tools, select_guidance, write_proof
from archwright.plan.sections.plan_traits import derive_traits

MINUTES_PER_MONTH = 30 * 24 * 60.0
# The fastest windows of the SRE Workbook: 14.4 times the allowed rate uses 2 % of a month's error budget in an hour.
FAST_BURN_RATE, LONG_WINDOW, SHORT_WINDOW = 14.4, "1h", "5m"
QUANTITY_NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency"}
NO_GATEWAY_NOTE = ". The query works if the gateway runs in front of the provider"
TEXT_SERIES = ("ttft_s", "tpot_s", "tokens_per_s", "input_tokens")
ALL_SERIES = ("latency_s", "requests", "in_flight", "decisions")
LOCAL_SERIES = ("peak_memory_bytes", "startup_s", "disk_bytes", "restarts")
TRAINING_SERIES = ("train_s", "train_tokens_per_s", "train_memory_bytes")


def build_monitoring_section(chosen: ChosenOption) -> Section:
    gateway = NO_GATEWAY_NOTE if "hosted" in derive_traits(chosen) else ""
    pools = chosen.option.pools if chosen.option is not None else ()
    levels: list[SectionLine] = []
    for workload in chosen.needs.workloads:
        pool = next((pool for pool in pools if workload.name in pool.workloads), None)
        levels += _list_service_levels(workload, pool, gateway)
    kept = tuple(line for line in list_existing_tools(chosen) if line.topic.startswith("Monitoring"))
    return Section(
        id="monitoring",
        title="Monitoring",
        summary=(
            f"Every prediction is a query: {len(levels)} service levels are watched, and `archwright reconcile` "
            "compares the predictions of the plan with measurements."
        ),
        lines=(*kept, *select_guidance(chosen, "monitoring"), _build_series_line(chosen), *levels),
    )


def _build_series_line(chosen: ChosenOption) -> SectionLine:
    traits = derive_traits(chosen)
    series = {"text": TEXT_SERIES, "serving": ALL_SERIES, "this-machine": LOCAL_SERIES, "training": TRAINING_SERIES}
    names = [METRIC_BY_QUANTITY[name].name for trait, found in series.items() if trait in traits for name in found]
    unused = "" if names else "; nothing in this plan answers requests"
    proof = write_proof("requests", "rate") if "serving" in traits else "archwright runs list"
    return fill_line("monitoring.series", {"names": ", ".join(names) or "none", "unused": unused}, proof=proof)


def _list_service_levels(workload: Workload, pool: Pool | None, gateway: str) -> Iterator[SectionLine]:
    slo = workload.slo
    limits = {"latency_s": slo.latency_p95_s}
    if workload.kind in TEXT_KINDS:
        limits = {"ttft_s": slo.ttft_p95_s, "tpot_s": slo.tpot_p95_s, **limits}
    values: dict[str, object] = {"workload": workload.name, "short": SHORT_WINDOW, "long": LONG_WINDOW}
    values["gateway"] = gateway
    for quantity, limit in limits.items():
        if limit is not None:
            series = pool.launch.metrics.get(quantity) if pool is not None else None
            engine = f"; the engine's own series is {series}" if series else ""
            values |= {"quantity": QUANTITY_NAMES[quantity], "limit": limit, "engine": engine}
            values["help"] = METRIC_BY_QUANTITY[quantity].help
            proof = write_proof(quantity, "p95", workload=workload.name)
            yield fill_line("monitoring.latency", values, proof=proof)
    if slo.availability is not None:
        values |= {
            "target": slo.availability,
            "outage": format_duration(60 * MINUTES_PER_MONTH * (1 - slo.availability)),
        }
        values["burn"] = FAST_BURN_RATE
        yield fill_line("monitoring.availability", values, proof=_write_burn_alert(workload, slo.availability))


def _write_burn_alert(workload: Workload, target: float) -> str:
    name = METRIC_BY_QUANTITY["requests"].name
    own = f'workload="{escape_label_value(workload.name)}"'

    def share(window: str) -> str:
        failed = f'sum(rate({name}{{{own},status=~"{"|".join(FAILED_STATUSES)}"}}[{window}]))'
        return f'{failed} / sum(rate({name}{{{own},status!="{LIMITED_STATUS}"}}[{window}]))'

    bound = f"{FAST_BURN_RATE * (1 - target):.6g}"
    return f"{share(LONG_WINDOW)} > {bound} and {share(SHORT_WINDOW)} > {bound}"
