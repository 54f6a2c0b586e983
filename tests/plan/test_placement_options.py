"""Houses, hybrids, sites, serverless, owned machines: what each kind of option does with its machines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.serverless_prices import read_serverless_prices
from archwright.contract.needs import Needs, NeedsSource, SiteGroup
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import SizingCache, list_tasks
from archwright.plan.cost.facility_costs import REGION_PARTS
from archwright.plan.demand.forecast import HOURS_PER_MONTH, list_steady_demands
from archwright.plan.options.cloud_instances import InstanceSelector
from archwright.plan.options.edge_sites import CountrySites, spread_over_countries
from archwright.plan.options.further_sites import split_load
from archwright.plan.options.serverless import estimate_worker_usage
from archwright.plan.planner import Planner

from .conftest import GONE, NOW, Change, edit, keep_workloads, missed, only, option_of

Make = Callable[..., Plan]
Read = Callable[..., tuple[Needs, NeedsSource]]
NIGHTLY = partial(pytest.param, marks=pytest.mark.nightly)

HOUSE = only("on-premises")
WIDE = edit({"placement.site.rack_units": 60}, HOUSE)
SERVERLESS = edit({"placement": {"allow": ["serverless"]}})
# A company of plants, without a data centre.
RENTED = edit({"placement.site": GONE, "placement.owned": GONE}, only("cloud"))
PICKY = {"workloads.0.quality": {"mmlu_pro": 0.9999}}
HUGE = {"workloads.0.model": "DeepSeek-V4-Pro", "workloads.0.quality": {}, "placement.accelerators": ["L4", "T4"]}
ABROAD = edit({"placement.site.country": "US"}, only("on-premises", "hybrid"))
UNHELD = {f"{name}.model" for name in ("support-chat", "tone", "index")}
SECRET = {"data.*.sensitivity": "internal", "workloads.1": GONE, "workloads.0.slo.tpot_p95_s": 1e-6}
ANTARCTIC = edit({"placement": {"allow": ["cloud"]}, "data.0.residency": ["AQ"]})


@pytest.mark.parametrize(
    ("name", "change", "option", "misses", "priced"),
    [
        ("clinic", edit({"budget.capex": 1000}, WIDE), "on-premises", {"capex"}, True),
        ("clinic", edit({"budget.per_month": 10}, WIDE), "on-premises", {"per_month"}, True),
        ("clinic", edit({"placement.site.power_kw": 0.1}, WIDE), "on-premises", {"power_kw"}, True),
        ("clinic", edit({"placement.site.rack_units": 1}, HOUSE), "on-premises", {"rack_units"}, True),
        ("clinic", ABROAD, "on-premises", {"residency"}, False),
        ("clinic", ABROAD, "hybrid", {"residency"}, False),
        ("clinic", edit(PICKY, HOUSE), "on-premises", {"letters.quality"}, False),
        ("clinic", edit(HUGE, HOUSE), "on-premises", {"letters.model"}, False),
        ("clinic", edit(SECRET, only("hybrid")), "hybrid", {"hybrid"}, False),
        ("manufacturer", edit({"sites.plants.power_kw": 0.1}), "on-premises", {"downtime.power_kw"}, True),
        NIGHTLY("manufacturer", edit({"data.0.residency": ["EEA"]}), "on-premises", {"residency"}, True),
        NIGHTLY("manufacturer", edit({"workloads.3.sites": ["plants"]}), "on-premises", {"telemetry.sites"}, True),
        ("manufacturer", keep_workloads("downtime", first=RENTED), "cloud-aws", {"downtime.sites"}, True),
        ("startup", edit({"data.0.residency": ["BR"]}, SERVERLESS), "serverless", {"residency"}, False),
        ("startup", edit({"placement.accelerators": ["T4"]}, SERVERLESS), "serverless", UNHELD, False),
        ("startup", edit(HUGE), "cloud", {"support-chat.model"}, False),
        ("startup", edit(PICKY), "cloud", {"support-chat.quality"}, False),
        *(("startup", ANTARCTIC, f"cloud-{cloud}", {"residency"}, False) for cloud in ("aws", "azure", "gcp")),
    ],
)  # fmt: skip
def test_an_option_says_what_it_misses(
    plan_of: Make, name: str, change: Change, option: str, misses: set[str], priced: bool
) -> None:
    found = option_of(plan_of(name, change), option)
    assert (missed(found), found.total_cost is not None) == (misses, priced)
    assert found.pools or not priced
    assert priced or (found.pools == () and ("residency" not in misses or found.regions == ()))


# --- the house


def test_a_model_that_no_machine_holds_names_the_machine_it_needs(plan_of: Make) -> None:
    house = option_of(plan_of("clinic", edit(HUGE, HOUSE)), "on-premises")
    assert house.misses[0].limit == "a machine that holds it and whose speed is known"
    assert option_of(plan_of("startup", edit(HUGE)), "cloud").misses[0].limit == "an accelerator that holds it"


@pytest.mark.parametrize(("field", "cost"), [("budget.capex", "capex"), ("placement.site.power_kw", "power_kw")])
def test_what_runs_beside_the_machines_counts_against_their_limit(plan_of: Make, field: str, cost: str) -> None:
    """A limit between the machines' own amount and the whole: asked again, and refused."""
    whole = getattr(option_of(plan_of("clinic", HOUSE), "on-premises"), cost).value
    option = option_of(plan_of("clinic", edit({field: whole * 0.98}, HOUSE)), "on-premises")
    assert (cost in missed(option)) == (getattr(option, cost).value > whole * 0.98)


