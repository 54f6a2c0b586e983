"""Difference of two plans, and its reasons: needs, facts or this machine."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from archwright.contract.estimate import Estimate
from archwright.contract.number_format import format_number
from archwright.contract.plan import Option, Plan, Purchase
from archwright.contract.record import Record
from archwright.plan.explain.formatting import describe_engines, describe_limit

T = TypeVar("T")
NUMBER_PATTERN = re.compile(r"(?<![\w.-])-?\d[\d,.]*(?![\w])%?")
# Kinds of bases that state facts; the other kinds describe how a number was computed.
FACT_KINDS = frozenset({"quoted", "vendor", "measured", "assumed", "calibrated"})


class TextChange(Record):
    """A text that differs; None: it does not exist."""

    name: str
    before: str | None
    after: str | None


class EstimateChange(Record):
    """A number that differs; None: it does not exist."""

    name: str
    before: Estimate | None
    after: Estimate | None


class PlanDiff(Record):
    """Differences only. `because`: the reasons; `notes`, `costs`: of the two chosen options; `lines`: their cost lines,
    the largest difference first; `totals`: the cost of every option over the horizon.
    """

    before: str
    after: str
    because: tuple[str, ...]
    chosen: TextChange | None
    notes: tuple[TextChange, ...] = ()
    costs: tuple[EstimateChange, ...] = ()
    lines: tuple[EstimateChange, ...] = ()
    models: tuple[TextChange, ...] = ()
    pools: tuple[TextChange, ...] = ()
    purchases: tuple[TextChange, ...] = ()
    predictions: tuple[EstimateChange, ...] = ()
    verdicts: tuple[TextChange, ...] = ()
    totals: tuple[EstimateChange, ...] = ()
    facts: tuple[TextChange, ...] = ()
    controls: tuple[TextChange, ...] = ()
    assumptions: tuple[TextChange, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not any(getattr(self, name) for name in self.__struct_fields__ if name not in ("before", "after"))


def diff_plans(before: Plan, after: Plan) -> PlanDiff:
    texts, estimates = _list_texts(after), _list_estimates(after)
    changes: dict[str, Any] = {name: _diff_texts(old, texts[name]) for name, old in _list_texts(before).items()}
    changes |= {name: _diff_estimates(old, estimates[name]) for name, old in _list_estimates(before).items()}

    def measure(change: EstimateChange) -> float:
        old, new = (estimate.value if estimate is not None else 0.0 for estimate in (change.before, change.after))
        return abs(new - old)

    changes["lines"] = tuple(sorted(changes["lines"], key=measure, reverse=True))
    return PlanDiff(
        before=before.digest,
        after=after.digest,
        because=tuple(_find_reasons(before, after)),
        chosen=next(iter(_diff_texts({"chosen": before.chosen}, {"chosen": after.chosen})), None),
        facts=_diff_facts(before, after),
        **changes,
    )


def _list_texts(plan: Plan) -> dict[str, dict[str, str | None]]:
    """Texts to compare, by field of PlanDiff. A note is identified by its text without the numbers."""
    option = plan.chosen_option
    notes, limits = (option.notes, option.limits) if option is not None else ((), ())
    return {
        "notes": {NUMBER_PATTERN.sub("#", note): note for note in (*notes, *map(describe_limit, limits))},
        "models": {workload.name: workload.model for workload in plan.workloads},
        "pools": {
            pool.name: f"{describe_engines(pool)} in {pool.region} at {pool.provider}: {pool.model} {pool.quantisation}"
            for pool in plan.pools
        },
        "purchases": _describe_purchases(option),
        "verdicts": {
            # Without the numbers, which change with every limit.
            one.name: f"no: {', '.join(dict.fromkeys(m.constraint for m in one.misses))}" if one.misses else "feasible"
            for one in plan.options
        },
        "controls": {control.id: control.status for control in plan.controls},
        "assumptions": dict.fromkeys(plan.assumptions, "yes"),
    }


def _list_estimates(plan: Plan) -> dict[str, dict[str, Estimate | None]]:
    option = plan.chosen_option
    costs, lines = dict[str, Estimate | None](), dict[str, Estimate | None]()
    if option is not None:
        costs = {"total": option.total_cost, "per month": option.cost_per_month, "capex": option.capex}
        lines = {line.name: line.amount for line in option.cost_lines}
    predictions: dict[str, Estimate | None] = {one.id: one.estimate for one in plan.predictions}
    totals = {one.name: one.total_cost for one in plan.options}
    return {"costs": costs, "lines": lines, "predictions": predictions, "totals": totals}


def _find_reasons(before: Plan, after: Plan) -> Iterable[str]:
    if before.needs_digest != after.needs_digest:
        files = dict.fromkeys((before.needs_file, after.needs_file))
        yield f"the needs differ ({' and '.join(files)})"
    if before.catalog_digest != after.catalog_digest:
        yield f"the catalog's facts differ ({before.catalog_digest[:12]} and {after.catalog_digest[:12]})"
    old, new = ({fact.partition(": ")[0]: fact for fact in plan.stale_facts} for plan in (before, after))
    # Facts that only another choice uses do not count.
    used = {name for name in new if any(basis.id.endswith(name) for basis in before.bases)}
    if any(old.get(name) != new[name] for name in used | (old.keys() & new.keys())):
        yield "facts have aged"
    if before.machine != after.machine:
        yield "this machine was measured differently"


def _describe_purchases(option: Option | None) -> dict[str, str | None]:
    found: dict[str, list[Purchase]] = {}
    for purchase in option.purchases if option is not None else ():
        found.setdefault(purchase.pool, []).append(purchase)
    return {
        pool: ", ".join(f"{format_number(one.machines)} x {one.machine} {one.kind} (peak {one.peak})" for one in all_)
        for pool, all_ in found.items()
    }


def _diff_facts(before: Plan, after: Plan) -> tuple[TextChange, ...]:
    """Facts that both plans use and that another catalog changed."""
    old, new = (
        {one.id: "; ".join(one.facts) or one.formula or one.definition for one in plan.bases if one.kind in FACT_KINDS}
        for plan in (before, after)
    )
    both = sorted(old.keys() & new.keys())
    return _diff_texts({name: old[name] for name in both}, {name: new[name] for name in both})


def _pair_differences(before: Mapping[str, T], after: Mapping[str, T]) -> Iterable[tuple[str, T | None, T | None]]:
    """Differing values in the order of `after`, then values that exist in `before` only."""
    for name in dict.fromkeys((*after, *before)):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield name, old, new


def _diff_texts(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> tuple[TextChange, ...]:
    return tuple(TextChange(name=name, before=old, after=new) for name, old, new in _pair_differences(before, after))


def _diff_estimates(
    before: Mapping[str, Estimate | None], after: Mapping[str, Estimate | None]
) -> tuple[EstimateChange, ...]:
    """Numbers whose value, band or unit differs; a different basis alone does not count."""
    return tuple(
        EstimateChange(name=name, before=old, after=new)
        for name, old, new in _pair_differences(before, after)
        if _comparable_numbers(old) != _comparable_numbers(new)
    )


def _comparable_numbers(estimate: Estimate | None) -> tuple[float, float, float, str] | None:
    return None if estimate is None else (estimate.value, estimate.low, estimate.high, estimate.unit)
