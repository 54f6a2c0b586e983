"""Houses, hybrids, sites, serverless, owned machines: what each kind of option does with its machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.serverless_prices import read_serverless_prices
from archwright.contract.needs import Needs, NeedsSource, SiteGroup
from archwright.contract.plan import Option, Plan
from archwright.contract.record import replace
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import SizingCache, list_tasks
from archwright.plan.demand.forecast import HOURS_PER_MONTH, list_steady_demands
from archwright.plan.options.cloud_instances import InstanceSelector
from archwright.plan.options.edge_sites import CountrySites, spread_over_countries
from archwright.plan.options.serverless import estimate_worker_usage
from archwright.plan.planner import Planner

from .conftest import GONE, edit

Make = Callable[..., Plan]
Read = Callable[..., tuple[Needs, NeedsSource]]


def option_of(plan: Plan, placement: str) -> Option:
    return next(option for option in plan.options if option.placement == placement)


def missed(option: Option) -> set[str]:
    return {miss.constraint for miss in option.misses}


# --- the house


def only(*placements: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["placement"]["allow"] = list(placements)
        document["placement"].pop("prefer", None)
        document["placement"]["clouds"] = ["aws"]

    return change


@pytest.mark.parametrize(
    ("field", "value", "constraint"),
    [
        ("budget.capex", 1000, "capex"),
        ("budget.per_month", 10, "per_month"),
        ("placement.site.power_kw", 0.1, "power_kw"),
        ("placement.site.rack_units", 1, "rack_units"),
    ],
)
def test_a_house_over_a_limit_is_shown_not_hidden(plan_of: Make, field: str, value: float, constraint: str) -> None:
    option = option_of(plan_of("clinic", edit({field: value}, only("on-premises"))), "on-premises")
    assert constraint in missed(option) and option.total_cost is not None and option.pools


def test_what_runs_beside_the_machines_counts_against_their_limit(plan_of: Make) -> None:
    """Capex between the machines' price and the whole: asked again, and refused."""
    whole = option_of(plan_of("clinic", only("on-premises")), "on-premises").capex
    assert whole is not None
    tight = edit({"budget.capex": whole.value * 0.99}, only("on-premises"))
    option = option_of(plan_of("clinic", tight), "on-premises")
    assert "capex" in missed(option) or (option.capex is not None and option.capex.value <= whole.value * 0.99)


def test_a_house_outside_the_residency_has_no_region(plan_of: Make) -> None:
    abroad = edit({"placement.site.country": "US"}, only("on-premises", "hybrid"))
    for option in plan_of("clinic", abroad).options:
        assert (option.regions, option.total_cost, missed(option)) == ((), None, {"residency"})


def test_a_house_without_a_site_stands_in_the_organisations_country(plan_of: Make) -> None:
    option = option_of(plan_of("clinic", edit({"placement.site": GONE}, only("on-premises"))), "on-premises")
    assert option.regions == ("DE",) and option.feasible


def test_a_house_without_a_model_has_no_price(plan_of: Make) -> None:
    picky = edit({"workloads.0.quality": {"mmlu_pro": 0.9999}}, only("on-premises"))
    option = option_of(plan_of("clinic", picky), "on-premises")
    assert (option.total_cost, missed(option)) == (None, {"letters.quality"})


def test_a_model_no_machine_of_the_house_holds(plan_of: Make) -> None:
    fields = {"workloads.0.model": "DeepSeek-V4-Pro", "workloads.0.quality": {}, "placement.accelerators": ["L4"]}
    huge = edit(fields, only("on-premises"))
    option = option_of(plan_of("clinic", huge), "on-premises")
    assert "letters.model" in missed(option)
    assert option.misses[0].limit == "a machine that holds it and whose speed is known"


