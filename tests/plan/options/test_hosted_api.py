"""Answers by the token: price, standing, residency."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import Plan
from archwright.plan.accounting.budget import UNVERIFIED, OptionDraft
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import list_tasks
from archwright.plan.cost.control_plane import find_host_offer
from archwright.plan.cost.data_placement import build_chosen_context
from archwright.plan.demand.forecast import list_text_demands
from archwright.plan.options.hosted_api import HostedApiPlanner, display_place
from archwright.plan.planner import Planner

Make = Callable[..., Plan]
Read = Callable[..., tuple[Needs, NeedsSource]]
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def drafts(catalog: Catalog, needs: Needs, now: datetime = NOW) -> dict[str, OptionDraft]:
    ledger = PlanProvenance()
    world = Planner(needs, catalog, ledger).world
    planner = HostedApiPlanner(world, ledger, list_tasks(needs, catalog), now)
    return {built.draft.provider: built.draft for built in planner.options(())}


def free(document: dict[str, Any]) -> None:
    """Chat alone, its data anywhere."""
    document["workloads"] = document["workloads"][:1]
    document["placement"].pop("regions", None)
    for data in document["data"]:
        data["residency"] = ["any"]


def test_every_provider_is_priced_and_judged_by_where_it_computes(catalog: Catalog, needs_of: Read) -> None:
    found = drafts(catalog, needs_of("startup")[0])
    assert set(found) == {model.provider for model in catalog.hosted}
    for provider, draft in found.items():
        assert draft.terms is not None and draft.terms[0].sum > 0
        outside = [(miss.value, miss.limit) for miss in draft.misses if miss.constraint == "residency"]
        elsewhere = {"deepseek": "CN", "mistral": "EEA"}.get(provider)
        assert outside == ([] if elsewhere is None else [(elsewhere, "US")])
        assert draft.regions[:1] == (("US",) if elsewhere is None else ())


def test_data_bound_to_a_place_rule_out_who_says_nothing(catalog: Catalog, needs_of: Read, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(catalog), "hosted_places", lambda *_: None)
    for draft in drafts(catalog, needs_of("startup")[0]).values():
        assert ("residency", "unknown") in {(miss.constraint, miss.value) for miss in draft.misses}
        assert draft.regions == ()


def test_known_quality_makes_an_option_without_misses(catalog: Catalog, needs_of: Read) -> None:
    found = drafts(catalog, needs_of("startup", free)[0])
    assert found["deepseek"].misses == ()
    assert found["deepseek"].models == {"support-chat": "deepseek-v3.2"}
    assert found["openai"].misses[0].value == "unknown"


def test_the_price_is_volume_times_list_price(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of("startup", free)
    demand = list_text_demands(needs)[0]
    model = next(m for m in catalog.hosted if (m.provider, m.id) == ("deepseek", "deepseek-v3.2"))
    terms = drafts(catalog, needs)["deepseek"].terms
    assert terms is not None
    requests = 0.4 * 3600 * 730 * (16 + 0.05 * 8) / 24
    growth = sum(1.8 ** (month / 12) for month in range(24)) / 24
    token_usd = 1800 * model.input_usd_per_token + 220 * model.output_usd_per_token
    assert terms[0].flow[0] == pytest.approx(requests * token_usd)
    assert terms[0].sum == pytest.approx(24 * requests * growth * token_usd)
    assert demand.mean_growth == pytest.approx(growth)
    assert terms[0].category == "tokens"


def test_the_weights_of_a_model_bought_by_the_token_are_its_providers_to_keep(catalog: Catalog, needs_of: Read) -> None:
    for draft in drafts(catalog, needs_of("startup", free)[0]).values():
        assert draft.terms and [term.line for term in draft.terms if "model files" in term.line] == []


def test_accepting_the_unknown_makes_the_cheapest_feasible(catalog: Catalog, needs_of: Read) -> None:
    def accept(document: dict[str, Any]) -> None:
        free(document)
        document["workloads"][0]["quality_unknown"] = "accept"

    found = drafts(catalog, needs_of("startup", accept)[0])
    assert all(draft.misses == () for draft in found.values())


def test_what_is_not_text_runs_on_machines_beside_it(catalog: Catalog, needs_of: Read) -> None:
    def with_index(document: dict[str, Any]) -> None:
        document["workloads"] = [document["workloads"][0], document["workloads"][2]]
        document["placement"].pop("regions", None)
        for data in document["data"]:
            data["residency"] = ["any"]

    needs, _ = needs_of("startup", with_index)
    ledger = PlanProvenance()
    world = Planner(needs, catalog, ledger).world
    built = list(HostedApiPlanner(world, ledger, list_tasks(needs, catalog), NOW).options(("aws",)))
    deepseek = next(one.draft for one in built if one.draft.provider == "deepseek")
    assert deepseek.misses == () and {b.pool for b in deepseek.purchases} == {"index"}
    assert any(note.startswith("index: rented at aws") for note in deepseek.notes)
    without = drafts(catalog, needs)["deepseek"]
    assert ("index.placement", "not sold by the token") in {(miss.constraint, miss.value) for miss in without.misses}


def test_withdrawn_models_are_not_sold_and_those_that_last_come_first(catalog: Catalog, needs_of: Read) -> None:
    def fixed(document: dict[str, Any]) -> None:
        free(document)
        document["workloads"][0]["model"] = "gpt-5-nano"

    needs, ending = needs_of("startup", free)[0], needs_of("startup", fixed)[0]
    assert drafts(catalog, needs)["openai"].models["support-chat"] != "gpt-5-nano"
    # Where the needs leave no other, the end is announced; afterwards it is not sold.
    assert any("withdrawn on 2026-12-11" in note for note in drafts(catalog, ending)["openai"].notes)
    assert "support-chat" not in drafts(catalog, ending, datetime(2027, 1, 1, tzinfo=UTC))["openai"].models


def test_named_providers_narrow_the_list(catalog: Catalog, needs_of: Read) -> None:
    def named(document: dict[str, Any]) -> None:
        document["placement"]["clouds"] = ["aws", "mistral"]

    assert list(drafts(catalog, needs_of("startup", named)[0])) == ["mistral"]


def test_a_fixed_model_is_bought_where_it_is_sold(catalog: Catalog, needs_of: Read) -> None:
    def fixed(document: dict[str, Any]) -> None:
        free(document)
        document["workloads"][0]["model"] = "DeepSeek-V3.2"

    found = drafts(catalog, needs_of("startup", fixed)[0])
    assert found["deepseek"].misses == ()
    assert found["xai"].terms is None
    assert found["xai"].misses[0].constraint == "support-chat.model"


def test_a_floor_nobody_reaches_prices_the_cheapest_below_it(catalog: Catalog, needs_of: Read) -> None:
    def proud(document: dict[str, Any]) -> None:
        free(document)
        document["workloads"][0].update(quality={"mmlu_pro": 0.99}, model="deepseek-v3.2")

    needs, _ = needs_of("startup", proud)
    miss = drafts(catalog, needs)["deepseek"].misses[0]
    assert (miss.constraint, miss.limit) == ("support-chat.quality.mmlu_pro", 0.99)
    assert isinstance(miss.value, float)


def test_too_long_texts_find_no_model(catalog: Catalog, needs_of: Read) -> None:
    def long(document: dict[str, Any]) -> None:
        free(document)
        document["workloads"][0]["traffic"]["input_tokens"] = {"mean": 1e6, "p95": 1e8}

    found = drafts(catalog, needs_of("startup", long)[0])
    assert all(draft.terms is None for draft in found.values())
    assert "tokens of context" in str(found["openai"].misses[0].limit)


def test_a_place_is_said_in_the_words_that_needs_may_use(catalog: Catalog, needs_of: Read) -> None:
    """A provider inside a union of countries, and data that must stay in the area around it."""

    def area(document: dict[str, Any]) -> None:
        free(document)
        document["organisation"]["country"] = "DE"
        document["placement"] = {"allow": ["hosted-api"], "regions": ["EEA"]}

    found = drafts(catalog, needs_of("startup", area)[0])
    assert found["mistral"].regions == ("EEA",)
    for provider in found.keys() - {"mistral"}:
        assert found[provider].regions == ()
        assert "residency" in {miss.constraint for miss in found[provider].misses}
    assert [display_place(catalog, place) for place in ("EU", "EEA", "US", "elsewhere")] == [
        "EEA",
        "EEA",
        "US",
        "elsewhere",
    ]


def test_a_place_nobody_knows_may_be_any(catalog: Catalog, needs_of: Read, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(catalog), "hosted_places", lambda *_: None)
    for draft in drafts(catalog, needs_of("startup", free)[0]).values():
        assert draft.regions[0] == "any" and "residency" not in {miss.constraint for miss in draft.misses}


def test_no_model_to_buy_leaves_the_place_known(catalog: Catalog, needs_of: Read) -> None:
    def own(document: dict[str, Any]) -> None:
        free(document)
        document["workloads"][0]["model"] = "gpt-5-nano"

    draft = drafts(catalog, needs_of("startup", own)[0])["deepseek"]
    assert draft.models == {} and draft.regions[0] == "CN"


def of_germany(document: dict[str, Any]) -> None:
    free(document)
    document["organisation"]["country"] = "DE"
    document["placement"] = {"allow": ["cloud", "hosted-api"]}


@pytest.mark.parametrize(
    ("traffic", "regions", "country"),
    [(None, None, "DE"), ({"JP": 0.8, "DE": 0.2}, None, "JP"), (None, ["NL", "US"], "NL"), (None, ["SE", "GB"], "SE")],
)
def test_the_gateway_stands_near_and_its_region_is_named(
    catalog: Catalog, needs_of: Read, traffic: Any, regions: Any, country: str
) -> None:
    """Traffic first, then the organisation's country, then the groups it belongs to."""

    def change(document: dict[str, Any]) -> None:
        of_germany(document)
        if traffic is not None:
            document["workloads"][0]["traffic"]["regions"] = traffic
        for data in document["data"]:
            data["residency"] = regions or ["any"]
        document["workloads"][0]["data"] = [document["data"][0]["name"]]

    needs = needs_of("startup", change)[0]
    host = find_host_offer(needs, catalog)
    assert host is not None and catalog.regions[host.provider, host.region].country == country
    if regions is None:
        for draft in drafts(catalog, needs).values():
            assert country in draft.regions
            assert any(host.region in term.line for term in draft.terms or ())


