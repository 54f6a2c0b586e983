"""Answers by the token: price, standing, residency."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from archwright.catalog.facts import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.plan.demand import text_demands
from archwright.plan.hosted import HostedPlanner
from archwright.plan.ledger import Ledger
from archwright.plan.money import Draft

Read = Callable[..., tuple[Needs, NeedsSource]]
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def drafts(catalog: Catalog, needs: Needs, now: datetime = NOW) -> dict[str, Draft]:
    planner = HostedPlanner(needs, catalog, Ledger(), now)
    return {draft.provider: draft for draft in planner.drafts(text_demands(needs))}


def free(document: dict[str, Any]) -> None:
    document["placement"].pop("regions", None)
    for data in document["data"]:
        data["residency"] = ["any"]


def test_every_provider_is_priced_and_residency_unknown(catalog: Catalog, needs_of: Read) -> None:
    found = drafts(catalog, needs_of("startup")[0])
    assert set(found) == {model.provider for model in catalog.hosted}
    for draft in found.values():
        assert draft.terms is not None and draft.terms[0].sum > 0
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
    assert terms[0].flow[0] == pytest.approx(requests * growth * token_usd)
    assert demand.mean_growth == pytest.approx(growth)
    assert terms[0].category == "tokens"


def test_accepting_the_unknown_makes_the_cheapest_feasible(catalog: Catalog, needs_of: Read) -> None:
    def accept(document: dict[str, Any]) -> None:
        free(document)
        document["workloads"][0]["quality_unknown"] = "accept"

    found = drafts(catalog, needs_of("startup", accept)[0])
    assert all(draft.misses == () for draft in found.values())


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