def test_machines_are_bought_as_the_load_grows(plan_of: Make) -> None:
    limits = {"placement.site.power_kw": 4000, "placement.site.rack_units": 4000, "budget.per_month": 1e6}
    growing = {"workloads.0.traffic.growth_per_year": 1.5, "budget.capex": 90e6, **limits}
    option = option_of(plan_of("clinic", edit(growing, only("on-premises"))), "on-premises")
    steps = [b - a for a, b in zip(option.cumulative_cost, option.cumulative_cost[1:], strict=False)]
    assert max(steps[11::12]) > 3 * max(steps[:10]), "a purchase at the start of a later year"
    bought = next(b for b in option.purchases if b.pool == "letters")
    assert bought.machines < bought.peak


# --- hybrid


peaky = edit(
    {
        "data.*.sensitivity": "internal",
        "workloads.0.traffic.requests_per_second": {"mean": 2.0, "peak": 200.0},
        "workloads.0.traffic.growth_per_year": 0,
    },
    only("on-premises", "hybrid"),
)


def test_the_load_above_the_mean_goes_out(plan_of: Make) -> None:
    option = option_of(plan_of("clinic", peaky), "hybrid")
    assert option.feasible, option.misses
    kinds = {b.pool: b.kind for b in option.purchases}
    assert kinds["letters"] == "bought" and kinds["letters-above-mean"] == "on-demand"
    pools = {pool.name: pool for pool in option.pools}
    assert pools["letters"].model == pools["letters-above-mean"].model
    assert pools["letters"].placement == "on-premises" and pools["letters-above-mean"].placement == "cloud"
    house = option_of(plan_of("clinic", peaky), "on-premises")
    assert house.capex is not None and option.capex is not None and option.capex.value < house.capex.value


def test_a_flat_load_has_nothing_above_its_mean(plan_of: Make) -> None:
    flat = edit({"workloads.0.traffic.requests_per_second": {"mean": 2.0, "peak": 2.0}, "workloads.1": GONE}, peaky)
    option = option_of(plan_of("clinic", flat), "hybrid")
    assert all("above-mean" not in b.pool for b in option.purchases)


# --- sites


def test_sites_are_spread_over_their_countries_in_turn() -> None:
    assert spread_over_countries(SiteGroup(count=5, countries=("FR", "US", "CN")), "DE") == (
        CountrySites("FR", 2),
        CountrySites("US", 2),
        CountrySites("CN", 1),
    )
    assert spread_over_countries(SiteGroup(count=3), "DE") == (CountrySites("DE", 3),)
    assert spread_over_countries(SiteGroup(count=1, countries=("FR", "US")), "DE") == (CountrySites("FR", 1),)


def test_sites_have_limits_of_their_own(plan_of: Make) -> None:
    weak = edit({"sites.plants.power_kw": 0.1})
    assert "downtime.power_kw" in missed(option_of(plan_of("manufacturer", weak), "on-premises"))


def test_sites_stay_where_the_data_may_be(plan_of: Make) -> None:
    bound = edit({"data.0.residency": ["EEA"]})
    assert "residency" in missed(option_of(plan_of("manufacturer", bound), "on-premises"))


def test_a_job_at_sites_is_said_to_be_missing(plan_of: Make) -> None:
    def at_plants(document: dict[str, Any]) -> None:
        telemetry = next(w for w in document["workloads"] if w["name"] == "telemetry")
        telemetry["sites"] = ["plants"]

    assert "telemetry.sites" in missed(option_of(plan_of("manufacturer", at_plants), "on-premises"))


# A company of plants, without a data centre.
rented = edit({"placement.site": GONE, "placement.owned": GONE}, only("cloud"))


def test_plants_and_a_cloud_are_an_option(plan_of: Make) -> None:
    plan = plan_of("manufacturer", rented)
    option = next(one for one in plan.options if one.name == "cloud-aws")
    assert option.feasible and plan.chosen == "cloud-aws"
    at_plants = [pool for pool in option.pools if pool.workloads == ("downtime",)]
    assert {pool.region for pool in at_plants} == {"FR plants", "US plants", "CN plants"}
    assert {pool.placement for pool in at_plants} == {"on-premises"}
    assert {pool.provider for pool in option.pools if pool not in at_plants} == {"aws"}
    assert not {"FR", "US", "CN"} & set(option.regions), "a region of the provider is named, no plant"
    names = [line.name for line in option.cost_lines]
    assert any(name.startswith("electricity of") and "plants" in name for name in names)
    assert not any("colocation" in name for name in names), "a plant is no rented space"
    assert any("bought for its sites" in note for note in option.notes)
    managed = next(one for one in plan.options if one.name == "managed-aws")
    assert not any(" on cpu-2-socket" in line.name for line in managed.cost_lines), "a share of what is rented alone"


