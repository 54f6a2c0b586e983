"""What a plan tells its gateway: classes, residencies, places, prices of a token, workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import Plan, Pool, TokenPrice
from archwright.contract.record import replace
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.demand.forecast import list_text_demands
from archwright.plan.evidence.gateway_settings import (
    build_gateway_settings,
    find_strictest_class,
    list_allowed_countries,
)
from archwright.plan.options.this_machine import ThisMachinePlanner
from archwright.plan.plan_file import decode_plan, encode_plan

from ..conftest import GONE, MACHINE, edit

Make = Callable[..., Plan]
Read = Callable[..., tuple[Needs, NeedsSource]]


def price_of(plan: Plan, pool: str) -> TokenPrice:
    found = plan.pool(pool).price_per_token
    assert found is not None
    return found


def paid(plan: Plan, needs: Needs, workload: str) -> float:
    """What the tokens of the horizon bring in, in USD."""
    demand = next(one for one in list_text_demands(needs) if one.workload.name == workload)
    price, requests = price_of(plan, workload), demand.requests_per_month * sum(demand.growth)
    each = demand.input_tokens.mean * price.input_usd + demand.output_tokens.mean * price.output_usd
    return requests * each


def test_tokens_bring_in_what_their_machines_cost(startup: Plan, needs_of: Read) -> None:
    needs = needs_of("startup")[0]
    option = next(one for one in startup.options if one.name == startup.chosen)
    machines = sum(
        line.amount.value for line in option.cost_lines if line.category == "compute" and "support-chat" in line.name
    )
    assert startup.currency == "USD"
    assert paid(startup, needs, "support-chat") == pytest.approx(machines * startup.horizon_months)
    price = price_of(startup, "support-chat")
    assert price.output_usd == pytest.approx(5 * price.input_usd) and "hosted prices" in price.source


def test_machines_that_are_shared_are_paid_by_the_work_done_on_them(
    plan_of: Make, needs_of: Read, catalog: Catalog
) -> None:
    """What is not paid by the texts is paid by the pictures, whose answers have no tokens."""
    plan, needs = plan_of("clinic"), needs_of("clinic")[0]
    option, rate = plan.chosen_option, catalog.exchange_rate("USD", "EUR").value
    assert option is not None
    ours = [line for line in option.cost_lines if plan.pool("letters").machine in line.name]
    once, months = sum(line.amount.value for line in ours if line.once), plan.horizon_months
    whole = (once + months * sum(line.amount.value for line in ours if not line.once)) / rate
    share = paid(plan, needs, "letters") / whole
    assert 0.9 < share < 1
    assert plan.pool("xray").price_per_token is None and plan.pool("xray").kind == "predict"


def test_who_owns_the_machine_pays_its_electricity(desk: Plan, needs_of: Read, catalog: Catalog) -> None:
    (line,) = next(one for one in desk.options if one.name == desk.chosen).cost_lines
    usd = line.amount.value * desk.horizon_months / catalog.exchange_rate("USD", "EUR").value
    assert paid(desk, needs_of("desk")[0], "assistant") == pytest.approx(usd)


def test_what_nobody_knows_the_work_of_is_shared_equally(needs_of: Read, catalog: Catalog) -> None:
    def two(document: dict[str, Any]) -> None:
        first = document["workloads"][0]
        traffic = {**first["traffic"], "requests_per_second": {"mean": 0.2, "peak": 0.6}}
        document["workloads"].append({**first, "name": "second", "traffic": traffic})

    needs = needs_of("desk", two)[0]
    draft = ThisMachinePlanner(needs, catalog, PlanProvenance()).plan(list_text_demands(needs), MACHINE).draft
    first, second = (pool.price_per_token for pool in build_gateway_settings(needs, catalog, draft).pools)
    assert first is not None and second is not None
    assert first.input_usd == pytest.approx(2 * second.input_usd)


def test_classes_and_residencies(plan_of: Make, desk: Plan, needs_of: Read, catalog: Catalog) -> None:
    assert [(one.data_class, one.residency) for one in desk.workloads] == [("personal", ("DE",))]
    nothing = build_gateway_settings(needs_of("desk")[0], catalog, None)
    assert (
        nothing.pools == ()
        and replace(desk.workloads[0], model=None, pools=(), waits=None, evidence=()) == nothing.workloads[0]
    )
    letters = plan_of("clinic").workloads[0]
    assert letters.data_class == "health" and {"DE", "FR", "NO"} <= {*letters.residency}
    assert not {"US", "CH", "EEA"} & {*letters.residency}


def changed(needs_of: Read, sensitivity: str, places: list[str], regions: list[str] | None = None) -> Needs:
    placement = {"allow": ["cloud"], **({"regions": regions} if regions else {})}
    data = {"data.0.sensitivity": sensitivity, "data.0.residency": places}
    return needs_of("desk", edit({**data, "placement": placement}))[0]


def test_data_without_bounds(needs_of: Read, catalog: Catalog) -> None:
    """Of people: anywhere, as the needs say; of others nobody says where those of people among them may go."""
    for sensitivity, expected in (("personal", ("any",)), ("internal", ())):
        needs = changed(needs_of, sensitivity, ["any"])
        assert list_allowed_countries(needs, catalog, needs.workloads[0], ()) == expected
    nameless = replace(needs.workloads[0], data=())
    assert find_strictest_class(needs, nameless) is None and list_allowed_countries(needs, catalog, nameless, ()) == ()


def test_where_stricter_data_than_planned_for_may_go(needs_of: Read, catalog: Catalog) -> None:
    """Only inside what bounds both, only where the needs have such data, and only from work on data of people."""

    def of(sensitivity: str, *more: tuple[str, list[str]]) -> dict[str, tuple[str, ...]]:
        def change(document: dict[str, Any]) -> None:
            document["data"][0].update(sensitivity=sensitivity, residency=["any"])
            document["data"] += [
                {"name": f"more-{one}", "size_gib": 1, "sensitivity": one, "residency": places} for one, places in more
            ]

        needs = needs_of("desk", change)[0]
        (workload,) = build_gateway_settings(needs, catalog, None).workloads
        assert workload.data_class == sensitivity
        return {str(one): places for one, places in workload.residency_of.items()}

    assert of("personal") == {}
    assert of("personal", ("health", ["DE"]), ("payment", ["any"])) == {"health": ("DE",), "payment": ("any",)}
    assert of("health", ("personal", ["DE"])) == {}
    assert of("internal", ("health", ["DE"])) == {}


def test_a_region_that_is_named_is_its_country_to_a_gateway(needs_of: Read, catalog: Catalog, startup: Plan) -> None:
    needs = changed(needs_of, "personal", ["any"], ["us-east-1"])
    pool = replace(startup.pools[0], provider="aws", region="us-east-1")
    mine = replace(pool, workloads=("assistant",))
    for pools, countries in (((mine, replace(mine, region="us-west-2")), ("US",)), ((pool,), ())):
        assert list_allowed_countries(needs, catalog, needs.workloads[0], pools) == countries


# --- bought by the token


def hosted(catalog: Catalog, needs: Needs, provider: str, model: str) -> Pool:
    draft = OptionDraft("h", "hosted-api", provider, models={needs.workloads[0].name: model})
    told = build_gateway_settings(needs, catalog, draft)
    (upstream,) = told.upstreams
    assert told.pools == () and told.workloads[0].pools == ()
    return upstream


def test_an_upstream_has_the_list_price_and_no_machines(plan_of: Make, needs_of: Read) -> None:
    first = edit({"workloads.2": GONE, "workloads.1": GONE})
    free = edit({"placement": {"allow": ["hosted-api"]}, "data.*.residency": ["any"]}, first)
    plan = plan_of("startup", free)
    assert plan.chosen == "hosted-api-bedrock" and plan.pools == ()
    (upstream,) = plan.upstreams
    option = next(one for one in plan.options if one.name == plan.chosen)
    (line,) = (line for line in option.cost_lines if line.category == "tokens")
    demand, price = list_text_demands(needs_of("startup", free)[0])[0], upstream.price_per_token
    assert price is not None and not upstream.is_on_own_hardware
    each = demand.input_tokens.mean * price.input_usd + demand.output_tokens.mean * price.output_usd
    assert demand.requests_per_month * demand.mean_growth * each == pytest.approx(line.amount.value)
    assert (upstream.country, upstream.launch.settings) == ("US", {})


def test_where_an_upstream_answers(needs_of: Read, catalog: Catalog) -> None:
    rows = {row.provider: row.id for row in reversed(catalog.hosted)}
    for provider, places, country in (
        ("anthropic", ["US"], "US"),
        ("anthropic", ["DE"], ""),
        ("mistral", ["EEA"], "AT"),
        ("mistral", ["DE"], ""),  # not all of the EU is in Germany
    ):
        found = hosted(catalog, changed(needs_of, "personal", places), provider, rows[provider])
        assert found.country == country
        assert found.launch.settings == ({"protocol": "anthropic"} if provider == "anthropic" else {})


# --- workers, files


def test_workers_are_the_cores_of_the_first_year(needs_of: Read, catalog: Catalog, desk: Plan, startup: Plan) -> None:
    assert (desk.gateway_workers, startup.gateway_workers) == (1, 1)

    busy = edit({"workloads.0.traffic.requests_per_second": {"mean": 12.0, "peak": 60.0}})
    kept = edit({"existing": [{"kind": "gateway", "product": "Kong"}]}, busy)
    rented = OptionDraft("c", "cloud", "aws")
    for change, several in ((busy, True), (kept, False)):
        needs = needs_of("clinic", change)[0]
        assert (build_gateway_settings(needs, catalog, rented).workers > 1) == several


def test_a_plan_of_an_older_release_is_read(startup: Plan) -> None:
    old = msgspec.json.decode(encode_plan(startup))
    for field in ("upstreams", "gateway_workers"):
        del old[field]
    for pool in (*old["pools"], *(pool for option in old["options"] for pool in option["pools"])):
        for field in ("kind", "country", "price_per_token"):
            del pool[field]
    for workload in old["workloads"]:
        del workload["data_class"], workload["residency"]
    read = decode_plan(msgspec.json.encode(old), "plan.json")
    assert read.gateway_workers == 1 and read.workloads[0].residency == ()
    assert decode_plan(encode_plan(read), "plan.json").digest == read.digest
