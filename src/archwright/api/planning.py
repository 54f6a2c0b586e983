"""From needs to a plan: `init`, `plan`."""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import overload

from archwright import settings
from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.machine_probe import probe_machine
from archwright.contract.estimate import exact_estimate
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import Artefact, LimitProbability, MachineFacts, Plan, assess_limit
from archwright.errors import ArchwrightError, ErrorLocation, MissingError, UsageError
from archwright.home import Home, locate_home, write_atomic
from archwright.journal import report_step
from archwright.needs.interview import interview_user
from archwright.needs.reader import read_needs
from archwright.needs.template import TEMPLATES, read_template
from archwright.needs.what_if_changes import NeedsChange, parse_changes, read_changed_needs
from archwright.operate.platform_state import is_serving
from archwright.plan.decision.selection import Concessions
from archwright.plan.explain.what_if import WhatIf, compare_what_if
from archwright.plan.plan_file import read_plan, write_plan
from archwright.plan.planner import build_infeasible_error, make_plan
from archwright.reconcile.calibration.engine_measurement import EngineMeasurer, include_measured_steal, list_local_files

# No answer of the hub or of the package index; the hub is switched off.
OFFLINE_CODES = ("AW-GET-03", "AW-GET-09")
DEFAULT_TEMPLATE = "desk"
SMALL_MODEL = "SmolLM2-135M-Instruct"


def init(*, template: str | None = None, output: str = "needs.yaml") -> Path:
    """Write a needs file from a template, else from answers on the terminal, else from the template `desk`.

    Raises NeedsError AW-NEEDS-20 (no such template), UsageError AW-USE-02 (the file exists), -09 (the input ended).
    """
    path = Path(output)
    if path.exists():
        hint = "choose another file with --output, or delete this file"
        raise UsageError("AW-USE-02", f"{path} exists already", where=ErrorLocation(str(path)), hint=hint)
    if template is None and sys.stdin.isatty() and sys.stderr.isatty():
        text = interview_user(load_catalog(locate_home(settings.load())), _ask_terminal)
    else:
        text = read_template(template or DEFAULT_TEMPLATE)
        if template is None:
            hint = f"archwright init --template {'|'.join(TEMPLATES)}"
            sys.stderr.write(f"note: no terminal to ask questions; wrote the template {DEFAULT_TEMPLATE}. Or: {hint}\n")
    write_atomic(path, text.encode(), mode=0o644)
    return path


