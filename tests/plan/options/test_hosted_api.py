"""Hosted models: price per token, quality floors, residency, risks, machines for other work."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import list_tasks
from archwright.plan.cost.control_plane import find_host_offer
from archwright.plan.cost.data_placement import build_chosen_context
from archwright.plan.demand.forecast import list_text_demands
from archwright.plan.options.hosted_api import HostedApiPlanner, display_place, list_token_prices
from archwright.plan.planner import Planner

from ..conftest import GONE, NOW, Change, Read, edit

IN_EUROPE = {"mistral", "bedrock", "azure-openai", "vertex"}
Offer = Callable[..., dict[str, OptionDraft]]
Make = Callable[..., Plan]


def drafts(catalog: Catalog, needs: Needs, now: datetime = NOW, clouds: tuple[str, ...] = ()) -> dict[str, OptionDraft]:
    ledger = PlanProvenance()
    planner = HostedApiPlanner(Planner(needs, catalog, ledger, NOW).world, ledger, list_tasks(needs, catalog), now)
    return {built.draft.provider: built.draft for built in planner.options(clouds)}


@pytest.fixture
def offer(catalog: Catalog, needs_of: Read) -> Offer:
    """Drafts by provider, of the changed template "startup"."""

    def make(change: Change | None = None, **options: Any) -> dict[str, OptionDraft]:
        return drafts(catalog, needs_of("startup", change)[0], **options)

    return make


# Data anywhere: with all workloads, with chat alone (`free`), with chat and the index.
unbound = edit({"placement.regions": GONE, "data.*.residency": ["any"]})
free = edit({"workloads.2": GONE, "workloads.1": GONE}, unbound)
with_index = edit({"workloads.1": GONE}, unbound)


def chat(**fields: Any) -> Change:
    """Free chat with changed fields of the workload."""
    return edit({f"workloads.0.{name}": value for name, value in fields.items()}, free)


def constraints(draft: OptionDraft) -> dict[str, Any]:
    return {miss.constraint: miss.value for miss in draft.misses}


def test_every_provider_is_priced_and_checked_by_where_it_processes_data(catalog: Catalog, offer: Offer) -> None:
    found = offer()
    assert set(found) == {model.provider for model in catalog.hosted}
    for provider, draft in found.items():
        assert draft.terms is not None and draft.terms[0].sum > 0
        outside = [(miss.value, miss.limit) for miss in draft.misses if miss.constraint == "residency"]
        elsewhere = {"deepseek": "CN", "mistral": "EEA"}.get(provider)
        assert outside == ([] if elsewhere is None else [(elsewhere, "US")])
        assert draft.regions[:1] == (("US",) if elsewhere is None else ())


def test_an_unknown_place_is_a_miss_only_for_data_bound_to_a_place(offer: Offer, monkeypatch: Any) -> None:
    monkeypatch.setattr(Catalog, "hosted_places", lambda *_: None)
    for draft in offer().values():
        assert constraints(draft)["residency"] == "unknown" and draft.regions == ()
    for draft in offer(free).values():
        assert draft.regions[0] == "any" and "residency" not in constraints(draft)


def test_known_or_accepted_quality_makes_an_option_without_misses(offer: Offer) -> None:
    found = offer(free)
    assert found["deepseek"].misses == () and found["deepseek"].models == {"support-chat": "deepseek-v3.2"}
    assert found["openai"].misses == ()
    assert all(draft.misses == () for draft in offer(chat(quality_unknown="accept")).values())
    for draft in found.values():
        lines = [term.line for term in draft.terms or ()]
        assert lines and not any("model files" in line for line in lines), "the provider stores the weights"


def test_the_price_is_volume_times_list_price(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of("startup", free)
    model = next(m for m in catalog.hosted if (m.provider, m.id) == ("deepseek", "deepseek-v3.2"))
    terms = drafts(catalog, needs)["deepseek"].terms
    assert terms is not None
    requests = 0.4 * 3600 * 730 * (16 + 0.05 * 8) / 24
    growth = sum(1.8 ** (month / 12) for month in range(24)) / 24
    token_usd = 1800 * model.input_usd_per_token + 220 * model.output_usd_per_token
    assert terms[0].flow[0] == pytest.approx(requests * token_usd)
    assert terms[0].sum == pytest.approx(24 * requests * growth * token_usd)
    assert list_text_demands(needs)[0].mean_growth == pytest.approx(growth)
    assert terms[0].category == "tokens"


def test_non_text_work_runs_on_rented_machines_whose_places_are_named(offer: Offer) -> None:
    deepseek = offer(with_index, clouds=("aws",))["deepseek"]
    assert deepseek.misses == () and {bought.pool for bought in deepseek.purchases} == {"index"}
    assert any(note.startswith("index: rented at aws") for note in deepseek.notes)
    assert constraints(offer(with_index)["deepseek"])["index.placement"] == "not sold by the token"
    for draft in offer(edit({"placement": {"allow": ["cloud", "hosted-api"]}}, with_index), clouds=("aws",)).values():
        assert draft.fleets and {fleet.where.country for fleet in draft.fleets} <= set(draft.regions)


def test_withdrawn_models_are_not_sold_and_models_with_an_end_date_rank_last(offer: Offer) -> None:
    ending = chat(model="gpt-5-nano")
    assert offer(free)["openai"].models["support-chat"] != "gpt-5-nano"
    assert any("withdrawn on 2026-12-11" in note for note in offer(ending)["openai"].notes)
    assert "support-chat" not in offer(ending, now=datetime(2027, 1, 1, tzinfo=UTC))["openai"].models
    other = offer(ending)["deepseek"]
    assert other.models == {} and other.regions[0] == "CN", "the place is known without a model"


def test_named_providers_and_fixed_models_narrow_the_list(offer: Offer) -> None:
    assert list(offer(edit({"placement.clouds": ["aws", "mistral"]}))) == ["mistral"]
    found = offer(chat(model="DeepSeek-V3.2"))
    assert found["deepseek"].misses == () and found["xai"].terms is None
    assert found["xai"].misses[0].constraint == "support-chat.model"


def test_a_floor_above_all_models_prices_the_cheapest_below_it(offer: Offer) -> None:
    miss = offer(chat(quality={"mmlu_pro": 0.99}, model="deepseek-v3.2"))["deepseek"].misses[0]
    assert (miss.constraint, miss.limit) == ("support-chat.quality.mmlu_pro", 0.99)
    assert isinstance(miss.value, float)


def test_too_long_texts_find_no_model(offer: Offer) -> None:
    found = offer(edit({"workloads.0.traffic.input_tokens": {"mean": 1e6, "p95": 1e8}}, free))
    assert all(draft.terms is None for draft in found.values())
    assert "tokens of context" in str(found["openai"].misses[0].limit)


def test_a_place_is_shown_as_needs_may_name_it(catalog: Catalog, offer: Offer) -> None:
    """A provider inside a union of countries, and data that must stay in the area around it."""
    area = {"organisation.country": "DE", "placement": {"allow": ["hosted-api"], "regions": ["EEA"]}}
    for provider, draft in offer(edit(area, free)).items():
        assert bool(draft.regions) is (provider in IN_EUROPE)
        assert all(place == "EEA" or catalog.is_inside(place, "EEA") for place in draft.regions)
        assert ("residency" in constraints(draft)) is (provider not in IN_EUROPE)
    shown = [display_place(catalog, place) for place in ("EU", "EEA", "US", "elsewhere")]
    assert shown == ["EEA", "EEA", "US", "elsewhere"]


HOSTED = {"allow": ["cloud", "hosted-api"]}
of_germany = edit({"organisation.country": "DE", "placement": HOSTED}, free)
BOUND = "data.*.residency"


@pytest.mark.parametrize(
    ("changes", "country"),
    [
        ({}, "DE"),
        ({"workloads.0.traffic.regions": {"JP": 0.8, "DE": 0.2}}, "JP"),
        ({BOUND: ["NL", "US"]}, "NL"),
        ({BOUND: ["SE", "GB"]}, "SE"),
    ],
)
def test_the_gateway_is_near_the_users_and_its_region_is_named(
    catalog: Catalog, needs_of: Read, changes: dict[str, Any], country: str
) -> None:
    """Traffic first, then the organisation's country, then the groups it belongs to."""
    needs = needs_of("startup", edit({"workloads.0.data": ["tickets"], **changes}, of_germany))[0]
    host = find_host_offer(needs, catalog)
    assert host is not None and catalog.regions[host.provider, host.region].country == country
    for draft in drafts(catalog, needs).values() if BOUND not in changes else ():
        assert country in draft.regions and any(host.region in term.line for term in draft.terms or ())