def test_plants_need_money_to_buy_and_may_name_no_country(plan_of: Make) -> None:
    poor = edit({"budget.capex": 0, "sites.plants.countries": GONE}, rented)
    option = next(one for one in plan_of("manufacturer", poor).options if one.name == "cloud-aws")
    assert missed(option) == {"capex"}
    assert not any("colocation" in line.name for line in option.cost_lines)


def test_machines_at_sites_alone_are_no_option_of_a_cloud(plan_of: Make) -> None:
    def alone(document: dict[str, Any]) -> None:
        rented(document)
        document["workloads"] = [one for one in document["workloads"] if one["name"] == "downtime"]

    option = next(one for one in plan_of("manufacturer", alone).options if one.name == "cloud-aws")
    assert "downtime.sites" in missed(option)


def test_what_follows_a_text_at_the_sites_trains_its_model_in_the_cloud(plan_of: Make) -> None:
    def at_plants(document: dict[str, Any]) -> None:
        rented(document)
        assistant = next(one for one in document["workloads"] if one["name"] == "assistant")
        assistant["sites"] = ["plants"]
        assistant["traffic"].pop("regions")
        document["sites"]["plants"].update(countries=["FR"], power_kw=90)

    option = next(one for one in plan_of("manufacturer", at_plants).options if one.name == "cloud-aws")
    assert option.models["house-model"] == option.models["assistant"]
    assert any(line.name.startswith("house-model: ") for line in option.cost_lines)


# --- serverless


serverless = edit({"placement": {"allow": ["serverless"]}})


def test_serverless_is_paid_by_the_second(plan_of: Make) -> None:
    plan = plan_of("startup", serverless)
    option = option_of(plan, "serverless")
    assert plan.chosen == option.name == "serverless-runpod" and option.regions == ("US",)
    assert {b.kind for b in option.purchases} == {"per-second"}
    assert {b.pool for b in option.purchases} == {"support-chat", "tone", "index"}
    assert option.models["tone"] == option.models["support-chat"]
    assert any("cold start" in note for note in option.notes)


def test_serverless_outside_the_residency_or_without_the_pinned_device(plan_of: Make) -> None:
    abroad, pinned = (
        edit({field: [value]}, serverless)
        for field, value in (("data.0.residency", "BR"), ("placement.accelerators", "T4"))
    )
    option = option_of(plan_of("startup", abroad), "serverless")
    assert (option.regions, missed(option), option.total_cost) == ((), {"residency"}, None)
    assert "support-chat.model" in missed(option_of(plan_of("startup", pinned), "serverless"))


def test_a_job_too_long_for_its_deadline_is_a_miss(plan_of: Make) -> None:
    hours = {"workloads.1.tokens": 1e12, "workloads.1.deadline_h": 1}
    hurried = edit({**hours, "placement.allow": ["cloud", "serverless"]})
    for option in plan_of("startup", hurried).options:
        # Nobody says how fast workers that are paid by the second talk to each other.
        late = "tone.network" if option.placement == "serverless" else "tone.deadline_h"
        assert late in missed(option)


