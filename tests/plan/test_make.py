"""Whole plans of the four needs, and what must hold for any needs."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archwright.catalog.facts import Catalog
from archwright.contract.metrics import BY_QUANTITY
from archwright.contract.plan import Option, Plan
from archwright.contract.record import replace
from archwright.errors import MissingError
from archwright.plan.file import decode_plan, encode_plan
from archwright.plan.ledger import estimates_in
from archwright.plan.local import BATCH_TOKENS
from archwright.plan.make import why_infeasible

Make = Callable[..., Plan]
NAMES = ("desk", "startup", "clinic", "manufacturer")


def options_of(plan: Plan, placement: str) -> list[Option]:
    return [option for option in plan.options if option.placement == placement]


# --- what holds for every plan


@pytest.mark.parametrize("name", NAMES)
def test_every_estimate_names_a_basis_of_the_plan(plan_of: Make, name: str) -> None:
    plan = plan_of(name)
    named = {estimate.basis for estimate in estimates_in(plan)}
    facts = {fact for basis in plan.bases for fact in basis.facts}
    kept = {basis.id for basis in plan.bases}
    assert named <= kept <= named | facts


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_survives_its_file(plan_of: Make, name: str) -> None:
    plan = plan_of(name)
    read = decode_plan(encode_plan(plan), "plan.json")
    assert (read, read.digest) == (plan, plan.digest)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_needs_give_the_same_plan_fast(plan_of: Make, name: str) -> None:
    began = time.process_time()
    again = plan_of(name, lambda document: None)
    took = time.process_time() - began
    assert again.digest == plan_of(name, lambda document: None).digest
    assert took <= (2.0 if sys.gettrace() is None else 10.0), "a tracer (coverage) slows the simulation several times"


@pytest.mark.parametrize("name", NAMES)
def test_every_workload_is_answered_or_said_to_be_missing(plan_of: Make, name: str) -> None:
    plan = plan_of(name)
    for workload in plan.workloads:
        missing = any(text.startswith(f"workload {workload.name} (") for text in plan.not_sized)
        assert missing != any(workload.name in option.models for option in plan.options)
    for option in plan.options:
        assert option.feasible == (option.misses == ())
        assert (option.total_cost is None) == (option.cost_per_month is None) == (option.capex is None)


# --- the desk


def test_the_desk_runs_on_this_machine(desk: Plan) -> None:
    assert desk.chosen == "this-machine"
    option, pool = desk.options[0], desk.pools[0]
    assert option.regions == ("DE",)
    assert option.capex is not None and option.capex.value == 0
    assert (pool.name, pool.model, pool.replicas) == ("assistant", "SmolLM2-135M-Instruct", 1)
    assert pool.launch.engine == "llamacpp"
    assert pool.launch.settings == {"threads": 1, "batch_tokens": BATCH_TOKENS}
    assert pool.launch.environment == {"GOMP_SPINCOUNT": "1000"}
    assert pool.launch.health_path == "/health"
    assert pool.artefact is not None and pool.artefact.model == pool.model
    assert pool.default_max_tokens == 128
    assert pool.context_tokens >= 1.5 * (400 + 128)


def test_the_desk_promises_what_the_platform_can_measure(desk: Plan) -> None:
    expected = {
        "assistant.ttft_s.p50": "peak",
        "assistant.ttft_s.p95": "peak",
        "assistant.tpot_s.p50": "peak",
        "assistant.tpot_s.p95": "peak",
        "assistant.tokens_per_s.rate": "closed",
        "assistant.peak_memory_bytes.max": "",
        "assistant.startup_s.last": "",
        "assistant.disk_bytes.last": "",
    }
    assert {p.id: p.query.phase for p in desk.predictions} == expected
    for prediction in desk.predictions:
        assert prediction.metric == prediction.query.metric and prediction.metric in BY_QUANTITY
        assert prediction.query.labels == ({"workload": "assistant"} if prediction.query.phase else {})
        assert prediction.query.promql()
    load = desk.loads[0]
    assert (load.workload, load.requests_per_second, load.peak_s, load.closed_s) == ("assistant", 0.3, 45, 12)
    assert load.concurrency == desk.pools[0].slots


def test_without_a_probe_the_desk_needs_the_local_extra(plan_of: Make) -> None:
    with pytest.raises(MissingError) as caught:
        plan_of("desk", machine=None)
    assert caught.value.code == "AW-GET-01"
    assert "archwright[local]" in caught.value.hint


# --- the startup


def test_the_startup_has_three_priced_clouds_and_a_priced_hosted_api(startup: Plan) -> None:
    clouds = options_of(startup, "cloud")
    assert [option.provider for option in clouds] == ["aws", "azure", "gcp"]
    for option in (*clouds, *options_of(startup, "hosted-api")):
        assert option.total_cost is not None and option.cost_per_month is not None
        assert option.total_cost.unit == "USD"
        assert option.total_cost.value == pytest.approx(24 * option.cost_per_month.value)
        assert option.total_cost.low < option.total_cost.value < option.total_cost.high
    assert all(option.regions for option in clouds)


def test_the_startup_hears_what_is_not_sized(startup: Plan) -> None:
    said = " ".join(startup.not_sized)
    assert "workload tone (finetune)" in said and "workload index (embedding)" in said
    assert "spot" in said and "commitments" in said and "staff" in said
    cloud = options_of(startup, "cloud")[0]
    assert any("not included: tone, index" in note for note in cloud.notes)


def test_the_startup_has_a_spare_machine_for_its_availability(startup: Plan) -> None:
    for option in options_of(startup, "cloud"):
        assert option.pools[0].replicas >= 2
    assert any("spare" in text for text in startup.assumptions)


# --- clinic and manufacturer


def test_the_clinic_prefers_what_is_not_sized_yet(plan_of: Make) -> None:
    plan = plan_of("clinic")
    for placement in ("on-premises", "hybrid"):
        option = options_of(plan, placement)[0]
        assert not option.feasible and option.misses[0].constraint == "not sized yet"
        assert any(text.startswith(f"placement {placement}") for text in plan.not_sized)
    assert any("placement.clouds" in text for text in plan.assumptions)
    assert {miss.constraint for option in options_of(plan, "cloud") for miss in option.misses} <= {"per_month"} | {
        f"letters.{limit}" for limit in ("ttft_p95_s", "tpot_p95_s", "availability")
    }


def test_the_manufacturer_stays_in_the_eea(plan_of: Make, catalog: Catalog) -> None:
    plan = plan_of("manufacturer")
    clouds = options_of(plan, "cloud")
    assert len(clouds) == 3
    for option in clouds:
        for region in option.regions:
            known = catalog.region(option.provider, region)
            assert known is not None and catalog.inside(known.country, "EEA")
    assert any("traffic from EEA, US, APAC" in text for text in plan.not_sized)
    assert any("owned machines" in text for text in plan.not_sized)


# --- placements and limits


def test_a_hosted_api_is_chosen_when_nothing_forbids_it(plan_of: Make) -> None:
    def free(document: dict[str, Any]) -> None:
        document["placement"] = {"allow": ["hosted-api"]}
        document["data"] = [{**data, "residency": ["any"]} for data in document["data"]]

    plan = plan_of("startup", free)
    assert plan.chosen == "hosted-api-deepseek"
    assert (plan.pools, plan.predictions, plan.loads) == ((), (), ())
    assert plan.workloads[0].model == "deepseek-v3.2" and plan.workloads[0].pool is None
    assert any("not promised" in text for text in plan.not_sized)
    assert "engine" not in {line.function for line in plan.stack}


def test_nothing_feasible_is_a_plan_without_a_choice(plan_of: Make, needs_of: Callable[..., Any]) -> None:
    def poor(document: dict[str, Any]) -> None:
        document["budget"]["per_month"] = 1

    plan, (_, source) = plan_of("startup", poor), needs_of("startup", poor)
    assert plan.chosen is None
    assert all(workload.model is None for workload in plan.workloads)
    error = why_infeasible(plan, source)
    assert error.code == "AW-PLAN-03" and error.exit_status != 0
    assert error.where.field == "budget.per_month" and error.where.line is not None


def test_existing_products_stay_and_are_not_ours(plan_of: Make) -> None:
    def kept(document: dict[str, Any]) -> None:
        document["existing"] = [{"kind": "gateway", "product": "Kong", "url": "https://gw.example"}, KEEP]

    KEEP = {"kind": "lake", "product": "Iceberg"}
    stack = {line.function: (line.product, line.existing) for line in plan_of("desk", kept).stack}
    assert stack["gateway"] == ("Kong", True)
    assert stack["lake"] == ("Iceberg", True)
    assert stack["access"] == ("archwright", False)
    assert stack["engine"][1] is False


def test_needs_without_any_sizable_workload(plan_of: Make) -> None:
    def tabular(document: dict[str, Any]) -> None:
        document["workloads"] = [w for w in document["workloads"] if w["name"] == "downtime"]

    plan = plan_of("manufacturer", tabular)
    assert plan.chosen is None
    assert all(option.misses[-1].constraint == "not sized yet" for option in plan.options)
    assert all(option.total_cost is None for option in plan.options)


def test_a_provider_without_an_offer_inside_misses_residency(plan_of: Make) -> None:
    def remote(document: dict[str, Any]) -> None:
        document["placement"].pop("regions")
        document["data"][0]["residency"] = ["BR"]

    for option in options_of(plan_of("startup", remote), "cloud"):
        assert (option.regions, option.feasible, option.total_cost) == ((), False, None)
        assert option.misses[0].constraint == "residency"


def test_pinned_accelerators_are_kept_to(plan_of: Make) -> None:
    def pinned(document: dict[str, Any]) -> None:
        document["placement"]["accelerators"] = ["L4"]

    plan = plan_of("startup", pinned)
    found = {pool.accelerator for option in plan.options for pool in option.pools}
    assert found == {"L4"}
    azure = next(option for option in plan.options if option.name == "cloud-azure")
    assert not azure.feasible and azure.regions == ()
    assert (azure.misses[0].constraint, azure.misses[0].limit) == ("accelerators", "L4")


def test_a_model_no_machine_holds(plan_of: Make) -> None:
    def huge(document: dict[str, Any]) -> None:
        document["workloads"][0].update(model="DeepSeek-V4-Pro", quality={})
        document["placement"]["accelerators"] = ["L4", "T4"]

    option = options_of(plan_of("startup", huge), "cloud")[0]
    assert option.total_cost is None
    assert option.misses[0].limit == "an accelerator that holds it"


def test_a_floor_no_open_model_reaches(plan_of: Make) -> None:
    plan = plan_of("startup", lambda d: d["workloads"][0].update(quality={"mmlu_pro": 0.9999}))
    for option in options_of(plan, "cloud"):
        assert [miss.constraint for miss in option.misses] == ["support-chat.quality"]


def test_without_an_availability_no_spare_is_kept(plan_of: Make, startup: Plan) -> None:
    plan = plan_of("startup", lambda d: d["workloads"][0]["slo"].pop("availability"))
    for without, spared in zip(options_of(plan, "cloud"), options_of(startup, "cloud"), strict=True):
        assert without.total_cost is not None and spared.total_cost is not None
        assert without.total_cost.value < spared.total_cost.value
    assert not any("spare machine" in text for text in plan.assumptions)


def test_defaults_are_said(plan_of: Make) -> None:
    def bare(document: dict[str, Any]) -> None:
        workload = document["workloads"][0]
        del workload["quality"], workload["data"], document["data"], workload["slo"]
        document["workloads"] = [workload]
        document["budget"]["capex"] = 5
        del document["budget"]["per_month"]

    plan = plan_of("startup", bare)
    said = " ".join(plan.assumptions)
    assert "support-chat: no quality floor" in said
    assert "support-chat: data none" in said
    assert "no limit on slo.ttft_p95_s, slo.tpot_p95_s, slo.availability" in said
    assert "budget.per_month: no limit" in said
    assert "budget.capex" not in said
    assert not any(text.startswith("storage") for text in plan.not_sized)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["EEA", "US", "APAC", "DE", "JP", "FR", "BR", "eastus2", "any"]), min_size=1, unique=True)
)
def test_no_option_names_a_region_outside_the_residency(plan_of: Make, catalog: Catalog, places: list[str]) -> None:
    def bound(document: dict[str, Any]) -> None:
        document["placement"] = {"allow": ["cloud", "hosted-api", "this-machine"], "clouds": sorted(CLOUDS)}
        for data in document["data"]:
            data["residency"] = places

    for option in plan_of("startup", bound).options:
        for region in option.regions:
            known = catalog.region(option.provider, region)
            country = known.country if known is not None else region
            inside = [p == region or (p.upper() == p and catalog.inside(country, p)) for p in places if p != "any"]
            assert "any" in places or any(inside)
        if not option.regions and option.placement == "cloud":
            assert "residency" in {miss.constraint for miss in option.misses}


CLOUDS = {"aws", "azure", "gcp", "nebius", "lambda", "runpod"}


@pytest.mark.parametrize("name", ["startup", "clinic"])
def test_more_load_never_costs_less(plan_of: Make, name: str) -> None:
    def costs(factor: float) -> dict[str, float]:
        def scaled(document: dict[str, Any]) -> None:
            rate = document["workloads"][0]["traffic"]["requests_per_second"]
            rate.update(mean=rate["mean"] * factor, peak=rate["peak"] * factor)

        found = plan_of(name, scaled).options
        return {option.name: option.total_cost.value for option in found if option.total_cost is not None}

    steps = [costs(factor) for factor in (0.25, 1.0, 4.0, 16.0)]
    for less, more in itertools.pairwise(steps):
        assert all(more[option] >= less[option] for option in less)


def test_a_plan_record_is_not_changed_by_reading_it(startup: Plan) -> None:
    assert replace(startup).digest == startup.digest
