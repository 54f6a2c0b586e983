"""This machine as an option: what it can hold, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.contract.plan import MachineFacts, Option, Plan
from archwright.contract.record import replace
from archwright.plan.capacity.served_load import derive_seed
from archwright.simulate.peak_selection import SEEDS

Make = Callable[..., Plan]


def local(plan: Plan) -> Option:
    return next(option for option in plan.options if option.placement == "this-machine")


def missed(plan: Plan) -> dict[str, Any]:
    return {miss.constraint: (miss.value, miss.limit) for miss in local(plan).misses}


def workload(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["workloads"][0]
    return found


def test_electricity_is_the_only_cost(desk: Plan) -> None:
    option = local(desk)
    assert [line.name for line in option.cost_lines] == ["electricity"]
    assert option.cost_per_month is not None
    assert 1 < option.cost_per_month.value < 60


def test_the_price_of_the_site_counts(plan_of: Make, desk: Plan) -> None:
    def site(document: dict[str, Any]) -> None:
        document["placement"]["site"] = {"country": "DE", "electricity_usd_per_kwh": 2.7}

    dear, usual = local(plan_of("desk", site)).cost_per_month, local(desk).cost_per_month
    assert dear is not None and usual is not None
    assert dear.value == pytest.approx(usual.value * 10)


def test_a_budget_below_the_electricity_is_missed(plan_of: Make) -> None:
    assert "per_month" in missed(plan_of("desk", lambda d: d["budget"].update(per_month=1)))


def test_one_machine_cannot_promise_three_nines(plan_of: Make) -> None:
    plan = plan_of("desk", lambda d: workload(d)["slo"].update(availability=0.999))
    assert missed(plan)["assistant.availability"] == (pytest.approx(0.995), 0.999)


def test_no_availability_asked_is_none_missed(plan_of: Make) -> None:
    assert missed(plan_of("desk", lambda d: workload(d)["slo"].pop("availability"))) == {}


def test_limits_out_of_reach_are_missed_and_still_listed(plan_of: Make) -> None:
    plan = plan_of("desk", lambda d: workload(d)["slo"].update(tpot_p95_s=1e-6, latency_p95_s=1e-6))
    assert {"assistant.tpot_p95_s", "assistant.latency_p95_s"} <= set(missed(plan))
    assert local(plan).total_cost is not None


def test_data_that_may_not_be_here(plan_of: Make) -> None:
    plan = plan_of("desk", lambda d: d["data"][0].update(residency=["FR"]))
    assert missed(plan)["residency"] == ("DE", "FR")
    assert local(plan).regions == ()


def test_a_model_is_chosen_among_the_files_there_are(plan_of: Make, desk: Plan) -> None:
    plan = plan_of("desk", lambda d: workload(d).pop("model"))
    assert local(plan).models == local(desk).models


def test_a_model_without_a_file(plan_of: Make) -> None:
    plan = plan_of("desk", lambda d: workload(d).update(model="Phi-4"))
    assert missed(plan)["assistant.model"][0] == "no file to fetch"
    assert local(plan).total_cost is None


def test_a_floor_no_file_reaches(plan_of: Make) -> None:
    def floor(document: dict[str, Any]) -> None:
        workload(document).update(quality={"mmlu_pro": 0.9999})
        workload(document).pop("model")

    assert "assistant.quality" in missed(plan_of("desk", floor))


def test_a_machine_too_small(plan_of: Make, catalog: object) -> None:
    plan = plan_of("desk", None, small(memory=100 << 20, disk=1 << 20))
    found = missed(plan)
    assert {"assistant.memory_bytes", "disk_bytes"} <= set(found)


def small(memory: int, disk: int) -> MachineFacts:
    from_conftest = MACHINES[0]
    return replace(from_conftest, memory_bytes=memory, disk_free_bytes=disk)


MACHINES: list[MachineFacts] = []


@pytest.fixture(autouse=True)
def machine(desk: Plan) -> None:
    assert desk.machine is not None
    MACHINES[:] = [desk.machine]


def two(document: dict[str, Any]) -> None:
    document["workloads"].append({**workload(document), "name": "second"})


def test_two_workloads_share_the_machine(plan_of: Make) -> None:
    plan = plan_of("desk", two)
    assert [pool.name for pool in plan.pools] == ["assistant", "second"]
    assert {p.id for p in plan.predictions if not p.query.phase} == {
        "platform.peak_memory_bytes.max",
        "platform.startup_s.last",
        "platform.disk_bytes.last",
        "platform.access-keys.held",
        "platform.audit.held",
        "platform.tls.held",
        "assistant.requests.share",
        "second.requests.share",
    }
    assert any("share the machine" in note for note in local(plan).notes)


def test_two_engines_may_be_too_much_for_it(plan_of: Make, desk: Plan) -> None:
    need = next(p.estimate.value for p in desk.predictions if p.metric == "peak_memory_bytes")
    plan = plan_of("desk", two, small(memory=round(need * 1.5), disk=50 << 30))
    assert "memory_bytes" in missed(plan)


def test_beside_other_placements_a_missing_probe_is_a_miss(plan_of: Make) -> None:
    def more(document: dict[str, Any]) -> None:
        document["placement"]["allow"] = ["this-machine", "serverless"]

    plan = plan_of("desk", more, None)
    assert missed(plan) == {"machine": ("not probed", None)}
    assert plan.machine is None


def test_the_seed_comes_from_the_workload(plan_of: Make) -> None:
    """Another field of the needs draws no other traffic, so it moves no promise by chance."""
    plan = plan_of("desk")
    own = derive_seed("assistant")
    assert own <= plan.loads[0].seed < own + SEEDS
    other = plan_of("desk", lambda d: d["organisation"].update(name="Other"))
    assert (other.loads, [p.estimate for p in other.predictions]) == (
        plan.loads,
        [p.estimate for p in plan.predictions],
    )


def test_the_machines_draw_its_energy_and_carbon_are_said(desk: Plan) -> None:
    option = desk.options[0]
    assert option.power_kw is not None and option.energy_kwh_per_month is not None
    assert option.energy_kwh_per_month.value == pytest.approx(option.power_kw.value * 730)
    assert option.carbon_kg_per_month is not None and option.carbon_kg_per_month.value > 0
    assert option.energy_kwh_per_month.factor == pytest.approx(2.0)
