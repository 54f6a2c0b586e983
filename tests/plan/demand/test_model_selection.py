"""Which models may serve: floors, licences, context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.quality_rules import read_fill_in_middle
from archwright.contract.decision import ScoreEvidence
from archwright.contract.needs import Workload
from archwright.contract.record import replace
from archwright.plan.capacity.candidates import SizingCache, WorkloadTask
from archwright.plan.demand.forecast import Demand, list_text_demands
from archwright.plan.demand.model_quality import find_rater, fit_quality, to_share
from archwright.plan.demand.model_selection import (
    assess_quality,
    find_floor_misses,
    format_licence_note,
    list_quality_notes,
    prune_models,
    select_open_models,
    set_default_floors,
)
from archwright.plan.options.cloud_instances import InstanceSelector

from ..conftest import GONE, Read, edit

MakeDemand = Callable[..., Demand]


@pytest.fixture
def demand_of(needs_of: Read) -> MakeDemand:
    def made(**changes: Any) -> Demand:
        changed = edit({f"workloads.0.{name}": value for name, value in changes.items()})
        return list_text_demands(needs_of("startup", changed)[0])[0]

    return made


def chat(**changes: Any) -> Workload:
    return Workload(name="w", kind="chat", **changes)


def scores(half: float = 0.0, *, estimated: bool = False, **values: float) -> dict[str, ScoreEvidence]:
    """Scores by benchmark, each within `half` to both sides."""
    return {
        name: ScoreEvidence(
            benchmark=name,
            axis="knowledge",
            value=value,
            low=value - half,
            high=value + half,
            estimated=estimated,
            scores_used=7,
            source="test",
            as_of="2026-11-28",
        )
        for name, value in values.items()
    }


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (scores(a=0.5, b=0.5), "passes"),
        (scores(a=0.5), "unknown"),
        (scores(a=0.3), "below"),
        ({}, "unknown"),
        # The low end decides, of measurements and of estimates.
        (scores(0.11, a=0.5, b=0.5), "below"),
        (scores(0.09, a=0.5, b=0.5, estimated=True), "passes"),
        (scores(0.11, a=0.5, b=0.5, estimated=True), "below"),
    ],
)
def test_standing(evidence: dict[str, ScoreEvidence], expected: str) -> None:
    assert assess_quality(chat(quality={"a": 0.4, "b": 0.4}), evidence) == expected


def test_unknown_quality_passes_only_if_accepted() -> None:
    accepting = chat(quality={"a": 0.4}, quality_unknown="accept")
    assert assess_quality(accepting, {}) == "passes"
    assert assess_quality(accepting, scores(a=0.1)) == "below"
    assert assess_quality(chat(), {}) == "passes"


def test_a_workload_without_floor_gets_that_of_its_kind(needs_of: Read) -> None:
    none = edit({"workloads.0.quality": GONE})
    needs, told = set_default_floors(needs_of("startup", none)[0])
    assert needs.workloads[0].quality == {"mmlu_pro": 0.6} and needs.workloads[1].quality == {}
    assert "to a lower floor" in told[0] and told[0].startswith("support-chat: quality {mmlu_pro: 0.6}")
    assert set_default_floors(needs_of("startup")[0])[0].workloads[0].quality == {"mmlu_pro": 0.45}
    named = set_default_floors(needs_of("startup", edit({"workloads.0.model": "Phi-4"}, none))[0])
    assert named[0].workloads[0].quality == {} and named[1] == ()
    # A machine that is there anyway runs the best model that fits.
    assert set_default_floors(needs_of("desk")[0])[1] == ()


def test_no_small_model_of_2024_meets_the_default_of_an_assistant(catalog: Catalog, demand_of: MakeDemand) -> None:
    small = [model for model in catalog.models.values() if model.parameters < 3.5e9 and model.released < "2025"]
    found = select_open_models(demand_of(quality={"mmlu_pro": 0.6}), catalog).models
    assert len(small) >= 5 and not {model.id for model in small} & {model.id for model in found}


def test_the_languages_of_a_workload_weigh_and_a_model_without_a_score_is_neither_better_nor_worse(
    catalog: Catalog,
) -> None:
    def rate(model: str, *languages: str, kind: Any = "chat") -> float:
        workload = Workload(name="w", kind=kind, languages=languages)
        return find_rater(catalog, workload).rate(model).share

    # EuroEval, German: Ministral 2.09, Gemma 2.87 (1 is best).
    gap = [rate("Gemma-4-26B-A4B", *one) - rate("Ministral-3-8B-2512", *one) for one in ((), ("en", "de"))]
    assert gap[1] < gap[0] - 0.03
    weights = find_rater(catalog, Workload(name="w", kind="chat", languages=("de", "pl"))).weights
    language = {name: weight for name, weight in weights.items() if name.startswith(("euroeval", "mmmlu", "mgsm"))}
    assert sum(language.values()) == pytest.approx(2) and {"euroeval_german_rank", "euroeval_polish_rank"} <= {
        *language
    }
    assert find_rater(catalog, chat(languages=("am",))) is find_rater(catalog, chat(languages=("am",)))
    assert find_rater(catalog, chat(languages=("am",))).weights == find_rater(catalog, chat()).weights
    rated = fit_quality(
        {"a": {"x": 0.8, "y": 0.9}, "b": {"x": 0.8}, "c": {"x": 0.8, "y": 0.7}},
        dict.fromkeys("abc", 1e9),
        {"x": 1.0, "y": 1.0},
    )
    assert rated["c"].share < rated["b"].share < rated["a"].share


def test_ranks_and_ratings_become_shares() -> None:
    (one,) = scores(a=2.5).values()
    assert to_share(replace(one, unit="rank")) == 0.4 and to_share(one) == 2.5
    assert to_share(replace(one, unit="rating", value=1700.0)) == pytest.approx(10 / 11), "400 points: odds of 10"


def test_a_language_without_evidence_asks_for_a_test() -> None:
    workload = chat(languages=("am", "de", "en"))
    (note,) = list_quality_notes(workload, "m", scores(euroeval_german_rank=2.0))
    assert note == "w: no evidence for am of m: test 50 prompts before signing"
    assert list_quality_notes(chat(languages=("en",)), "m", {}) == ()
    (both,) = list_quality_notes(Workload(name="w", kind="rag", languages=("de",)), "m", {})
    assert "for de, factual consistency of m" in both
    assert list_quality_notes(Workload(name="w", kind="embedding", languages=("am",)), "m", {}) == ()


def test_completions_by_a_model_without_known_training_for_code_ask_for_a_test(catalog: Catalog) -> None:
    workload = Workload(name="w", kind="completion")
    (note,) = list_quality_notes(workload, "Qwen3-4B", {})
    assert "Qwen3-4B is not known to be trained to fill in the middle" in note
    assert set(read_fill_in_middle()) <= set(catalog.models) and read_fill_in_middle()[0] in note
    assert list_quality_notes(workload, read_fill_in_middle()[0], {}) == ()


def test_pruning_keeps_a_dominating_model(catalog: Catalog, demand_of: MakeDemand) -> None:
    demand = demand_of()
    every = select_open_models(demand, catalog).models
    kept = prune_models(every, demand, catalog)
    rater = find_rater(catalog, demand.workload)
    assert 3 <= len(kept) < 0.6 * len(every)
    for model in (one for one in every if one not in kept):
        assert any(
            one.parameters <= model.parameters
            and one.active_parameters <= model.active_parameters
            and rater.rate(one.id).rank >= rater.rate(model.id).rank
            for one in kept
        )
    assert prune_models(kept, demand, catalog) == kept


@pytest.mark.nightly
def test_pruning_keeps_the_cheapest_machines(catalog: Catalog, needs_of: Read, demand_of: MakeDemand) -> None:
    needs, _ = needs_of("startup")
    selector = InstanceSelector(needs, catalog, SizingCache(catalog, needs))
    demand = demand_of()
    every = select_open_models(demand, catalog).models
    task = WorkloadTask("support-chat", demand.workload, demand, None)
    whole = selector.best_choice("aws", task, every)
    pruned = selector.best_choice("aws", task, prune_models(every, demand, catalog))
    assert whole is not None and pruned is not None and pruned.cost == pytest.approx(whole.cost)


def test_a_floor_keeps_models_with_a_figure_above_it_smallest_first(catalog: Catalog, demand_of: MakeDemand) -> None:
    found = select_open_models(demand_of(), catalog)
    assert found.misses == ()
    assert all(catalog.open_evidence(model.id)["mmlu_pro"].low >= 0.45 for model in found.models)
    sizes = [model.parameters for model in found.models]
    assert sizes == sorted(sizes)
    assert found.notes == () and "SmolLM2-135M-Instruct" in found.unrated
    assert all("mmlu_pro" not in catalog.open_evidence(name) for name in found.unrated)


def test_a_commercial_licence_drops_research_models(catalog: Catalog, demand_of: MakeDemand) -> None:
    found = select_open_models(demand_of(licence="commercial", quality={}), catalog)
    assert found.models and all(model.commercial_use != "no" for model in found.models)
    assert found == select_open_models(demand_of(quality={}), catalog), "the default"
    every = select_open_models(demand_of(quality={}, licence="any"), catalog).models
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
    assert (weak.misses[0].value, weak.misses[0].limit) == (0.132, 0.45)
    short = select_open_models(demand_of(model="OLMo-2-1124-7B-Instruct", quality={}), catalog)
    assert (short.misses[0].constraint, short.misses[0].value) == ("support-chat.traffic", 4096)
    closed = select_open_models(demand_of(model="gpt-5-nano", quality={}), catalog)
    assert closed.misses[0].constraint in ("support-chat.model",)


def test_floor_misses_and_licence_notes(catalog: Catalog) -> None:
    workload = chat(quality={"a": 0.4, "b": 0.4, "c": 0.4})
    assert [miss.value for miss in find_floor_misses(workload, scores(a=0.3, b=0.5))] == [0.3, "unknown"]
    assert format_licence_note(catalog.models["Phi-4"]) == ()
    assert "sets conditions" in format_licence_note(catalog.models["Llama-3.1-8B-Instruct"])[0]
