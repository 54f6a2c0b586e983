"""What changed between two plans, and whether needs, facts or this machine are the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis
from archwright.contract.plan import Option, Plan, Pool, Purchase
from archwright.contract.record import Record
from archwright.plan.explain.formatting import engines_of

T = TypeVar("T")
NUMBER = re.compile(r"(?<![\w.-])-?\d[\d,.]*(?![\w])%?")
# Bases that state what the world is like; the others say how a number was made from them.
FACTS = frozenset({"quoted", "vendor", "measured", "assumed", "calibrated"})


class Worded(Record):
    """Something that reads differently; None: it is not there."""

    name: str
    before: str | None
    after: str | None


class Figure(Record):
    """A number that differs; None: it is not there."""

    name: str
    before: Estimate | None
    after: Estimate | None


class PlanDiff(Record):
    """`because` names the reasons; the rest what follows, each only where it differs. `notes` and `costs` are those of
    the two chosen options, `lines` their cost lines, the largest difference first; `totals` every option's cost
    over the horizon.
    """

    before: str
    after: str
    because: tuple[str, ...]
    chosen: Worded | None
    notes: tuple[Worded, ...] = ()
    costs: tuple[Figure, ...] = ()
    lines: tuple[Figure, ...] = ()
    models: tuple[Worded, ...] = ()
    pools: tuple[Worded, ...] = ()
    purchases: tuple[Worded, ...] = ()
    predictions: tuple[Figure, ...] = ()
    verdicts: tuple[Worded, ...] = ()
    totals: tuple[Figure, ...] = ()
    facts: tuple[Worded, ...] = ()
    controls: tuple[Worded, ...] = ()
    assumptions: tuple[Worded, ...] = ()

    @property
    def same(self) -> bool:
        return not any(getattr(self, name) for name in self.__struct_fields__ if name not in ("before", "after"))


def diff(before: Plan, after: Plan) -> PlanDiff:
    """The differences from `before` to `after`."""
    old, new = before.option, after.option
    return PlanDiff(
        before=before.digest,
        after=after.digest,
        because=tuple(_reasons(before, after)),
        chosen=next(iter(_worded({"chosen": before.chosen}, {"chosen": after.chosen})), None),
        notes=_worded(_notes(old), _notes(new)),
        costs=_figures(_costs(old), _costs(new)),
        lines=tuple(sorted(_figures(_lines(old), _lines(new)), key=_moved, reverse=True)),
        models=_worded({w.name: w.model for w in before.workloads}, {w.name: w.model for w in after.workloads}),
        pools=_worded(_pools(before), _pools(after)),
        purchases=_worded(_purchases(old), _purchases(new)),
        predictions=_figures(
            {p.id: p.estimate for p in before.predictions}, {p.id: p.estimate for p in after.predictions}
        ),
        verdicts=_worded(_verdicts(before), _verdicts(after)),
        totals=_figures(_totals(before), _totals(after)),
        facts=_facts(before, after),
        controls=_worded({c.id: c.status for c in before.controls}, {c.id: c.status for c in after.controls}),
        assumptions=_worded(dict.fromkeys(before.assumptions, "yes"), dict.fromkeys(after.assumptions, "yes")),
    )


def _reasons(before: Plan, after: Plan) -> Iterable[str]:
    if before.needs_digest != after.needs_digest:
        files = dict.fromkeys((before.needs_file, after.needs_file))
        yield f"the needs differ ({' and '.join(files)})"
    if before.catalog_digest != after.catalog_digest:
        yield f"the catalog's facts differ ({before.catalog_digest[:12]} and {after.catalog_digest[:12]})"
    if _aged(before, after):
        yield "facts have aged"
    if before.machine != after.machine:
        yield "this machine was measured differently"


def _aged(before: Plan, after: Plan) -> bool:
    """Whether a fact that `before` rests on is older now: another choice rests on others, which is no ageing."""
    old, new = ({fact.partition(": ")[0]: fact for fact in plan.stale_facts} for plan in (before, after))
    used = {name for name in new if any(basis.id.endswith(name) for basis in before.bases)}
    return any(old.get(name) != new[name] for name in used | (old.keys() & new.keys()))


def _notes(option: Option | None) -> dict[str, str | None]:
    """What is said about an option, the same sentence under the same name whatever its numbers are."""
    notes = option.notes if option is not None else ()
    return {NUMBER.sub("#", note): note for note in notes}


def _costs(option: Option | None) -> dict[str, Estimate | None]:
    if option is None:
        return {}
    return {"total": option.total_cost, "per month": option.cost_per_month, "capex": option.capex}


def _lines(option: Option | None) -> dict[str, Estimate | None]:
    return {line.name: line.amount for line in (option.cost_lines if option is not None else ())}


def _totals(plan: Plan) -> dict[str, Estimate | None]:
    return {option.name: option.total_cost for option in plan.options}


def _verdicts(plan: Plan) -> dict[str, str | None]:
    """What rules an option out, without the numbers: these differ whenever a limit does."""
    missed = {option.name: dict.fromkeys(miss.constraint for miss in option.misses) for option in plan.options}
    return {
        name: f"no: {', '.join(constraints)}" if constraints else "feasible" for name, constraints in missed.items()
    }


def _pools(plan: Plan) -> dict[str, str | None]:
    return {pool.name: _pool(pool) for pool in plan.pools}


def _pool(pool: Pool) -> str:
    return f"{engines_of(pool)} in {pool.region} at {pool.provider}: {pool.model} {pool.quantisation}"


def _purchases(option: Option | None) -> dict[str, str | None]:
    found: dict[str, list[Purchase]] = {}
    for purchase in option.purchases if option is not None else ():
        found.setdefault(purchase.pool, []).append(purchase)
    return {
        pool: ", ".join(f"{one.machines:.3g} x {one.machine} {one.kind} (peak {one.peak})" for one in all_)
        for pool, all_ in found.items()
    }


def _facts(before: Plan, after: Plan) -> tuple[Worded, ...]:
    """Facts that both plans rest on and that read differently now: what another catalog changed."""
    old = {basis.id: basis for basis in before.bases if basis.kind in FACTS}
    new = {basis.id: basis for basis in after.bases if basis.kind in FACTS}
    both = sorted(old.keys() & new.keys())
    return _worded({name: _stated(old[name]) for name in both}, {name: _stated(new[name]) for name in both})


def _stated(basis: Basis) -> str:
    return "; ".join(basis.facts) or basis.formula or basis.definition


def _pairs(before: Mapping[str, T], after: Mapping[str, T]) -> Iterable[tuple[str, T | None, T | None]]:
    """What differs, in the order of `after`, then what is gone."""
    for name in dict.fromkeys((*after, *before)):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield name, old, new


def _worded(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> tuple[Worded, ...]:
    return tuple(Worded(name=name, before=old, after=new) for name, old, new in _pairs(before, after))


def _figures(before: Mapping[str, Estimate | None], after: Mapping[str, Estimate | None]) -> tuple[Figure, ...]:
    """Numbers whose value, band or unit differs; the name of a basis may."""
    return tuple(
        Figure(name=name, before=old, after=new)
        for name, old, new in _pairs(before, after)
        if _numbers(old) != _numbers(new)
    )


def _moved(figure: Figure) -> float:
    """How much money the difference is."""
    before, after = (estimate.value if estimate is not None else 0.0 for estimate in (figure.before, figure.after))
    return abs(after - before)


def _numbers(estimate: Estimate | None) -> tuple[float, float, float, str] | None:
    return None if estimate is None else (estimate.value, estimate.low, estimate.high, estimate.unit)
