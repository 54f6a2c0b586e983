"""Choice among options, and the error if no option is feasible.

The options with the fewest limits that hold with less than the required certainty come first; of these the cheapest by
total cost wins. A preferred placement (`placement.prefer`) comes before both. A note states the extra cost of a
preference, and the price of certainty over a cheaper option.
If nothing is feasible, `build_infeasible_error` names the nearest option by its distance over all limits, its
violations, and the relaxed limits that would make an option feasible, with the price difference. If a provider lacks
the requested combination of region and accelerator, options that violate only one of the two are suggested.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.contract.needs import SLO, NeedsSource, Placement, Traffic
from archwright.contract.number_format import format_number
from archwright.contract.plan import BUDGET_LIMITS, ConstraintViolation, Option, Plan
from archwright.contract.record import replace
from archwright.errors import ErrorLocation, PlanError
from archwright.plan.capacity.quotas import QUOTA_MISS
from archwright.plan.explain.formatting import describe_limit, format_miss
from archwright.plan.violations import build_violation

# Prices within this relative difference are equal: the same terms, summed in another order.
PRICE_TOLERANCE = 1e-9
SIMPLICITY_ORDER: tuple[Placement, ...] = ("this-machine", "on-premises", "hosted-api", "serverless", "cloud", "hybrid")
# Costs more than any option with a price.
NO_PRICE_COST = 1e12
MAX_SHOWN = 3
# Prefix of notes on owned machines that no option uses.
LEFT_OUT_PREFIX = "owned "
FEASIBLE_PREFIX = "relax the needs: "
PIN_CONSTRAINTS = ("accelerators", "regions", "clouds", "stale_facts")
# Sub-records of a workload, with the fields that a constraint may name; other fields belong to the workload itself.
FIELDS_BY_HOLDER = {"slo": frozenset(SLO.__struct_fields__), "traffic": frozenset(Traffic.__struct_fields__)}
RELAX_HINT = "allow another placement in placement.allow, or relax that field"
EXPORT_BARRED_HINT = (
    "choose a smaller accelerator or CPU inference: export rules block this accelerator in your country, and no field "
    "overrides them"
)
QUOTA_HINT = (
    "state fewer requests or documents, or a later deadline, or allow another placement in placement.allow; no field "
    "raises the quota of a provider"
)
QUOTE_OR_ACCEPT = "a quote in catalog/user.yaml or --accept-stale"
NO_PRICE = build_violation("price", None, "a price for every part")
# Fields of `placement`, by constraint.
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

    `accept_stale`: use undated and expired prices. `best_effort`: if no option is feasible, choose the nearest option
    that can run, that is, one that misses only service levels and budgets. `download`: use models that this machine
    must fetch.
    """

    accept_stale: bool = False
    best_effort: bool = False
    download: bool = False


NO_CONCESSIONS = Concessions()


def choose_option(
    options: tuple[Option, ...], prefer: Placement | None, *, best_effort: bool = False
) -> tuple[str | None, tuple[Option, ...]]:
    """Name of the chosen option, and the options; the chosen option has a note if the preference costs money."""
    feasible = [option for option in options if option.feasible and option.total_cost is not None]
    if not feasible:
        return _choose_nearest_startable(options) if best_effort else None, options
    cheapest = _select_cheapest(feasible)
    preferred = [option for option in feasible if option.placement == prefer]
    chosen, notes = _select_cheapest(preferred or feasible), list[str]()
    if prefer is not None and not preferred:
        notes.append(f"the preferred placement {prefer} has no feasible option; the cheapest feasible option is chosen")
    elif chosen is not cheapest:
        notes.append(f"preferred over {cheapest.name}, at an extra cost of {_format_extra_cost(chosen, cheapest)}")
    others = (one for one in feasible if len(one.doubts) > len(chosen.doubts))
    cheaper = [one for one in others if get_total_cost(one) < get_total_cost(chosen)]
    notes += _describe_less_certain(chosen, sorted(cheaper, key=get_total_cost))
    noted = replace(chosen, notes=(*notes, *chosen.notes))
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
    nearest = min(startable, key=measure_distance, default=None)
    return nearest.name if nearest is not None else None


