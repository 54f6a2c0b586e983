"""The choice among options, and the answer when there is none.

The cheapest feasible option wins by total cost, of those whose limits are known to hold where there are any: one that
rests on what nobody promises comes after them; `placement.prefer` wins over cheaper feasible ones. Either says what
that costs. Nothing feasible: `build_infeasible_error` names the nearest option, what it misses and which limits,
relaxed to what the options cost, would let which option through, and how their prices differ. A wish for a place or
a device that a provider does not have together is answered with options that miss that pin alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from archwright.contract.needs import SLO, NeedsSource, Placement, Traffic
from archwright.contract.plan import ConstraintViolation, Option, Plan
from archwright.contract.record import replace
from archwright.errors import ErrorLocation, PlanError
from archwright.plan.accounting.budget import UNVERIFIED
from archwright.plan.explain.formatting import format_miss, format_number
from archwright.plan.violations import build_violation

BUDGET_LIMITS = ("per_month", "capex")
# Prices this near are the same one, summed in another order.
PRICE_TOLERANCE = 1e-9
SIMPLICITY_ORDER: tuple[Placement, ...] = ("this-machine", "on-premises", "hosted-api", "serverless", "cloud", "hybrid")
# Distances of what is no ratio: a limit of nothing, another pin than the one wished, and what nothing relaxes.
NO_RATIO_GAP, PIN_GAP, UNREACHABLE_GAP = 1e7, 1e8, 1e9
MAX_SHOWN = 3
# How a note on owned machines begins that no option counts.
LEFT_OUT_PREFIX = "owned "
FEASIBLE_PREFIX = "feasible would be "
PIN_CONSTRAINTS = ("accelerators", "regions", "clouds", "stale_facts")
# Where a workload keeps the fields that a constraint may name; all others are its own.
FIELDS_BY_HOLDER = {"slo": frozenset(SLO.__struct_fields__), "traffic": frozenset(Traffic.__struct_fields__)}
RELAX_HINT = "allow another placement, or relax that field"
EXPORT_BARRED_HINT = "no field lifts a law: plan with what it does not bar, smaller accelerators or processors"
NO_PRICE = build_violation("price", None, "a price for every part")
# Constraints that a field of `placement` pins.
PLACEMENT_FIELDS = {
    "accelerators": "placement.accelerators",
    "regions": "placement.regions",
    "clouds": "placement.clouds",
    "power_kw": "placement.site.power_kw",
    "rack_units": "placement.site.rack_units",
    "not sized yet": "placement.allow",
}


class Concessions(NamedTuple):
    """Rules that a plan may relax because the caller asks for it.

    `accept_stale`: buy by prices that have expired. `best_effort`: if no option is feasible, choose the nearest option
    that can run, that is, one that misses only service levels and budgets.
    """

    accept_stale: bool = False
    best_effort: bool = False


NO_CONCESSIONS = Concessions()


def choose_option(
    options: tuple[Option, ...], prefer: Placement | None, *, best_effort: bool = False
) -> tuple[str | None, tuple[Option, ...]]:
    """The chosen option's name and the options, the chosen one with a note where being preferred costs money."""
    feasible = [option for option in options if option.feasible and option.total_cost is not None]
    if not feasible:
        return _choose_nearest_startable(options) if best_effort else None, options
    cheapest = _select_cheapest(feasible)
    liked = [option for option in feasible if option.placement == prefer]
    chosen, notes = _select_cheapest(liked or feasible), list[str]()
    if prefer is not None and not liked:
        notes.append(f"preferred placement {prefer} has no feasible option; the cheapest feasible one is chosen")
    elif chosen is not cheapest:
        notes.append(f"preferred over {cheapest.name}, at {_format_extra_cost(chosen, cheapest)}")
    if not is_unverified(chosen):
        cheaper = (one for one in feasible if is_unverified(one) and _get_total_cost(one) < _get_total_cost(chosen))
        notes += [_describe_passed_over(one, chosen) for one in sorted(cheaper, key=_get_total_cost)]
    noted = replace(chosen, notes=(*chosen.notes, *notes))
    return chosen.name, tuple(noted if option is chosen else option for option in options)


