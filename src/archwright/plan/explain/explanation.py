"""Explanations of a plan in plain text: a number, an option, a fact, a control, a term."""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial

from archwright.contract.decision import CostDriver, Section
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis, Control, Prediction
from archwright.contract.number_format import (
    format_duration,
    format_estimate,
    format_money,
    format_number,
    format_share,
)
from archwright.contract.plan import CostLine, Option, Plan, Pool, WorkloadPlan
from archwright.errors import ErrorLocation, UsageError
from archwright.plan.explain.formatting import (
    describe_binding_limit,
    describe_engines,
    describe_limit,
    describe_purchase,
    describe_return,
    describe_rival,
    describe_staff,
    describe_switch_point,
    format_miss,
    format_shares,
)
from archwright.plan.explain.glossary import CATEGORY_MEANINGS, TERM_MEANINGS

NamedExplanation = tuple[str, Callable[[], list[str]]]


def explain_plan(plan: Plan, thing: str, chapters: Collection[str] = ()) -> str:
    """Explain `thing`: an option, a workload, a pool, a prediction id, a metric, a cost line, a driver, a section, a
    control, a basis, or a term of a table. `chapters`: names that the caller can show beside those of the plan.

    Raises UsageError AW-USE-21 if the plan does not contain the name.
    """
    found = [line for name, lines in _list_explanations(plan) if name == thing for line in lines()]
    if not found:
        terms = (lines for word, lines in _list_glossary_explanations(plan) if _fold_word(word) == _fold_word(thing))
        found = [line for lines in terms for line in lines()]
    if not found:
        explained = (*_list_explanations(plan), *_list_glossary_explanations(plan))
        names = sorted({*chapters, *(name for name, _ in explained)})
        nearest = tuple(difflib.get_close_matches(thing, names, n=3, cutoff=0.4))
        raise UsageError(
            "AW-USE-21",
            f"the plan contains nothing named {thing!r}; its options: {', '.join(one.name for one in plan.options)}",
            where=ErrorLocation(field="name"),
            hint=f"use one of: {', '.join(nearest)}" if nearest else "run explain without a name to list all names",
            nearest=nearest,
        )
    return "\n".join(_print_bases_once(found))


def is_named(plan: Plan, thing: str) -> bool:
    """True if a record of the plan has this name; terms of the glossary are no records."""
    return any(name == thing for name, _ in _list_explanations(plan))


