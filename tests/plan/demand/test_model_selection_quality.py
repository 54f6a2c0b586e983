"""Quality in model selection: the better model at equal cost, known quality at about equal cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Option, Plan
from archwright.contract.record import replace
from archwright.plan.accounting.budget import USD
from archwright.plan.demand.model_selection import SIMILAR_COST_FACTOR

from ..conftest import Change, Read, edit
from ..options.test_hosted_api import chat, drafts, free

Make = Callable[..., Plan]


def small_chat(**placement: Any) -> Change:
    return edit({"placement": placement, "budget": {"currency": USD, "per_month": 1e6, "horizon_months": 24}}, free)


def score(option: Option, catalog: Catalog) -> float:
    return catalog.models[option.models["support-chat"]].quality.get("mmlu_pro") or 0.0


def test_a_large_machine_that_is_there_anyway_runs_a_good_model(plan_of: Make, catalog: Catalog) -> None:
    rented = plan_of("startup", small_chat(allow=["cloud"], accelerators=["B200"])).options[0]
    there = {"machine": "8x H100 SXM", "count": 2, "age_months": 6}
    owned = plan_of("startup", small_chat(allow=["on-premises"], owned=[there])).options[0]
    for option in (rented, owned):
        assert option.feasible and score(option, catalog) > 0.65
        assert not any("for 0 USD a month more" in note for note in option.notes)


def test_unknown_quality_is_said_first_with_the_price_of_what_is_known(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of("startup", chat(quality_unknown="accept"))
    found = drafts(catalog, needs)
    unknown = found["mistral"]
    assert unknown.notes[0].startswith("support-chat: the quality of") and "is not known" in unknown.notes[0]
    known = next(model for model in catalog.hosted if (model.provider, model.id) == ("deepseek", "deepseek-v3.2"))
    for factor, taken in ((1.01, True), (SIMILAR_COST_FACTOR * 1.01, False)):
        prices = {name: getattr(known, name) / factor for name in ("input_usd_per_token", "output_usd_per_token")}
        cheaper = replace(known, id="no-figure", **prices)
        draft = drafts(replace_hosted(catalog, (known, cheaper)), needs)["deepseek"]
        assert (draft.models["support-chat"] == known.id) is taken
        assert any("whose quality is known, costs" in note for note in draft.notes) is not taken


def replace_hosted(catalog: Catalog, models: tuple[Any, ...]) -> Catalog:
    class Few(type(catalog)):  # type: ignore[misc]
        hosted = models

    few = object.__new__(Few)
    few.__dict__.update({name: value for name, value in catalog.__dict__.items() if name != "hosted"})
    return few