def test_the_machines_beside_are_named_too(catalog: Catalog, needs_of: Read) -> None:
    def with_index(document: dict[str, Any]) -> None:
        document["workloads"] = [document["workloads"][0], document["workloads"][2]]
        document["placement"] = {"allow": ["cloud", "hosted-api"]}
        for data in document["data"]:
            data["residency"] = ["any"]

    needs, ledger = needs_of("startup", with_index)[0], PlanProvenance()
    world = Planner(needs, catalog, ledger).world
    for built in HostedApiPlanner(world, ledger, list_tasks(needs, catalog), NOW).options(("aws",)):
        assert built.draft.fleets and {f.where.country for f in built.draft.fleets} <= set(built.draft.regions)


def limited(**slo: float) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        free(document)
        document["workloads"][0]["slo"] = slo

    return change


def test_what_nobody_promises_is_said_at_risk(catalog: Catalog, needs_of: Read) -> None:
    slo = {"ttft_p95_s": 0.5, "tpot_p95_s": 0.03, "latency_p95_s": 9, "availability": 0.9995}
    draft = drafts(catalog, needs_of("startup", limited(**slo))[0])["deepseek"]
    risks = [note.removeprefix(UNVERIFIED) for note in draft.notes if note.startswith(UNVERIFIED)]
    assert [note.split(":")[0] for note in risks] == [f"support-chat.{name} limit {at:g}" for name, at in slo.items()]
    assert all("deepseek guarantees no latency" in note for note in risks[:3]) and draft.misses == ()
    assert all("`archwright bench URL`" in note for note in risks[:3])
    trusted = drafts(catalog, needs_of("startup", limited(availability=0.9996))[0])["deepseek"]
    assert [(miss.constraint, miss.value, miss.limit) for miss in trusted.misses] == [
        ("support-chat.availability", 0.9995, 0.9996)
    ]