def _print_bases_once(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines; each basis after its first number is only named."""
    printed, hidden_indent = set[str](), -1
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if 0 <= hidden_indent < indent:
            continue
        hidden_indent = -1
        name = line.strip().removeprefix("basis ").partition(": ")[0] if line.lstrip().startswith("basis ") else ""
        if name in printed:
            hidden_indent = indent
            yield f"{line[:indent]}basis {name}: see above"
        else:
            printed.update([name] if name else [])
            yield line


def _list_explanations(plan: Plan) -> Iterator[NamedExplanation]:
    """Every named item of the plan with its explanation, in output order."""
    for option in plan.options:
        yield option.name, partial(_explain_option, plan, option)
    for workload in plan.workloads:
        yield workload.name, partial(_explain_workload, plan, workload)
    for pool in plan.pools:
        yield pool.name, partial(_explain_pool, plan, pool)
    for prediction in plan.predictions:
        for name in dict.fromkeys((prediction.id, prediction.metric)):
            yield name, partial(_explain_prediction, plan, prediction)
    yield from _list_evidence_explanations(plan)


def _list_evidence_explanations(plan: Plan) -> Iterator[NamedExplanation]:
    for option in sorted(plan.options, key=lambda option: option.name != plan.chosen):
        for line in option.cost_lines:
            yield line.name, partial(_explain_cost_line, plan, option, line)
    for driver in plan.decision.drivers:
        yield driver.basis, partial(_explain_driver, plan, driver)
    for section in plan.sections:
        yield section.id, partial(_explain_section, section)
    for control in plan.controls:
        yield control.id, partial(_explain_control, control)
    for basis in plan.bases:
        yield basis.id, partial(_explain_basis, basis)


def _list_glossary_explanations(plan: Plan) -> Iterator[NamedExplanation]:
    """Terms of the tables with their meaning and their values in this plan."""
    for category, meaning in CATEGORY_MEANINGS.items():
        yield category, partial(_explain_category, plan, category, meaning)
    shown = {
        "capex": lambda option: [_format_amount(plan, option.capex)],
        "a month": lambda option: [_format_amount(plan, option.cost_per_month)],
        "total": lambda option: [_format_amount(plan, option.total_cost)],
        "staff beyond the team": lambda option: list(map(describe_staff, option.staff)),
        "binding limits": lambda _: [describe_binding_limit(one, plan.currency) for one in plan.decision.binding],
        "pareto": lambda _: [", ".join(plan.decision.pareto), f"compared by {', '.join(plan.decision.axes)}"],
        "break-even": lambda _: [describe_rival(rival) for rival in plan.decision.rivals],
        "cheaper": lambda _: [describe_rival(rival) for rival in plan.decision.rivals],
        "tie": lambda _: [describe_rival(rival) for rival in plan.decision.rivals if rival.tie],
        "payback": lambda _: [describe_return(plan.decision.returns)] if plan.decision.returns is not None else [],
        "certainty": lambda option: list(map(describe_limit, option.doubts)),
        "holds with": lambda option: list(map(describe_limit, option.limits)),
        "present value": lambda option: [note for note in option.notes if note.startswith("present value")],
    }
    for word, meaning in TERM_MEANINGS.items():
        yield word, partial(_explain_term, plan, f"{word}: {meaning}", shown.get(word, lambda _: []))


def _fold_word(word: str) -> str:
    return re.sub(r"[\s_-]+", " ", word).casefold()


def _explain_term(plan: Plan, head: str, shown: Callable[[Option], list[str]]) -> list[str]:
    option = plan.chosen_option
    return [head, *_indent_lines(filter(None, shown(option)))] if option is not None else [head]


def _format_amount(plan: Plan, amount: Estimate | None) -> str:
    return f"{plan.chosen}: {format_estimate(amount)}" if amount is not None else ""


def _explain_category(plan: Plan, category: str, meaning: str) -> list[str]:
    option = plan.chosen_option
    lines = [line for line in (option.cost_lines if option is not None else ()) if line.category == category]
    whole = sum(line.total_over(plan.horizon_months) for line in lines)
    amount = f"{format_money(whole, plan.currency)} over {plan.horizon_label}" if lines else "none"
    return [f"{category}: {meaning}", f"  {amount} in {plan.chosen}", *_indent_lines(map(_format_cost_line, lines))]


def _format_cost_line(line: CostLine) -> str:
    return f"{line.name}: {format_estimate(line.amount)}{', once' if line.once else ''}"


def _summarise_workload(plan: Plan, workload: WorkloadPlan) -> str:
    option = plan.chosen_option
    if option is None:
        return f"{workload.name}: no option satisfies the needs"
    runs = [bought for bought in option.purchases if bought.pool == workload.name]
    if workload.pools:
        where = f" in {', '.join(workload.pools)}"
    elif runs:
        where = f", as batch runs on {', '.join(dict.fromkeys(bought.machine for bought in runs))}"
    elif workload.model is not None:
        where = f", served by {option.provider} without own machines"
    else:
        return f"{workload.name}: not sized yet"
    return f"{workload.name}: {workload.model or 'no model'}{where}"


def _summarise_option(option: Option) -> list[str]:
    state = "feasible" if option.feasible else "not feasible"
    price = f"{format_estimate(option.cost_per_month)}, " if option.cost_per_month is not None else "no price, "
    return [f"{option.name}: {price}{state}", *(f"  misses {format_miss(miss)}" for miss in option.misses)]


def _explain_option(plan: Plan, option: Option) -> list[str]:
    lines = _summarise_option(option)
    lines.append(f"  placement {option.placement}, regions {', '.join(option.regions) or 'none'}")
    lines += [f"  {name}: {model}" for name, model in option.models.items()]
    lines += [f"  {describe_purchase(one)}" for one in option.purchases]
    used = {"peak power at the plug": option.power_kw, "energy": option.energy_kwh_per_month}
    used["carbon"] = option.carbon_kg_per_month
    lines += [f"  {name}: {format_estimate(amount)}" for name, amount in used.items() if amount is not None]
    if option.rack_units is not None:
        lines.append(f"  rack units: {format_number(option.rack_units)}")
    lines += _indent_lines(map(_format_cost_line, option.cost_lines))
    if option.total_cost is not None:
        lines.append(f"  total over {plan.horizon_label}: {format_estimate(option.total_cost)}")
        lines += _explain_named_basis(plan, option.total_cost.basis)
    lines += [line for pool in option.pools for line in _indent_lines(_explain_pool(plan, pool))]
    lines += [f"  note: {note}" for note in option.notes]
    return lines


def _explain_cost_line(plan: Plan, option: Option, line: CostLine) -> list[str]:
    period = "once" if line.once else "mean over the horizon"
    outside = "" if line.recurring_budget else ", outside the monthly budget"
    lines = [f"{line.name}, in {option.name}: {format_estimate(line.amount)}, {period}; {line.category}{outside}"]
    return lines + [text for driver in line.drivers for text in _explain_named_basis(plan, driver)]


def _explain_driver(plan: Plan, driver: CostDriver) -> list[str]:
    lines = [f"driver {driver.basis}: {driver.name}, {format_estimate(driver.estimate)}"]
    lines.append(f"  causes {format_share(driver.share)} of the variance of the cost of {plan.chosen}")
    flip = (
        describe_switch_point(driver)
        if driver.flips_at is not None
        else "no value within a factor of ten changes the choice"
    )
    return [*lines, f"  {flip}"]


def _explain_section(section: Section) -> list[str]:
    lines = [f"{section.title}: {section.summary}"]
    for line in section.lines:
        amount = f", {format_estimate(line.estimate)}" if line.estimate is not None else ""
        lines += [f"  {line.topic}: {line.choice}{amount}", f"    why: {line.why}"]
        details = {
            "demanded by": ", ".join(line.demanded_by),
            "proved by": line.proof,
            "alternative": f"{line.alternative}: {line.why_not}" if line.alternative else "",
            "source": line.source,
        }
        lines += [f"    {name}: {text}" for name, text in details.items() if text]
    return lines


def _explain_pool(plan: Plan, pool: Pool) -> list[str]:
    lines = [
        f"pool {pool.name}: {describe_engines(pool)} in {pool.region}",
        f"  {pool.model} {pool.quantisation}, {pool.slots} at once, {pool.context_tokens} tokens each",
    ]
    for effect in pool.effects:
        lines.append(f"  {effect.summary}")
        lines += [f"    {name}: {text}" for name, text in (("why", effect.reason), ("flag", effect.flag)) if text]
        lines += [f"    source: {effect.source}"] if effect.source else []
    if pool.shares:
        lines.append(f"  share of the requests of {', '.join(pool.workloads)}, by year: {format_shares(pool)}")
    if pool.price_usd_per_hour is not None:
        lines.append(f"  {format_estimate(pool.price_usd_per_hour)}")
        lines += _explain_named_basis(plan, pool.price_usd_per_hour.basis)
    return lines


def _explain_workload(plan: Plan, workload: WorkloadPlan) -> list[str]:
    lines, option = [_summarise_workload(plan, workload)], plan.chosen_option
    pools = (pool for pool in plan.pools if pool.name in workload.pools and pool.shares)
    lines += [f"  {format_shares(pool)} of its requests, by year: {pool.name}" for pool in pools]
    for load in plan.loads:
        if load.workload == workload.name:
            at_once = f"{load.concurrency} concurrent requests in the closed loop"
            lines.append(f"  load: {format_number(load.requests_per_second)} requests/s at the peak, {at_once}")
    for score in workload.evidence:
        lines.append(f"  {score.summary}; {score.source} {score.as_of}".rstrip("; "))
    if (waits := workload.waits) is not None:
        longest = format_duration(waits.wait_s)
        lines.append(f"  at the gateway: refused if it would wait longer than {longest} for a slot")
        lines.append(f"    overflows to another pool after {format_duration(waits.overflow_s)}, if the plan has one")
        lines.append(f"    why: {waits.source}")
    if option is not None:
        names = {workload.name, *workload.pools}
        lines += [f"  {describe_purchase(one)}" for one in option.purchases if one.pool in names]
    for prediction in plan.predictions:
        if prediction.workload == workload.name:
            lines += _indent_lines(_explain_prediction(plan, prediction))
    if option is not None:
        named = (line for line in option.cost_lines if _mentions_name(line.name, workload.name))
        lines += _indent_lines(map(_format_cost_line, named))
    missed = ((other.name, miss) for other in plan.options for miss in other.misses)
    own = f"{workload.name}."
    lines += [f"  {name} misses {format_miss(miss)}" for name, miss in missed if miss.constraint.startswith(own)]
    lines += [f"  {text}" for text in plan.not_sized if _mentions_name(text, workload.name)]
    return lines


def _mentions_name(text: str, name: str) -> bool:
    """True if the text mentions `name` as a whole between separators and connecting words."""
    return any(name == part.strip() for part in re.split(r"[:,(]| for | of | in |workload ", text))


def _explain_prediction(plan: Plan, prediction: Prediction) -> list[str]:
    lines = [f"{prediction.id}: {format_estimate(prediction.estimate)} at {format_share(prediction.estimate.level)}"]
    lines += _explain_named_basis(plan, prediction.estimate.basis)
    query = prediction.query
    window = format_duration(query.window_s)
    lines.append(f"  measured by: {query.statistic} of {query.metric} over {window} {query.phase}".rstrip())
    return lines


def _explain_control(control: Control) -> list[str]:
    return [
        f"{control.id}: {control.demand}",
        f"  demanded by {control.demanded_by}; {control.status}",
        f"  feature: {control.feature}",
        f"  evidence: {control.evidence or 'none yet'}",
        f"  checks: {', '.join(control.checks) or 'none: a task'}",
        f"  owner: {control.owner or 'not stated'}",
    ]


def _explain_named_basis(plan: Plan, name: str) -> list[str]:
    return _indent_lines(next((_explain_basis(basis) for basis in plan.bases if basis.id == name), []))


def _explain_basis(basis: Basis) -> list[str]:
    lines = [f"basis {basis.id}: {basis.kind}, {basis.stratum}", f"  {basis.definition}"]
    if basis.formula:
        lines.append(f"  formula: {basis.formula}")
    return lines + [f"  fact: {fact}" for fact in basis.facts]


def _indent_lines(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
