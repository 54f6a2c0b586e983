"""Staff of an option: the need by role, the part that the team has time for, and hours in place of engineers."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.needs import OwnedMachine
from archwright.contract.plan import StaffNeed
from archwright.contract.record import replace
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.operating_costs import estimate_operating_costs
from archwright.plan.cost.staffing import BATCH_ONLY_FLOOR, FTE_FLOOR_PARTS, compute_serving_staff_usd

from ..fleet_samples import CLOUD, HOSTED, house, own_fleet, rented_fleet
from .test_operating_costs import (
    Case,
    clinic_at_home,
    lines,
    one,
    run,
    startup_by_the_token,
    startup_in_a_cloud,
    with_field,
)

CATALOG = load_catalog()
WHOLE_TEAM = {"machine-learning": 1.0, "data": 1.0, "security": 1.0}


def by_role(case: Case) -> dict[str, StaffNeed]:
    return {need.role: need for need in run(case).staff}


def grown(case: Case, factor: float) -> Case:
    """The same option with more machines."""
    needs, fleets, where = case
    more = (
        fleet._replace(machines=tuple(factor * one for one in fleet.machines), peak=round(factor * fleet.peak))
        for fleet in fleets
    )
    return needs, tuple(more), where


def full(case: Case) -> Case:
    """The same option so large that it needs a full team."""
    return grown(case, 100)


def paid(case: Case) -> float:
    return sum(term.sum for term in lines(run(case), "staff"))


def test_an_option_pays_the_staff_beyond_the_team_and_states_the_time_of_the_team() -> None:
    whole = with_field(full(clinic_at_home()), "organisation", platform_engineers=40, team=WHOLE_TEAM)
    assert paid(whole) == 0 and not any("staff" in note for note in run(whole).notes)
    used = by_role(whole)
    assert all(need.hired == 0 and need.team == pytest.approx(need.needed.value) for need in used.values())
    assert set(used) == {"platform", *WHOLE_TEAM} and used["platform"].needed.value > 1
    short = with_field(whole, "organisation", platform_engineers=0.25)
    (line,) = lines(run(short), "staff")
    salary = CATALOG.parameter("staff.europe").value
    months = short[0].budget.horizon_months
    assert line.sum == pytest.approx((used["platform"].needed.value - 0.25) * salary / 12 * months)
    assert not line.budgeted and not line.once and line.line == "staff beyond the team: platform"
    assert by_role(short)["platform"].team == 0.25
    assert any("team: platform " in note for note in run(short).notes)
    # `team` counts before the older field, and nobody is stated twice.
    both = with_field(short, "organisation", team={**WHOLE_TEAM, "platform": 40.0})
    assert paid(both) == 0


def test_a_role_costs_its_own_wage() -> None:
    nobody = with_field(full(clinic_at_home()), "organisation", platform_engineers=None, team={})
    found, months = by_role(nobody), nobody[0].budget.horizon_months
    rate = CATALOG.parameter("staff.europe").value * CATALOG.parameter("staff.rate.machine-learning").value / 12
    line = one(run(nobody), "staff", "machine-learning")
    assert line.sum == pytest.approx(found["machine-learning"].needed.value * rate * months)
    assert found["security"].needed.value == pytest.approx(3 * 0.05), "one share for each regulation"


def test_five_people_with_one_hosted_chat_and_two_hosts_of_the_gateway_spend_a_day_a_month() -> None:
    case = with_field(startup_by_the_token(), "organisation", employees=5, platform_engineers=None, team={})
    needs = replace(case[0], workloads=case[0].workloads[:1])
    (need,) = by_role((needs, (), (HOSTED,))).values()
    assert need.format_time(need.needed.value) == "8 hours a month" and need.hours == pytest.approx(8)
    assert need.format_time(0.25) == "0.25 FTE"


def test_public_or_tiny_data_need_nobody_and_unstated_roles_may_be_in_the_team() -> None:
    case = full(clinic_at_home())
    needs = case[0]
    some = with_field(case, "organisation", platform_engineers=0.25, team={})
    assert any(note.startswith("hours to find in the team or to buy: ") and "data" in note for note in run(some).notes)
    assert any(note.startswith("needs staff beyond the stated team: platform") for note in run(some).notes)
    for change in ({"sensitivity": "public"}, {"size_gib": 0.5}):
        data = tuple(replace(one, **change) for one in needs.data)
        assert "data" in by_role(case) and "data" not in by_role((replace(needs, data=data), *case[1:]))


def test_a_specialist_model_needs_less_care_than_a_language_model() -> None:
    case = full(with_field(startup_in_a_cloud(), "organisation", employees=9000))
    language, specialist, training = (
        CATALOG.parameter(f"staff.{name}").value for name in ("models", "specialists", "training")
    )
    assert specialist < language / 2
    models = {"support-chat": "Phi-4", "index": "bge-m3"}
    staff = estimate_operating_costs(case[0], CATALOG, PlanProvenance(), *case[1:], models).staff
    (need,) = (one for one in staff if one.role == "machine-learning")
    assert need.needed.value == pytest.approx(language + specialist + training), "a chat, its index, its tuning"


def test_a_small_organisation_needs_hours_and_not_an_engineer() -> None:
    """Twelve people with five rented machines and a chatbot: days of one person in a month, and no hire."""
    small = startup_in_a_cloud()
    (need,) = by_role(small).values()
    assert need.role == "every role" and 10 < need.hours < 40
    assert need.needed.value == pytest.approx(need.hours / CATALOG.parameter("staff.hours").value)
    assert paid(small) == 0
    alone = with_field(small, "organisation", platform_engineers=None, team={})
    year = paid(alone) / alone[0].budget.horizon_months * 12
    assert year == pytest.approx(need.needed.value * CATALOG.parameter("staff.us").value)
    large = with_field(full(alone), "organisation", employees=4000)
    assert set(by_role(large)) >= {"platform", "machine-learning"} and "every role" not in by_role(large)


@pytest.mark.parametrize("employees", [12, 9000])
def test_staff_grows_with_machines_without_a_jump(employees: int) -> None:
    """A second accelerator costs hours, and no tenth of an engineer. Found: 1 L4 without staff, 2 L4 for 85,000 USD."""
    nobody: dict[str, Any] = {"employees": employees, "platform_engineers": None, "team": {}}
    small = with_field(startup_in_a_cloud(), "organisation", **nobody)
    fte = [sum(need.needed.value for need in by_role(grown(small, factor / 2)).values()) for factor in range(1, 120)]
    steps = [after - before for before, after in itertools.pairwise(fte)]
    assert all(0 < step < 0.035 for step in steps), "at most five hours a month for a machine"
    assert fte[-1] > 5 * fte[0]


def test_the_hours_of_no_role_are_done_by_whoever_has_time() -> None:
    """Between a small option and a full team, nobody of the team is counted twice."""
    some: dict[str, Any] = {"employees": 9000, "platform_engineers": None, "team": {"platform": 0.2}}
    found = by_role(grown(with_field(startup_in_a_cloud(), "organisation", **some), 12))
    assert found["platform"].needed.value > 0.2 == pytest.approx(found["platform"].team)
    assert found["every role"].team == 0 < found["every role"].hired
    free = by_role(grown(with_field(startup_in_a_cloud(), "organisation", **{**some, "team": {"data": 9.0}}), 12))
    assert free["every role"].hired == 0 < free["platform"].hired


def test_hosted_models_and_one_small_machine_need_hours_in_any_organisation() -> None:
    hosted = with_field(startup_by_the_token(), "organisation", employees=9000, platform_engineers=None, team={})
    assert list(by_role(hosted)) == ["every role"]
    needs = hosted[0]
    desk = own_fleet(needs, CATALOG, "2x-l4", ("support-chat",), 1, house("US"))
    assert list(by_role((needs, (desk,), (house("US"),)))) == ["every role"]
    rack = own_fleet(needs, CATALOG, "8x-h100", ("support-chat",), 1, house("US"))
    assert {"platform", "every role"} <= set(by_role((needs, (rack,), (house("US"),))))


def test_hosted_models_need_less_staff_than_rented_machines_and_these_less_than_own_machines() -> None:
    for employees in (12, 9000):
        case = with_field(startup_by_the_token(), "organisation", employees=employees, platform_engineers=None, team={})
        needs = case[0]
        own = own_fleet(needs, CATALOG, "2x-l4", ("support-chat",), 2, house("US"))
        rented = rented_fleet(needs, CATALOG, ("support-chat",), count=2)
        costs = [
            paid((needs, fleets, where))
            for fleets, where in (((), (HOSTED,)), ((rented,), (CLOUD,)), ((own,), (house("US"),)))
        ]
        assert costs[0] < costs[1] <= costs[2]


def test_half_of_the_uncertainty_of_staff_is_shared_and_half_belongs_to_the_floors() -> None:
    organisation: dict[str, Any] = {"employees": 9000, "platform_engineers": None, "team": {}}
    needs = with_field(startup_by_the_token(), "organisation", **organisation)[0]
    rented, ledger = rented_fleet(needs, CATALOG, ("support-chat",), count=200), PlanProvenance()
    own = own_fleet(needs, CATALOG, "2x-l4", ("support-chat",), 200, house("US"))
    cloud, home = (
        {name for name in one(run((needs, fleets, where), ledger), "staff", "platform").drivers if "staff.need" in name}
        for fleets, where in (((rented,), (CLOUD,)), ((own,), (house("US"),)))
    )
    assert cloud & home == {"staff.need"} and len(cloud) == len(home) == 2
    floor = CATALOG.parameter("staff.own")
    both = [ledger.driver_estimate(name) for name in cloud]
    assert sum(math.log(each.high) ** 2 for each in both) == pytest.approx(math.log(floor.high / floor.value) ** 2)


def test_a_country_without_a_salary_gets_a_middle_with_a_wide_interval() -> None:
    ledger = PlanProvenance()
    abroad: dict[str, Any] = {"country": "BR", "platform_engineers": None, "team": {}}
    found = run(with_field(startup_by_the_token(), "organisation", **abroad), ledger)
    (rate,) = (driver for driver in one(found, "staff").drivers if driver.startswith("staff.br"))
    low, high = CATALOG.parameter("staff.europe"), CATALOG.parameter("staff.us")
    band = ledger.driver_estimate(rate)
    assert low.value < band.value < high.value and band.low < low.low and band.high == high.high


def test_staff_for_rented_machines_beside_own_ones_is_free_while_the_team_has_time() -> None:
    racks = with_field(clinic_at_home(), "placement", owned=(OwnedMachine(machine="8x H100 SXM", count=4),))
    nobody, team = (with_field(racks, "organisation", platform_engineers=count, team={})[0] for count in (None, 4))
    assert compute_serving_staff_usd(nobody, CATALOG) > 0 == compute_serving_staff_usd(team, CATALOG)
    none = with_field(clinic_at_home(), "organisation", platform_engineers=None, team={})[0]
    assert compute_serving_staff_usd(none, CATALOG) == 0, "the hours of one place cover a few machines"


def test_staff_for_rented_machines_is_counted_beyond_that_of_rented_jobs() -> None:
    """If jobs alone took as much staff, serving machines would add none."""
    racks = with_field(clinic_at_home(), "placement", owned=(OwnedMachine(machine="8x H100 SXM", count=4),))
    needs = with_field(racks, "organisation", platform_engineers=None, team={})[0]
    facts = copy.copy(CATALOG)
    facts.parts = {**CATALOG.parts, BATCH_ONLY_FLOOR: CATALOG.parts[FTE_FLOOR_PARTS["cloud"]]}
    assert compute_serving_staff_usd(needs, CATALOG) > 0 == compute_serving_staff_usd(needs, facts)