def test_an_on_premises_option_without_a_site_is_in_the_organisations_country(plan_of: Make) -> None:
    option = option_of(plan_of("clinic", edit({"placement.site": GONE}, HOUSE)), "on-premises")
    assert option.regions == ("DE",) and option.feasible


def test_machines_are_bought_as_the_load_grows(plan_of: Make) -> None:
    limits = {"placement.site.power_kw": 4000, "placement.site.rack_units": 4000, "budget.per_month": 1e6}
    growing = {"workloads.0.traffic.growth_per_year": 1.5, "budget.capex": 90e6, **limits}
    option = option_of(plan_of("clinic", edit(growing, HOUSE)), "on-premises")
    steps = [b - a for a, b in zip(option.cumulative_cost, option.cumulative_cost[1:], strict=False)]
    assert max(steps[11::12]) > 3 * max(steps[:10]), "a purchase at the start of a later year"
    bought = next(b for b in option.purchases if b.pool == "letters")
    assert bought.machines < bought.peak


# --- hybrid


PEAKY = edit(
    {
        "data.*.sensitivity": "internal",
        "workloads.0.traffic.requests_per_second": {"mean": 2.0, "peak": 200.0},
        "workloads.0.traffic.growth_per_year": 0,
    },
    only("on-premises", "hybrid"),
)
AT_PLANTS = {"workloads.1.sites": ["plants"], "workloads.1.traffic.regions": GONE, "sites.plants.countries": ["FR"]}


def test_the_load_above_the_mean_goes_out(plan_of: Make) -> None:
    option = option_of(plan_of("clinic", PEAKY), "hybrid")
    assert option.feasible, option.misses
    kinds = {b.pool: b.kind for b in option.purchases}
    assert kinds["letters"] == "bought" and kinds["letters-above-mean"] == "on-demand"
    pools = {pool.name: pool for pool in option.pools}
    assert pools["letters"].model == pools["letters-above-mean"].model
    assert pools["letters"].placement == "on-premises" and pools["letters-above-mean"].placement == "cloud"
    house = option_of(plan_of("clinic", PEAKY), "on-premises")
    assert house.capex is not None and option.capex is not None and option.capex.value < house.capex.value


def test_a_flat_load_has_nothing_above_its_mean(plan_of: Make) -> None:
    flat = edit({"workloads.0.traffic.requests_per_second": {"mean": 2.0, "peak": 2.0}, "workloads.1": GONE}, PEAKY)
    option = option_of(plan_of("clinic", flat), "hybrid")
    assert all("above-mean" not in b.pool for b in option.purchases)


# --- sites


@pytest.mark.parametrize(
    ("count", "countries", "spread"),
    [
        (5, ("FR", "US", "CN"), [("FR", 2), ("US", 2), ("CN", 1)]),
        (3, (), [("DE", 3)]),
        (1, ("FR", "US"), [("FR", 1)]),
    ],
)
def test_sites_are_spread_over_their_countries_in_turn(
    count: int, countries: tuple[str, ...], spread: list[tuple[str, int]]
) -> None:
    found = spread_over_countries(SiteGroup(count=count, countries=countries), "DE")
    assert found == tuple(CountrySites(*one) for one in spread)


# A company of plants, without a data centre.
def test_plants_and_a_cloud_are_an_option(plan_of: Make) -> None:
    plan = plan_of("manufacturer", RENTED)
    option = option_of(plan, "cloud-aws")
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
    managed = option_of(plan, "managed-aws")
    assert not any(" on cpu-2-socket" in line.name for line in managed.cost_lines), "a share of what is rented alone"


def test_plants_need_money_to_buy_and_may_name_no_country(plan_of: Make) -> None:
    poor = edit({"budget.capex": 0, "sites.plants.countries": GONE}, RENTED)
    option = option_of(plan_of("manufacturer", poor), "cloud-aws")
    assert missed(option) == {"capex"}
    assert not any("colocation" in line.name for line in option.cost_lines)