def test_a_small_job_beside_a_hosted_model_opens_no_further_region(offer: Offer) -> None:
    """The gateway and the data go to the region of the job's machine, or the job to theirs."""
    for draft in offer(None, clouds=("aws", "azure", "gcp")).values():
        lines = [term.line for term in draft.terms or ()]
        assert any(line.startswith("index: ") for line in lines), draft.provider
        assert not any("further region" in line for line in lines), draft.provider
        (fleet,) = draft.fleets
        assert any(line.startswith("host of") and line.endswith(f"in {fleet.where.region}") for line in lines)


def test_limits_without_a_guarantee_have_a_probability(offer: Offer) -> None:
    slo = {"ttft_p95_s": 0.5, "tpot_p95_s": 0.03, "latency_p95_s": 9, "availability": 0.9995}
    draft = offer(chat(slo=slo))["deepseek"]
    found = {one.limit: one for one in draft.limits if "guarantees" in one.basis}
    assert {name: one.stated for name, one in found.items()} == {f"support-chat.{name}": at for name, at in slo.items()}
    risks = list(found.values())
    assert all("deepseek guarantees no latency" in one.basis for one in risks[:3]) and draft.misses == ()
    assert all("`archwright bench URL`" in one.basis for one in risks[:3])
    # The expected first token breaks its limit; the expected whole answer keeps its limit, as with own machines.
    assert risks[0].probability < 0.5 < risks[2].probability < 0.95
    # A trial comes before the order, so even odds are enough, unless the needs ask for more than usual.
    assert {one.certainty for one in risks[:3]} == {0.5}
    strict = offer(chat(slo={**slo, "certainty": 0.9}))["deepseek"].limits
    assert {one.certainty for one in strict if "no latency" in one.basis} == {0.9}
    (miss,) = offer(chat(slo={"availability": 0.9996}))["deepseek"].misses
    assert (miss.constraint, miss.value, miss.limit) == ("support-chat.availability", 0.9995, 0.9996)


