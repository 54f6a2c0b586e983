"""Which models may serve: floors, licences, context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Workload
from archwright.plan.demand.forecast import Demand, list_text_demands
from archwright.plan.demand.model_selection import (
    assess_quality,
    find_floor_misses,
    format_licence_note,
    select_open_models,
)

from ..conftest import Read, edit

MakeDemand = Callable[..., Demand]


@pytest.fixture
def demand_of(needs_of: Read) -> MakeDemand:
    def made(**changes: Any) -> Demand:
        changed = edit({f"workloads.0.{name}": value for name, value in changes.items()})
        return list_text_demands(needs_of("startup", changed)[0])[0]

    return made


def chat(**changes: Any) -> Workload:
    return Workload(name="w", kind="chat", **changes)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [({"a": 0.5, "b": 0.5}, "passes"), ({"a": 0.5}, "unknown"), ({"a": 0.3}, "below"), ({}, "unknown")],
)
def test_standing(reported: dict[str, float | None], expected: str) -> None:
    assert assess_quality(chat(quality={"a": 0.4, "b": 0.4}), reported) == expected


def test_unknown_quality_passes_only_if_accepted() -> None:
    accepting = chat(quality={"a": 0.4}, quality_unknown="accept")
    assert assess_quality(accepting, {}) == "passes"
    assert assess_quality(accepting, {"a": 0.1}) == "below"
    assert assess_quality(chat(), {}) == "passes"


def test_a_floor_keeps_models_with_a_figure_above_it_smallest_first(catalog: Catalog, demand_of: MakeDemand) -> None:
    found = select_open_models(demand_of(), catalog)
    assert found.misses == ()
    assert all(model.quality["mmlu_pro"] >= 0.45 for model in found.models)
    sizes = [model.parameters for model in found.models]
    assert sizes == sorted(sizes)
    assert "have no published score" in found.notes[0]


def test_a_commercial_licence_drops_research_models(catalog: Catalog, demand_of: MakeDemand) -> None:
    found = select_open_models(demand_of(licence="commercial", quality={}), catalog)
    assert found.models and all(model.commercial_use != "no" for model in found.models)
    every = select_open_models(demand_of(quality={}), catalog).models
    assert any(model.commercial_use == "no" for model in every)
    assert all(model.context_tokens >= 4800 for model in every), "room for prompt and answer"


def test_an_impossible_floor_is_a_miss(catalog: Catalog, demand_of: MakeDemand) -> None:
    found = select_open_models(demand_of(quality={"mmlu_pro": 0.999}), catalog)
    (miss,) = found.misses
    assert (found.models, miss.constraint, miss.limit) == ((), "support-chat.quality", "mmlu_pro >= 0.999")


def test_no_room_in_any_model_is_a_miss(catalog: Catalog, demand_of: MakeDemand) -> None:
    traffic = {
        "requests_per_second": {"mean": 0.4, "peak": 3.0},
        "input_tokens": {"mean": 1e6, "p95": 1e8},
        "output_tokens": {"mean": 220, "p95": 600},
    }
    found = select_open_models(demand_of(quality={}, traffic=traffic), catalog)
    assert (found.models, found.notes) == ((), ())
    longest = max(model.context_tokens for model in catalog.models.values())
    assert (found.misses[0].constraint, found.misses[0].value) == ("support-chat.traffic.input_tokens", longest)


def test_a_fixed_model_is_taken_or_refused_by_name(catalog: Catalog, demand_of: MakeDemand) -> None:
    assert [m.id for m in select_open_models(demand_of(model="Phi-4"), catalog).models] == ["Phi-4"]
    refused = select_open_models(demand_of(model="Qwen2.5-3B-Instruct", licence="commercial", quality={}), catalog)
    assert refused.misses[0].constraint == "support-chat.licence"
    weak = select_open_models(demand_of(model="Gemma-3-1B-it"), catalog)
    assert (weak.misses[0].value, weak.misses[0].limit) == (0.147, 0.45)
    short = select_open_models(demand_of(model="OLMo-2-1124-7B-Instruct", quality={}), catalog)
    assert (short.misses[0].constraint, short.misses[0].value) == ("support-chat.traffic", 4096)
    closed = select_open_models(demand_of(model="gpt-5-nano", quality={}), catalog)
    assert closed.misses[0].constraint in ("support-chat.model",)


def test_floor_misses_and_licence_notes(catalog: Catalog) -> None:
    workload = chat(quality={"a": 0.4, "b": 0.4, "c": 0.4})
    assert [miss.value for miss in find_floor_misses(workload, {"a": 0.3, "b": 0.5})] == [0.3, "unknown"]
    assert format_licence_note(catalog.models["Phi-4"]) == ()
    assert "sets conditions" in format_licence_note(catalog.models["Llama-3.1-8B-Instruct"])[0]
