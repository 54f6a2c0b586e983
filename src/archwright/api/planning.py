"""From needs to a plan: `init`, `plan`, `explain`, `diff`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import overload

from archwright import settings
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.machine_probe import probe_machine
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import MachineFacts, Plan
from archwright.errors import ErrorLocation, UsageError
from archwright.home import Home, locate_home, write_atomic
from archwright.needs.reader import read_needs
from archwright.needs.template import read_template as needs_template
from archwright.needs.what_if_changes import NeedsChange, parse_changes, read_changed_needs
from archwright.plan.explain import diff as differing
from archwright.plan.explain import explanation as explaining
from archwright.plan.explain.what_if import WhatIf
from archwright.plan.explain.what_if import compare_what_if as held_against
from archwright.plan.plan_file import read_plan, write_plan
from archwright.plan.planner import build_infeasible_error, make_plan


def init(*, template: str = "desk", output: str = "needs.yaml") -> Path:
    """Write a needs file to start from. Refuses to overwrite one (UsageError AW-USE-02)."""
    text = needs_template(template)
    path = Path(output)
    if path.exists():
        hint = "choose another --output"
        raise UsageError("AW-USE-02", f"{path} exists already", where=ErrorLocation(str(path)), hint=hint)
    write_atomic(path, text.encode(), mode=0o644)
    return path


@overload
def plan(needs: str, *, output: str | None = None, what_if: None = None, accept_stale: bool = False) -> Plan: ...


@overload
def plan(
    needs: str, *, output: str | None = None, what_if: str | Sequence[str], accept_stale: bool = False
) -> WhatIf: ...


def plan(
    needs: str, *, output: str | None = None, what_if: str | Sequence[str] | None = None, accept_stale: bool = False
) -> Plan | WhatIf:
    """The plan for a needs file, also written to `output`; with `what_if` (`key=value`, or several) the plan with these
    fields changed, compared to the one without. `accept_stale` lets it advise buying by expired prices.

    Raises NeedsError (broken file), UsageError AW-USE-60, -61 (not a change), PlanError AW-PLAN-03 when nothing is
    feasible, with the plan as its `result`; for a "what if" that is an answer and no error."""
    if what_if is not None:
        texts = (what_if,) if isinstance(what_if, str) else tuple(what_if)
        return _make_what_if(Path(needs), parse_changes(texts), output, accept_stale=accept_stale)
    made, source = _make_plan_from_needs(Path(needs), accept_stale=accept_stale)
    if output is not None:
        write_plan(made, Path(output))
    if made.chosen is None:
        error = build_infeasible_error(made, source)
        error.result = made
        raise error
    return made


def _make_what_if(path: Path, changes: tuple[NeedsChange, ...], output: str | None, *, accept_stale: bool) -> WhatIf:
    """Both plans are made with the same catalog on the machine as it is now."""
    home = locate_home(settings.load())
    catalog = load_catalog(home)
    wanted, source = read_needs(path, catalog)
    changed, changed_source = read_changed_needs(path, changes, catalog)
    machine, now = _probe_this_machine(wanted, home) or _probe_this_machine(changed, home), datetime.now(UTC)
    before = make_plan(wanted, source, catalog, machine, now, accept_stale=accept_stale)
    after = make_plan(changed, changed_source, catalog, machine, now, accept_stale=accept_stale)
    if output is not None:
        write_plan(after, Path(output))
    refused = "" if after.chosen is not None else build_infeasible_error(after, changed_source).lines()
    return held_against(before, after, tuple(f"{change.key}={change.value}" for change in changes), refused)


def _make_feasible_plan(path: Path) -> Plan:
    made, source = _make_plan_from_needs(path)
    if made.chosen is None:
        raise build_infeasible_error(made, source)
    return made


def _make_plan_from_needs(path: Path, *, accept_stale: bool = False) -> tuple[Plan, NeedsSource]:
    home = locate_home(settings.load())
    catalog = load_catalog(home)
    wanted, source = read_needs(path, catalog)
    now, machine = datetime.now(UTC), _probe_this_machine(wanted, home)
    return make_plan(wanted, source, catalog, machine, now, accept_stale=accept_stale), source


def _probe_this_machine(wanted: Needs, home: Home) -> MachineFacts | None:
    """This machine is probed when it is a candidate: at every plan, because its neighbours change."""
    if "this-machine" not in wanted.placement.allow:
        return None
    artefacts = load_catalog(home).artefacts
    files = [home.model(a.sha256) for w in wanted.workloads if w.model and (a := artefacts.get(w.model))]
    return probe_machine(home, next((file for file in files if file.is_file()), None), now=time.time)


def explain(plan: str, thing: str | None = None) -> str:
    """Why the plan chose what it chose, or what stands behind one number, option, workload or control of it."""
    return explaining.explain_plan(read_plan(Path(plan)), thing)


def diff(before: str, after: str) -> differing.PlanDiff:
    """What changed between two plan files, and why: the needs, the catalog, or this machine."""
    return differing.diff_plans(read_plan(Path(before)), read_plan(Path(after)))


def load_or_make_plan(source: str | None) -> Plan:
    """What `up` takes: its argument, else plan.json, else needs.yaml of the folder, else the built-in desk needs."""
    candidates = [source] if source else ["plan.json", "needs.yaml"]
    for name in candidates:
        path = Path(name)
        if path.is_file() or source:
            return read_plan(path) if path.suffix == ".json" else _make_feasible_plan(path)
    home = locate_home(settings.load())
    desk = home.folder("run") / "needs.yaml"
    write_atomic(desk, needs_template("desk").encode())
    return _make_feasible_plan(desk)
