"""Choices that cannot be in a least cost: the program of optimise.py is solved without them, and as exactly.

A type of machine is left out where another type that is not owned is no dearer in any way and any year, draws no more,
takes no more room, and does each of its choices with no more of itself: whatever runs on the one may run on the other.
A model is left out where another one does all of its task, and of what follows it, with no more, wherever it does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from archwright.plan.solver.problem import AssignmentChoice, MachineSupply

WorkKey = tuple[str, str, str | None, str]


def prune_dominated(
    choices: tuple[AssignmentChoice, ...], kinds: tuple[MachineSupply, ...], follows: Mapping[str, str]
) -> tuple[AssignmentChoice, ...]:
    """Of two that do as well, the first stays."""
    return _prune_machine_types(_prune_models(choices, follows), kinds)


def _prune_models(choices: tuple[AssignmentChoice, ...], follows: Mapping[str, str]) -> tuple[AssignmentChoice, ...]:
    """A task and what follows it are a family."""
    families: dict[str, dict[str, dict[WorkKey, AssignmentChoice]]] = {}
    for one in choices:
        models = families.setdefault(follows.get(one.task, one.task), {})
        models.setdefault(one.model, {})[one.task, "", one.machine, one.outside] = one
    gone = {(task, name) for task, models in families.items() for name in _find_dominated(models)}
    return tuple(one for one in choices if (follows.get(one.task, one.task), one.model) not in gone)


def _prune_machine_types(
    choices: tuple[AssignmentChoice, ...], kinds: tuple[MachineSupply, ...]
) -> tuple[AssignmentChoice, ...]:
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
    fields = ("peak", "mean", "hours", "spares", "beside", "work_usd")
    single = one.usd <= other.usd and one.usd_per_month <= other.usd_per_month and one.width <= other.width
    return (
        single
        and one.parts % other.parts == 0
        and all(_all_at_most(getattr(one, f), getattr(other, f)) for f in fields)
    )


def _costs_no_more(one: MachineSupply, other: MachineSupply) -> bool:
    fields = ("usd", "usd_per_month", "capex_usd")
    return (
        one.power_kw <= other.power_kw
        and one.rack_units <= other.rack_units
        and all(
            _all_at_most(one.yearly_increments(getattr(one, f)), other.yearly_increments(getattr(other, f)))
            for f in fields
        )
    )


def _all_at_most(ours: Iterable[float], theirs: Iterable[float]) -> bool:
    return all(a <= b for a, b in zip(ours, theirs, strict=True))
