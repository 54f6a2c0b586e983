"""Predictions against measurements: `bench`, `reconcile`."""

import time
from collections.abc import Sequence
from pathlib import Path

from archwright import settings
from archwright.api.bench_contention import describe_scope, find_measured_processes, measures_this_machine
from archwright.api.context import open_home, open_keys
from archwright.api.control_checks import PlatformConnection, control_measurements
from archwright.api.platform_lifecycle import running_url
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.contention_meter import ContentionMeter
from archwright.contract.contention import Contention
from archwright.contract.evidence import Deviation, Measurement, Reconciliation
from archwright.contract.plan import LoadSpec, Plan
from archwright.contract.record import Record, replace
from archwright.errors import ErrorLocation, ReconcileError, UsageError, argument_error
from archwright.home import Home, locate_home
from archwright.journal import report_step
from archwright.monitor import measurements as measurement_store
from archwright.monitor.metrics.observations import FLUSH_S
from archwright.monitor.metrics.prometheus import PrometheusClient
from archwright.operate import owner_keys, platform_control
from archwright.plan.plan_file import read_plan
from archwright.reconcile.bench import BenchProgress, BenchTarget, run_bench
from archwright.reconcile.bench_result import BenchPhase, TimeWindow
from archwright.reconcile.bills import compare_bills
from archwright.reconcile.contention import SPEED_METRICS
from archwright.reconcile.deviations import reconcile_plan as compare
from archwright.reconcile.deviations import select_measurements
from archwright.reconcile.measurements import client_measurements, platform_measurements, read_prometheus
from archwright.reconcile.opencost import compare_model_costs
from archwright.reconcile.report_measurements import read_report_files
from archwright.store import Store

# After two of their flushes the gateway and the supervisor have written their observations.
SETTLE_S = 3 * FLUSH_S


class PhaseSummary(Record):
    workload: str
    name: str
    seconds: float
    requests: int
    failed: int
    late: int
    output_tokens: float


class BenchReport(Record):
    """The result of `bench`: the phases, notes, and plan versus actual.

    `contention`: of the machine on which `bench` ran. The reconciliation has it too if the endpoint runs there as well.
    """

    url: str
    model: str
    phases: tuple[PhaseSummary, ...]
    notes: tuple[str, ...]
    reconciliation: Reconciliation
    contention: Contention = Contention()


def bench(
    url: str | None = None, *, against: str | None = None, key_env: str | None = None, model: str | None = None
) -> BenchReport:
    """Replay a plan's traffic at an endpoint with a client's own clock, and compare the plan with the measurements.

    Without `url` the running platform is measured, and its own records take precedence over the client's. A speed is
    not judged if other programs or the hypervisor took more of the machine than when the plan was made. Raises
    ReconcileError (AW-REC-10 to 19) if the endpoint cannot be measured.
    """
    home = locate_home(settings.load())
    plan = _find_plan(home, against)
    if not plan.loads:
        hint = "add a chat, rag, completion or batch-text workload to the needs, and plan again"
        raise UsageError(
            "AW-USE-05", "the plan has no text workload to replay", where=ErrorLocation(plan.needs_file), hint=hint
        )
    with open_home() as (_settings, _home, store):
        targets = [_build_target(home, url, load, key_env, model) for load in plan.loads]
        address = targets[0].url
        with ContentionMeter(lambda: find_measured_processes(home, address)) as meter:
            loads = zip(targets, plan.loads, strict=True)
            results = [run_bench(target, load, _report_progress) for target, load in loads]
        time.sleep(SETTLE_S)
        found: list[Measurement] = []
        for result in results:
            found += client_measurements(plan, result)
            if url is None:
                found += platform_measurements(store, plan, [*result.phases, _uptime_window(home)], home)
        if measures_this_machine(home, address):
            found = _add_contention(plan, found, meter.contention)
        if url is None:
            found += _measure_controls(store, home, plan)
            # The figures of another endpoint must not count for this platform in a later `reconcile`.
            measurement_store.save_measurements(store, found)
    notes = [note for result in results for note in result.notes]
    return BenchReport(
        url=results[0].url,
        model=results[0].model,
        phases=tuple(_summarise_phase(result.workload, phase) for result in results for phase in result.phases),
        notes=(*notes, *describe_scope(home, address, meter.contention)),
        reconciliation=compare(plan, select_measurements(found)),
        contention=meter.contention,
    )


def _add_contention(plan: Plan, measurements: list[Measurement], contention: Contention) -> list[Measurement]:
    """Return the measurements; those of speeds with the contention of the bench."""
    speeds = {prediction.id for prediction in plan.predictions if prediction.metric in SPEED_METRICS}
    changed: list[Measurement] = []
    for measurement in measurements:
        is_speed = measurement.prediction_id in speeds
        changed.append(replace(measurement, contention=contention) if is_speed else measurement)
    return changed


def _summarise_phase(workload: str, phase: BenchPhase) -> PhaseSummary:
    seconds, tokens = round(phase.window_s, 1), phase.tokens_delivered
    counts = {"requests": len(phase.requests), "failed": phase.count("failed"), "late": phase.late_count}
    return PhaseSummary(workload=workload, name=phase.name, seconds=seconds, output_tokens=tokens, **counts)


