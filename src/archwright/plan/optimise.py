"""The machines of a house, shared by its workloads, as a mixed integer program (HiGHS).

Variables: u_c in {0, 1}, choice c is used, and y_c, the share of its task that it does: 1 when used, but less where a
steady load is shared among a type that is owned and one that is bought; N_k whole machines of stock k; S_t spares of
type t. The least of
    sum usd_c u_c + sum usd_k N_k
subject to, for each task: the shares are one, at most one choice used on machines that are not owned, all with one
model; for each follower: the model of what it follows; for each machine type t, whose stocks (owned, and bought beside
them) together are N_t:
    sum peak_c y_c + S_t <= N_t                     the busiest hour
    sum (mean_c + width_c) y_c + S_t <= N_t         jobs run beside the mean load, not through the peak
    sum hours_c y_c <= 730 (N_t - S_t)              a month's work fits into a month
    S_t >= spares_c u_c                             spares are shared: one machine is down, not one of each workload
and over all stocks: capex, power, rack units, and where it is asked for the spend of a month, below their limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from archwright.errors import PlanError
from archwright.plan.demand import HOURS_PER_MONTH

NO_GAP = 1e-9
MOST_NODES = 20_000
LEAST_SHARE = 1e-6


class Choice(NamedTuple):
    """One way to do a task: on machines of the house of one type (`machine`), or rented (None), or both (`outside` in
    either case). `peak`, `mean`: machines its steady load takes then, parts of one too; `width`: machines a job takes
    at once; `hours`: machine-hours of a month. `usd` over the horizon and `usd_per_month` are paid beside the house's
    machines.
    """

    task: str
    model: str
    machine: str | None
    usd: float = 0.0
    usd_per_month: float = 0.0
    peak: float = 0.0
    mean: float = 0.0
    width: float = 0.0
    hours: float = 0.0
    spares: int = 0
    outside: bool = False


class Kind(NamedTuple):
    """Machines of one type had in one way: what one costs over the horizon, recurs per month, takes of each limit.
    `most`: how many there are, None when they are bought.
    """

    machine: str
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


class Taken(NamedTuple):
    """A choice by its index, and the share of its task that it does."""

    choice: int
    share: float


class Solution(NamedTuple):
    """What is used, and the machines of each stock."""

    taken: tuple[Taken, ...]
    machines: tuple[int, ...]


class Program:
    """Collects the rows, asks the solver."""

    def __init__(self, choices: tuple[Choice, ...], kinds: tuple[Kind, ...], follows: Mapping[str, str]) -> None:
        import highspy  # noqa: PLC0415

        self._choices, self._kinds, self._highs = choices, kinds, highspy
        self._machines = tuple(dict.fromkeys(kind.machine for kind in kinds))
        self._owned = {kind.machine for kind in kinds if kind.most is not None}
        self._solver: Any = _quiet(highspy)
        self._used = [self._column(choice.usd, 1.0) for choice in choices]
        self._stock = [self._column(kind.usd, math.inf if kind.most is None else float(kind.most)) for kind in kinds]
        self._spares = {machine: self._column(0.0, math.inf) for machine in self._machines}
        self._share = list(self._used)
        self._models: dict[tuple[str, str], int] = {}
        for task in dict.fromkeys(choice.task for choice in choices):
            self._task(task)
        for task, followed in follows.items():
            self._follow(task, followed)
        for machine in self._machines:
            self._type(machine)

    def be_hybrid(self) -> None:
        """Something goes outside, in part at least, and something stays."""
        for outside in (True, False):
            some = {self._used[i]: 1.0 for i, choice in enumerate(self._choices) if _is(choice, outside=outside)}
            if some:
                self._row(some, math.inf, 1.0)

    def solve(self, limits: Limits) -> Solution | None:
        """None when no solution keeps the limits."""
        self._limits(limits)
        self._solver.run()
        status = self._solver.getModelStatus()
        if status == self._highs.HighsModelStatus.kInfeasible:
            return None
        feasible = self._solver.getInfo().primal_solution_status == self._highs.SolutionStatus.kSolutionStatusFeasible
        # At the limit of nodes the best solution so far stands: deterministic, and never worse than a rule.
        if status != self._highs.HighsModelStatus.kOptimal and not feasible:
            raise PlanError("AW-PLAN-09", f"the optimisation ended without an answer: {status.name}")
        found = self._solver.getSolution().col_value
        shares = [Taken(i, float(found[share])) for i, share in enumerate(self._share)]
        taken = tuple(one for one in shares if one.share > LEAST_SHARE)
        return Solution(taken, tuple(round(found[stock]) for stock in self._stock))

    def _column(self, cost: float, upper: float, *, whole: bool = True) -> int:
        """The number of a new variable, from 0 to `upper`."""
        self._solver.addCol(cost, 0.0, upper, 0, [], [])
        number: int = self._solver.getNumCol() - 1
        if whole:
            self._solver.changeColIntegrality(number, self._highs.HighsVarType.kInteger)
        return number

    def _row(self, terms: Mapping[int, float], upper: float, lower: float = -math.inf) -> None:
        held = {index: value for index, value in terms.items() if value}
        self._solver.addRow(lower, upper, len(held), list(held), list(held.values()))

    def _task(self, task: str) -> None:
        mine = [(i, choice) for i, choice in enumerate(self._choices) if choice.task == task]
        for i, choice in mine:
            if self._owned and choice.peak and not choice.outside:
                self._share[i] = self._column(0.0, 1.0, whole=False)
                self._row({self._share[i]: 1.0, self._used[i]: -1.0}, 0.0)
        self._row({self._share[i]: 1.0 for i, _ in mine}, 1.0, 1.0)
        self._row({self._used[i]: 1.0 for i, choice in mine if choice.machine not in self._owned}, 1.0)
        for i, choice in mine:
            key = (task, choice.model)
            if key not in self._models:
                self._models[key] = self._column(0.0, 1.0)
            self._row({self._used[i]: 1.0, self._models[key]: -1.0}, 0.0)
        self._row({number: 1.0 for (name, _), number in self._models.items() if name == task}, 1.0, 1.0)

    def _follow(self, task: str, followed: str) -> None:
        for model in {name: None for of, name in self._models if of in (task, followed)}:
            pair = (self._models.get((task, model)), self._models.get((followed, model)))
            self._row(
                {number: sign for number, sign in zip(pair, (1.0, -1.0), strict=True) if number is not None}, 0.0, 0.0
            )

    def _type(self, machine: str) -> None:
        mine = [(i, choice) for i, choice in enumerate(self._choices) if choice.machine == machine]
        had = [number for kind, number in zip(self._kinds, self._stock, strict=True) if kind.machine == machine]
        spares = self._spares[machine]
        room = {**dict.fromkeys(had, -1.0), spares: 1.0}
        self._row({**{self._share[i]: c.peak for i, c in mine}, **room}, NO_GAP)
        self._row({**{self._share[i]: c.mean + c.width for i, c in mine}, **room}, NO_GAP)
        month = {**dict.fromkeys(had, -HOURS_PER_MONTH), spares: HOURS_PER_MONTH}
        self._row({**{self._share[i]: c.hours for i, c in mine}, **month}, NO_GAP)
        for i, choice in mine:
            if choice.spares:
                self._row({self._used[i]: float(choice.spares), spares: -1.0}, 0.0)

    def _limits(self, limits: Limits) -> None:
        kinds = list(zip(self._stock, self._kinds, strict=True))
        for limit, terms in (
            (limits.capex_usd, {i: kind.capex_usd for i, kind in kinds}),
            (limits.power_kw, {i: kind.power_kw for i, kind in kinds}),
            (limits.rack_units, {i: kind.rack_units for i, kind in kinds}),
        ):
            if limit is not None:
                self._row(terms, limit)
        if limits.usd_per_month is not None:
            paid = {used: choice.usd_per_month for used, choice in zip(self._used, self._choices, strict=True)}
            self._row({**paid, **{i: kind.usd_per_month for i, kind in kinds}}, limits.usd_per_month)


def _is(choice: Choice, *, outside: bool) -> bool:
    return choice.outside if outside else choice.machine is not None


def _quiet(highs: Any) -> Any:
    """A solver that prints nothing, not even its name: standard output belongs to the plan."""

    class Quiet(highs.Highs):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            # Without the wrapper's own start, which asks for callbacks and by that prints a banner.
            super(highs.Highs, self).__init__()

    solver = Quiet()
    whole = (("output_flag", False), ("threads", 1), ("random_seed", 1), ("mip_rel_gap", 0.0))
    for name, value in (*whole, ("mip_max_nodes", MOST_NODES)):
        solver.setOptionValue(name, value)
    return solver
