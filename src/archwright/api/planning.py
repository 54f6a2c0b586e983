"""From needs to a plan: `init`, `plan`, `explain`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from archwright import settings
from archwright.api.context import home_of
from archwright.catalog.load import load
from archwright.catalog.probe import probe_machine
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import MachineFacts, Plan
from archwright.errors import UsageError, Where
from archwright.home import Home, write_atomic
from archwright.needs.reader import read
from archwright.needs.template import template as needs_template
from archwright.plan import explain as explaining
from archwright.plan.file import read_plan, write_plan
from archwright.plan.make import make_plan, why_infeasible


def init(*, template: str = "desk", output: str = "needs.yaml") -> Path:
    """Write a needs file to start from. Refuses to overwrite one (UsageError AW-USE-02)."""
    text = needs_template(template)
    path = Path(output)
    if path.exists():
        raise UsageError("AW-USE-02", f"{path} exists already", where=Where(str(path)), hint="choose another --output")
    write_atomic(path, text.encode(), mode=0o644)
    return path


def plan(needs: str, *, output: str | None = None) -> Plan:
    """The plan for a needs file, also written to `output`.

    Raises NeedsError for a broken file; PlanError AW-PLAN-03 when nothing is feasible: its `result` is the plan with
    every option looked at, which is written too, so that it can be explained.
    """
    made, source = _made(Path(needs))
    if output is not None:
        write_plan(made, Path(output))
    if made.chosen is None:
        error = why_infeasible(made, source)
        error.result = made
        raise error
    return made


def _feasible(path: Path) -> Plan:
    made, source = _made(path)
    if made.chosen is None:
        raise why_infeasible(made, source)
    return made


def _made(path: Path) -> tuple[Plan, NeedsSource]:
    home = home_of(settings.load())
    catalog = load(home)
    wanted, source = read(path, catalog)
    return make_plan(wanted, source, catalog, _machine(wanted, home), datetime.now(UTC)), source


def _machine(wanted: Needs, home: Home) -> MachineFacts | None:
    """This machine is probed when it is a candidate: at every plan, because its neighbours change."""
    if "this-machine" not in wanted.placement.allow:
        return None
    artefacts = load(home).artefacts
    files = [home.model(a.sha256) for w in wanted.workloads if w.model and (a := artefacts.get(w.model))]
    return probe_machine(home, next((file for file in files if file.is_file()), None), now=time.time)


def explain(plan: str, thing: str | None = None) -> str:
    """Why the plan chose what it chose, or what stands behind one number, option, workload or control of it."""
    return explaining.explain(read_plan(Path(plan)), thing)


def plan_or_needs(source: str | None) -> Plan:
    """What `up` takes: its argument, else plan.json, else needs.yaml of the folder, else the built-in desk needs."""
    candidates = [source] if source else ["plan.json", "needs.yaml"]
    for name in candidates:
        path = Path(name)
        if path.is_file() or source:
            return read_plan(path) if path.suffix == ".json" else _feasible(path)
    home = home_of(settings.load())
    desk = home.folder("run") / "needs.yaml"
    write_atomic(desk, needs_template("desk").encode())
    return _feasible(desk)
