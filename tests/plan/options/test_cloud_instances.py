"""Rented machines: limits of jobs, networks, places near the users, notes on failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Workload
from archwright.contract.plan import Plan
from archwright.plan.capacity.machine_count import count_job_machines
from archwright.plan.demand.forecast import BatchJob
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.training.cluster_training import size_pretraining

from ..conftest import GONE, edit

Make = Callable[..., Plan]
PINS, USERS = "placement.accelerators", "workloads.0.traffic.regions"


def from_scratch(document: dict[str, Any]) -> None:
    """70 billion parameters on 15 trillion tokens, in 90 days, at one cloud."""
    large = {"name": "a", "kind": "pretrain", "parameters": 70e9, "tokens": 15e12, "deadline_h": 2160}
    document["workloads"], document["data"] = [large], []
    document["placement"] = {"allow": ["cloud"], "clouds": ["gcp"], "accelerators": ["H100"]}
    document["budget"] = {"currency": "EUR", "per_month": 5e7, "horizon_months": 36}


def test_an_unknown_network_is_missed_instead_of_the_deadline(catalog: Catalog) -> None:
    silent = Machine("m-8", catalog.accelerators["H100-SXM-80GB"], 8, 200, 2e12)
    job = BatchJob(Workload(name="big", kind="pretrain"), 15e12, 1.0, 2160, (1.0,))
    found = {
        network: size_pretraining(silent._replace(network_bytes_per_s=network), 70e9, 15e12, "big", catalog)
        for network in (None, 25e9 / 8, 3200e9 / 8)
    }
    misses = {network: count_job_machines(batch, job)[1] for network, batch in found.items() if batch is not None}
    assert [(m.constraint, m.value, m.limit) for m in misses[None]] == [("big.network", "unknown", "that of m-8")]
    assert [m.constraint for m in misses[25e9 / 8]] == ["big.deadline_h"], "a slow one that is stated is a deadline"
    assert misses[3200e9 / 8] == ()


def test_vendors_state_the_network_of_machines_where_price_lists_are_silent(catalog: Catalog) -> None:
    known = {offer.instance_type: offer for offer in catalog.offers if offer.provider == "gcp" and offer.accelerator}
    # The build of a TPU machine is no machine of that vendor's network page.
    silent = {name for name, offer in known.items() if not offer.network_bytes_per_s}
    assert all(name.startswith("ct") for name in silent), silent
    assert known["a3-megagpu-8g"].network_bytes_per_s == 1800e9 / 8
    assert "gpu-network-bandwidth" in known["a3-megagpu-8g"].network_note


def test_large_training_needs_a_fast_network_and_the_smallest_miss_is_shown(plan_of: Make) -> None:
    assert plan_of("startup", from_scratch).chosen == "cloud-gcp"
    free, slow = (
        plan_of("startup", edit({"workloads.0.deadline_h": 100, PINS: pins}, from_scratch)).options[0].misses
        for pins in (GONE, ["A100-80GB-SXM"])
    )
    assert [miss.constraint for miss in (*free, *slow)] == ["a.deadline_h"] * 2
    assert isinstance(free[0].value, float) and isinstance(slow[0].value, float) and free[0].value < slow[0].value


# Chat of a German company, at any cloud, with data anywhere.
chat_alone = edit(
    {
        "organisation.country": "DE",
        "workloads.2": GONE,
        "workloads.1": GONE,
        "data.*.residency": ["any"],
        "placement": {"allow": ["cloud"]},
        "budget": {"currency": "EUR", "per_month": 1e5, "horizon_months": 24},
    }
)


def countries(plan: Plan, catalog: Catalog) -> set[str]:
    own = [option for option in plan.options if option.name.startswith("cloud-")]
    return {catalog.regions[option.provider, region].country for option in own for region in option.regions}


def test_machines_stand_where_the_users_are_and_what_that_costs_is_reported(plan_of: Make, catalog: Catalog) -> None:
    home = plan_of("startup", chat_alone)
    both = plan_of("startup", edit({USERS: {"APAC": 0.5, "EEA": 0.5}}, chat_alone))
    assert all(catalog.is_inside(country, "EEA") for country in countries(home, catalog))
    assert all(catalog.is_inside(c, "EEA") or catalog.is_inside(c, "APAC") for c in countries(both, catalog))
    notes = [note for option in home.options for note in option.notes if note.startswith("far from the users")]
    assert notes and all("EUR less" in note for note in notes)


@pytest.mark.nightly
def test_remote_machines_are_used_if_none_is_near_and_the_round_trip_counts(plan_of: Make, catalog: Catalog) -> None:
    """The violation shows the limit as it was stated."""
    plan, far = plan_of("startup", edit({USERS: {"KE": 1.0}}, chat_alone)), catalog.parameter("roundtrip.far").value
    assert plan.chosen is not None and "KE" not in countries(plan, catalog)
    plan = plan_of("startup", edit({USERS: {"KE": 1.0}, "workloads.0.slo": {"ttft_p95_s": far * 0.9}}, chat_alone))
    misses = [m for option in plan.options for m in option.misses if m.constraint == "support-chat.ttft_p95_s"]
    assert plan.chosen is None and misses
    assert all(m.limit == far * 0.9 and isinstance(m.value, float) and m.value > far for m in misses)


def test_data_bound_to_two_places_are_why_an_option_is_spread(plan_of: Make) -> None:
    def apart(document: dict[str, Any]) -> None:
        chat_alone(document)
        document["workloads"].append({**document["workloads"][0], "name": "other", "data": ["handbook"]})

    bound = {"workloads.0.data": ["tickets"], "data.0.residency": ["DE"], "data.1.residency": ["US"]}
    notes = [note for option in plan_of("startup", edit(bound, apart)).options for note in option.notes]
    assert any(note.endswith("no region is inside the residency of all workloads' data") for note in notes)


def test_an_accelerator_that_is_not_sold_there_and_the_best_known_score_are_reported(plan_of: Make) -> None:
    pinned = {"placement": {"allow": ["cloud"], "clouds": ["gcp"], "accelerators": ["MI300X"]}}
    (miss,) = plan_of("startup", edit(pinned, chat_alone)).options[0].misses
    assert (miss.constraint, miss.value, miss.limit) == ("accelerators", "no offer at this provider", "MI300X")
    (miss,) = plan_of("startup", edit({"workloads.0.quality": {"mmlu_pro": 0.99}}, chat_alone)).options[0].misses
    assert isinstance(miss.value, str) and miss.value.startswith("the best low end of mmlu_pro is 0.8")


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        pytest.param("startup", 1, marks=pytest.mark.nightly),
        pytest.param("startup", 20, marks=pytest.mark.nightly),
        pytest.param("clinic", 1, marks=pytest.mark.nightly),
        pytest.param("manufacturer", 1, marks=pytest.mark.nightly),
    ],
)
def test_machines_that_may_be_taken_away_never_make_a_cloud_dearer(plan_of: Make, name: str, factor: float) -> None:
    """More ways to have machines never cost more, a second region's people and traffic counted."""

    def allowed(spot: bool) -> Callable[[dict[str, Any]], None]:
        def change(document: dict[str, Any]) -> None:
            document["placement"] |= {"spot": spot, "allow": ["cloud"], "prefer": "cloud"}
            for workload in document["workloads"]:
                rates = workload.get("traffic", {}).get("requests_per_second", {})
                rates.update({key: value * factor for key, value in rates.items()})

        return change

    def dearness(plan: Plan) -> dict[str, tuple[int, float]]:
        own = [option for option in plan.options if option.name.startswith("cloud-") and option.total_cost is not None]
        limits = ("per_month", "capex")
        found = {o.name: (sum(m.constraint not in limits for m in o.misses), o.total_cost) for o in own}
        return {name: (broken, cost.value) for name, (broken, cost) in found.items() if cost is not None}

    without, spot = (dearness(plan_of(name, allowed(value))) for value in (False, True))
    assert without and all(spot[name] <= (broken, cost * (1 + 1e-9)) for name, (broken, cost) in without.items())
