"""This machine as an option: what it can hold, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.plan import MachineFacts, Option, Plan
from archwright.contract.record import replace
from archwright.plan.capacity.served_load import derive_seed
from archwright.simulate.peak_selection import SEEDS

from ..conftest import GONE, edit

Make = Callable[..., Plan]


def local(plan: Plan) -> Option:
    return next(option for option in plan.options if option.placement == "this-machine")


def missed(plan: Plan) -> dict[str, Any]:
    return {miss.constraint: (miss.value, miss.limit) for miss in local(plan).misses}


def test_electricity_is_the_only_cost(desk: Plan) -> None:
    option = local(desk)
    assert [line.name for line in option.cost_lines] == ["electricity"]
    assert option.cost_per_month is not None
    assert 1 < option.cost_per_month.value < 60


def test_the_price_of_the_site_counts(plan_of: Make, desk: Plan) -> None:
    site = {"country": "DE", "electricity_usd_per_kwh": 10 * load_catalog().electricity_usd_per_kwh("DE").value}
    dear = local(plan_of("desk", edit({"placement.site": site}))).cost_per_month
    usual = local(desk).cost_per_month
    assert dear is not None and usual is not None
    assert dear.value == pytest.approx(usual.value * 10)


@pytest.mark.parametrize(
    ("changes", "constraint", "found"),
    [
        ({"budget.per_month": 1}, "per_month", None),
        ({"workloads.0.slo.availability": 0.999}, "assistant.availability", (pytest.approx(0.995), 0.999)),
        ({"workloads.0.slo.tpot_p95_s": 1e-6}, "assistant.tpot_p95_s", None),
        ({"workloads.0.slo.latency_p95_s": 1e-6}, "assistant.latency_p95_s", None),
        ({"data.0.residency": ["FR"]}, "residency", ("DE", "FR")),
        ({"workloads.0.model": "DeepSeek-V4-Pro"}, "assistant.model", ("no file to fetch", ANY)),
        ({"workloads.0.quality": {"mmlu_pro": 0.9999}, "workloads.0.model": GONE}, "assistant.quality", None),
    ],
)
def test_broken_limits_are_missed(plan_of: Make, changes: dict[str, Any], constraint: str, found: Any) -> None:
    plan = plan_of("desk", edit(changes))
    assert missed(plan)[constraint] == (found or (ANY, ANY))
    priced = constraint not in ("assistant.model", "assistant.quality")
    assert (local(plan).total_cost is not None) is priced, "an option without its models has no price"
    assert (local(plan).regions == ()) is (constraint == "residency")


def test_availability_is_optional(plan_of: Make) -> None:
    assert missed(plan_of("desk", edit({"workloads.0.slo.availability": GONE}))) == {}


def small(desk: Plan, memory: int, disk: int) -> MachineFacts:
    assert desk.machine is not None
    return replace(desk.machine, memory_bytes=memory, disk_free_bytes=disk)


def test_a_machine_too_small(plan_of: Make, desk: Plan) -> None:
    plan = plan_of("desk", None, small(desk, memory=100 << 20, disk=50 << 30))
    assert set(missed(plan)) == {"assistant.memory_bytes"} and plan.pools == ()
    assert set(missed(plan_of("desk", None, small(desk, memory=8 << 30, disk=1 << 20)))) == {"disk_bytes"}


def two(document: dict[str, Any]) -> None:
    document["workloads"].append({**document["workloads"][0], "name": "second"})


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
        "platform.residency.held",
        "assistant.requests.share",
        "second.requests.share",
    }
    assert any("share the machine" in note for note in local(plan).notes)


def test_two_engines_may_be_too_much_for_it(plan_of: Make, desk: Plan) -> None:
    need = next(p.estimate.value for p in desk.predictions if p.metric == "peak_memory_bytes")
    assert missed(plan_of("desk", two, small(desk, memory=round(need * 2), disk=50 << 30))) == {}
    few = missed(plan_of("desk", two, small(desk, memory=round(need * 0.9), disk=50 << 30)))
    assert "assistant.memory_bytes" in few or "second.memory_bytes" in few


def test_beside_other_placements_a_missing_probe_is_a_miss(plan_of: Make) -> None:
    plan = plan_of("desk", edit({"placement.allow": ["this-machine", "serverless"]}), None)
    assert missed(plan) == {"machine": ("not probed", None)}
    assert plan.machine is None


def test_the_seed_comes_from_the_workload(plan_of: Make, desk: Plan) -> None:
    """A change of another field does not change the traffic, so no prediction changes by chance."""
    own = derive_seed("assistant")
    assert own <= desk.loads[0].seed < own + SEEDS
    other = plan_of("desk", edit({"organisation.name": "Other"}))
    assert other.loads == desk.loads
    assert [p.estimate for p in other.predictions] == [p.estimate for p in desk.predictions]


def test_the_machines_draw_its_energy_and_carbon_are_reported(desk: Plan) -> None:
    option = desk.options[0]
    assert option.power_kw is not None and option.energy_kwh_per_month is not None
    assert option.energy_kwh_per_month.value == pytest.approx(option.power_kw.value * 730)
    assert option.carbon_kg_per_month is not None and option.carbon_kg_per_month.value > 0
    assert option.energy_kwh_per_month.factor == pytest.approx(2.0)
