"""What the program of a house is asked, and what it answers: choices, machines, limits; see optimise.py."""

from __future__ import annotations

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
    """What is used, and the machines of each stock in each year."""

    taken: tuple[SelectedChoice, ...]
    machines: tuple[tuple[int, ...], ...]