def test_a_limit_that_nobody_can_keep_is_missed_and_one_that_everybody_keeps_is_no_risk(
    catalog: Catalog, needs_of: Read
) -> None:
    far, first, read, token = (
        catalog.parameter(name) for name in ("roundtrip.far", "hosted.first", "hosted.read", "hosted.token")
    )
    fastest, slowest = far.low + first.low + 4200 / read.high, far.high + first.high + 4200 / read.low

    def deepseek(**slo: float) -> OptionDraft:
        return drafts(catalog, needs_of("startup", limited(**slo))[0])["deepseek"]

    for field, low, high in (("ttft_p95_s", fastest, slowest), ("tpot_p95_s", token.low, token.high)):
        below, above = deepseek(**{field: low * 0.99}), deepseek(**{field: high * 1.01})
        assert [m.constraint for m in below.misses] == [f"support-chat.{field}"]
        assert below.misses[0].value == pytest.approx(low)
        assert not above.misses and not any(note.startswith(UNVERIFIED) for note in above.notes)
        inside = deepseek(**{field: low * 1.01})
        assert not inside.misses and any(note.startswith(UNVERIFIED) for note in inside.notes)
    assert deepseek(availability=0.9).notes == deepseek().notes


def test_an_answer_from_nearby_takes_less_of_the_limit(catalog: Catalog, needs_of: Read) -> None:
    tight = catalog.parameter("roundtrip.country").low + catalog.parameter("hosted.first").low + 0.022
    found = drafts(catalog, needs_of("startup", limited(ttft_p95_s=tight))[0])
    missed = {provider: [m.constraint for m in draft.misses] for provider, draft in found.items()}
    assert "support-chat.ttft_p95_s" in missed["deepseek"] and "support-chat.ttft_p95_s" not in missed["openai"]


