"""What the program of a house (integer_program.py) is asked, without choices that cannot win, and what it answers.

A type of machine is left out where another type that is not owned is no dearer in any way and any year, draws no more,
takes no more room, and does each of its choices with no more of itself. A model is left out where another one does all
of its task, and of what follows it, with no more, wherever it does it. The least cost stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class AssignmentChoice(NamedTuple):
    """One way to do a task: on machines of the house of one type (`machine`), or rented (None), or both (`outside` says
    in either case what is). One value a year: `peak`, `mean`: machines its steady load takes then, parts of one too;
    `hours`: machine-hours of a month; `spares`: on this type alone, `beside`: where another type serves too;
    `work_usd`: what its work costs on the machine, beyond standing there. `width`: machines a job takes at once;
    `parts` of a machine are taken whole by a steady load. `usd` over the horizon and `usd_per_month` are paid beside
    the house's machines.
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


Choices = tuple[AssignmentChoice, ...]


class MachineSupply(NamedTuple):
    """Machines of one type had in one way. One value a year: what one that is bought at its start costs until the end
    of the horizon, recurs of it per month (mean over the horizon), and takes of the capex; of one that is owned, what
    its use in that year does. `most`: how many there are then, None when they are bought.
    """

    machine: str
    usd: tuple[float, ...]
    usd_per_month: tuple[float, ...]
    capex_usd: tuple[float, ...]
    power_kw: float
    rack_units: float
    most: tuple[int, ...] | None = None

    def sum_over_years(self, values: tuple[float, ...], machines: tuple[int, ...]) -> float:
        """Of `values` (a field), for so many machines in each year."""
        return sum(a * b for a, b in zip(self.yearly_increments(values), machines, strict=True))

    def yearly_increments(self, values: tuple[float, ...]) -> list[float]:
        """What one machine more in one year alone adds: one that is bought then is not bought a year later."""
        if self.most is not None:
            return list(values)
        return [now - later for now, later in zip(values, (*values[1:], 0.0), strict=True)]


class SolverLimits(NamedTuple):
    """None: no limit."""

    capex_usd: float | None = None
    power_kw: float | None = None
    rack_units: float | None = None
    usd_per_month: float | None = None


class SelectedChoice(NamedTuple):
    """A choice by its index. Where its task is shared, one value a year: the share of it that the choice does, and the
    machines it must have there, spares included.
    """

    choice: int
    shares: tuple[float, ...] = ()
    reserved: tuple[float, ...] = ()


class MipSolution(NamedTuple):
    taken: tuple[SelectedChoice, ...]
    machines: tuple[tuple[int, ...], ...]


WorkKey = tuple[str, str, str | None, str]


def prune_dominated(choices: Choices, kinds: tuple[MachineSupply, ...], follows: Mapping[str, str]) -> Choices:
    return _prune_machine_types(_prune_models(choices, follows), kinds)


def _prune_models(choices: Choices, follows: Mapping[str, str]) -> Choices:
    """A task and what follows it are a family."""
    families: dict[str, dict[str, dict[WorkKey, AssignmentChoice]]] = {}
    for one in choices:
        models = families.setdefault(follows.get(one.task, one.task), {})
        models.setdefault(one.model, {})[one.task, "", one.machine, one.outside] = one
    gone = {(task, name) for task, models in families.items() for name in _find_dominated(models)}
    return tuple(one for one in choices if (follows.get(one.task, one.task), one.model) not in gone)


def _prune_machine_types(choices: Choices, kinds: tuple[MachineSupply, ...]) -> Choices:
    owned = {kind.machine for kind in kinds if kind.most is not None}
    bought = {kind.machine: kind for kind in kinds if kind.machine not in owned}
    types: dict[str, dict[WorkKey, AssignmentChoice]] = {}
    for one in choices:
        if one.machine in bought:
            types.setdefault(one.machine, {})[one.task, one.model, "", one.outside] = one
    cheaper = {(a, b) for a in types for b in types if _costs_no_more(bought[a], bought[b])}
    gone = _find_dominated(types, cheaper)
    return tuple(one for one in choices if one.machine not in gone)


def _find_dominated(
    rivals: Mapping[str, Mapping[WorkKey, AssignmentChoice]], allowed: set[tuple[str, str]] | None = None
) -> set[str]:
    """Those of which another one, that is not beaten itself, does all, with no more. `allowed`: who may beat whom."""
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