def _describe_less_certain(chosen: Option, cheaper: list[Option]) -> Iterable[str]:
    """Yield the price of certainty: the cheapest less certain option and its least probable limit; others by name."""
    if cheaper:
        first, *others = cheaper
        own_doubts = {one.limit for one in chosen.doubts}
        doubt = next((one for one in first.doubts if one.limit not in own_doubts), first.doubts[0])
        here = next((one for one in chosen.limits if one.limit == doubt.limit), None)
        own = here.chance if here is not None else "certainty"
        more = _format_extra_cost(chosen, first)
        yield f"price of certainty: {own} for {more}. In {first.name}, {describe_limit(doubt)}"
        if others:
            yield f"cheaper and less certain too: {', '.join(one.name for one in others)}"


def _format_extra_cost(chosen: Option, other: Option) -> str:
    unit = chosen.total_cost.unit if chosen.total_cost is not None else ""
    return f"{format_number(get_total_cost(chosen) - get_total_cost(other))} {unit} over the horizon"


def _select_cheapest(options: list[Option]) -> Option:
    fewest = min(len(option.doubts) for option in options)
    options = [option for option in options if len(option.doubts) == fewest]
    least = min(map(get_total_cost, options))
    most = least + PRICE_TOLERANCE * abs(least)
    return min((option for option in options if get_total_cost(option) <= most), key=rank_simplicity)


def rank_simplicity(option: Option) -> tuple[int, str]:
    """Sort key for options of equal price: the placement that needs the least operation first, then the name."""
    return SIMPLICITY_ORDER.index(option.placement), option.name


def get_total_cost(option: Option) -> float:
    """An option without a price is farther than any other."""
    return option.total_cost.value if option.total_cost is not None else NO_PRICE_COST


def build_infeasible_error(plan: Plan, source: NeedsSource) -> PlanError:
    """AW-PLAN-03 with the violation, its place in needs.yaml, and the smallest relaxations that help."""
    if not plan.options:
        return PlanError(
            "AW-PLAN-03",
            "no placement was evaluated, because placement.allow is empty",
            where=_locate_field("placement.allow", source),
            hint="add at least one of cloud, hosted-api, this-machine to placement.allow",
        )
    ranked = sorted(plan.options, key=measure_distance)
    nearest, misses = ranked[0], ranked[0].misses or (NO_PRICE,)
    broken = misses[0]
    possible = [(option, steps) for option in ranked if (steps := _format_relaxation(option, plan, source))]
    hint = ", or ".join(_format_suggestion(option, steps, possible[0][0]) for option, steps in possible[:MAX_SHOWN])
    quota = QUOTA_HINT if broken.constraint.startswith(QUOTA_MISS) else RELAX_HINT
    fallback = EXPORT_BARRED_HINT if broken.constraint == "export" else quota
    # If only another pin helps, the reason why the requested pin is not available comes first.
    pins = {miss.constraint for miss in nearest.misses if _is_pin(miss)}
    against = ((o, m) for o in ranked if o.total_cost is None for m in o.misses if m.constraint in pins)
    conflict = next((f"{option.name} misses {format_miss(miss)}; " for option, miss in against), "")
    # Owned machines that could not be used are often the reason.
    left_out = "".join(f"; {note}" for note in nearest.notes if note.startswith(LEFT_OUT_PREFIX))
    return PlanError(
        "AW-PLAN-03",
        f"no option satisfies the needs; {conflict}the nearest option, {nearest.name}, misses "
        f"{'; '.join(map(format_miss, misses))}{left_out}",
        where=_locate_field(_find_needs_field(broken.constraint, plan, source), source),
        hint=f"{FEASIBLE_PREFIX}{hint}" if possible else fallback,
        nearest=tuple(option.name for option in ranked[:MAX_SHOWN]),
    )


def _format_suggestion(option: Option, steps: str, nearest: Option) -> str:
    """An option with the relaxation that makes it feasible, and its extra cost over the nearest option."""
    own, other = option.cost_per_month, nearest.cost_per_month
    if own is None or other is None:
        return f"{option.name} with {steps}"
    if option is nearest:
        price = f" ({format_number(own.value)} {own.unit})" if any(map(_is_pin, option.misses)) else ""
        return f"{option.name} with {steps}{price}"
    more = own.value - other.value
    return f"{option.name} with {steps} ({format_number(abs(more))} {own.unit} {'more' if more >= 0 else 'less'})"


class Distance(NamedTuple):
    """How far an option is from all limits, compared field by field.

    `unreachable`: misses that no relaxation mends; `at_best`: a value that nobody guarantees; `pins`: other places or
    accelerators than the pinned ones, and limits of 0; `ratios`: sum of the logarithms of value / limit, so limits of
    different units count alike.
    """

    unreachable: int
    at_best: bool
    pins: int
    ratios: float
    cost: float
    name: str