def _build_target(home: Home, url: str | None, load: LoadSpec, key_env: str | None, model: str | None) -> BenchTarget:
    if url is not None:
        key = None if key_env is None else settings.read_variable(key_env)
        if key_env is not None and not key:
            hint = f"export {key_env}=..."
            raise argument_error("AW-USE-06", f"the variable {key_env} is not set", "--key-env", hint)
        return BenchTarget(url=url, key=key, model=model or load.model)
    address = running_url(home)
    with open_keys() as (keys, _home, _store):
        key = owner_keys.get_local_key(keys, home)
    authority = settings.load().tls_certificate or None
    return BenchTarget(f"{address}/v1", key, model or load.model, workload=load.workload, ca_file=authority)


def _uptime_window(home: Home) -> TimeWindow:
    """Return the window of predictions without a phase: from `up` until now."""
    now = time.time()
    status = platform_control.read_status(home)
    return TimeWindow(name="", started_at=now - (status.up_s or 0.0) - 1.0, ended_at=now)


def _report_progress(progress: BenchProgress) -> None:
    requests = f"{progress.finished} of {progress.started} requests answered, {progress.failed} failed"
    report_step(f"{progress.phase}: {progress.elapsed_s:.0f} of {progress.total_s:.0f} s, {requests}")


def reconcile(
    plan: str | None = None,
    *,
    prometheus: str | None = None,
    report: Sequence[str] | None = None,
    bill: Sequence[str] | None = None,
    gate: bool = False,
) -> Reconciliation:
    """Compare each prediction of a plan with its measurement, without sending traffic.

    `plan`: a plan.json; default: the running plan, else plan.json of the folder. Measurements come from the newest
    bench of the plan, else from the platform's records; with any of `prometheus`, `report` (files of benchmark tools)
    and `bill` (files in FOCUS) from these alone. With `gate` raises ReconcileError AW-REC-38 unless at least one
    prediction is judged, and each judged one is inside its interval.
    """
    home = locate_home(settings.load())
    read = _find_plan(home, plan)
    if prometheus is None and not report and not bill:
        return _check_gate(_reconcile_records(home, read), gate)
    measured, gaps, costs, notes = list[Measurement](), dict[str, str](), tuple[Deviation, ...](), list[str]()
    if prometheus is not None:
        # A server that was installed already may serve the plan's pool: its series are known too.
        engines = load_catalog(home).list_known_series()
        client, now = PrometheusClient(prometheus), time.time()
        reading = read_prometheus(read, client, now, engines=engines)
        measured, gaps, costs = [*reading.measurements], reading.gaps, compare_model_costs(read, client, now)
    if report:
        reports = read_report_files(read, report)
        known = {one.prediction_id for one in measured}
        measured += [one for one in reports.measurements if one.prediction_id not in known]
        gaps |= {name: gap for name, gap in reports.gaps.items() if name not in known}
        notes += [one.evidence for one in reports.measurements]
    if bill:
        billed = compare_bills(read, bill)
        costs, notes = (*costs, *billed), [*notes, billed[-1].evidence]
    result = compare(read, select_measurements(measured), gaps, costs)
    return _check_gate(replace(result, notes=tuple(dict.fromkeys(notes))), gate)


def _reconcile_records(home: Home, plan: Plan) -> Reconciliation:
    with open_home() as (_settings, _home, store):
        found = select_measurements(measurement_store.read_plan_measurements(store, plan.digest))
        for live in _read_live_measurements(store, home, plan):
            found.setdefault(live.prediction_id, live)
    return compare(plan, found)


def _check_gate(result: Reconciliation, gate: bool) -> Reconciliation:
    """Return the result. With `gate` raises ReconcileError AW-REC-38, which carries it, if it does not pass."""
    outside = [f"{one.prediction_id} {one.verdict}" for one in result.deviations if one.verdict in ("better", "worse")]
    if gate and (outside or result.coverage is None):
        message = f"outside its interval: {', '.join(outside)}" if outside else "no prediction was measured at its load"
        hint = (
            "a value that is too good is wrong too: check load, model and hardware, then plan again with what differs"
        )
        error = ReconcileError("AW-REC-38", message, hint=hint)
        error.result = result
        raise error
    return result


def _read_live_measurements(store: Store, home: Home, plan: Plan) -> list[Measurement]:
    """Measure the real traffic of the running platform, if it runs this plan."""
    status = platform_control.read_status(home)
    if status.plan_digest != plan.digest:
        return []
    now = time.time()
    windows = [_uptime_window(home)]
    peaks = [p.query.window_s for p in plan.predictions if p.query.phase == "peak"]
    if peaks:
        windows.append(TimeWindow(name="peak", started_at=now - max(peaks), ended_at=now))
    return [*platform_measurements(store, plan, windows, home), *_measure_controls(store, home, plan)]


def _measure_controls(store: Store, home: Home, plan: Plan) -> list[Measurement]:
    url = platform_control.read_status(home).url
    if url is None:
        return []
    chosen = settings.load()
    connection = PlatformConnection(url, chosen.tls_certificate or None, store, home, chosen.residency)
    return control_measurements(plan, connection, time.time())


def _find_plan(home: Home, path: str | None) -> Plan:
    if path is not None:
        return read_plan(Path(path))
    if platform_control.read_status(home).url is not None:
        return read_plan(home.plan)
    here = Path("plan.json")
    if not here.is_file():
        hint = "archwright plan needs.yaml -o plan.json"
        message = "no plan: no platform runs, and the folder has no plan.json"
        raise ReconcileError("AW-REC-30", message, where=ErrorLocation(str(here)), hint=hint)
    return read_plan(here)
