"""The integer program: minimum cost, compared with exhaustive search on small cases."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.errors import PlanError
from archwright.plan.solver.integer_program import IntegerProgram
from archwright.plan.solver.problem import (
    AssignmentChoice,
    MachineSupply,
    SolverLimits,
    keep_cheapest_types,
    prune_dominated,
)

SMALL = MachineSupply("small", usd=(10.0,), usd_per_month=(1.0,), capex_usd=(8.0,), power_kw=1.0, rack_units=2.0)
LARGE = MachineSupply("large", usd=(25.0,), usd_per_month=(2.0,), capex_usd=(20.0,), power_kw=3.0, rack_units=4.0)


def old(count: int, machine: str = "old", usd: float = 1.0) -> MachineSupply:
    """Machines that are owned."""
    return MachineSupply(machine, (usd,), (1.0,), (0.0,), power_kw=1.0, rack_units=1.0, most=(count,))


def runs(
    task: str, model: str, machine: str, *, peak: float, mean: float = 0.0, spares: int = 0, **more: Any
) -> AssignmentChoice:
    """A steady load, the same in one year."""
    made = AssignmentChoice(task, model, machine, peak=(peak,), mean=(mean,), hours=(0.0,), work_usd=(0.0,))
    return made._replace(spares=(spares,), beside=(spares,), **more)


def works(task: str, model: str, machine: str, *, width: float, hours: float) -> AssignmentChoice:
    return AssignmentChoice(task, model, machine, hours=(hours,), width=width, work_usd=(0.0,))


def waits(task: str, machine: str, *, width: float, night: float) -> AssignmentChoice:
    """A job that takes so much of a night."""
    return works(task, "", machine, width=width, hours=10.0)._replace(night_share=night)


def solved(  # type: ignore[no-untyped-def]
    choices: tuple[AssignmentChoice, ...],
    kinds: tuple[MachineSupply, ...] = (SMALL, LARGE),
    limits: SolverLimits = SolverLimits(),  # noqa: B008
    *,
    hybrid: bool = False,
    **follows: str,
):
    """`follows`: the task whose model a task uses."""
    program = IntegerProgram(choices, kinds, follows)
    if hybrid:
        program.require_hybrid()
    return program.solve(limits)


def taken(found: Any) -> list[int]:
    return [one.choice for one in found.taken]


LOAD = runs("a", "", "small", peak=4.0, mean=1.0)


@pytest.mark.parametrize(
    ("choices", "small", "large"),
    [
        # The cheapest machine carries the peak.
        ((runs("a", "", "small", peak=3.0), runs("a", "", "large", peak=1.0)), 0, 1),
        # Two loads share a machine, and the largest spares of a type count once.
        ((runs("a", "", "small", peak=0.5), runs("b", "", "small", peak=0.4)), 1, 0),
        ((runs("a", "", "small", peak=0.5, spares=1), runs("b", "", "small", peak=0.4, spares=2)), 3, 0),
        # Spares of another type back nothing.
        ((runs("a", "", "small", peak=1.0, spares=1), runs("b", "", "large", peak=1.0, spares=2)), 2, 3),
        # A job runs in parallel with the mean, not with the peak.
        ((LOAD, works("j", "", "small", width=3.0, hours=10.0)), 4, 0),
        ((LOAD, works("j", "", "small", width=4.0, hours=10.0)), 5, 0),
        # The work of a month fits into a month.
        ((works("j", "", "small", width=1.0, hours=1500.0),), 3, 0),
        # A job of the night uses what the load gives up then, and not what it keeps.
        ((runs("a", "", "small", peak=1.0, mean=1.0, night=(0.0,)), waits("j", "small", width=1.0, night=0.5)), 1, 0),
        ((runs("a", "", "small", peak=1.0, mean=1.0, night=(0.5,)), waits("j", "small", width=1.0, night=0.5)), 2, 0),
        ((runs("a", "", "small", peak=1.0, mean=1.0), waits("j", "small", width=1.0, night=0.5)), 2, 0),
        # Beside a job that runs at any hour, and beside the spares.
        ((works("i", "", "small", width=0.5, hours=1.0), waits("j", "small", width=1.0, night=0.5)), 2, 0),
        (
            (
                runs("a", "", "small", peak=1.0, mean=1.0, spares=1, night=(0.0,)),
                waits("j", "small", width=2.0, night=0.5),
            ),
            3,
            0,
        ),
        # Two jobs of a night run one after another.
        ((waits("i", "small", width=1.0, night=0.5), waits("j", "small", width=1.0, night=0.5)), 1, 0),
    ],
)
def test_machines_of_loads_spares_and_jobs(choices: tuple[AssignmentChoice, ...], small: int, large: int) -> None:
    assert solved(choices).machines == ((small,), (large,))


def test_jobs_that_take_more_than_a_night_do_not_share_it() -> None:
    both = (waits("i", "small", width=1.0, night=0.6), waits("j", "small", width=1.0, night=0.6))
    assert solved(both) is None
    assert taken(solved((*both, works("j", "", "small", width=1.0, hours=1.0)))) == [0, 2]


def test_a_choice_of_the_night_and_one_of_the_day_stay_apart() -> None:
    day, night = works("j", "", "small", width=1.0, hours=10.0), waits("j", "small", width=1.0, night=0.5)
    load = runs("a", "", "small", peak=1.0, mean=1.0, night=(0.0,))
    assert prune_dominated((load, day, night), (SMALL,), {}) == (load, day, night)
    assert keep_cheapest_types((load, day, night), (SMALL, LARGE)) == (load, day, night)
    assert taken(solved((load, day, night))) == [0, 2]


def test_a_type_that_is_the_cheapest_at_night_alone_stays() -> None:
    """By day, the load and the job need two small machines, and one large machine costs less than these."""
    large = LARGE._replace(usd=(15.0,))
    ways = (
        runs("a", "", "small", peak=1.0, mean=1.0, night=(0.0,)),
        runs("a", "", "large", peak=0.5, mean=0.5, night=(0.0,)),
        works("j", "", "small", width=1.0, hours=10.0),
        works("j", "", "large", width=0.5, hours=10.0),
        waits("j", "small", width=1.0, night=0.5),
        waits("j", "large", width=0.5, night=0.5),
    )
    kept = keep_cheapest_types(ways, (SMALL, large))
    assert solved(kept, (SMALL, large)).machines == ((1,), (0,))


@pytest.mark.parametrize(
    ("limits", "machines"),
    [
        (SolverLimits(), ((2,), (0,))),
        (SolverLimits(capex_usd=15.0), None),
        (SolverLimits(capex_usd=16.0), ((2,), (0,))),
        (SolverLimits(power_kw=1.9), None),
        (SolverLimits(rack_units=3.0), None),
        (SolverLimits(usd_per_month=1.5), None),
        (SolverLimits(machines=1), None),
        (SolverLimits(machines=2), ((2,), (0,))),
    ],
)
def test_limits_hold_or_there_is_no_solution(limits: SolverLimits, machines: Any) -> None:
    found = solved((runs("a", "", "small", peak=2.0),), limits=limits)
    assert (found.machines if found is not None else None) == machines


def test_a_limit_selects_the_more_expensive_choice() -> None:
    rented = AssignmentChoice("a", "", None, usd=100.0, usd_per_month=9.0, outside="o")
    ways = (runs("a", "", "small", peak=2.0), rented)
    assert taken(solved(ways, limits=SolverLimits(power_kw=1.0))) == [1]
    assert solved(ways, limits=SolverLimits(power_kw=1.0, usd_per_month=5.0)) is None


def test_a_hybrid_option_has_rented_and_on_site_work() -> None:
    inside, out = runs("a", "", "small", peak=1.0), AssignmentChoice("a", "", None, usd=100.0, outside="o")
    assert solved((inside, out), hybrid=True) is None, "one task cannot be in both places"
    both = runs("a", "", "small", peak=0.5, usd=50.0, outside="o")
    assert taken(solved((inside, out, both), hybrid=True)) == [2]
    cheap = AssignmentChoice("b", "", None, usd=1.0, outside="o")
    assert solved((out, cheap), hybrid=True) is not None, "nothing can stay, so nothing must"


def test_a_follower_uses_the_model_of_its_leader() -> None:
    ways = (
        runs("a", "good", "small", peak=1.0),
        runs("a", "best", "small", peak=2.0),
        works("t", "best", "small", width=1.0, hours=5.0),
    )
    assert taken(solved(ways, t="a")) == [1, 2]
    assert solved(ways[:1] + ways[2:], t="a") is None


def test_owned_machines_take_what_they_can_and_bought_ones_the_rest() -> None:
    ways = (runs("a", "m", "old", peak=5.0), runs("a", "m", "small", peak=4.0))
    found = solved(ways, (old(2), SMALL))
    assert found.machines == ((2,), (3,))
    shares = {one.choice: one.shares[0] for one in found.taken}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares[0] * 5 <= 2 + 1e-6 and shares[1] * 4 <= 3 + 1e-6
    more = solved((runs("a", "m", "small", peak=5.0),), (old(2, "small"), SMALL))
    assert more.machines == ((2,), (3,)), "more of an owned type can be bought"


def test_a_load_is_not_shared_among_models_nor_among_types_that_are_bought() -> None:
    ways = (runs("a", "m", "old", peak=5.0), runs("a", "n", "small", peak=4.0), runs("a", "m", "large", peak=4.0))
    assert taken(solved(ways, (old(2), SMALL, LARGE))) == [1]


def test_a_solver_that_gives_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    program = IntegerProgram((runs("a", "", "small", peak=1.0),), (SMALL,), {})
    status = program._highs.HighsModelStatus.kTimeLimit
    monkeypatch.setattr(program._solver, "getModelStatus", lambda: status, raising=False)
    assert program.solve(SolverLimits()) is not None, "what it has found by then stands"
    nothing = type("Info", (), {"primal_solution_status": None})
    monkeypatch.setattr(program._solver, "getInfo", lambda: nothing, raising=False)
    with pytest.raises(PlanError) as caught:
        program.solve(SolverLimits())
    assert caught.value.code == "AW-PLAN-09"


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    solved((runs("a", "", "small", peak=1.0),))
    assert capfd.readouterr().out == ""


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.1, 5.0), st.integers(0, 2)), min_size=1, max_size=3),
    st.one_of(st.none(), st.floats(3.0, 40.0)),
)
def test_no_assignment_costs_less(tasks: list[tuple[float, float, int]], power: float | None) -> None:
    ways = tuple(
        runs(str(number), "", kind, peak=peak, spares=spares)
        for number, (small, large, spares) in enumerate(tasks)
        for kind, peak in (("small", small), ("large", large))
    )
    least = math.inf
    for pick in itertools.product((0, 1), repeat=len(tasks)):
        counts = []
        for index in range(2):
            mine = [tasks[n] for n, chosen in enumerate(pick) if chosen == index]
            peak = sum(task[index] for task in mine)
            counts.append(math.ceil(peak - 1e-9) + max((task[2] for task in mine), default=0) if mine else 0)
        if power is None or counts[0] * SMALL.power_kw + counts[1] * LARGE.power_kw <= power:
            least = min(least, counts[0] * SMALL.usd[0] + counts[1] * LARGE.usd[0])
    found = solved(ways, limits=SolverLimits(power_kw=power))
    assert (found is None) == math.isinf(least)
    if found is not None:
        assert found.machines[0][0] * SMALL.usd[0] + found.machines[1][0] * LARGE.usd[0] == pytest.approx(least)


def test_what_is_paid_once_decides_for_all_or_none() -> None:
    """Each of two loads is cheaper outside, and so are both together; one alone is not."""
    ways = tuple(
        one
        for task in ("a", "b")
        for one in (runs(task, "", "small", peak=1.0), AssignmentChoice(task, "", None, usd=6.0, outside="o"))
    )
    for usd, outside in ((7.0, 2), (9.0, 0)):
        program = IntegerProgram(ways, (SMALL,), {})
        program.add_one_time_cost(usd, (1, 3))
        found = program.solve(SolverLimits())
        assert found is not None and sum(bool(ways[one.choice].outside) for one in found.taken) == outside


# --- loads that are shared, over years


class Shared(NamedTuple):
    """A load that grows, on an owned type and one that is bought, as machines of each that carry all of it."""

    old: tuple[float, float]
    new: tuple[float, float]
    spares: int
    most: int
    usd: float

    @property
    def choices(self) -> tuple[AssignmentChoice, ...]:
        spares = (self.spares, self.spares)
        return tuple(
            AssignmentChoice("a", "m", machine, peak=peak, mean=peak, hours=(0.0, 0.0), spares=spares, beside=spares)
            for machine, peak in (("old", self.old), ("new", self.new))
        )

    @property
    def kinds(self) -> tuple[MachineSupply, ...]:
        """The owned machines are gone in the second year."""
        none = (0.0, 0.0)
        return (
            MachineSupply("old", (self.usd, self.usd), none, none, 1.0, 1.0, most=(self.most, 0)),
            MachineSupply("new", (10.0, 6.0), none, none, 1.0, 1.0),
        )

    def solved(self) -> float:
        found = IntegerProgram(self.choices, self.kinds, {}).solve(SolverLimits())
        assert found is not None
        return sum(kind.sum_over_years(kind.usd, count) for kind, count in zip(self.kinds, found.machines, strict=True))

    def stands(self, year: int, old: int, new: int) -> bool:
        """True if the load is carried with the spares of any type down; a type that serves has all spares."""
        carried = [(old, self.old[year]), (new, self.new[year])]
        used = [(count, peak) for count, peak in carried if count]
        if any(count < self.spares for count, _ in used):
            return False
        whole = sum(count / peak for count, peak in used)
        return bool(used) and all(whole - self.spares / peak >= 1 - 1e-9 for _, peak in used)

    def searched(self) -> float:
        """Search the minimum cost over all machine counts; idle owned machines cost nothing."""
        least = math.inf
        most = math.ceil(max(self.new)) + self.spares + 1
        for old, first in itertools.product(range(self.most + 1), range(most + 1)):
            if not any(self.stands(0, old, here) for here in range(first + 1)):
                continue
            for second in range(first, most + 1):
                if any(self.stands(1, 0, here) for here in range(second + 1)):
                    least = min(least, old * self.usd + first * 4.0 + second * 6.0)
        return least


LOADS = st.tuples(st.floats(0.2, 4.0), st.floats(1.0, 1.6)).map(lambda pair: (pair[0], pair[0] * pair[1]))
SHARED = st.builds(Shared, LOADS, LOADS, st.integers(0, 2), st.integers(0, 4), st.floats(0.1, 9.0))


@settings(max_examples=60, deadline=None)
@given(SHARED)
def test_no_way_to_share_costs_less(case: Shared) -> None:
    assert case.solved() == pytest.approx(case.searched())


@settings(max_examples=40, deadline=None)
@given(SHARED, st.floats(1.0, 1.5), st.integers(0, 1), st.integers(0, 2))
def test_more_load_or_spares_or_fewer_owned_machines_never_cost_less(
    case: Shared, factor: float, spares: int, fewer: int
) -> None:
    more = case._replace(
        old=(case.old[0] * factor, case.old[1] * factor),
        new=(case.new[0] * factor, case.new[1] * factor),
        spares=case.spares + spares,
        most=max(0, case.most - fewer),
    )
    assert more.solved() >= case.solved() * (1 - 1e-9)


def test_where_what_fractions_use_does_not_fit_whole_something_else_does() -> None:
    """Two and a half owned machines would fit, three do not."""
    ways = (runs("a", "m", "old", peak=2.5), runs("a", "m", "small", peak=1.0))
    assert solved(ways, (old(3), SMALL), SolverLimits(rack_units=2.5)).machines == ((0,), (1,))


def test_two_loads_that_share_a_machine_take_whole_parts_of_it() -> None:
    """A third of eight engines is three of them, so a machine has no room for five others and what is left."""
    ways = (
        runs("a", "m", "old", peak=4.0, parts=8),
        runs("a", "m", "small", peak=4.0, parts=8),
        runs("b", "", "old", peak=0.625, parts=8),
    )
    for third in (ways[2], ways[2]._replace(peak=(0.7,))):
        assert solved((*ways[:2], third), (old(2), SMALL)).machines == ((2,), (3,))


def test_what_another_beats_is_left_out_and_the_least_stays() -> None:
    dear = MachineSupply("dear", (11.0,), (1.0,), (8.0,), power_kw=1.0, rack_units=2.0)
    ways = (
        runs("a", "m", "small", peak=2.0),
        runs("a", "n", "small", peak=3.0),
        runs("a", "m", "dear", peak=2.0),
        runs("b", "", "large", peak=0.5),
        runs("b", "", "dear", peak=0.5),
        runs("b", "", "small", peak=0.5),
    )
    kinds = (SMALL, LARGE, dear)
    kept = prune_dominated(ways, kinds, {})
    assert kept == (ways[0], ways[5]), "without the dear types, and the model that takes more"
    assert solved(kept, kinds).machines == solved(ways, kinds).machines
    followed = (*ways[:2], works("t", "n", "small", width=1.0, hours=1.0))
    assert prune_dominated(followed, kinds, {"t": "a"}) == followed, "what follows takes the other model alone"


def test_an_owned_type_is_never_left_out() -> None:
    ways = (runs("a", "m", "old", peak=3.0), runs("a", "m", "small", peak=2.0))
    assert prune_dominated(ways, (old(1, usd=50.0), SMALL), {}) == ways