def _choose_nearest_startable(options: tuple[Option, ...]) -> str | None:
    """Return the name of the nearest option that misses only service levels and budgets, with a price."""
    startable = (
        option
        for option in options
        if option.total_cost is not None
        and all(
            miss.constraint in BUDGET_LIMITS or miss.constraint.rpartition(".")[2] in FIELDS_BY_HOLDER["slo"]
            for miss in option.misses
        )
    )
    nearest = min(startable, key=_rank_by_distance, default=None)
    return nearest.name if nearest is not None else None


def is_unverified(option: Option) -> bool:
    """Whether a limit rests on what nobody promises and nobody has measured."""
    return any(note.startswith(UNVERIFIED) for note in option.notes)


def _describe_passed_over(cheaper: Option, chosen: Option) -> str:
    why = next(note for note in cheaper.notes if note.startswith(UNVERIFIED)).removeprefix(UNVERIFIED)
    more = _format_extra_cost(chosen, cheaper)
    return f"chosen before {cheaper.name}, at {more}: what that one rests on is not known, {why}"


def _format_extra_cost(chosen: Option, other: Option) -> str:
    unit = chosen.total_cost.unit if chosen.total_cost is not None else ""
    return f"{format_number(_get_total_cost(chosen) - _get_total_cost(other))} {unit} more over the horizon"


def _select_cheapest(options: list[Option]) -> Option:
    options = [option for option in options if not is_unverified(option)] or options
    least = min(map(_get_total_cost, options))
    most = least + PRICE_TOLERANCE * abs(least)
    return min((option for option in options if _get_total_cost(option) <= most), key=rank_simplicity)


def rank_simplicity(option: Option) -> tuple[int, str]:
    """The order in which options of equal price are taken: the fewest hands first, then by name."""
    return SIMPLICITY_ORDER.index(option.placement), option.name


def _get_total_cost(option: Option) -> float:
    return option.total_cost.value if option.total_cost is not None else UNREACHABLE_GAP


def build_infeasible_error(plan: Plan, source: NeedsSource) -> PlanError:
    """AW-PLAN-03: what, where in needs.yaml, and the smallest relaxations seen among the options."""
    if not plan.options:
        return PlanError(
            "AW-PLAN-03",
            "no way to run this was looked at: placement.allow names none",
            where=_locate_field("placement.allow", source),
            hint="allow at least one of cloud, hosted-api, this-machine",
        )
    ranked = sorted(plan.options, key=_rank_by_distance)
    nearest, broken = ranked[0], next(iter(ranked[0].misses), NO_PRICE)
    possible = [(option, steps) for option in ranked if (steps := _format_relaxation(option, plan, source))]
    hint = ", or ".join(_format_suggestion(option, steps, possible[0][0]) for option, steps in possible[:MAX_SHOWN])
    fallback = EXPORT_BARRED_HINT if broken.constraint == "export" else RELAX_HINT
    # Owned machines that could not be counted on: often the very reason.
    left_out = "".join(f"; {note}" for note in nearest.notes if note.startswith(LEFT_OUT_PREFIX))
    return PlanError(
        "AW-PLAN-03",
        f"no option satisfies the needs; {_describe_pin_conflict(ranked)}the nearest, {nearest.name}, misses "
        f"{format_miss(broken)}{left_out}",
        where=_locate_field(_find_needs_field(broken.constraint, plan, source), source),
        hint=f"{FEASIBLE_PREFIX}{hint}" if possible else fallback,
        nearest=tuple(option.name for option in ranked[:MAX_SHOWN]),
    )


def _describe_pin_conflict(ranked: list[Option]) -> str:
    """Where only giving up a pin helps, first what stands against the wish itself."""
    pins = {miss.constraint for miss in ranked[0].misses if _is_pin(miss)}
    against = ((o, m) for o in ranked if o.total_cost is None for m in o.misses if m.constraint in pins)
    return next((f"{option.name} misses {format_miss(miss)}; " for option, miss in against), "")


