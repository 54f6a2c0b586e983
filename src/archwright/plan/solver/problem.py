"""Input and output of the integer program (`integer_program`), and the pruning of choices that cannot be optimal.

A machine type that may be bought is dropped if another such type costs no more in any respect and year, draws no more
power, needs no more rack space, and needs no more machines for any choice. A model is dropped if another model does its
task, and the tasks that follow it, with no more machines at every place. The minimum cost stays the same.
Types that are the best for no work, alone or with other work, are left out (`keep_cheapest_types`): a heuristic.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# Cost of whole machines and of the used share, machine type, model.
TypeRank = tuple[tuple[float, float], str, str]


class AssignmentChoice(NamedTuple):
    """One assignment of a task: to one type of on-site machine (`machine`), to rented machines (None), or to both.

    `outside`: name of the rented work, if there is any. One value per year: `peak`, `mean`: machines that the steady
    load needs, fractions included; `hours`: machine-hours per month; `spares`: spares if only this type serves,
    `beside`: if another type serves too; `work_usd`: cost of the work beyond idling. `width`: machines that a job uses
    at one time. A steady load uses whole `parts` of a machine. `usd` (over the horizon) and `usd_per_month` are paid in
    addition to on-site machines.
    """

    task: str
    model: str
    machine: str | None
    usd: float = 0.0
    usd_per_month: float = 0.0
    peak: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    hours: tuple[float, ...] = ()
    spares: tuple[int, ...] = ()
    beside: tuple[int, ...] = ()
    work_usd: tuple[float, ...] = ()
    width: float = 0.0
    parts: int = 1
    outside: str = ""

    @property
    def most_machines(self) -> float:
        return max(max(self.peak, default=0.0), max(self.mean, default=0.0) + self.width)


Choices = tuple[AssignmentChoice, ...]


class MachineSupply(NamedTuple):
    """Machines of one type and purchase kind.

    One value per year, of a bought machine: cost from its purchase in that year to the end of the horizon, recurring
    cost per month (mean over the horizon), and capex; of an owned machine: the same for its use in that year.
    `most`: owned machines in each year; None if machines are bought.
    """

    machine: str
    usd: tuple[float, ...]
    usd_per_month: tuple[float, ...]
    capex_usd: tuple[float, ...]
    power_kw: float
    rack_units: float
    most: tuple[int, ...] | None = None

    def sum_over_years(self, values: tuple[float, ...], machines: tuple[int, ...]) -> float:
        """Sum `values` (a field) for `machines` in each year."""
        return sum(a * b for a, b in zip(self.yearly_increments(values), machines, strict=True))

    def yearly_increments(self, values: tuple[float, ...]) -> list[float]:
        """Return what one more machine in one year adds; a machine bought then is not bought a year later."""
        if self.most is not None:
            return list(values)
        return [now - later for now, later in zip(values, (*values[1:], 0.0), strict=True)]


class SolverLimits(NamedTuple):
    """Limits of the whole program; None: no limit."""

    capex_usd: float | None = None
    power_kw: float | None = None
    rack_units: float | None = None
    usd_per_month: float | None = None


class SelectedChoice(NamedTuple):
    """A choice by its index. If its task is shared, per year: its share, and reserved machines with spares."""

    choice: int
    shares: tuple[float, ...] = ()
    reserved: tuple[float, ...] = ()


class MipSolution(NamedTuple):
    """`machines`: of each stock in each year. `usd`: the minimum cost."""

    taken: tuple[SelectedChoice, ...]
    machines: tuple[tuple[int, ...], ...]
    usd: float = 0.0


WorkKey = tuple[str, str, str | None, str]


def prune_dominated(choices: Choices, kinds: tuple[MachineSupply, ...], follows: Mapping[str, str]) -> Choices:
    return prune_machine_types(_prune_models(choices, follows), kinds)


def _prune_models(choices: Choices, follows: Mapping[str, str]) -> Choices:
    """Drop dominated models; a task and its followers are one family."""
    families: dict[str, dict[str, dict[WorkKey, AssignmentChoice]]] = {}
    for one in choices:
        models = families.setdefault(follows.get(one.task, one.task), {})
        models.setdefault(one.model, {})[one.task, "", one.machine, one.outside] = one
    gone = {(task, name) for task, models in families.items() for name in _find_dominated(models)}
    return tuple(one for one in choices if (follows.get(one.task, one.task), one.model) not in gone)


def prune_machine_types(choices: Choices, kinds: tuple[MachineSupply, ...]) -> Choices:
    """Drop the choices of bought machine types that another type replaces for all their tasks."""
    owned = {kind.machine for kind in kinds if kind.most is not None}
    bought = {kind.machine: kind for kind in kinds if kind.machine not in owned}
    types: dict[str, dict[WorkKey, AssignmentChoice]] = {}
    for one in choices:
        if one.machine in bought:
            types.setdefault(one.machine, {})[one.task, one.model, "", one.outside] = one
    cheaper = {(a, b) for a in types for b in types if _costs_no_more(bought[a], bought[b])}
    gone = _find_dominated(types, cheaper)
    return tuple(one for one in choices if one.machine not in gone)


def keep_cheapest_types(choices: Choices, kinds: tuple[MachineSupply, ...]) -> Choices:
    """Keep the bought machine types that are the best for a task, for two or for all; owned and rented machines stay.

    Best: by the cost of whole machines, which the tasks share; of one task also by the cost of the used share.
    A model that none of these can run keeps its cheapest type. With all 30 types the program is ten times as large.
    """
    owned = {kind.machine for kind in kinds if kind.most is not None}
    bought = {kind.machine: kind for kind in kinds if kind.machine not in owned}
    ranked: dict[str, list[TypeRank]] = {}
    least: dict[str, dict[str, AssignmentChoice]] = {}  # by type and task: the choice with the fewest machines
    for one in choices:
        if one.machine in bought:
            costs = (_price_together([one], bought[one.machine]), one.most_machines * bought[one.machine].usd[0])
            ranked.setdefault(one.task, []).append(((costs[0], costs[1] + _price_work(one)), one.machine, one.model))
            tasks = least.setdefault(one.machine, {})
            tasks[one.task] = min(tasks.get(one.task, one), one, key=lambda it: (it.most_machines, _price_work(it)))
    kept = set[str]()
    for found in ranked.values():
        kept |= {min(found)[1], min(found, key=lambda rank: (rank[0][1], rank))[1]}
        for model in dict.fromkeys(model for *_, model in found):
            able = [rank for rank in found if rank[2] == model]
            kept |= set() if kept & {machine for _, machine, _ in able} else {min(able)[1]}
    for group in dict.fromkeys([*itertools.combinations(ranked, 2), tuple(ranked)]):
        able_types = [(machine, tasks) for machine, tasks in least.items() if tasks.keys() >= set(group)]
        shared = [(_price_together([tasks[task] for task in group], bought[name]), name) for name, tasks in able_types]
        kept |= {min(shared)[1]} if shared else set()
    return tuple(one for one in choices if one.machine not in bought or one.machine in kept)


def _price_together(some: list[AssignmentChoice], kind: MachineSupply) -> float:
    """Return the cost of the whole machines that `some` share, bought at once, and of their work."""
    whole = math.ceil(sum(one.most_machines for one in some) - 1e-6)
    spares = max((spares for one in some for spares in one.spares), default=0)
    return (whole + spares) * kind.usd[0] + sum(map(_price_work, some))


def _price_work(one: AssignmentChoice) -> float:
    return one.usd + sum(one.work_usd)


def _find_dominated(
    rivals: Mapping[str, Mapping[WorkKey, AssignmentChoice]], allowed: set[tuple[str, str]] | None = None
) -> set[str]:
    """Return the rivals that a remaining rival dominates. `allowed`: pairs (dominating, dominated) to consider."""
    gone = set[str]()
    for name, mine in rivals.items():
        for other, theirs in rivals.items():
            if other == name or other in gone or (allowed is not None and (other, name) not in allowed):
                continue
            if all(key in theirs and _uses_no_more(theirs[key], one) for key, one in mine.items()):
                gone.add(name)
                break
    return gone


def _uses_no_more(one: AssignmentChoice, other: AssignmentChoice) -> bool:
    single = one.usd <= other.usd and one.usd_per_month <= other.usd_per_month and one.width <= other.width
    yearly = ("peak", "mean", "hours", "spares", "beside", "work_usd")
    if not single or one.parts % other.parts:
        return False
    return all(_all_at_most(getattr(one, field), getattr(other, field)) for field in yearly)


def _costs_no_more(one: MachineSupply, other: MachineSupply) -> bool:
    sums = ((one.usd, other.usd), (one.usd_per_month, other.usd_per_month), (one.capex_usd, other.capex_usd))
    less = all(_all_at_most(one.yearly_increments(a), other.yearly_increments(b)) for a, b in sums)
    return less and one.power_kw <= other.power_kw and one.rack_units <= other.rack_units


def _all_at_most(ours: Iterable[float], theirs: Iterable[float]) -> bool:
    return all(a <= b for a, b in zip(ours, theirs, strict=True))
