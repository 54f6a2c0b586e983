"""The program of the house: the least cost, held to exhaustive search on small cases."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.errors import PlanError
from archwright.plan.optimise import Choice, Kind, Limits, Program

SMALL = Kind("small", usd=10.0, usd_per_month=1.0, capex_usd=8.0, power_kw=1.0, rack_units=2.0)
LARGE = Kind("large", usd=25.0, usd_per_month=2.0, capex_usd=20.0, power_kw=3.0, rack_units=4.0)


def solved(choices: tuple[Choice, ...], kinds: tuple[Kind, ...] = (SMALL, LARGE), limits: Limits = Limits()):  # type: ignore[no-untyped-def]  # noqa: B008
    return Program(choices, kinds, {}).solve(limits)


def test_the_cheapest_machine_that_carries_the_peak() -> None:
    found = solved((Choice("a", "", "small", peak=3.0), Choice("a", "", "large", peak=1.0)))
    assert [one.choice for one in found.taken] == [1] and found.machines == (0, 1)


def test_two_loads_share_a_machine() -> None:
    found = solved((Choice("a", "", "small", peak=0.5), Choice("b", "", "small", peak=0.4)))
    assert found.machines == (1, 0)


def test_spares_are_shared_and_the_most_counts() -> None:
    two = (Choice("a", "", "small", peak=0.5, spares=1), Choice("b", "", "small", peak=0.4, spares=2))
    assert solved(two).machines == (3, 0)


def test_a_spare_of_another_tasks_machines_backs_nothing() -> None:
    found = solved((Choice("a", "", "small", peak=1.0, spares=1), Choice("b", "", "large", peak=1.0, spares=2)))
    assert found.machines == (2, 3)


def test_a_job_runs_beside_the_mean_and_not_through_the_peak() -> None:
    load = Choice("a", "", "small", peak=4.0, mean=1.0)
    assert solved((load, Choice("j", "", "small", width=3.0, hours=10.0))).machines == (4, 0)
    assert solved((load, Choice("j", "", "small", width=4.0, hours=10.0))).machines == (5, 0)


def test_a_months_work_fits_into_a_month() -> None:
    assert solved((Choice("j", "", "small", width=1.0, hours=1500.0),)).machines == (3, 0)


@pytest.mark.parametrize(
    ("limits", "machines"),
    [
        (Limits(), (2, 0)),
        (Limits(capex_usd=15.0), None),
        (Limits(capex_usd=16.0), (2, 0)),
        (Limits(power_kw=1.9), None),
        (Limits(rack_units=3.0), None),
        (Limits(usd_per_month=1.5), None),
    ],
)
def test_limits_hold_or_there_is_no_solution(limits: Limits, machines: tuple[int, int] | None) -> None:
    found = solved((Choice("a", "", "small", peak=2.0),), limits=limits)
    assert (found.machines if found is not None else None) == machines


def test_a_limit_takes_the_dearer_way() -> None:
    ways = (Choice("a", "", "small", peak=2.0), Choice("a", "", None, usd=100.0, usd_per_month=9.0, outside=True))
    found = solved(ways, limits=Limits(power_kw=1.0))
    assert [one.choice for one in found.taken] == [1]
    assert solved(ways, limits=Limits(power_kw=1.0, usd_per_month=5.0)) is None


def test_a_hybrid_has_something_outside_and_something_in_the_house() -> None:
    out = Choice("a", "", None, usd=100.0, outside=True)
    program = Program((Choice("a", "", "small", peak=1.0), out), (SMALL,), {})
    program.be_hybrid()
    assert program.solve(Limits()) is None, "one task cannot be in both places"
    both = Choice("a", "", "small", usd=50.0, peak=0.5, outside=True)
    program = Program((Choice("a", "", "small", peak=1.0), out, both), (SMALL,), {})
    program.be_hybrid()
    found = program.solve(Limits())
    assert found is not None and [one.choice for one in found.taken] == [2]
    cheap = Choice("b", "", None, usd=1.0, outside=True)
    program = Program((out, cheap), (SMALL,), {})
    program.be_hybrid()
    assert program.solve(Limits()) is not None, "nothing can stay, so nothing must"


def test_a_follower_runs_the_model_of_whom_it_follows() -> None:
    ways = (
        Choice("a", "good", "small", peak=1.0),
        Choice("a", "best", "small", peak=2.0),
        Choice("t", "best", "small", width=1.0, hours=5.0),
    )
    found = Program(ways, (SMALL,), {"t": "a"}).solve(Limits())
    assert found is not None and [one.choice for one in found.taken] == [1, 2]
    assert Program(ways[:1] + ways[2:], (SMALL,), {"t": "a"}).solve(Limits()) is None


def test_owned_machines_take_what_they_can_and_bought_ones_the_rest() -> None:
    owned = Kind("old", usd=1.0, usd_per_month=1.0, capex_usd=0.0, power_kw=1.0, rack_units=1.0, most=2)
    ways = (Choice("a", "m", "old", peak=5.0), Choice("a", "m", "small", peak=4.0))
    found = Program(ways, (owned, SMALL), {}).solve(Limits())
    assert found is not None and found.machines == (2, 3)
    assert {one.choice: round(one.share, 6) for one in found.taken} == {0: 0.4, 1: 0.6}


def test_a_load_is_not_shared_among_models_nor_among_types_that_are_bought() -> None:
    owned = Kind("old", usd=1.0, usd_per_month=1.0, capex_usd=0.0, power_kw=1.0, rack_units=1.0, most=2)
    ways = (Choice("a", "m", "old", peak=5.0), Choice("a", "n", "small", peak=4.0), Choice("a", "m", "large", peak=4.0))
    found = Program(ways, (owned, SMALL, LARGE), {}).solve(Limits())
    assert found is not None
    assert [one.choice for one in found.taken] == [1]


def test_more_of_an_owned_type_can_be_bought() -> None:
    owned = Kind("small", usd=1.0, usd_per_month=1.0, capex_usd=0.0, power_kw=1.0, rack_units=1.0, most=2)
    found = Program((Choice("a", "m", "small", peak=5.0),), (owned, SMALL), {}).solve(Limits())
    assert found is not None and found.machines == (2, 3)


def test_a_solver_that_gives_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program((Choice("a", "", "small", peak=1.0),), (SMALL,), {})
    status = program._highs.HighsModelStatus.kTimeLimit
    monkeypatch.setattr(program._solver, "getModelStatus", lambda: status, raising=False)
    assert program.solve(Limits()) is not None, "what it has found by then stands"
    nothing = type("Info", (), {"primal_solution_status": None})
    monkeypatch.setattr(program._solver, "getInfo", lambda: nothing, raising=False)
    with pytest.raises(PlanError) as caught:
        program.solve(Limits())
    assert caught.value.code == "AW-PLAN-09"


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    solved((Choice("a", "", "small", peak=1.0),))
    assert capfd.readouterr().out == ""


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.1, 5.0), st.integers(0, 2)), min_size=1, max_size=3),
    st.one_of(st.none(), st.floats(3.0, 40.0)),
)
def test_no_assignment_costs_less(tasks: list[tuple[float, float, int]], power: float | None) -> None:
    ways = tuple(
        Choice(str(number), "", kind, peak=peak, spares=spares)
        for number, (small, large, spares) in enumerate(tasks)
        for kind, peak in (("small", small), ("large", large))
    )
    least = math.inf
    for pick in itertools.product((0, 1), repeat=len(tasks)):
        counts = []
        for index, kind in enumerate(("small", "large")):
            mine = [tasks[n] for n, chosen in enumerate(pick) if chosen == index]
            peak = sum(task[index] for task in mine)
            counts.append(math.ceil(peak - 1e-9) + max((task[2] for task in mine), default=0) if mine else 0)
            del kind
        drawn = counts[0] * SMALL.power_kw + counts[1] * LARGE.power_kw
        if power is None or drawn <= power:
            least = min(least, counts[0] * SMALL.usd + counts[1] * LARGE.usd)
    found = solved(ways, limits=Limits(power_kw=power))
    assert (found is None) == math.isinf(least)
    if found is not None:
        assert found.machines[0] * SMALL.usd + found.machines[1] * LARGE.usd == pytest.approx(least)