def _format_suggestion(option: Option, steps: str, nearest: Option) -> str:
    """An option with what lets it through, and what it costs beyond the nearest one."""
    here, there = option.cost_per_month, nearest.cost_per_month
    if here is None or there is None:
        return f"{option.name} with {steps}"
    if option is nearest:
        price = f" ({format_number(here.value)} {here.unit})" if any(map(_is_pin, option.misses)) else ""
        return f"{option.name} with {steps}{price}"
    more = here.value - there.value
    return f"{option.name} with {steps} ({format_number(abs(more))} {here.unit} {'more' if more >= 0 else 'less'})"


def _compute_gap(miss: ConstraintViolation) -> float:
    """The ratio that must be given. Another pin is farther than any number; what nothing relaxes is farthest."""
    value, limit = miss.value, miss.limit
    if isinstance(value, float | int) and isinstance(limit, float | int) and value > 0:
        return min(max(value / limit, limit / value), NO_RATIO_GAP) if limit > 0 else NO_RATIO_GAP
    return PIN_GAP if _is_pin(miss) else UNREACHABLE_GAP


def _is_pin(miss: ConstraintViolation) -> bool:
    """`placement` pins one place or accelerator, and the option has another; or its prices are old, and known."""
    return miss.constraint in PIN_CONSTRAINTS and isinstance(miss.value, str)


def _rank_by_distance(option: Option) -> tuple[bool, bool, float, int, float, str]:
    """First whether nothing relaxes it, then whether nobody promises what it would keep. A pin can be given up only
    where the option behind it has a price, that is, exists.
    """
    gap = max((_compute_gap(miss) for miss in option.misses), default=UNREACHABLE_GAP)
    gap = UNREACHABLE_GAP if gap == PIN_GAP and option.total_cost is None else gap
    hoped = any(miss.at_best for miss in option.misses)
    return gap >= UNREACHABLE_GAP, hoped, gap, len(option.misses), _get_total_cost(option), option.name


def _format_relaxation(option: Option, plan: Plan, source: NeedsSource) -> str:
    """What would let the option through, field by field; "" when nothing would."""
    if _rank_by_distance(option)[0]:
        return ""
    return ", ".join(_format_relaxed_field(miss, plan, source) for miss in option.misses)


def _format_relaxed_field(miss: ConstraintViolation, plan: Plan, source: NeedsSource) -> str:
    if miss.constraint == "stale_facts":
        return "--accept-stale"
    value = miss.value if _is_pin(miss) else _round_to_pass(miss)
    return f"{_find_needs_field(miss.constraint, plan, source)} {'at best ' if miss.at_best else ''}{value}"


def _round_to_pass(miss: ConstraintViolation) -> str:
    """The value with three digits, rounded to the side that lets it pass."""
    value, limit = float(miss.value or 0), float(miss.limit or 0)
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    whole = math.ceil(value / unit - 1e-9) if value > limit else math.floor(value / unit + 1e-9)
    return f"{whole * unit:,.10g}"


def _find_needs_field(constraint: str, plan: Plan, source: NeedsSource) -> str:
    """The needs field a constraint comes from: "assistant.ttft_p95_s" is workloads[0].slo.ttft_p95_s."""
    if constraint in BUDGET_LIMITS:
        return f"budget.{constraint}"
    workload, _, rest = constraint.partition(".")
    names = [planned.name for planned in plan.workloads]
    if not rest or workload not in names:
        return PLACEMENT_FIELDS.get(constraint, "placement")
    if rest == "power_kw":
        # Machines of a workload at its sites: the power of one.
        written = (path for path in source.lines if path.startswith("sites.") and path.endswith(".power_kw"))
        return next(written, "sites")
    place, field = f"workloads[{names.index(workload)}]", rest.partition(".")[0]
    holders = [f"{place}.{name}." for name, fields in FIELDS_BY_HOLDER.items() if field in fields] + [f"{place}."]
    return next((f"{held}{rest}" for held in holders if f"{held}{rest}" in source.lines), f"{holders[0]}{rest}")


def _locate_field(field: str, source: NeedsSource) -> ErrorLocation:
    """The field's line, else that of the nearest enclosing field that was written."""
    path = field
    while path and path not in source.lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return ErrorLocation(source.file, source.lines.get(path, 1), field)
