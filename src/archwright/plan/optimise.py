"""The machines of a house, shared by its workloads, as a mixed integer program (HiGHS).

Variables: x_c in {0, 1}, choice c is taken; N_k whole machines of kind k; S_k spares of kind k. The least of
    sum usd_c x_c + sum usd_k N_k
subject to, for each task: exactly one choice; for each follower and model: it runs what it follows runs; for each kind:
    sum peak_c x_c + S_k <= N_k                     the busiest hour
    sum (mean_c + width_c) x_c + S_k <= N_k         jobs run beside the mean load, not through the peak
    sum hours_c x_c <= 730 (N_k - S_k)              a month's work fits into a month
    S_k >= spares_c x_c                             spares are shared: one machine is down, not one of each workload
and over all kinds: capex, power, rack units, and where it is asked for the spend of a month, below their limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import highspy

from archwright.errors import PlanError
from archwright.plan.demand import HOURS_PER_MONTH

NO_GAP = 1e-9
INTEGRAL = 0.5


class Choice(NamedTuple):
    """One way to do a task: on machines of the house of one `kind`, or rented (None), or both. `peak`, `mean`: machines
    its steady load takes then, parts of one too; `width`: machines a job takes at once; `hours`: machine-hours of a
    month. `usd` over the horizon and `usd_per_month` are paid beside the house's machines.
    """

    task: str
    model: str
    kind: int | None
    usd: float = 0.0
    usd_per_month: float = 0.0
    peak: float = 0.0
    mean: float = 0.0
    width: float = 0.0
    hours: float = 0.0
    spares: int = 0


class Kind(NamedTuple):
    """A machine type of the house: what one costs over the horizon, recurs per month, takes of each limit. `most`:
    how many there are, None when they are bought.
    """

    usd: float
    usd_per_month: float
    capex_usd: float
    power_kw: float
    rack_units: float
    most: int | None = None


class Limits(NamedTuple):
    """None: no limit."""

    capex_usd: float | None = None
    power_kw: float | None = None
    rack_units: float | None = None
    usd_per_month: float | None = None


class Solution(NamedTuple):
    """The choice of each task by its index, and the machines of each kind."""

    taken: tuple[int, ...]
    machines: tuple[int, ...]


class Quiet(highspy.Highs):  # type: ignore[misc]  # the package has no types
    """A solver that prints nothing, not even its name: standard output belongs to the plan."""

    def __init__(self) -> None:
        # Without the wrapper's own start, which asks for callbacks and by that prints a banner.
        super(highspy.Highs, self).__init__()
        for name, value in (("output_flag", False), ("threads", 1), ("random_seed", 1), ("mip_rel_gap", 0.0)):
            self.setOptionValue(name, value)


class Program:
    """Collects the rows, asks the solver."""

    def __init__(self, choices: tuple[Choice, ...], kinds: tuple[Kind, ...], follows: Mapping[str, str]) -> None:
        self._choices, self._kinds = choices, kinds
        self._first, self._spare = len(choices), len(choices) + len(kinds)
        self._solver = Quiet()
        self._variables()
        self._tasks(follows)
        for index in range(len(kinds)):
            self._kind(index)

    def solve(self, limits: Limits) -> Solution | None:
        """None when no solution keeps the limits."""
        self._limits(limits)
        self._solver.run()
        status = self._solver.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return None
        if status != highspy.HighsModelStatus.kOptimal:
            raise PlanError("AW-PLAN-09", f"the optimisation ended without an answer: {status.name}")
        found = self._solver.getSolution().col_value
        taken = tuple(index for index in range(self._first) if found[index] > INTEGRAL)
        machines = tuple(round(found[self._first + index]) for index in range(len(self._kinds)))
        return Solution(taken, machines)

    def _variables(self) -> None:
        for choice in self._choices:
            self._column(choice.usd, 1.0)
        for kind in self._kinds:
            self._column(kind.usd, math.inf if kind.most is None else float(kind.most))
        for _ in self._kinds:
            self._column(0.0, math.inf)

    def _column(self, cost: float, upper: float) -> None:
        self._solver.addCol(cost, 0.0, upper, 0, [], [])
        self._solver.changeColIntegrality(self._solver.getNumCol() - 1, highspy.HighsVarType.kInteger)

    def _row(self, terms: Mapping[int, float], upper: float, lower: float = -math.inf) -> None:
        held = {index: value for index, value in terms.items() if value}
        self._solver.addRow(lower, upper, len(held), list(held), list(held.values()))

    def _tasks(self, follows: Mapping[str, str]) -> None:
        for task in dict.fromkeys(choice.task for choice in self._choices):
            self._row({i: 1.0 for i, c in enumerate(self._choices) if c.task == task}, 1.0, 1.0)
            if task in follows:
                self._same_model(task, follows[task])

    def _same_model(self, task: str, followed: str) -> None:
        of_both = [(i, c) for i, c in enumerate(self._choices) if c.task in (task, followed)]
        for model in dict.fromkeys(c.model for _, c in of_both):
            self._row({i: 1.0 if c.task == task else -1.0 for i, c in of_both if c.model == model}, 0.0, 0.0)

    def _kind(self, index: int) -> None:
        mine = [(i, choice) for i, choice in enumerate(self._choices) if choice.kind == index]
        machines, spares = self._first + index, self._spare + index
        room = {machines: -1.0, spares: 1.0}
        self._row({**{i: c.peak for i, c in mine}, **room}, NO_GAP)
        self._row({**{i: c.mean + c.width for i, c in mine}, **room}, NO_GAP)
        month = {machines: -HOURS_PER_MONTH, spares: HOURS_PER_MONTH}
        self._row({**{i: c.hours for i, c in mine}, **month}, NO_GAP)
        for i, choice in mine:
            if choice.spares:
                self._row({i: float(choice.spares), spares: -1.0}, 0.0)

    def _limits(self, limits: Limits) -> None:
        kinds = list(enumerate(self._kinds, self._first))
        for limit, terms in (
            (limits.capex_usd, {i: kind.capex_usd for i, kind in kinds}),
            (limits.power_kw, {i: kind.power_kw for i, kind in kinds}),
            (limits.rack_units, {i: kind.rack_units for i, kind in kinds}),
        ):
            if limit is not None:
                self._row(terms, limit)
        if limits.usd_per_month is not None:
            paid = {i: choice.usd_per_month for i, choice in enumerate(self._choices)}
            self._row({**paid, **{i: kind.usd_per_month for i, kind in kinds}}, limits.usd_per_month)