def test_impossible_limits_are_missed_and_easy_limits_are_no_risk(catalog: Catalog, offer: Offer) -> None:
    far, first, read, token = (
        catalog.parameter(name) for name in ("roundtrip.far", "hosted.first", "hosted.read", "hosted.token")
    )
    fastest, slowest = far.low + first.low + 4200 / read.high, far.high + first.high + 4200 / read.low

    def deepseek(**slo: float) -> OptionDraft:
        return offer(chat(slo=slo))["deepseek"]

    for field, low, high in (("ttft_p95_s", fastest, slowest), ("tpot_p95_s", token.low, token.high)):
        below, above = deepseek(**{field: low * 0.99}), deepseek(**{field: high * 1.01})
        assert constraints(below) == {f"support-chat.{field}": pytest.approx(low)}
        (easy, *_), inside = above.limits, deepseek(**{field: low * 1.01})
        assert not above.misses and easy.limit == f"support-chat.{field}" and easy.probability > 0.95
        assert not inside.misses and inside.limits[0].probability < 0.06
    assert deepseek(availability=0.9).notes == deepseek().notes


def test_a_nearby_provider_needs_less_of_the_latency_limit(catalog: Catalog, offer: Offer) -> None:
    tight = catalog.parameter("roundtrip.country").low + catalog.parameter("hosted.first").low + 0.022
    found = offer(chat(slo={"ttft_p95_s": tight}))
    assert "support-chat.ttft_p95_s" in constraints(found["deepseek"])
    assert "support-chat.ttft_p95_s" not in constraints(found["openai"])