def test_texts_at_sites_are_not_bought_elsewhere(catalog: Catalog, needs_of: Read) -> None:
    def at_sites(document: dict[str, Any]) -> None:
        free(document)
        document["sites"] = {"shop": {"count": 3, "countries": ["US"], "power_kw": 2}}
        document["workloads"][0]["sites"] = ["shop"]

    for draft in drafts(catalog, needs_of("startup", at_sites)[0]).values():
        assert ("support-chat.sites", "a hosted model") in {(miss.constraint, miss.value) for miss in draft.misses}


def test_sections_find_the_gateway_of_the_chosen_option_again(catalog: Catalog, needs_of: Read, plan_of: Make) -> None:
    """Of its regions only those of the provider are places where answers are bought."""

    def bought(document: dict[str, Any]) -> None:
        of_germany(document)
        document["workloads"][0]["quality_unknown"] = "accept"
        document["placement"]["prefer"] = "hosted-api"

    plan, needs = plan_of("startup", bought), needs_of("startup", bought)[0]
    option = next(one for one in plan.options if one.name == plan.chosen)
    case = build_chosen_context(ChosenOption(needs, catalog, PlanProvenance(), option, ()))
    assert option.placement == "hosted-api" and case.host is not None
    assert [where.region for where in case.where] == list(option.regions[:1])
    assert option.regions[1:] == ("DE",) == (catalog.regions[case.host.provider, case.host.region].country,)