def test_the_bill_of_seconds(needs_of: Read, catalog: Catalog) -> None:
    """Never more than a worker for the whole time at little load, never less than the work."""
    needs, _ = needs_of("startup")
    demand, row = list_steady_demands(needs)[0], read_serverless_prices()[0]
    task = list_tasks(needs, catalog)[0]
    worker = InstanceSelector(needs, catalog, sizer := SizingCache(catalog)).allowed_machines("aws", task)[0]
    steady = sizer.steady(
        demand,
        catalog.models["Phi-4-mini-instruct"],
        worker._replace(machine=worker.machine._replace(accelerator_count=1)),
    )
    assert steady is not None
    rates = (1e-6, 1e-3, 1e-1, 10.0)
    bills = [estimate_worker_usage(demand.scaled_by(rate / demand.mean), steady, row) for rate in rates]
    means = [sum(bill.workers) / len(bill.workers) for bill in bills]
    assert means == sorted(means) and means[0] < 0.01
    assert [bill.cold for bill in bills] == sorted((bill.cold for bill in bills), reverse=True)
    assert bills[0].cold > 0.9 and bills[-1].cold < 0.05
    work = 10.0 / demand.mean * demand.requests_per_month * demand.mean_growth / HOURS_PER_MONTH / 3600
    assert means[-1] >= work / steady.requests_per_s.value


# --- facts that are too old, names nobody knows


def test_expired_prices_advise_no_purchase(plan_of: Make, catalog: Catalog, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(catalog), "may_advise_buying", lambda *_, **__: False)
    option = option_of(plan_of("clinic", only("on-premises"), anew=True), "on-premises")
    assert "stale_facts" in missed(option)


def test_a_base_that_is_no_open_model(needs_of: Read, catalog: Catalog) -> None:
    """The reader refuses such a file; needs made in Python are answered all the same."""
    needs, _ = needs_of("startup")
    chat, tune, index = needs.workloads
    closed = replace(needs, workloads=(chat, replace(tune, base="nobody's"), index))
    found = next(task for task in list_tasks(closed, catalog) if task.name == "tone")
    assert (found.models, found.misses[0].constraint) == ((), "tone.base")
    missing = InstanceSelector(closed, catalog, SizingCache(catalog)).select_instances("aws", (found,))
    assert missing.picks == () and missing.misses == found.misses


def test_a_base_that_is_a_model(plan_of: Make) -> None:
    option = option_of(plan_of("startup", edit({"workloads.1.base": "Qwen2.5-7B-Instruct"})), "cloud")
    assert option.models["tone"] == "Qwen2.5-7B-Instruct" and option.feasible


def test_an_index_that_answers_too_keeps_one_model(plan_of: Make) -> None:
    rate, tokens = {"mean": 2, "peak": 5}, {"mean": 40, "p95": 90}
    both = {"workloads.2.traffic.requests_per_second": rate, "workloads.2.traffic.input_tokens": tokens}
    option = option_of(plan_of("startup", edit(both)), "cloud")
    assert {b.pool for b in option.purchases} >= {"index", "index-refresh"}
    assert next(pool for pool in option.pools if pool.name == "index").embeddings


def test_pretraining_has_its_machines(plan_of: Make) -> None:
    own = {"name": "own", "kind": "pretrain", "parameters": 1e9, "tokens": 2e10, "deadline_h": 900, "data": ["tickets"]}
    option = option_of(plan_of("startup", edit({"workloads": [own], "budget.per_month": 500000})), "cloud")
    assert option.feasible and {b.pool for b in option.purchases} == {"own"} and option.pools == ()


def test_nobody_promises_what_nothing_of_ours_serves(needs_of: Read, catalog: Catalog) -> None:
    ledger = PlanProvenance()
    planner = Planner(needs_of("startup")[0], catalog, ledger)
    promised, served = planner.predict_chosen(None)
    assert (promised.predictions, served) == ((), ())


# --- traffic of several places


def places(limit: float, *allow: str) -> Callable[[dict[str, Any]], None]:
    return edit(
        {
            "placement": {"allow": list(allow), "clouds": ["aws"]},
            "data.*.residency": ["any"],
            "data.*.sensitivity": "internal",
            "workloads.0.traffic.regions": {"US": 0.6, "EEA": 0.4},
            "workloads.0.slo.ttft_p95_s": limit,
            "budget.per_month": 90000,
            "budget.capex": 3e6,
        }
    )