def _ask_terminal(prompt: str) -> str:
    """Show a question on standard error, since standard output holds the result. Raises UsageError AW-USE-09."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise UsageError("AW-USE-09", "the input ended before the last question", hint="archwright init, or --template")
    return line


@overload
def plan(
    needs: str,
    *,
    output: str | None = None,
    what_if: None = None,
    accept_stale: bool = False,
    best_effort: bool = False,
    download: bool = False,
) -> Plan: ...


@overload
def plan(
    needs: str,
    *,
    output: str | None = None,
    what_if: str | Sequence[str],
    accept_stale: bool = False,
    best_effort: bool = False,
    download: bool = False,
) -> WhatIf: ...


def plan(
    needs: str,
    *,
    output: str | None = None,
    what_if: str | Sequence[str] | None = None,
    accept_stale: bool = False,
    best_effort: bool = False,
    download: bool = False,
) -> Plan | WhatIf:
    """Return the plan for a needs file, also written to `output`.

    `what_if`: `key=value` or several; returns the plan with these fields changed, compared to the plan without.
    `accept_stale`: use undated and expired prices. `best_effort`: if no option is feasible, choose the nearest option
    that misses only service levels and budgets. `download`: choose among all models for this machine, and fetch the
    files of the plan; without a network, the models of the home are used. A "what if" fetches nothing.

    Raises NeedsError (broken file), UsageError AW-USE-60, -61 (not a change), PlanError AW-PLAN-03 or MissingError
    AW-GET-12 (no model in the home) if no option can be chosen, with the plan as its `result`. For a "what if" an
    infeasible plan is a result, not an error. A download raises as `models.fetch` does.
    """
    concessions = Concessions(accept_stale=accept_stale, best_effort=best_effort, download=download)
    if what_if is not None:
        texts = (what_if,) if isinstance(what_if, str) else tuple(what_if)
        return _make_what_if(Path(needs), parse_changes(texts), output, concessions)
    made, source = _make_plan_from_needs(Path(needs), concessions)
    if output is not None:
        write_plan(made, Path(output))
    if made.chosen is None:
        error = _build_error(made, source, "plan")
        error.result = made
        raise error
    return made


def _build_error(made: Plan, source: NeedsSource, verb: str) -> ArchwrightError:
    """AW-GET-12 if only a model is missing that can be fetched, else AW-PLAN-03."""
    if not made.proposals:
        return build_infeasible_error(made, source)
    found = made.proposals[0]
    message = f"the home holds no model for {found.workload}; this machine can serve {found.artefact.download_label}"
    hint = f"run: archwright {verb} --download; or fetch a small model: archwright models fetch {SMALL_MODEL}"
    return MissingError("AW-GET-12", message, where=ErrorLocation(source.file, None, found.workload), hint=hint)


def _make_what_if(path: Path, changes: tuple[NeedsChange, ...], output: str | None, concessions: Concessions) -> WhatIf:
    """Make both plans with the same catalog and the same probe of the machine."""
    chosen = settings.load()
    home = locate_home(chosen)
    catalog = load_catalog(home)
    needs, source = read_needs(path, catalog)
    changed, changed_source = read_changed_needs(path, changes, catalog)
    machine = _probe_this_machine(needs, home) or _probe_this_machine(changed, home)
    now = datetime.now(UTC)
    measurer = EngineMeasurer(home, chosen.engine_measurement_s, is_serving=is_serving)

    def plan_both() -> tuple[Plan, Plan]:
        known = load_catalog(home)
        here = include_measured_steal(machine, known)
        before = make_plan(needs, source, known, here, now, concessions=concessions)
        return before, make_plan(changed, changed_source, known, here, now, concessions=concessions)

    measurer.measure([*_list_named_files(needs, catalog), *_list_named_files(changed, catalog)], machine)
    before, after = plan_both()
    while measurer.measure([*_list_planned_files(before), *_list_planned_files(after)], machine):
        before, after = plan_both()
    if output is not None:
        write_plan(after, Path(output))
    refused = "" if after.chosen is not None else build_infeasible_error(after, changed_source).lines()
    return compare_what_if(before, after, tuple(f"{change.key}={change.value}" for change in changes), refused)


def _make_chosen_plan(path: Path, concessions: Concessions) -> Plan:
    """Raises PlanError AW-PLAN-03 if no option can be chosen, MissingError AW-GET-12 if its model is not here."""
    made, source = _make_plan_from_needs(path, concessions)
    if made.chosen is None:
        raise _build_error(made, source, "up")
    return made


def _make_plan_from_needs(path: Path, concessions: Concessions) -> tuple[Plan, NeedsSource]:
    report_step("reading the needs and the catalog")
    chosen = settings.load()
    home = locate_home(chosen)
    catalog = load_catalog(home)
    needs, source = read_needs(path, catalog)
    now = datetime.now(UTC)
    machine = _probe_this_machine(needs, home)
    measurer = EngineMeasurer(home, chosen.engine_measurement_s, is_serving=is_serving)

    def plan_measured(conceded: Concessions) -> Plan:
        """Plan until the chosen files are measured: with measured speeds, the choice may differ."""
        has_news = True
        while has_news:
            known = load_catalog(home)
            here = include_measured_steal(machine, known)
            made = make_plan(needs, source, known, here, now, concessions=conceded)
            has_news = measurer.measure(_list_planned_files(made), machine)
        return made

    measurer.measure(_list_named_files(needs, catalog), machine)
    made = plan_measured(concessions)
    missing = [pool.artefact for pool in made.pools if pool.artefact and pool.artefact.sha256 not in catalog.held]
    if concessions.download and missing:
        fetch_artefacts(missing, home)
        # Again, with the real size and digest of the files; nothing else is fetched.
        made = plan_measured(concessions._replace(download=False))
    return made, source


def fetch_artefacts(missing: Sequence[Artefact], home: Home) -> None:
    """Say what is fetched, then fetch it. Without a network the models of the home stay; else raises as a fetch."""
    # Loaded on first use, as in api/__init__: most plans fetch nothing.
    fetch: Callable[[str], object] = import_module("archwright.api.models").fetch
    for artefact in missing:
        sys.stderr.write(f"note: downloads {artefact.download_label}\n")
    try:
        for artefact in missing:
            folder = f"hf:{artefact.repository}" if artefact.form == "safetensors" else artefact.name
            fetch(folder if artefact.repository else artefact.model)
    except MissingError as error:
        if error.code not in OFFLINE_CODES or not load_catalog(home).held:
            raise
        sys.stderr.write(f"note: {error.message}; the models of the home are used\n")


def _list_named_files(needs: Needs, catalog: Catalog) -> list[Artefact]:
    """Return the files of the home that the needs name."""
    named: list[Artefact] = []
    for workload in needs.workloads:
        for artefact in catalog.model_files.get(workload.model or "", ()):
            if artefact.form == "gguf" and artefact.sha256 in catalog.held:
                named.append(artefact)
    return named


def _list_planned_files(made: Plan) -> list[Artefact]:
    """Return the files that the plan runs in the engine of this machine, and those that a download would give."""
    proposed = [proposal.artefact for proposal in made.proposals if proposal.artefact.form == "gguf"]
    return [*list_local_files(made), *proposed]


def _probe_this_machine(needs: Needs, home: Home) -> MachineFacts | None:
    """Probe this machine if it is a candidate: for every plan, because the load of a shared machine changes."""
    if "this-machine" not in needs.placement.allow:
        return None
    report_step("probing this machine")
    known = load_catalog(home).model_files
    files = [home.model(one.sha256) for w in needs.workloads for one in known.get(w.model or "", ()) if one.sha256]
    return probe_machine(home, next((file for file in files if file.is_file()), None), now=time.time)


def list_missed_limits(plan: Plan) -> tuple[LimitProbability, ...]:
    """Return the limits that the chosen option misses, with their predictions; empty for a feasible option."""
    option, found = plan.chosen_option, list[LimitProbability]()
    known = {one.limit: one for one in option.limits} if option is not None else {}
    for miss in option.misses if option is not None else ():
        if isinstance(miss.value, float | int) and isinstance(miss.limit, float | int):
            value = exact_estimate(miss.value, "s" if miss.constraint.endswith("_s") else "")
            found.append(known.get(miss.constraint) or assess_limit((miss.constraint, miss.limit, 1.0), value))
    return tuple(found)


def load_or_make_plan(source: str | None, *, download: bool = False) -> Plan:
    """Return the plan that `up` starts: of `source`, else plan.json or needs.yaml of the folder, else the desk example.

    Design: the built-in example starts on a slow machine too, if the home holds a model or `download` allows one; a
    plan of the user's own needs must be feasible.
    """
    for name in [source] if source else ["plan.json", "needs.yaml"]:
        path = Path(name)
        if path.is_file() or source:
            made = read_plan(path) if path.suffix == ".json" else None
            return _check_digests(made or _make_chosen_plan(path, Concessions(download=download)))
    desk = locate_home(settings.load()).folder("run") / "needs.yaml"
    write_atomic(desk, read_template("desk").encode())
    return _check_digests(_make_chosen_plan(desk, Concessions(best_effort=True, download=download)))


def _check_digests(made: Plan) -> Plan:
    """Raise MissingError AW-GET-12 for a file whose digest was not known when the plan was made."""
    for pool in made.pools:
        if pool.artefact is not None and not pool.artefact.sha256:
            message = f"the plan was made before {pool.artefact.download_label} was fetched"
            hint = f"plan again: archwright plan {made.needs_file} --download -o plan.json"
            raise MissingError("AW-GET-12", message, where=ErrorLocation(made.needs_file, None, pool.name), hint=hint)
    return made