def measure_distance(option: Option) -> Distance:
    """Return the distance over all misses. A pin can be relaxed only if the option has a price, that is, exists."""
    ratios = [_compute_log_ratio(miss) for miss in option.misses]
    pinned = [_is_pin(miss) and option.total_cost is not None for miss in option.misses]
    zero = [ratio == math.inf for ratio in ratios]
    lost = [ratio is None and not pin for ratio, pin in zip(ratios, pinned, strict=True)]
    return Distance(
        unreachable=sum(lost) if option.misses else 1,
        at_best=any(miss.at_best for miss in option.misses),
        pins=sum(pinned) + sum(zero),
        ratios=sum(ratio for ratio in ratios if ratio is not None and ratio < math.inf),
        cost=get_total_cost(option),
        name=option.name,
    )


def _compute_log_ratio(miss: ConstraintViolation) -> float | None:
    """Return the logarithm of the factor by which a limit must change; infinite for a limit of 0, None without one.

    An availability counts by the time that is lost.
    """
    value, limit = miss.value, miss.limit
    if not isinstance(value, float | int) or not isinstance(limit, float | int) or value <= 0:
        return None
    if miss.constraint.endswith(".availability") and max(value, limit) < 1:
        value, limit = 1 - value, 1 - limit
    return abs(math.log(value / limit)) if limit > 0 else math.inf


def is_relaxable(miss: ConstraintViolation) -> bool:
    """True if the user may relax the limit: a number, a pin or a residency; no provider's quota, no expired price."""
    if miss.constraint == "stale_facts" or miss.constraint.startswith(QUOTA_MISS):
        return False
    residency = miss.constraint.rpartition(".")[2] == "residency" and isinstance(miss.value, str)
    return _is_pin(miss) or _compute_log_ratio(miss) is not None or residency


def _is_pin(miss: ConstraintViolation) -> bool:
    """True if the option has another place or accelerator than `placement` pins, or known but expired prices."""
    return miss.constraint in PIN_CONSTRAINTS and isinstance(miss.value, str)


def _format_relaxation(option: Option, plan: Plan, source: NeedsSource) -> str:
    """The relaxed fields that make the option feasible; "" if no relaxation does."""
    if measure_distance(option).unreachable or any(miss.constraint.startswith(QUOTA_MISS) for miss in option.misses):
        return ""
    fields = []
    for miss in option.misses:
        value = f"{'at best ' if miss.at_best else ''}{miss.value if _is_pin(miss) else round_to_pass(miss)}"
        field = f"{_find_needs_field(miss.constraint, plan, source)} {value}"
        fields.append(QUOTE_OR_ACCEPT if miss.constraint == "stale_facts" else field)
    return ", ".join(fields)


def round_to_pass(miss: ConstraintViolation) -> str:
    """The value with three digits, rounded so that the option passes."""
    value, limit = float(miss.value or 0), float(miss.limit or 0)
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    whole = math.ceil(value / unit - 1e-9) if value > limit else math.floor(value / unit + 1e-9)
    return f"{whole * unit:,.10g}"


def _find_needs_field(constraint: str, plan: Plan, source: NeedsSource) -> str:
    """The needs field of a constraint: "assistant.ttft_p95_s" is workloads[0].slo.ttft_p95_s."""
    if constraint in BUDGET_LIMITS:
        return f"budget.{constraint}"
    if constraint.startswith("sites."):
        return f"placement.{constraint}"
    workload, _, rest = constraint.partition(".")
    names = [planned.name for planned in plan.workloads]
    if not rest or workload not in names:
        return PLACEMENT_FIELDS.get(constraint, "placement")
    if rest == "power_kw":
        # Machines at the sites of a workload: the power of one site.
        written = (path for path in source.lines if path.startswith("sites.") and path.endswith(".power_kw"))
        return next(written, "sites")
    place, field = f"workloads[{names.index(workload)}]", rest.partition(".")[0]
    holders = [f"{place}.{name}." for name, fields in FIELDS_BY_HOLDER.items() if field in fields] + [f"{place}."]
    return next((f"{holder}{rest}" for holder in holders if f"{holder}{rest}" in source.lines), f"{holders[0]}{rest}")


def _locate_field(field: str, source: NeedsSource) -> ErrorLocation:
    """The line of the field, or of the nearest enclosing field in the file."""
    path = field
    while path and path not in source.lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return ErrorLocation(source.file, source.lines.get(path, 1), field)