@pytest.mark.nightly
def test_what_follows_a_text_at_the_sites_trains_its_model_in_the_cloud(plan_of: Make) -> None:
    option = option_of(plan_of("manufacturer", edit({**AT_PLANTS, "sites.plants.power_kw": 90}, RENTED)), "cloud-aws")
    assert option.models["house-model"] == option.models["assistant"]
    assert any(line.name.startswith("house-model: ") for line in option.cost_lines)


# --- serverless


def test_serverless_is_paid_by_the_second(plan_of: Make) -> None:
    plan = plan_of("startup", SERVERLESS)
    option = option_of(plan, "serverless")
    assert plan.chosen == option.name == "serverless-runpod" and option.regions == ("US",)
    assert {b.kind for b in option.purchases} == {"per-second"}
    assert {b.pool for b in option.purchases} == {"support-chat", "tone", "index"}
    assert option.models["tone"] == option.models["support-chat"]
    assert any("cold start" in note for note in option.notes)


@pytest.mark.nightly
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


def test_nothing_is_predicted_for_what_others_serve(needs_of: Read, catalog: Catalog) -> None:
    promised, served = Planner(needs_of("startup")[0], catalog, PlanProvenance(), NOW).predict_chosen(None)
    assert (promised.predictions, served) == ((), ())


def test_a_base_that_is_no_open_model(needs_of: Read, catalog: Catalog) -> None:
    """The reader refuses such a file; needs made in Python are answered all the same."""
    needs, _ = needs_of("startup")
    chat, tune, index = needs.workloads
    closed = replace(needs, workloads=(chat, replace(tune, base="nobody's"), index))
    found = next(task for task in list_tasks(closed, catalog) if task.name == "tone")
    assert (found.models, found.misses[0].constraint) == ((), "tone.base")
    missing = InstanceSelector(closed, catalog, SizingCache(catalog)).select_instances("aws", (found,))
    assert missing.picks == () and missing.misses == found.misses


@pytest.mark.nightly
def test_a_base_that_is_a_model_and_pretraining_have_their_machines(plan_of: Make) -> None:
    option = option_of(plan_of("startup", edit({"workloads.1.base": "Qwen2.5-7B-Instruct"})), "cloud")
    assert option.models["tone"] == "Qwen2.5-7B-Instruct" and option.feasible
    own = {"name": "own", "kind": "pretrain", "parameters": 1e9, "tokens": 2e10, "deadline_h": 900, "data": ["tickets"]}
    option = option_of(plan_of("startup", edit({"workloads": [own], "budget.per_month": 500000})), "cloud")
    assert option.feasible and {b.pool for b in option.purchases} == {"own"} and option.pools == ()


@pytest.mark.nightly
def test_an_index_that_answers_too_keeps_one_model(plan_of: Make) -> None:
    rate, tokens = {"mean": 2, "peak": 5}, {"mean": 40, "p95": 90}
    both = {"workloads.2.traffic.requests_per_second": rate, "workloads.2.traffic.input_tokens": tokens}
    option = option_of(plan_of("startup", edit(both)), "cloud")
    assert {b.pool for b in option.purchases} >= {"index", "index-refresh"}
    assert next(pool for pool in option.pools if pool.name == "index").embeddings


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


@pytest.mark.nightly
def test_a_long_limit_or_data_that_may_not_travel_is_answered_from_one_region(plan_of: Make) -> None:
    plan = plan_of("startup", places(1.5, "cloud"))
    assert len(option_of(plan, "cloud").pools) == 1
    assert any("one region serves all" in text for text in plan.not_sized)
    bound = edit({"data.0.residency": ["US"]}, places(0.4, "cloud"))
    assert len(option_of(plan_of("startup", bound), "cloud").pools) == 1


def test_an_on_premises_site_answers_only_its_own_place(plan_of: Make) -> None:
    options = {o.placement: o for o in plan_of("startup", places(0.4, "on-premises", "hybrid")).options}
    miss = options["on-premises"].misses[0]
    assert (miss.constraint, miss.value, miss.limit) == ("support-chat.traffic.regions", "US", "EEA")
    pools = {pool.name: pool.placement for pool in options["hybrid"].pools}
    assert pools["support-chat-eea"] == "cloud" and options["hybrid"].regions[0] == "US"
    kinds = {bought.kind for bought in options["hybrid"].purchases}
    assert "bought" in kinds and kinds - {"bought"}


def test_a_fragile_machine_is_a_risk_and_not_a_thousand_machines(plan_of: Make) -> None:
    for option in (one for one in plan_of("clinic").options if one.placement != "hybrid"):
        assert option.total_cost is not None and option.total_cost.high < 12 * option.total_cost.value


