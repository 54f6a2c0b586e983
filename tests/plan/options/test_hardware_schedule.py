"""Jobs that run at night on the machines that serve by day, if their window and the machines suffice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Option
from archwright.needs.reader import parse_needs
from archwright.plan.planner import make_plan

from ..conftest import MACHINE, NOW, Change, edit

OFFICE = Path(__file__).parents[1] / "sanity" / "needs" / "office.yaml"
PlanOffice = Callable[[Change], Option]


@pytest.fixture(scope="module")
def plan_office(catalog: Catalog) -> PlanOffice:
    """Plan the office of 25 people, with a change."""

    def plan(change: Change) -> Option:
        document: dict[str, Any] = yaml.load(OFFICE.read_text(), yaml.CSafeLoader)
        change(document)
        text = yaml.safe_dump(document).encode()
        needs, source = parse_needs(text, "needs.yaml", catalog)
        (option,) = make_plan(needs, source, catalog, MACHINE, NOW).options
        return option

    return plan


def count_accelerators(option: Option, catalog: Catalog) -> int:
    machines = {one.machine: one.peak for one in option.purchases}
    return sum(count * catalog.nodes[name].accelerator_count for name, count in machines.items())


def test_an_office_with_a_chat_and_a_weekly_index_is_one_machine(plan_office: PlanOffice, catalog: Catalog) -> None:
    option = plan_office(edit({}))
    assert option.feasible and count_accelerators(option, catalog) == 1
    assert {(one.pool, one.peak, one.shared_with) for one in option.purchases} == {
        ("assistant", 1, ("index",)),
        ("index", 1, ("assistant",)),
    }
    (window,) = option.windows
    assert (window.job, window.every, window.pauses) == ("index", "week", ("assistant",))
    assert (window.starts_h, window.ends_h) == (18.0, 7.5)
    assert (window.accelerators, window.time_zone) == (1, "Europe/Berlin")
    assert 0 < window.run_h <= window.lasts_h
    assert window.summary in option.notes


@pytest.mark.parametrize(
    "change",
    [
        # It may not stop, and one machine does not hold both.
        edit({"workloads.0.slo.availability": 0.95}),
        # It never closes.
        edit({"workloads.0.traffic.hours_per_day": 24}),
    ],
    ids=["availability", "hours"],
)
def test_a_job_that_may_not_wait_has_an_accelerator_of_its_own(
    plan_office: PlanOffice, catalog: Catalog, change: Change
) -> None:
    option = plan_office(change)
    assert option.windows == () and count_accelerators(option, catalog) > 1


def test_a_run_ends_before_the_services_open(plan_office: PlanOffice, catalog: Catalog) -> None:
    """A run that takes longer than a night on one accelerator gets more of them."""
    option = plan_office(edit({"workloads.1.traffic.documents": 7.0e6}))
    assert count_accelerators(option, catalog) > 1
    assert all(window.run_h <= window.lasts_h and window.accelerators > 1 for window in option.windows)


@pytest.mark.nightly
def test_two_jobs_share_a_night_one_after_another(plan_office: PlanOffice, catalog: Catalog) -> None:
    tuning = {
        "name": "tune",
        "kind": "finetune",
        "base": "assistant",
        "method": "lora",
        "tokens": 2.0e6,
        "every": "month",
    }
    option = plan_office(lambda document: document["workloads"].append(tuning))
    assert count_accelerators(option, catalog) == 1
    first, second = option.windows
    assert (first.job, second.job) == ("index", "tune")
    assert second.starts_h == pytest.approx(first.ends_h)
    assert first.lasts_h + second.lasts_h == pytest.approx(13.5)
    assert all(one.run_h <= one.lasts_h and one.pauses == ("assistant",) for one in option.windows)
