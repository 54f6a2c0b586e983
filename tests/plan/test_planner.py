"""Whole plans of the four needs, and what must hold for any needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.catalog.catalog import Catalog
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.plan import Option, Plan
from archwright.errors import MissingError
from archwright.plan.accounting.provenance import find_estimates
from archwright.plan.plan_file import decode_plan, encode_plan
from archwright.plan.planner import build_infeasible_error
from archwright.simulate.local_engine import BATCH_SIZES

from ..drawing import draw
from .conftest import GONE, Change, edit, keep_workloads, missed, only, option_of

Make = Callable[..., Plan]
NAMES = ("desk", "startup", "clinic", "manufacturer")


def options_of(plan: Plan, placement: str) -> list[Option]:
    return [option for option in plan.options if option.placement == placement]


# --- what holds for every plan


@pytest.mark.parametrize("name", NAMES)
def test_every_estimate_names_a_basis_of_the_plan(plan_of: Make, name: str) -> None:
    plan = plan_of(name)
    named = {estimate.basis for estimate in find_estimates(plan)}
    facts = {fact for basis in plan.bases for fact in basis.facts}
    kept = {basis.id for basis in plan.bases}
    assert named <= kept <= named | facts


@pytest.mark.parametrize("name", [*NAMES[:2], *(pytest.param(name, marks=pytest.mark.nightly) for name in NAMES[2:])])
def test_the_same_needs_give_the_same_plan_and_it_survives_its_file(plan_of: Make, name: str) -> None:
    """The plan just made, and the one that was made before, by another process perhaps."""
    plan = plan_of(name, anew=True)
    assert plan.digest == plan_of(name).digest
    read = decode_plan(encode_plan(plan), "plan.json")
    assert (read, read.digest) == (plan, plan.digest)


def test_trees_at_sites_run_on_industrial_computers_and_cameras_on_kits_with_a_note(plan_of: Make) -> None:
    """Found: 28 developer kits with an export licence for trees that a processor evaluates in milliseconds."""
    option = plan_of("manufacturer").chosen_option
    assert option is not None
    at_sites = {one.machine for one in option.purchases if one.pool.startswith("downtime")}
    assert at_sites == {"industrial-pc"} and not any("developer kit" in note for note in option.notes)
    load = {"requests_per_second": {"mean": 40, "peak": 60}, "image_pixels": 1e6, "parameters": 2.5e7}
    cameras = edit({"workloads.0.kind": "image-classification", "workloads.0.traffic": load})
    option = plan_of("manufacturer", keep_workloads("downtime", first=cameras)).chosen_option
    assert option is not None
    assert any("is a developer kit" in note for note in option.notes)


def test_models_without_evidence_for_a_floor_are_named_once_and_not_on_the_first_screen(plan_of: Make) -> None:
    plan = plan_of("startup")
    (named,) = (text for text in plan.assumptions if "no score and no estimate" in text)
    assert named.startswith("not chosen, because mmlu_pro") and "Llama-3.2-1B-Instruct" in named
    assert not any("no score" in note for option in plan.options for note in option.notes)


@pytest.mark.parametrize("name", NAMES)
def test_every_workload_has_its_place(plan_of: Make, name: str) -> None:
    plan = plan_of(name)
    chosen = next(option for option in plan.options if option.name == plan.chosen)
    placed = {workload for pool in chosen.pools for workload in pool.workloads}
    placed |= {bought.pool.removesuffix("-refresh") for bought in chosen.purchases}
    assert {workload.name for workload in plan.workloads} <= placed | {"downtime"}
    assert not any(text.startswith("workload ") and "not included" in text for text in plan.not_sized)
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
    assert pool.launch.settings["threads"] == 1 and pool.launch.settings["batch_tokens"] in BATCH_SIZES
    assert pool.launch.environment == {"GOMP_SPINCOUNT": "1000"}
    assert pool.launch.health_path == "/health"
    assert pool.artefact is not None and pool.artefact.model == pool.model
    assert pool.default_max_tokens == pool.context_tokens
    assert pool.context_tokens >= 1.5 * (400 + 128)


def test_the_desk_predicts_what_the_platform_can_measure(desk: Plan) -> None:
    expected = {
        "assistant.ttft_s.p50": "peak",
        "assistant.ttft_s.p95": "peak",
        "assistant.tpot_s.p50": "peak",
        "assistant.tpot_s.p95": "peak",
        "assistant.tokens_per_s.rate": "closed",
        "assistant.peak_memory_bytes.max": "",
        "assistant.startup_s.last": "",
        "assistant.disk_bytes.last": "",
        "assistant.requests.share": "",
        "platform.access-keys.held": "",
        "platform.audit.held": "",
        "platform.tls.held": "",
        "platform.residency.held": "",
    }
    assert {p.id: p.query.phase for p in desk.predictions} == expected
    for prediction in desk.predictions:
        assert prediction.metric == prediction.query.metric and prediction.metric in METRIC_BY_QUANTITY
        named = {"workload": "assistant"} if prediction.query.phase or prediction.metric == "requests" else {}
        asked = {"control": prediction.id.removesuffix(".held")} if prediction.metric == "control_held" else named
        assert prediction.query.labels == asked
        assert prediction.estimate.basis in {basis.id for basis in desk.bases}
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


def test_the_startup_has_three_priced_clouds_their_platforms_and_hosted_apis(startup: Plan) -> None:
    clouds = options_of(startup, "cloud")
    names = [f"{kind}-{provider}" for kind in ("cloud", "managed") for provider in ("aws", "azure", "gcp")]
    assert [option.name for option in clouds] == names
    for option in (*clouds, *options_of(startup, "hosted-api")):
        assert option.total_cost is not None and option.cost_per_month is not None
        assert option.total_cost.unit == "USD"
        assert option.total_cost.low < option.total_cost.value < option.total_cost.high
    assert all(option.regions for option in clouds)


def test_a_managed_platform_costs_what_it_takes_on_top(startup: Plan) -> None:
    managed = {option.provider: option for option in startup.options if option.name.startswith("managed")}
    for provider, share in (("aws", 0.275), ("gcp", 0.16)):
        lines = managed[provider].cost_lines
        machines = sum(line.amount.value for line in lines if line.category == "compute")
        taken = sum(line.amount.value for line in lines if line.category == "platform" and " on " in line.name)
        assert taken == pytest.approx(share * machines)
        assert {bought.kind for bought in managed[provider].purchases} <= {"on-demand", "spot"}
    platform = [line.name for line in managed["azure"].cost_lines if line.category == "platform"]
    assert platform[0].startswith("host of gateway")
    assert not [name for name in platform if " on " in name]


def test_a_fine_tune_trains_the_model_that_its_workload_runs(startup: Plan) -> None:
    for option in options_of(startup, "cloud"):
        assert option.models["tone"] == option.models["support-chat"]
        assert {pool.name for pool in option.pools} == {"support-chat"}
        assert {bought.pool for bought in option.purchases} == {"support-chat", "tone", "index"}
    for option in options_of(startup, "hosted-api"):
        assert "tone.base" in {miss.constraint for miss in option.misses}
        assert any("the price does not include: tone" in note for note in option.notes)


def test_a_spare_machine_for_its_availability(startup: Plan) -> None:
    clouds = options_of(startup, "cloud")
    assert all(option.pools[0].replicas >= 2 for option in clouds)
    assert any("spare" in text for text in startup.assumptions)


# --- clinic and manufacturer


def test_the_clinic_stays_on_premises(plan_of: Make) -> None:
    plan = plan_of("clinic")
    assert plan.chosen == "on-premises"
    option = options_of(plan, "on-premises")[0]
    assert option.regions == ("DE",) and option.capex is not None and option.power_kw is not None
    assert 0 < option.capex.value <= 900000 and 0 < option.power_kw.value <= 40
    assert option.rack_units is not None and 0 < option.rack_units <= 42
    assert any("placement.clouds" in text for text in plan.assumptions)


@pytest.mark.parametrize(("residency", "inside"), [("DE", {"DE"}), ("EEA", None)])
def test_health_data_may_burst_inside_its_residency_and_nowhere_else(
    plan_of: Make, catalog: Catalog, residency: str, inside: set[str] | None
) -> None:
    """The sensitivity bars no place; the residency of the data does."""
    (option,) = plan_of("clinic", edit({"data.*.residency": [residency]}, only("hybrid"))).options
    assert option.feasible, option.misses
    rented = {pool.region for pool in option.pools if pool.placement == "cloud"}
    countries = {known.country for name in rented if (known := catalog.region("aws", name)) is not None}
    assert rented and len(countries) >= 1
    assert countries <= inside if inside else all(catalog.is_inside(country, "EEA") for country in countries)


def test_a_hybrid_without_a_region_inside_the_residency_is_refused(plan_of: Make) -> None:
    change = {"data.*.residency": ["LU"], "placement.site.country": "LU", "placement.clouds": ["aws"]}
    option = option_of(plan_of("clinic", edit(change)), "hybrid")
    assert missed(option) == {"hybrid"} and option.total_cost is None


def test_the_manufacturer_stays_in_the_eea(plan_of: Make, catalog: Catalog) -> None:
    plan = plan_of("manufacturer")
    for option in (*options_of(plan, "cloud"), *options_of(plan, "hybrid")):
        assert option.regions
        for region in option.regions:
            known = catalog.region(option.provider, region)
            assert catalog.is_inside(known.country if known is not None else region, "EEA")
    assert any("one region serves all" in text and "US 30 %" in text for text in plan.not_sized)


def test_plants_have_machines_of_their_own(plan_of: Make) -> None:
    plan = plan_of("manufacturer")
    for option in plan.options:
        pools = {pool.name: pool for pool in option.pools if pool.workloads == ("downtime",)}
        assert {pool.region for pool in pools.values()} == {"FR plants", "US plants", "CN plants"}
        bought = {b.pool: b.peak for b in option.purchases if b.pool.startswith("downtime")}
        assert sorted(bought.values()) == [8, 10, 10], "14 plants with two machines each, one of them a spare"


def test_a_hybrid_rents_some_work_and_keeps_some(plan_of: Make) -> None:
    for option in options_of(plan_of("manufacturer"), "hybrid"):
        assert {b.kind for b in option.purchases if not b.pool.startswith("downtime")} > {"bought"}
        assert len(option.regions) >= 2


# The tests of owned machines look at the option on-premises only.
stay_at_home = edit({"placement.allow": ["on-premises"]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit({"placement.owned.0.count": 40}, stay_at_home), "The cost of no option contains it"),
        pytest.param(
            edit({"placement.owned.0.age_months": 48}, stay_at_home),
            "extend the support of 4 in month 0",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            edit({"placement.owned": [{"machine": "3x H100 SXM"}]}, stay_at_home),
            "are not used",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_the_use_of_owned_machines_is_reported(plan_of: Make, change: Change | None, said: str) -> None:
    option = option_of(plan_of("manufacturer", change), "on-premises")
    assert any(said in note for note in option.notes if "owned" in note)


def test_no_machine_is_bought_while_owned_machines_stand_idle(plan_of: Make) -> None:
    """Owned machines carry the first years; machines are bought when the load needs more."""
    expected = {"workloads.1.model": "Phi-4", "workloads.1.quality": {}, "workloads.1.slo.certainty": 0.5}
    option = option_of(
        plan_of("manufacturer", edit(expected, stay_at_home)),
        "on-premises",
    )
    schedules = [note for note in option.notes if " for assistant" in note and "buy" in note]
    assert schedules and not any("in month 0" in schedule for schedule in schedules)
    assert "4 owned 8x-h100, 14 months old: keep 4 in month 0; extend the support of 4 in month 22" in option.notes


# --- placements and limits


def test_a_hosted_api_is_chosen_when_nothing_forbids_it(plan_of: Make) -> None:
    free = edit({"placement": {"allow": ["hosted-api"]}, "data.*.residency": ["any"]}, keep_workloads("support-chat"))
    plan = plan_of("startup", free)
    assert plan.chosen is not None and plan.chosen.startswith("hosted-api-")
    assert (plan.pools, plan.predictions, plan.loads) == ((), (), ())
    assert plan.workloads[0].evidence and plan.workloads[0].pools == ()
    assert any("not predicted" in text for text in plan.not_sized)
    assert "engine" not in {line.function for line in plan.stack}


def test_nothing_feasible_is_a_plan_without_a_choice(plan_of: Make, needs_of: Callable[..., Any]) -> None:
    poor = edit({"budget.per_month": 1})
    plan, (_, source) = plan_of("startup", poor), needs_of("startup", poor)
    assert plan.chosen is None
    assert all(workload.model is None for workload in plan.workloads)
    error = build_infeasible_error(plan, source)
    assert error.code == "AW-PLAN-03" and error.exit_status != 0
    assert error.where.field == "budget.per_month" and error.where.line is not None


def test_existing_products_stay_and_are_not_ours(plan_of: Make) -> None:
    gateway = {"kind": "gateway", "product": "Kong", "url": "https://gw.example"}
    kept = edit({"existing": [gateway, {"kind": "lake", "product": "Iceberg"}]})
    stack = {line.function: (line.product, line.existing) for line in plan_of("desk", kept).stack}
    expected = {"gateway": ("Kong", True), "lake": ("Iceberg", True), "access": ("archwright", False)}
    assert expected.items() <= stack.items() and not stack["engine"][1]


def test_needs_without_any_sizable_workload(plan_of: Make) -> None:
    traffic = {"requests_per_second": {"mean": 1, "peak": 2}, "input_tokens": {"mean": 5, "p95": 9}}
    first = edit({"workloads.1": GONE, "workloads.0": GONE})
    plan = plan_of("startup", edit({"workloads.0.traffic": traffic, "placement.allow": ["this-machine"]}, first))
    assert plan.chosen is None
    assert all(option.total_cost is None for option in plan.options)


def test_a_provider_without_an_offer_inside_misses_residency(plan_of: Make) -> None:
    remote = edit({"placement.regions": GONE, "data.0.residency": ["BR"]})
    for option in options_of(plan_of("startup", remote), "cloud"):
        if option.provider == "azure":
            assert option.regions == ("brazilsouth",)
            continue
        assert (option.regions, option.feasible, option.total_cost, option.pools) == ((), False, None, ())
        assert option.misses[0].constraint == "residency"


def test_pinned_accelerators_are_kept_to(plan_of: Make) -> None:
    plan = plan_of("startup", edit({"placement.accelerators": ["L4"]}))
    named = [option for option in plan.options if "other" not in option.name]
    assert {pool.accelerator for option in named for pool in option.pools} == {"L4"}
    azure = option_of(plan, "cloud-azure")
    assert not azure.feasible and azure.regions == ()
    assert (azure.misses[0].constraint, azure.misses[0].limit) == ("accelerators", "L4")


def test_a_preference_that_no_place_meets_names_the_nearest_with_their_prices(
    plan_of: Make, needs_of: Callable[..., Any]
) -> None:
    place = {"allow": ["cloud"], "clouds": ["aws"], "regions": ["eu-central-1"], "accelerators": ["H100"]}
    frankfurt = edit({"placement": place, "data.*.residency": ["EEA"]}, keep_workloads("support-chat"))
    plan, (_, source) = plan_of("startup", frankfurt), needs_of("startup", frankfurt)
    assert plan.chosen is None
    cloud = option_of(plan, "cloud-aws")
    assert cloud.total_cost is None and "eu-north-1" in cloud.notes[0]
    for name, pin, value in (
        ("cloud-aws-other-regions", "regions", "eu-north-1"),
        ("cloud-aws-other-accelerators", "accelerators", "L4"),
        ("cloud-nebius-other-clouds", "clouds", "nebius"),
    ):
        option = option_of(plan, name)
        assert (option.regions, option.feasible) == ((), False) and option.total_cost is not None
        assert (option.misses[0].constraint, option.misses[0].value) == (pin, value)
    assert "eu-north-1" in build_infeasible_error(plan, source).hint


@pytest.mark.nightly
def test_without_an_availability_no_spare_is_kept(plan_of: Make, startup: Plan) -> None:
    plan = plan_of("startup", lambda d: d["workloads"][0]["slo"].pop("availability"))
    for without, spared in zip(options_of(plan, "cloud"), options_of(startup, "cloud"), strict=True):
        assert without.total_cost is not None and spared.total_cost is not None
        assert without.total_cost.value < spared.total_cost.value
    assert not any("spare machine" in text for text in plan.assumptions)


def test_defaults_are_reported(plan_of: Make) -> None:
    gone = dict.fromkeys(("data", "budget.per_month", *(f"workloads.0.{f}" for f in ("quality", "data", "slo"))), GONE)
    plan = plan_of("startup", edit({**gone, "budget.capex": 5}, keep_workloads("support-chat")))
    said = " ".join(plan.assumptions)
    for text in (
        "support-chat: quality {mmlu_pro: 0.6}, the default for rag",
        "support-chat: data none",
        "no limit on slo.availability",
        "budget.per_month: no limit",
    ):
        assert text in said
    assert "budget.capex" not in said
    assert not any(text.startswith("storage") for text in plan.not_sized)


@pytest.mark.nightly
@draw(3, 12)
@given(
    st.lists(st.sampled_from(["EEA", "US", "APAC", "DE", "JP", "FR", "BR", "eastus2", "any"]), min_size=1, unique=True)
)
def test_no_option_names_a_region_outside_the_residency(plan_of: Make, catalog: Catalog, places: list[str]) -> None:
    allowed = {"allow": ["cloud", "hosted-api", "this-machine"], "clouds": sorted(CLOUDS)}
    bound = edit({"placement": allowed, "data.*.residency": places})
    for option in plan_of("startup", bound).options:
        for region in option.regions:
            known = catalog.region(option.provider, region)
            country = known.country if known is not None else region
            inside = [p == region or (p.upper() == p and catalog.is_inside(country, p)) for p in places if p != "any"]
            assert "any" in places or any(inside)
        if not option.regions and option.placement == "cloud":
            assert "residency" in {miss.constraint for miss in option.misses}


CLOUDS = {"aws", "azure", "gcp", "nebius", "lambda", "runpod"}
