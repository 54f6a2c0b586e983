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
# Rounding error of a number of machines.
MACHINE_TOLERANCE = 1e-6


class AssignmentChoice(NamedTuple):
    """One assignment of a task: to one type of on-site machine (`machine`), to rented machines (None), or to both.

    `outside`: name of the rented work, if there is any. One value per year: `peak`, `mean`: machines that the steady
    load needs, fractions included; `hours`: machine-hours per month; `spares`: spares if only this type serves,
    `beside`: if another type serves too; `work_usd`: cost of the work beyond idling; `night`: machines that the steady
    load keeps while jobs run at night. `width`: machines that a job uses at one time. `night_share`: part of a night
    that its longest run takes; 0: it runs at any hour, beside the mean of the steady loads. A steady load uses whole
    `parts` of a machine. `usd` (over the horizon) and `usd_per_month` are paid in addition to on-site machines.
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
    night: tuple[float, ...] = ()
    night_share: float = 0.0

    @property
    def runs_at_night(self) -> bool:
        return self.night_share > 0

    @property
    def night_machines(self) -> tuple[float, ...]:
        """Machines that a steady load needs beside a job of the night, per year; nothing for a job."""
        return self.night or self.mean

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
    """Limits of the whole program; None: no limit. `machines`: of all types together, in each year."""

    capex_usd: float | None = None
    power_kw: float | None = None
    rack_units: float | None = None
    usd_per_month: float | None = None
    machines: int | None = None


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


# Task, model or none, machine type or none, rented work, and whether it is done at night.
WorkKey = tuple[str, str, str | None, str, bool]


def prune_dominated(choices: Choices, kinds: tuple[MachineSupply, ...], follows: Mapping[str, str]) -> Choices:
    return prune_machine_types(_prune_models(choices, follows), kinds)


def _prune_models(choices: Choices, follows: Mapping[str, str]) -> Choices:
    """Drop dominated models; a task and its followers are one family."""
    families: dict[str, dict[str, dict[WorkKey, AssignmentChoice]]] = {}
    for choice in choices:
        family = follows.get(choice.task, choice.task)
        models = families.setdefault(family, {})
        key = (choice.task, "", choice.machine, choice.outside, choice.runs_at_night)
        models.setdefault(choice.model, {})[key] = choice
    dominated = set[tuple[str, str]]()
    for family, models in families.items():
        dominated.update((family, model) for model in _find_dominated(models))
    return tuple(choice for choice in choices if (follows.get(choice.task, choice.task), choice.model) not in dominated)


def prune_machine_types(choices: Choices, kinds: tuple[MachineSupply, ...]) -> Choices:
    """Drop the choices of bought machine types that another type replaces for all their tasks."""
    bought = _index_bought(kinds)
    types: dict[str, dict[WorkKey, AssignmentChoice]] = {}
    for choice in choices:
        if choice.machine in bought:
            key = (choice.task, choice.model, "", choice.outside, choice.runs_at_night)
            types.setdefault(choice.machine, {})[key] = choice
    pairs = itertools.permutations(types, 2)
    cheaper = {(cheap, dear) for cheap, dear in pairs if _costs_no_more(bought[cheap], bought[dear])}
    dominated = _find_dominated(types, cheaper)
    return tuple(choice for choice in choices if choice.machine not in dominated)


def _index_bought(kinds: tuple[MachineSupply, ...]) -> dict[str, MachineSupply]:
    """Return the supplies of types that are bought and not owned, by type."""
    owned = {kind.machine for kind in kinds if kind.most is not None}
    return {kind.machine: kind for kind in kinds if kind.machine not in owned}


def keep_cheapest_types(choices: Choices, kinds: tuple[MachineSupply, ...]) -> Choices:
    """Keep the bought machine types that are the best for a task, for two or for all; owned and rented machines stay.

    Best: by the cost of whole machines, which the tasks share; of one task also by the cost of the used share.
    A model that none of these can run keeps its cheapest type. With all 30 types the program is ten times as large.
    """
    bought = _index_bought(kinds)
    ranked: dict[str, list[TypeRank]] = {}
    by_day = FewestMachines()
    at_night = FewestMachines()
    for choice in choices:
        if choice.machine not in bought:
            continue
        kind = bought[choice.machine]
        whole_usd = _price_together([choice], kind)
        share_usd = choice.most_machines * kind.usd[0] + _price_work(choice)
        ranked.setdefault(choice.task, []).append(((whole_usd, share_usd), choice.machine, choice.model))
        if choice.runs_at_night:
            at_night.add(choice.machine, choice)
        else:
            by_day.add(choice.machine, choice)

    best = set[str]()
    for ranks in ranked.values():
        best |= {min(ranks)[1], min(ranks, key=lambda rank: (rank[0][1], rank))[1]}
        for model in dict.fromkeys(model for *_, model in ranks):
            able = [rank for rank in ranks if rank[2] == model]
            if best.isdisjoint(machine for _, machine, _ in able):
                best.add(min(able)[1])
    for tasks in dict.fromkeys([*itertools.combinations(ranked, 2), tuple(ranked)]):
        best |= by_day.find_cheapest(tasks, bought)
        best |= by_day.replaced_by(at_night).find_cheapest(tasks, bought)
    return tuple(choice for choice in choices if choice.machine not in bought or choice.machine in best)


class FewestMachines:
    """The choice with the fewest machines of each type and task."""

    def __init__(self) -> None:
        self._choices: dict[str, dict[str, AssignmentChoice]] = {}

    def add(self, machine: str, choice: AssignmentChoice) -> None:
        tasks = self._choices.setdefault(machine, {})
        before = tasks.get(choice.task, choice)
        tasks[choice.task] = min(before, choice, key=lambda each: (each.most_machines, _price_work(each)))

    def replaced_by(self, preferred: "FewestMachines") -> "FewestMachines":
        """Return these choices, and instead of them those that `preferred` has for the same type and task."""
        merged = FewestMachines()
        for machine, tasks in self._choices.items():
            merged._choices[machine] = {**tasks, **preferred._choices.get(machine, {})}
        return merged

    def find_cheapest(self, tasks: tuple[str, ...], kinds: Mapping[str, MachineSupply]) -> set[str]:
        """Return the type on which all `tasks` together cost the least; nothing if no type can do all of them."""
        costs = list[tuple[float, str]]()
        for machine, choices in self._choices.items():
            if choices.keys() >= set(tasks):
                usd = _price_together([choices[task] for task in tasks], kinds[machine])
                costs.append((usd, machine))
        return {min(costs)[1]} if costs else set()


def _price_together(choices: list[AssignmentChoice], kind: MachineSupply) -> float:
    """Return the cost of the whole machines that `choices` share, bought at once, and of their work."""
    by_day = at_night = night_width = 0.0
    spares = 0
    for choice in choices:
        if choice.runs_at_night:
            night_width = max(night_width, choice.width)
        else:
            by_day += choice.most_machines
            at_night += max(choice.night_machines, default=choice.width)
        spares = max(spares, *choice.spares, 0)
    whole = math.ceil(max(by_day, at_night + night_width) - MACHINE_TOLERANCE)
    return (whole + spares) * kind.usd[0] + sum(map(_price_work, choices))


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
    if one.parts % other.parts:
        return False
    totals = (
        (one.usd, other.usd),
        (one.usd_per_month, other.usd_per_month),
        (one.width, other.width),
        (one.night_share, other.night_share),
    )
    yearly = (
        (one.peak, other.peak),
        (one.mean, other.mean),
        (one.hours, other.hours),
        (one.spares, other.spares),
        (one.beside, other.beside),
        (one.work_usd, other.work_usd),
        (one.night, other.night),
    )
    return all(ours <= theirs for ours, theirs in totals) and all(_all_at_most(*pair) for pair in yearly)


def _costs_no_more(one: MachineSupply, other: MachineSupply) -> bool:
    sums = ((one.usd, other.usd), (one.usd_per_month, other.usd_per_month), (one.capex_usd, other.capex_usd))
    less = all(_all_at_most(one.yearly_increments(a), other.yearly_increments(b)) for a, b in sums)
    return less and one.power_kw <= other.power_kw and one.rack_units <= other.rack_units


def _all_at_most(ours: Iterable[float], theirs: Iterable[float]) -> bool:
    return all(a <= b for a, b in zip(ours, theirs, strict=True))