def test_texts_at_sites_are_not_bought_elsewhere(offer: Offer) -> None:
    shops = {"shop": {"count": 3, "countries": ["US"], "power_kw": 2}}
    for draft in offer(edit({"sites": shops, "workloads.0.sites": ["shop"]}, free)).values():
        assert constraints(draft)["support-chat.sites"] == "a hosted model"


def test_sections_find_the_gateway_of_the_chosen_option_again(catalog: Catalog, needs_of: Read, plan_of: Make) -> None:
    """Only the provider's regions are places of hosted models."""
    changes = {"workloads.0.quality_unknown": "accept", "placement": {**HOSTED, "prefer": "hosted-api"}}
    bought = edit(changes, of_germany)
    plan, needs = plan_of("startup", bought), needs_of("startup", bought)[0]
    option = next(one for one in plan.options if one.name == plan.chosen)
    case = build_chosen_context(ChosenOption(needs, catalog, PlanProvenance(), option, ()))
    assert option.placement == "hosted-api" and case.host is not None
    assert [where.region for where in case.where] == list(option.regions[:1])
    assert option.regions[1:] == ("DE",) == (catalog.regions[case.host.provider, case.host.region].country,)


def test_batches_and_shared_prompts_pay_less(catalog: Catalog, needs_of: Read) -> None:
    model = next(one for one in catalog.hosted if one.cache_read_usd_per_token and one.batch_input_usd_per_token)
    workload = needs_of("startup")[0].workloads[0]
    traffic = workload.traffic
    assert traffic is not None and model.cache_read_usd_per_token is not None
    plain = list_token_prices(model, workload)
    assert plain[:2] == (model.input_usd_per_token, model.output_usd_per_token)
    shared = list_token_prices(model, replace(workload, traffic=replace(traffic, shared_prefix_share=0.75)))
    expected = 0.25 * model.input_usd_per_token + 0.75 * model.cache_read_usd_per_token
    assert shared.input_usd == pytest.approx(expected) and "75 % of the prompt tokens" in shared.terms
    batch = replace(workload, kind="batch-text", deadline_h=24.0)
    assert list_token_prices(model, batch)[:2] == (model.batch_input_usd_per_token, model.batch_output_usd_per_token)
    assert list_token_prices(model, replace(batch, deadline_h=23.0))[:2] == plain[:2]


def test_a_model_for_speech_answers_no_chat(offer: Offer, catalog: Catalog) -> None:
    assert catalog.hosted_media("mistral", "voxtral-small-2507") == ("speech",)
    # Of the models that meet this floor it would be the cheapest; a user may still name it.
    assert offer(chat(quality={"mmlu_pro": 0.648}))["mistral"].models["support-chat"] != "voxtral-small-2507"
    named = offer(chat(model="voxtral-small-2507"))["mistral"]
    assert named.models["support-chat"] == "voxtral-small-2507"


def test_a_scored_model_below_the_floor_comes_before_one_without_a_score(offer: Offer, catalog: Catalog) -> None:
    draft = offer(chat(quality={"mmlu_pro": 0.97}))["azure-openai"]
    low = constraints(draft)["support-chat.quality.mmlu_pro"]
    scores = (catalog.hosted_evidence(row.provider, row.id) for row in catalog.hosted if row.provider == draft.provider)
    assert low >= 0.8 and low <= max(found["mmlu_pro"].low for found in scores if "mmlu_pro" in found)


def test_a_provider_without_scores_says_so_once_with_the_remedy(offer: Offer) -> None:
    draft = offer(chat(quality={"global_mmlu": 0.5}))["azure-openai"]
    assert constraints(draft)["support-chat.quality.global_mmlu"] == "unknown"
    (note,) = [note for note in draft.notes if "quality_unknown: accept" in note]
    assert "no model on sale at azure-openai has a score on global_mmlu" in note
