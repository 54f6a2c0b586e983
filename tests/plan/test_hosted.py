"""Answers by the token: price, standing, residency."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from archwright.catalog.facts import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.plan.candidates import tasks_of
from archwright.plan.demand import text_demands
from archwright.plan.hosted import HostedPlanner
from archwright.plan.ledger import Ledger
from archwright.plan.make import Planner
from archwright.plan.money import Draft

Read = Callable[..., tuple[Needs, NeedsSource]]
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def drafts(catalog: Catalog, needs: Needs, now: datetime = NOW) -> dict[str, Draft]:
    ledger = Ledger()
    world = Planner(needs, catalog, ledger, 1).world
    planner = HostedPlanner(world, ledger, tasks_of(needs, catalog), now)
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
        places = catalog.hosted_places(provider, "")
        outside = [(miss.value, miss.limit) for miss in draft.misses if miss.constraint == "residency"]
        assert outside == ([] if places == ("US",) else [(", ".join(places or ()), "US")])
        assert draft.regions == (("US",) if places == ("US",) else ())


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
    demand = text_demands(needs)[0]
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
    ledger = Ledger()
    world = Planner(needs, catalog, ledger, 1).world
    built = list(HostedPlanner(world, ledger, tasks_of(needs, catalog), NOW).options(("aws",)))
    deepseek = next(one.draft for one in built if one.draft.provider == "deepseek")
    assert deepseek.misses == () and {b.pool for b in deepseek.purchases} == {"index"}
    assert any(note.startswith("index: rented at aws") for note in deepseek.notes)
    without = drafts(catalog, needs)["deepseek"]
    assert ("index.placement", "not sold by the token") in {(miss.constraint, miss.value) for miss in without.misses}


def test_withdrawn_models_are_not_sold_and_ending_ones_are_announced(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of("startup", free)
    before, after = drafts(catalog, needs), drafts(catalog, needs, datetime(2027, 1, 1, tzinfo=UTC))
    assert before["openai"].models["support-chat"] == "gpt-5-nano"
    assert any("withdrawn on 2026-12-11" in note for note in before["openai"].notes)
    assert after["openai"].models["support-chat"] != "gpt-5-nano"


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
