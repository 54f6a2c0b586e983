"""Why a plan says what it says, in plain text: the choice, one number, one option, one control."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis, Control, Prediction
from archwright.contract.plan import Option, Plan, Pool, WorkloadPlan
from archwright.errors import UsageError, Where
from archwright.plan.wording import said, shown


def explain(plan: Plan, thing: str | None = None) -> str:
    """`thing`: an option, a prediction id, a metric, a workload, a pool, a control, a basis; None: the choice.

    Raises UsageError AW-USE-21 for a name the plan does not hold.
    """
    if thing is None:
        return "\n".join(_choice(plan))
    found = _find(plan, thing)
    if not found:
        nearest = tuple(difflib.get_close_matches(thing, sorted(_names(plan)), n=3, cutoff=0.4))
        raise UsageError(
            "AW-USE-21",
            f"the plan holds nothing called {thing!r}",
            where=Where(plan.needs_file),
            hint=f"nearest: {', '.join(nearest)}" if nearest else "explain without a name shows everything",
            nearest=nearest,
        )
    return "\n".join(found)


def _find(plan: Plan, thing: str) -> list[str]:
    """The lines about everything with that name, in the order option, workload, pool, numbers, control, basis."""
    lines: list[str] = []
    for option in plan.options:
        if option.name == thing:
            lines += _option(plan, option)
    for workload in plan.workloads:
        if workload.name == thing:
            lines += _workload(plan, workload)
    for pool in plan.pools:
        if pool.name == thing:
            lines += _pool(plan, pool)
    for prediction in plan.predictions:
        if thing in (prediction.id, prediction.metric):
            lines += _prediction(plan, prediction)
    lines += [line for control in plan.controls if thing == control.id for line in _control(control)]
    lines += [line for basis in plan.bases if thing == basis.id for line in _basis(basis)]
    return lines


def _names(plan: Plan) -> set[str]:
    sources: tuple[Iterable[str], ...] = (
        (option.name for option in plan.options),
        (workload.name for workload in plan.workloads),
        (pool.name for pool in plan.pools),
        (prediction.id for prediction in plan.predictions),
        (prediction.metric for prediction in plan.predictions),
        (control.id for control in plan.controls),
        (basis.id for basis in plan.bases),
    )
    return {name for source in sources for name in source}


def _choice(plan: Plan) -> list[str]:
    lines = [f"plan for {plan.organisation}, {plan.horizon_months} months, {plan.currency}"]
    lines.append(f"chosen: {plan.chosen or 'nothing: no option satisfies the needs'}")
    lines += ["", "options"]
    for option in plan.options:
        lines += [f"  {line}" for line in _summary(option)]
    lines += _section("workloads", (_one_line(workload) for workload in plan.workloads))
    lines += _section("predictions", (f"{p.id}: {shown(p.estimate)}" for p in plan.predictions))
    lines += _section("assumptions", plan.assumptions)
    lines += _section("not sized yet", plan.not_sized)
    return lines


def _section(title: str, rows: Iterable[str]) -> list[str]:
    listed = [f"  {row}" for row in rows]
    return ["", title, *listed] if listed else []


def _one_line(workload: WorkloadPlan) -> str:
    if workload.model is None:
        return f"{workload.name}: not sized yet"
    return f"{workload.name}: {workload.model} in {workload.pool or 'no pool of ours'}"


def _summary(option: Option) -> list[str]:
    state = "feasible" if option.feasible else "not feasible"
    price = f"{shown(option.cost_per_month)}, " if option.cost_per_month is not None else "no price, "
    return [f"{option.name}: {price}{state}", *(f"  misses {said(miss)}" for miss in option.misses)]


def _option(plan: Plan, option: Option) -> list[str]:
    lines = _summary(option)
    lines.append(f"  placement {option.placement}, regions {', '.join(option.regions) or 'none'}")
    lines += [f"  {name}: {model}" for name, model in option.models.items()]
    for line in option.cost_lines:
        lines.append(f"  {line.name}: {shown(line.amount)}")
        lines += _indented(_basis_of(plan, line.amount))
    if option.total_cost is not None:
        lines.append(f"  total over {plan.horizon_months} months: {shown(option.total_cost)}")
        lines += _indented(_basis_of(plan, option.total_cost))
    lines += [line for pool in option.pools for line in _indented(_pool(plan, pool))]
    lines += [f"  note: {note}" for note in option.notes]
    return lines


def _pool(plan: Plan, pool: Pool) -> list[str]:
    device = f"{pool.accelerator_count} x {pool.accelerator}" if pool.accelerator_count else pool.machine
    lines = [
        f"pool {pool.name}: {pool.replicas} x {pool.machine} ({device}) in {pool.region}",
        f"  {pool.model} {pool.quantisation}, {pool.slots} at once, {pool.context_tokens} tokens each",
    ]
    if pool.price_usd_per_hour is not None:
        lines.append(f"  {shown(pool.price_usd_per_hour)}")
        lines += _indented(_basis_of(plan, pool.price_usd_per_hour))
    return lines


def _workload(plan: Plan, workload: WorkloadPlan) -> list[str]:
    lines = [_one_line(workload)]
    for load in plan.loads:
        if load.workload == workload.name:
            lines.append(
                f"  load: {load.requests_per_second:g} requests/s at the peak, "
                f"{load.concurrency} at once in the closed loop"
            )
    for prediction in plan.predictions:
        if prediction.workload == workload.name:
            lines += _indented(_prediction(plan, prediction))
    own = f"{workload.name}."
    for option in plan.options:
        lines += [f"  {option.name} misses {said(miss)}" for miss in option.misses if miss.constraint.startswith(own)]
    lines += [f"  {text}" for text in plan.not_sized if text.startswith(f"workload {workload.name} ")]
    return lines


def _prediction(plan: Plan, prediction: Prediction) -> list[str]:
    lines = [f"{prediction.id}: {shown(prediction.estimate)} at {prediction.estimate.level:.0%}"]
    lines += _indented(_basis_of(plan, prediction.estimate))
    query = prediction.query
    lines.append(f"  measured by: {query.statistic} of {query.metric} over {query.window_s:g} s {query.phase}".rstrip())
    return lines


def _control(control: Control) -> list[str]:
    return [
        f"{control.id}: {control.demand}",
        f"  demanded by {control.demanded_by}; {control.status}",
        f"  feature: {control.feature}",
        f"  evidence: {control.evidence or 'none yet'}",
    ]


def _basis_of(plan: Plan, estimate: Estimate) -> list[str]:
    return next((_basis(basis) for basis in plan.bases if basis.id == estimate.basis), [])


def _basis(basis: Basis) -> list[str]:
    lines = [f"basis {basis.id}: {basis.kind}, {basis.stratum}", f"  {basis.definition}"]
    if basis.formula:
        lines.append(f"  formula: {basis.formula}")
    return lines + [f"  fact: {fact}" for fact in basis.facts]


def _indented(lines: Iterable[str]) -> list[str]:

    return [f"  {line}" for line in lines]
