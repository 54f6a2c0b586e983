"""On-site machines over the years of a plan, shared by workloads, as a mixed integer program (solver: HiGHS).

A choice assigns a task to a machine type. Choices of one task with the same model and the same rented work form a
group; exactly one group of each task is used (z_g). A load uses one machine type (v_c), or it is shared among owned
types and one bought type. The types that share it may change every year (u_cp: type c serves in year p). The shares
are decided for each failure case: y_cps is the share of choice c in year p if the spares of type s are down. The case
without failures uses the shares in which the spares of the bought type are down. N_kp are whole machines of stock k in
year p: bought machines stay, owned machines may be idle. S_tp are the spares of type t. Minimise
    sum usd_g z_g + sum work_cp y_cp + sum usd_kp (N_kp - N_k,p-1)        owned: usd_kp N_kp, for one year's use
subject to, in every year, with y = v if a load is not shared:
    sum of a group's y = z_g in each failure case, y_cps <= u_cp; bought types: u_cp <= v_c, at most one of them
    sum peak_c y_ct + S_t <= N_t                     the busiest hour, with the spares of this type down
    sum peak_c y_cs <= N_t                           the same with the spares of another type down
    sum (mean_c + width_c) y_c likewise              jobs run in parallel with the mean load, not with the peak
    sum night_c y_c + width_j y_j likewise           with `width` of the jobs by day: each job j of the night, alone
    sum night_share_j y_j <= 1                       jobs of one night run one after another
    sum hours_c y_c <= 730 (N_t - S_t)               the work of a month, without the nights, fits into a month
    S_t >= sum spares_c u_c over a task's choices    workloads on a type share its spares; a load that is shared among
                                                     types has in each type the spares for all its machines
    capex, cost per month, and in every year power and rack units, within their limits.
Any machine may fail: a shared load survives if it survives with the spares of the largest type down. Each failure case
has its own row, so a solution for a tighter limit or a larger load is also valid for a looser limit or a smaller load.
The minimum cost therefore never falls when the load grows. The program is solved to a gap of zero. If the node limit is
reached (no example comes near it), the best solution so far is used.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from archwright.errors import PlanError
from archwright.plan.demand.forecast import HOURS_PER_MONTH
from archwright.plan.solver.problem import (
    AssignmentChoice,
    Choices,
    MachineSupply,
    MipSolution,
    SelectedChoice,
    SolverLimits,
    prune_machine_types,
)

ROW_TOLERANCE = 1e-9
MAX_NODES = 20_000
MIN_SHARE = 1e-6
# Failure cases: the spares of the bought type are down (also the case without failures), or those of an owned type
# (its name).
BOUGHT_TYPE = "bought"
RowCoefficients = Mapping[int, float]


class IntegerProgram:
    def __init__(self, choices: Choices, kinds: tuple[MachineSupply, ...], follows: Mapping[str, str]) -> None:
        import highspy  # noqa: PLC0415

        self._choices, self._kinds, self._highs = choices, kinds, highspy
        self._years = range(len(kinds[0].usd) if kinds else 0)
        self._owned = {kind.machine for kind in kinds if kind.most is not None}
        self._solver: Any = _make_quiet_solver(highspy)
        able = {one.machine for one in choices} | self._owned
        # A type that no choice uses has no columns.
        self._stock = [self._add_machine_columns(kind) if kind.machine in able else [] for kind in kinds]
        types = dict.fromkeys(kind.machine for kind in kinds if kind.machine in able)
        self._spares = {(machine, year): self._add_column(0.0) for machine in types for year in self._years}
        self._used: dict[int, int] = {}
        self._share: dict[tuple[int, int, str], int] = {}
        self._parts: dict[tuple[int, int, str], int] = {}
        # Bought types that share a load with owned types: whether they serve, and their least share of the load.
        self._there: dict[tuple[int, int], int] = {}
        self._least_share: dict[tuple[int, int], float] = {}
        # Terms of the rows of spares, by the spares of a type, task, and the type that serves beside it.
        self._backed: dict[tuple[int, str, str], dict[int, float]] = {}
        # Failure cases of each shared choice, and types that several steady loads may share.
        self._downs: dict[int, tuple[str, ...]] = {}
        tasks = Counter(machine for machine, _ in {(one.machine, one.task) for one in choices if one.peak})
        self._crowded = {machine for machine, count in tasks.items() if count > 1}
        groups: dict[tuple[str, str, bool, str], list[int]] = {}
        for index, one in enumerate(choices):
            groups.setdefault((one.task, one.model, one.machine is None, one.outside), []).append(index)
        self._groups = [(self._add_choice_group(mine), mine) for mine in groups.values()]
        for task in dict.fromkeys(choice.task for choice in choices):
            self._add_row({z: 1.0 for z, mine in self._groups if choices[mine[0]].task == task}, 1.0, 1.0)
        for task, followed in follows.items():
            self._add_model_rows(task, followed)
        for machine in types:
            for year in self._years:
                self._add_capacity_rows(machine, year)
            own = (index for index, choice in enumerate(choices) if choice.machine == machine and choice.runs_at_night)
            self._add_row({self._used[index]: choices[index].night_share for index in own}, 1.0)
        for (spares, *_), terms in self._backed.items():
            self._add_row({**terms, spares: -1.0}, 0.0)

    def require_hybrid(self) -> None:
        """Require that some work is rented, at least in part, and that some work stays on site."""
        for outside in (True, False):
            heads = ((z, self._choices[mine[0]]) for z, mine in self._groups)
            some = {z: 1.0 for z, one in heads if (one.outside if outside else one.machine is not None)}
            if some:
                self._add_row(some, math.inf, 1.0)

    def add_one_time_cost(self, usd: float, some: Iterable[int]) -> None:
        """Add a cost that is paid once if any of these choices is used."""
        paid, wanted = self._add_column(usd, 1.0), set(some)
        for z, mine in self._groups:
            if wanted.intersection(mine):
                self._add_row({z: 1.0, paid: -1.0}, 0.0)

    def solve(self, limits: SolverLimits) -> MipSolution | None:
        """Solve within `limits`; None if no solution keeps them. Raises PlanError AW-PLAN-09."""
        self._add_limit_rows(limits)
        if self._share:
            self._reduce_problem()
        self._solver.run()
        status = self._solver.getModelStatus()
        if status == self._highs.HighsModelStatus.kInfeasible:
            return None
        feasible = self._solver.getInfo().primal_solution_status == self._highs.SolutionStatus.kSolutionStatusFeasible
        # The best solution at the node limit is deterministic, and never worse than a heuristic.
        solved = (self._highs.HighsModelStatus.kOptimal, self._highs.HighsModelStatus.kModelEmpty)
        if status not in solved and not feasible:
            message = f"the optimisation ended without a solution: {status.name}"
            raise PlanError("AW-PLAN-09", message, hint="plan fewer workloads at once, or report the needs file")
        found = self._solver.getSolution().col_value
        every = (self._read_choice(index, found) for index in range(len(self._choices)))
        taken = [one for one in every if one is not None]
        # A choice that does its whole task shares no load.
        tasks = Counter(self._choices[one.choice].task for one in taken)
        taken = [one if tasks[self._choices[one.choice].task] > 1 else SelectedChoice(one.choice) for one in taken]
        none = (0,) * len(self._years)
        machines = tuple(tuple(round(found[column]) for column in stock) or none for stock in self._stock)
        return MipSolution(tuple(taken), machines, self._solver.getInfo().objective_function_value)

    def _reduce_problem(self) -> None:
        """Fix choices to 0 if their relaxed cost exceeds a known solution: same minimum, in a tenth of the time."""
        choices = {*self._used.values(), *(z for z, _ in self._groups)}
        least = self._solve_relaxation()
        if least is None:
            return
        first = self._solver.getSolution()
        found, duals = first.col_value, first.col_dual
        unused = [number for number in choices if found[number] < MIN_SHARE]
        self._set_upper_bounds(unused, 0.0)
        self._solver.run()
        known = self._solver.getInfo()
        if known.primal_solution_status != self._highs.SolutionStatus.kSolutionStatusFeasible:
            self._set_upper_bounds(unused, 1.0)
            return
        most, solution = known.objective_function_value * (1 + MIN_SHARE), self._solver.getSolution()
        self._set_upper_bounds(unused, 1.0)
        kept = {number for number in choices if solution.col_value[number] >= MIN_SHARE}
        # By duality, a choice costs at least its reduced cost more. Solve only if that is not enough.
        gone = {number for number in choices if least + duals[number] > most}
        gone |= self._find_dominated(gone) - kept
        self._set_upper_bounds(gone, 0.0)
        types: dict[str, list[int]] = {}
        for index, number in self._used.items():
            types.setdefault(self._choices[index].machine or "", []).append(number)
        for some in (*([z] for z, _ in self._groups), *types.values(), *([number] for number in self._used.values())):
            if gone.issuperset(some) or not kept.isdisjoint(some):
                continue
            self._add_row(dict.fromkeys(some, 1.0), math.inf, 1.0)
            relaxed, last = self._solve_relaxation(), self._solver.getNumRow() - 1
            self._solver.deleteRows(1, [last])
            if relaxed is None or relaxed > most:
                self._set_upper_bounds(some, 0.0)
                gone.update(some)
        self._set_upper_bounds(self._find_dominated(gone) - kept, 0.0)
        self._solver.setSolution(solution)

    def _find_dominated(self, gone: set[int]) -> set[int]:
        """Return the choices of machine types that another type replaces, without the choices that are `gone`."""
        left = {i: one for i, one in enumerate(self._choices) if self._used.get(i) not in gone}
        kept = set(prune_machine_types(tuple(left.values()), self._kinds))
        return {self._used[i] for i, one in left.items() if one not in kept and i in self._used}

    def _solve_relaxation(self) -> float | None:
        """Return the minimum cost with fractional machines; None if there is no solution."""
        # Starts from the previous solution, so presolve would gain nothing.
        self._solver.setOptionValue("solve_relaxation", True)
        self._solver.setOptionValue("presolve", "off")
        self._solver.run()
        self._solver.setOptionValue("presolve", "choose")
        self._solver.setOptionValue("solve_relaxation", False)
        best = self._solver.getModelStatus() == self._highs.HighsModelStatus.kOptimal
        return float(self._solver.getInfo().objective_function_value) if best else None

    def _set_upper_bounds(self, numbers: Iterable[int], upper: float) -> None:
        for number in numbers:
            self._solver.changeColBounds(number, 0.0, upper)

    def _add_column(self, cost: float, upper: float = math.inf, *, whole: bool = False) -> int:
        """Add a variable from 0 to `upper`; return its number."""
        self._solver.addCol(cost, 0.0, upper, 0, [], [])
        number: int = self._solver.getNumCol() - 1
        if whole:
            self._solver.changeColIntegrality(number, self._highs.HighsVarType.kInteger)
        return number

    def _add_row(self, terms: RowCoefficients, upper: float, lower: float = -math.inf) -> None:
        held = {index: value for index, value in terms.items() if value}
        self._solver.addRow(lower, upper, len(held), list(held), list(held.values()))

    def _add_machine_columns(self, kind: MachineSupply) -> list[int]:
        years = zip(kind.yearly_increments(kind.usd), kind.most or (math.inf,) * len(self._years), strict=True)
        found = [self._add_column(usd, count, whole=True) for usd, count in years]
        # Bought machines stay. Owned machines run in the years that need them.
        for before, after in itertools.pairwise(found) if kind.most is None else ():
            self._add_row({before: 1.0, after: -1.0}, 0.0)
        return found

    def _add_choice_group(self, mine: list[int]) -> int:
        """Add the choices of one group; return the number of the variable that says if the group is used."""
        first = self._choices[mine[0]]
        used = self._add_column(first.usd, 1.0, whole=True)
        own = [i for i in mine if self._choices[i].machine in self._owned and self._choices[i].peak]
        if first.machine is None:
            self._used[mine[0]] = used
        elif own:
            self._add_shared_load(used, own, [i for i in mine if i not in own])
        else:
            for i in mine:
                self._used[i] = self._add_column(sum(self._choices[i].work_usd), 1.0, whole=True)
            self._add_row({**{self._used[i]: 1.0 for i in mine}, used: -1.0}, 0.0, 0.0)
        return used

    def _add_shared_load(self, used: int, own: list[int], others: list[int]) -> None:
        """Add a load that owned types (`own`) may share with one bought type (of `others`)."""
        for i in others:
            self._used[i] = self._add_column(0.0, 1.0, whole=True)
        self._add_row({**{self._used[i]: 1.0 for i in others}, used: -1.0}, 0.0)
        downs = (BOUGHT_TYPE, *dict.fromkeys(self._choices[i].machine or "" for i in own))
        self._downs |= dict.fromkeys((*own, *others), downs)
        for year in self._years:
            serves = {i: self._add_column(0.0, 1.0, whole=True) for i in own}
            bought = self._add_column(0.0, 1.0 if others else 0.0, whole=True)
            for one in (*serves.values(), bought):
                self._add_row({one: 1.0, used: -1.0}, 0.0)
            # Integral without a declaration: one of the types is bought, and it serves or not.
            there = {i: self._add_column(0.0, 1.0) for i in others}
            carried = sum(self._largest_owned_share(self._choices[i], year) for i in own)
            for i, one in there.items():
                self._add_row({one: 1.0, self._used[i]: -1.0}, 0.0)
                self._there[i, year], self._least_share[i, year] = one, max(0.0, 1 - carried)
            self._add_row({**dict.fromkeys(there.values(), 1.0), bought: -1.0}, 0.0, 0.0)
            for down in downs:
                self._add_failure_shares(used, {**serves, **there}, year, down)
            self._add_spare_terms(used, serves, there, year)

    def _largest_owned_share(self, choice: AssignmentChoice, year: int) -> float:
        """Return the largest share of a load that the owned machines of a type can serve."""
        owned = sum(kind.most[year] for kind in self._kinds if kind.machine == choice.machine and kind.most)
        return owned / choice.peak[year] if choice.peak[year] > 0 else 1.0

    def _add_failure_shares(self, used: int, serves: Mapping[int, int], year: int, down: str) -> None:
        share = {}
        for i, one in serves.items():
            choice = self._choices[i]
            cost = choice.work_usd[year] if down == BOUGHT_TYPE and choice.work_usd else 0.0
            share[i] = self._share[i, year, down] = self._add_column(cost, 1.0)
            self._add_row({share[i]: 1.0, one: -1.0}, 0.0)
            if choice.machine in self._crowded:
                parts = self._parts[i, year, down] = self._add_column(0.0, whole=True)
                self._add_row({share[i]: choice.peak[year] * choice.parts, parts: -1.0}, 0.0)
        self._add_row({**dict.fromkeys(share.values(), 1.0), used: -1.0}, 0.0, 0.0)

    def _add_spare_terms(self, used: int, serves: dict[int, int], there: dict[int, int], year: int) -> None:
        """Add the spares of a shared load: of one type that serves alone, or for all types that serve."""
        for i, one in (*serves.items(), *there.items()):
            choice = self._choices[i]
            both = float(choice.beside[year])
            self._require_spares(choice, year, "", {one: float(choice.spares[year])})
            for other, also in serves.items():
                if other != i:
                    beside = self._choices[other].machine or ""
                    self._require_spares(choice, year, beside, {one: both, also: both, used: -both})
        backed = {one: float(self._choices[i].beside[year]) for i, one in there.items()}
        most = max(backed.values(), default=0.0)
        for i, one in serves.items():
            self._require_spares(self._choices[i], year, BOUGHT_TYPE, {**backed, one: most, used: -most})

    def _require_spares(self, choice: AssignmentChoice, year: int, beside: str, terms: RowCoefficients) -> None:
        """Require that a type has the spares of a task. The groups of a task exclude each other: one row for all."""
        key = (self._spares[choice.machine or "", year], choice.task, beside)
        self._backed.setdefault(key, {}).update(terms)

    def _add_model_rows(self, task: str, followed: str) -> None:
        heads = [(z, self._choices[mine[0]]) for z, mine in self._groups]
        for model in {choice.model: None for _, choice in heads if choice.task in (task, followed)}:
            signs = {task: 1.0, followed: -1.0}
            mine = {z: signs[c.task] for z, c in heads if c.task in signs and c.model == model}
            self._add_row(mine, 0.0, 0.0)

    def _add_capacity_rows(self, machine: str, year: int) -> None:
        mine = [(i, choice) for i, choice in enumerate(self._choices) if choice.machine == machine]
        had = [stock[year] for kind, stock in zip(self._kinds, self._stock, strict=True) if kind.machine == machine]
        spares, here = self._spares[machine, year], machine if machine in self._owned else BOUGHT_TYPE
        steady = [(i, choice) for i, choice in mine if choice.peak]
        for down in sorted({here}.union(*(self._downs.get(i, ()) for i, _ in steady))):
            room = dict.fromkeys(had, -1.0)
            if down == here:
                room[spares] = 1.0
            peak = dict(self._peak_column(index, year, down) for index, _ in steady)
            self._add_row({**peak, **room}, ROW_TOLERANCE)
            mean = {self._share_column(i, year, down): c.mean[year] + c.width for i, c in mine if c.mean}
            any_hour = {self._used[i]: c.width for i, c in mine if not c.mean and not c.runs_at_night}
            self._add_row({**mean, **any_hour, **room}, ROW_TOLERANCE)
            night = {self._share_column(i, year, down): c.night_machines[year] for i, c in mine if c.mean}
            for index, choice in mine:
                if choice.runs_at_night:
                    self._add_row({**night, **any_hour, **room, self._used[index]: choice.width}, ROW_TOLERANCE)
        month = dict.fromkeys(had, -HOURS_PER_MONTH)
        month[spares] = HOURS_PER_MONTH
        # The runs of all nights fit into a month, since those of one night fit into it.
        timed = [(i, c) for i, c in mine if c.hours and not c.runs_at_night]
        hours = {self._share_column(i, year, BOUGHT_TYPE): c.hours[year] for i, c in timed}
        self._add_row({**hours, **month}, ROW_TOLERANCE)
        needed: dict[str, dict[int, float]] = {}
        for i, choice in mine:
            shared = (i, year, BOUGHT_TYPE) in self._share
            if not shared and choice.spares:
                self._require_spares(choice, year, "", {self._used[i]: float(choice.spares[year])})
            serves = self._there.get((i, year)) if shared else self._used[i]
            if serves is not None:
                needed.setdefault(choice.task, {})[serves] = self._least_machines(i, choice, year)
        for least in needed.values():
            self._add_row({**least, **dict.fromkeys(had, -1.0)}, ROW_TOLERANCE)

    def _least_machines(self, index: int, choice: AssignmentChoice, year: int) -> float:
        """Return the whole machines that a choice needs if its type serves in a year.

        The other rows imply this bound for whole machines only. With it, the relaxed program is close to the whole one.
        """
        if not choice.peak:
            return math.ceil(max(choice.hours[year] / HOURS_PER_MONTH, choice.width) - MIN_SHARE)
        left = choice.peak[year] * self._least_share.get((index, year), 1.0)
        return math.ceil(left - MIN_SHARE) + min(choice.spares[year], choice.beside[year])

    def _share_column(self, index: int, year: int, down: str) -> int:
        found = self._share.get((index, year, down), self._share.get((index, year, BOUGHT_TYPE)))
        return self._used[index] if found is None else found

    def _peak_column(self, index: int, year: int, down: str) -> tuple[int, float]:
        """Return the variable of the busiest hour's use, and the machines that one unit of it needs."""
        choice, when = self._choices[index], down if (index, year, down) in self._share else BOUGHT_TYPE
        parts = self._parts.get((index, year, when))
        if parts is not None:
            return parts, 1 / choice.parts
        return self._share_column(index, year, when), choice.peak[year]

    def _add_limit_rows(self, limits: SolverLimits) -> None:
        stocks = [(columns, kind) for columns, kind in zip(self._stock, self._kinds, strict=True) if columns]

        def over(values: Iterable[tuple[list[int], list[float]]]) -> dict[int, float]:
            return {number: one for columns, found in values for number, one in zip(columns, found, strict=True)}

        if limits.capex_usd is not None:
            spent = over((columns, kind.yearly_increments(kind.capex_usd)) for columns, kind in stocks)
            self._add_row(spent, limits.capex_usd)
        for year in self._years:
            if limits.power_kw is not None:
                self._add_row({columns[year]: kind.power_kw for columns, kind in stocks}, limits.power_kw)
            if limits.rack_units is not None:
                self._add_row({columns[year]: kind.rack_units for columns, kind in stocks}, limits.rack_units)
            if limits.machines is not None:
                self._limit_machines(year, limits.machines)
        if limits.usd_per_month is not None:
            paid = {z: self._choices[mine[0]].usd_per_month for z, mine in self._groups}
            machines = over((columns, kind.yearly_increments(kind.usd_per_month)) for columns, kind in stocks)
            self._add_row({**paid, **machines}, limits.usd_per_month)

    def _limit_machines(self, year: int, most: int) -> None:
        counted = dict[int, float]()
        for stock in self._stock:
            if stock:
                counted[stock[year]] = 1.0
        self._add_row(counted, most)

    def _read_choice(self, index: int, found: list[float]) -> SelectedChoice | None:
        """Read a choice from the solution; None if it is not used."""
        choice, downs = self._choices[index], self._downs.get(index, ())
        if not downs:
            return SelectedChoice(index) if found[self._used[index]] > MIN_SHARE else None
        here = choice.machine if choice.machine in self._owned else BOUGHT_TYPE
        shares = tuple(round(max(0.0, found[self._share[index, year, BOUGHT_TYPE]]), 6) for year in self._years)
        most = [{down: found[self._share[index, year, down]] for down in downs} for year in self._years]
        if max(max(one.values()) for one in most) <= MIN_SHARE:
            return None
        spares = [round(found[self._spares[choice.machine or "", year]]) for year in self._years]
        reserved = tuple(
            max(peak * share + (spare if down == here else 0) for down, share in one.items())
            if max(one.values()) > MIN_SHARE
            else 0.0
            for peak, spare, one in zip(choice.peak, spares, most, strict=True)
        )
        return SelectedChoice(index, shares, reserved)


def _make_quiet_solver(highs: Any) -> Any:
    """Make a solver without any output: standard output belongs to the plan."""

    class Quiet(highs.Highs):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            # Skips the wrapper's own constructor, which registers callbacks and prints a banner.
            super(highs.Highs, self).__init__()

    solver = Quiet()
    whole = (("output_flag", False), ("threads", 1), ("random_seed", 1), ("mip_rel_gap", 0.0))
    # A restart of the root node took three times as long as the search that it saved. Nodes are cheap here: without
    # strong branching and cuts at nodes, the search has more nodes in two thirds of the time.
    # The sub-problems of these heuristics take a fifth of the time and find no better solution than the known one.
    without = ("run_rins", "run_rens", "run_root_reduced_cost")
    search = (("mip_pscost_minreliable", 0), ("mip_allow_cut_separation_at_nodes", False))
    quick = tuple((f"mip_heuristic_{name}", False) for name in without)
    limits = (("mip_allow_restart", False), ("mip_max_nodes", MAX_NODES), *search, *quick)
    for name, value in (*whole, *limits):
        solver.setOptionValue(name, value)
    return solver