def test_a_short_limit_is_answered_inside_each_place(plan_of: Make, catalog: Catalog) -> None:
    plan = plan_of("startup", places(0.4, "cloud"))
    option = option_of(plan, "cloud")
    pools = {pool.name: pool for pool in option.pools}
    assert set(pools) == {"support-chat", "support-chat-eea"}
    assert len({pool.model for pool in pools.values()}) == 1
    for name, place in (("support-chat", "US"), ("support-chat-eea", "EEA")):
        region = catalog.region("aws", pools[name].region)
        assert region is not None and catalog.is_inside(region.country, place)
    assert any("each served from inside" in text for text in plan.assumptions)
    assert not any("one region answers" in text for text in plan.not_sized)
    assert {prediction.workload for prediction in plan.predictions} <= {"support-chat", "tone", ""}


def test_a_long_limit_is_answered_from_one_region(plan_of: Make) -> None:
    plan = plan_of("startup", places(1.5, "cloud"))
    assert len(option_of(plan, "cloud").pools) == 1
    assert any("one region serves all" in text for text in plan.not_sized)


def test_a_house_answers_only_its_own_place(plan_of: Make) -> None:
    options = {o.placement: o for o in plan_of("startup", places(0.4, "on-premises", "hybrid")).options}
    miss = options["on-premises"].misses[0]
    assert (miss.constraint, miss.value, miss.limit) == ("support-chat.traffic.regions", "US", "EEA")
    pools = {pool.name: pool.placement for pool in options["hybrid"].pools}
    assert pools["support-chat-eea"] == "cloud" and options["hybrid"].regions[0] == "US"
    kinds = {bought.kind for bought in options["hybrid"].purchases}
    assert "bought" in kinds and kinds - {"bought"}


def test_data_that_may_not_travel_keep_their_traffic_together(plan_of: Make) -> None:
    bound = edit({"data.0.residency": ["US"]}, places(0.4, "cloud"))
    assert len(option_of(plan_of("startup", bound), "cloud").pools) == 1


def test_a_fragile_machine_is_a_risk_and_not_a_thousand_machines(plan_of: Make) -> None:
    for option in (one for one in plan_of("clinic").options if one.placement != "hybrid"):
        assert option.total_cost is not None and option.total_cost.high < 12 * option.total_cost.value


def test_a_follower_that_fits_nowhere_is_the_one_named(plan_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SizingCache, "batch", lambda *_: None)
    plan = plan_of("startup", lambda document: document["placement"].update(allow=["cloud"], clouds=["gcp"]), anew=True)
    option = option_of(plan, "cloud")
    assert missed(option) == {"tone.model", "index.model"} and option.total_cost is None


def test_without_named_clouds_nobody_else_is_offered(plan_of: Make) -> None:
    plan = plan_of("startup", edit({"placement": {"allow": ["cloud"]}, "data.0.residency": ["AQ"]}))
    assert {option.name for option in plan.options} == {"cloud-aws", "cloud-azure", "cloud-gcp"}
    assert all(missed(option) == {"residency"} for option in plan.options)


def test_texts_may_be_answered_at_sites_too(plan_of: Make) -> None:
    def at_plants(document: dict[str, Any]) -> None:
        document["workloads"] = [w for w in document["workloads"] if w["name"] == "assistant"]
        document["workloads"][0]["sites"] = ["plants"]
        document["sites"]["plants"].update(countries=["FR"], power_kw=40)

    option = option_of(plan_of("manufacturer", at_plants), "on-premises")
    assert [pool.name for pool in option.pools] == ["assistant-fr"] and option.pools[0].replicas >= 28


def test_a_hybrid_of_which_nothing_may_leave_says_the_rule_and_has_no_price_of_its_own(plan_of: Make) -> None:
    hybrids = [option for option in plan_of("clinic").options if option.placement == "hybrid"]
    assert hybrids and all(option.total_cost is None for option in hybrids)
    assert {option.misses[0].value for option in hybrids} == {"personal data stay on site"}