def test_a_follower_that_fits_nowhere_is_the_one_named(plan_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SizingCache, "batch", lambda *_: None)
    plan = plan_of("startup", lambda document: document["placement"].update(allow=["cloud"], clouds=["gcp"]), anew=True)
    option = option_of(plan, "cloud")
    assert missed(option) == {"tone.model", "index.model"} and option.total_cost is None


def test_without_named_clouds_nobody_else_is_offered(plan_of: Make) -> None:
    plan = plan_of("startup", ANTARCTIC)
    assert {option.name for option in plan.options} == {"cloud-aws", "cloud-azure", "cloud-gcp"}


@pytest.mark.nightly
def test_texts_may_be_answered_at_sites_too(plan_of: Make) -> None:
    at_plants = keep_workloads("assistant", first=edit({**AT_PLANTS, "sites.plants.power_kw": 40}))
    option = option_of(plan_of("manufacturer", at_plants), "on-premises")
    assert [pool.name for pool in option.pools] == ["assistant-fr"] and option.pools[0].replicas >= 28


# --- regions of a cloud


@pytest.mark.nightly
def test_no_region_is_added_for_less_than_its_fixed_cost(needs_of: Read, catalog: Catalog) -> None:
    """If a region costs nothing, an option may spread; if it costs a fortune, one region serves all."""
    needs, _ = needs_of("clinic", edit({"placement.allow": ["cloud", "hybrid"], "placement.prefer": None}))
    spread = {}
    for usd in (0.001, 1e6):
        rows = {name: replace(catalog.parts[name], low=usd, typical=usd, high=usd) for name in REGION_PARTS}
        priced = copy.copy(catalog)
        object.__setattr__(priced, "parts", {**catalog.parts, **rows})
        built = Planner(needs, priced, PlanProvenance(), NOW).evaluate_options(None)
        spread[usd] = {(d := one.draft).name: len({f.where for f in d.fleets if f.offer is not None}) for one in built}
    assert max(spread[0.001].values()) > 1 and max(spread[1e6].values()) == 1


# --- several central sites


def two_sites(first: Change | None = None, **munich: Any) -> Change:
    site = {"country": "DE", "power_kw": 40, "rack_units": 42, "workloads": ["letters"], **munich}
    return edit({"placement.sites": {"munich": site}}, only("on-premises") if first is None else first)


@pytest.mark.nightly
def test_two_central_sites_share_a_workload(plan_of: Make) -> None:
    """Half of the load each, with machines and spares at both; the other workload stays at the main site."""
    alone, plan = plan_of("clinic", only("on-premises")), plan_of("clinic", two_sites())
    option = option_of(plan, "on-premises")
    assert option.feasible, option.misses
    pools = {pool.name: pool for pool in option.pools}
    assert {pools[name].region for name in ("letters", "xray")} == {"DE"}
    assert pools["letters-munich"].region == "DE munich" and pools["letters-munich"].model == pools["letters"].model
    bought = {one.pool: one for one in option.purchases}
    assert bought["letters"].peak >= 2 and bought["letters-munich"].peak >= 2, "each with a spare"
    assert any("letters: 50 % at the main site, 50 % at munich" in note for note in option.notes)
    names = [line.name for line in option.cost_lines]
    assert sum("further region or site" in name and name.endswith("DE munich") for name in names) == 2
    assert any(name.startswith("electricity of") and name.endswith("DE munich") for name in names)
    ids = [one.id for one in plan.predictions]
    assert len(ids) == len(set(ids))
    one_site = option_of(alone, "on-premises").total_cost
    assert option.total_cost is not None and one_site is not None and option.total_cost.value > one_site.value


@pytest.mark.parametrize(
    ("site", "miss"),
    [
        ({"power_kw": 0.5}, "sites.munich.power_kw"),
        ({"rack_units": 1}, "sites.munich.rack_units"),
        ({"country": "US"}, "residency"),
    ],
)
def test_a_further_site_has_limits_of_its_own(plan_of: Make, site: dict[str, Any], miss: str) -> None:
    assert miss in missed(option_of(plan_of("clinic", two_sites(**site)), "on-premises"))


def test_the_origin_of_the_traffic_decides_what_a_site_serves(needs_of: Read, catalog: Catalog) -> None:
    regions = {"workloads.0.traffic.regions": {"DE": 0.2, "FR": 0.5, "IT": 0.3}}
    needs, _ = needs_of("clinic", edit(regions, two_sites(country="FR", workloads=[])))
    letters, xray = (task for task in list_tasks(needs, catalog))
    assert split_load(needs, catalog, letters) == pytest.approx({"": 0.2 + 0.15, "munich": 0.5 + 0.15})
    assert split_load(needs, catalog, xray) == {"": 0.5, "munich": 0.5}
