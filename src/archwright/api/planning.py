"""From needs to a plan: `init`, `plan`, `explain`, `diff`."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import overload

from archwright import settings
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.machine_probe import probe_machine
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import MachineFacts, Plan
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, UsageError
from archwright.home import Home, locate_home, write_atomic
from archwright.journal import report_step
from archwright.needs.reader import read_needs
from archwright.needs.template import read_template
from archwright.needs.what_if_changes import NeedsChange, parse_changes, read_changed_needs
from archwright.plan.decision.selection import NO_CONCESSIONS, Concessions
from archwright.plan.explain import explanation
from archwright.plan.explain.diff import PlanDiff, diff_plans
from archwright.plan.explain.what_if import WhatIf, compare_what_if
from archwright.plan.plan_file import read_plan, write_plan
from archwright.plan.planner import build_infeasible_error, make_plan

# A field that limits a workload or the budget, and the prediction of its value.
PREDICTIONS_OF_LIMITS = {
    "ttft_p95_s": "ttft_s.p95",
    "tpot_p95_s": "tpot_s.p95",
    "latency_p95_s": "latency_s.p95",
    "availability": "requests.share",
    "per_month": "cost_per_month",
    "capex": "capex",
}


def init(*, template: str = "desk", output: str = "needs.yaml") -> Path:
    """Write a needs file from a template. Raises UsageError AW-USE-02 if the file exists."""
    text = read_template(template)
    path = Path(output)
    if path.exists():
        hint = "choose another file with --output, or delete this file"
        raise UsageError("AW-USE-02", f"{path} exists already", where=ErrorLocation(str(path)), hint=hint)
    write_atomic(path, text.encode(), mode=0o644)
    return path


@overload
def plan(
    needs: str,
    *,
    output: str | None = None,
    what_if: None = None,
    accept_stale: bool = False,
    best_effort: bool = False,
) -> Plan: ...


@overload
def plan(
    needs: str,
    *,
    output: str | None = None,
    what_if: str | Sequence[str],
    accept_stale: bool = False,
    best_effort: bool = False,
) -> WhatIf: ...


def plan(
    needs: str,
    *,
    output: str | None = None,
    what_if: str | Sequence[str] | None = None,
    accept_stale: bool = False,
    best_effort: bool = False,
) -> Plan | WhatIf:
    """Return the plan for a needs file, also written to `output`.

    `what_if`: `key=value` or several; returns the plan with these fields changed, compared to the plan without.
    `accept_stale`: buy by prices that have expired. `best_effort`: if no option is feasible, choose the nearest option
    that misses only service levels and budgets.

    Raises NeedsError (broken file), UsageError AW-USE-60, -61 (not a change), PlanError AW-PLAN-03 if no option can be
    chosen, with the plan as its `result`. For a "what if" an infeasible plan is a result, not an error.
    """
    concessions = Concessions(accept_stale=accept_stale, best_effort=best_effort)
    if what_if is not None:
        texts = (what_if,) if isinstance(what_if, str) else tuple(what_if)
        return _make_what_if(Path(needs), parse_changes(texts), output, concessions)
    made, source = _make_plan_from_needs(Path(needs), concessions)
    if output is not None:
        write_plan(made, Path(output))
    if made.chosen is None:
        error = build_infeasible_error(made, source)
        error.result = made
        raise error
    return made


def _make_what_if(path: Path, changes: tuple[NeedsChange, ...], output: str | None, concessions: Concessions) -> WhatIf:
    """Make both plans with the same catalog and the same probe of the machine."""
    home = locate_home(settings.load())
    catalog = load_catalog(home)
    needs, source = read_needs(path, catalog)
    changed, changed_source = read_changed_needs(path, changes, catalog)
    machine, now = _probe_this_machine(needs, home) or _probe_this_machine(changed, home), datetime.now(UTC)
    before = make_plan(needs, source, catalog, machine, now, concessions=concessions)
    after = make_plan(changed, changed_source, catalog, machine, now, concessions=concessions)
    if output is not None:
        write_plan(after, Path(output))
    refused = "" if after.chosen is not None else build_infeasible_error(after, changed_source).lines()
    return compare_what_if(before, after, tuple(f"{change.key}={change.value}" for change in changes), refused)


def _make_chosen_plan(path: Path, concessions: Concessions = NO_CONCESSIONS) -> Plan:
    """Raises PlanError AW-PLAN-03 if no option can be chosen."""
    made, source = _make_plan_from_needs(path, concessions)
    if made.chosen is None:
        raise build_infeasible_error(made, source)
    return made


def _make_plan_from_needs(path: Path, concessions: Concessions) -> tuple[Plan, NeedsSource]:
    report_step("reading the needs and the catalog")
    home = locate_home(settings.load())
    catalog = load_catalog(home)
    needs, source = read_needs(path, catalog)
    now, machine = datetime.now(UTC), _probe_this_machine(needs, home)
    return make_plan(needs, source, catalog, machine, now, concessions=concessions), source


def _probe_this_machine(needs: Needs, home: Home) -> MachineFacts | None:
    """Probe this machine if it is a candidate: for every plan, because the load of a shared machine changes."""
    if "this-machine" not in needs.placement.allow:
        return None
    report_step("probing this machine")
    artefacts = load_catalog(home).artefacts
    files = [home.model(a.sha256) for w in needs.workloads if w.model and (a := artefacts.get(w.model))]
    return probe_machine(home, next((file for file in files if file.is_file()), None), now=time.time)


class MissedLimit(Record):
    """A limit of the needs that the chosen option is predicted to miss."""

    name: str
    limit: float
    predicted: Estimate


def list_missed_limits(plan: Plan) -> tuple[MissedLimit, ...]:
    """Return the limits that the chosen option misses, with their predictions; empty for a feasible option."""
    option, found = plan.chosen_option, list[MissedLimit]()
    predicted = {prediction.id: prediction.estimate for prediction in plan.predictions}
    for miss in option.misses if option is not None else ():
        workload, _, field = miss.constraint.rpartition(".")
        name = PREDICTIONS_OF_LIMITS.get(field, "")
        estimate = predicted.get(f"{workload}.{name}") if workload else getattr(option, name, None)
        if isinstance(miss.value, float | int) and isinstance(miss.limit, float | int):
            estimate = estimate or exact_estimate(miss.value, "s" if field.endswith("_s") else "")
            found.append(MissedLimit(name=miss.constraint, limit=miss.limit, predicted=estimate))
    return tuple(found)


def explain(plan: str, thing: str | None = None) -> str:
    """Explain the choice of a plan, or one number, option, workload or control of it."""
    return explanation.explain_plan(read_plan(Path(plan)), thing)


def diff(before: str, after: str) -> PlanDiff:
    """Return the differences of two plan files and their causes: the needs, the catalog, or this machine."""
    return diff_plans(read_plan(Path(before)), read_plan(Path(after)))


def load_or_make_plan(source: str | None) -> Plan:
    """Return the plan that `up` starts: of `source`, else plan.json or needs.yaml of the folder, else the desk example.

    Design: the built-in example always starts, on a slow machine too; a plan of the user's own needs must be feasible.
    """
    for name in [source] if source else ["plan.json", "needs.yaml"]:
        path = Path(name)
        if path.is_file() or source:
            return read_plan(path) if path.suffix == ".json" else _make_chosen_plan(path)
    desk = locate_home(settings.load()).folder("run") / "needs.yaml"
    write_atomic(desk, read_template("desk").encode())
    return _make_chosen_plan(desk, Concessions(best_effort=True))
