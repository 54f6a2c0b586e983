"""Three choices of models: ordered in cost and quality, explained, and taken by one field."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.decision import ModelChoice
from archwright.contract.needs import Workload
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.plan.capacity.candidates import list_tasks
from archwright.plan.decision.model_choices import (
    EQUAL_COST,
    MIN_GAIN,
    TENTH_MORE,
    ModelSet,
    describe_better_choice,
    select_best_sets,
)
from archwright.plan.demand.model_quality import ModelQuality, find_rater
from archwright.plan.demand.model_selection import set_default_floors

from ..conftest import GONE, ONLY_TEMPLATES, Read, edit

Make = Callable[..., Plan]


@pytest.mark.parametrize("name", ["startup", "clinic", pytest.param("manufacturer", marks=pytest.mark.nightly)])
def test_choices_are_ordered_by_cost_and_quality(plan_of: Make, name: str) -> None:
    plan = plan_of(name)
    cheapest, tenth, best = plan.decision.choices
    assert [one.kind for one in plan.decision.choices] == ["cheapest", "best-within-tenth", "best-within-budget"]
    option = plan.chosen_option
    assert option is not None and (cheapest.option, cheapest.models) == (option.name, option.models)
    assert option.total_cost == cheapest.total_cost
    costs = [one.total_cost.value for one in (cheapest, tenth, best)]
    quality = [sum(one.quality.values()) for one in (cheapest, tenth, best)]
    assert costs == sorted(costs) and quality == sorted(quality) and costs[1] <= 1.1 * costs[0]
    for one, other in ((cheapest, best), (best, cheapest)):
        assert one.gives_up if one.models != other.models else not one.gives_up


def test_a_choice_is_taken_by_its_field(plan_of: Make) -> None:
    plan = plan_of("startup")
    better = plan.decision.choices[2]
    (change,) = better.list_changes(plan.decision.choices[0])
    field, _, model = change.partition("=")
    assert field == "workloads.support-chat.model"
    taken = plan_of("startup", edit({"workloads.0.model": model}))
    assert taken.chosen_option is not None and taken.chosen_option.name == better.option
    assert taken.chosen_option.total_cost is not None
    assert taken.chosen_option.total_cost.value == pytest.approx(better.total_cost.value)
    assert taken.decision.choices == ()


def test_the_scores_that_decided_are_in_the_plan(plan_of: Make, catalog: Catalog) -> None:
    (chat, *_), notes = (plan := plan_of("startup")).workloads, plan.chosen_option
    known = {score.benchmark: score for score in chat.evidence}
    assert known["mmlu_pro"].low >= 0.45 and {"mmlu_pro", "ifeval", "gpqa"} <= set(known)
    assert chat.evidence == tuple(catalog.open_evidence(chat.model or "")[name] for name in known)
    if known["mmlu_pro"].estimated:
        assert notes is not None and any("estimated from" in note for note in notes.notes)


@pytest.mark.nightly
def test_a_model_without_a_score_stays_in_the_choice_by_its_estimate(plan_of: Make, catalog: Catalog) -> None:
    plan = plan_of("startup", edit({"workloads.0.quality": GONE}))
    assert any("quality {mmlu_pro: 0.6}" in text for text in plan.assumptions)
    model = plan.chosen_option.models["support-chat"] if plan.chosen_option is not None else ""
    assert catalog.open_evidence(model)["mmlu_pro"].low >= 0.6


def test_sets_are_cheapest_first_and_each_is_better() -> None:
    def one(added: float, quality: float, measured: int = 0) -> ModelSet:
        return ModelSet({"w": f"{quality}-{measured}"}, (quality, measured), added)

    sets = [one(3, 0.7), one(1, 0.5), one(2, 0.505), one(1, 0.5, 2), one(4, 0.6), one(5, 0.9)]
    assert [(s.added, *s.rank) for s in select_best_sets(sets)] == [(1, 0.5, 2), (3, 0.7, 0), (5, 0.9, 0)]


def test_only_a_clearly_better_choice_is_told_first(plan_of: Make) -> None:
    choices = plan_of("startup").decision.choices

    def rated(choice: ModelChoice, share: float) -> ModelChoice:
        return replace(choice, quality=dict.fromkeys(choice.quality, share))

    low, high = rated(choices[0], 0.5), rated(choices[2], 0.7)
    (note,) = describe_better_choice((low, high, high))
    assert "clearly better models" in note and choices[2].models["support-chat"] in note
    assert describe_better_choice((low, rated(choices[2], 0.52), high)) == ()


def test_equal_quality_ranks_by_measured_scores(catalog: Catalog) -> None:
    assert find_rater(catalog, Workload(name="w", kind="chat")).rate("no-such-model").scores == 0
    assert ModelQuality(0.702, 3, 3).rank > ModelQuality(0.698, 3, 1).rank < ModelQuality(0.72, 3, 0).rank


@pytest.mark.parametrize(
    ("name", "most"),
    [("startup", 1), *(pytest.param(one, 4, marks=pytest.mark.nightly) for one in ONLY_TEMPLATES)],
)
def test_no_single_change_of_a_model_beats_the_choices(
    plan_of: Make, needs_of: Read, catalog: Catalog, name: str, most: int
) -> None:
    cheapest, tenth, _ = plan_of(name).decision.choices
    needs, _ = needs_of(name)
    tasks = {task.workload.name: task for task in list_tasks(set_default_floors(needs)[0], catalog)}
    raters = {one: find_rater(catalog, tasks[one].workload) for one in cheapest.quality}
    least, known = cheapest.total_cost.value, sum(tenth.quality.values())
    for place, workload in enumerate(needs.workloads):
        if workload.name not in raters:
            continue
        task, rater = tasks[workload.name], raters[workload.name]
        models = {one.id for one in (*task.models, *task.alternatives) if one is not None}
        for model in sorted(models, key=lambda one: -rater.rate(one).share)[:most]:
            option = plan_of(name, edit({f"workloads.{place}.model": model})).chosen_option
            if option is None or option.total_cost is None:
                continue
            provider = option.provider if option.placement == "hosted-api" else ""
            quality = sum(one.rate(option.models[at], provider).share for at, one in raters.items())
            cost = option.total_cost.value
            assert cost >= least / EQUAL_COST, (workload.name, model)
            assert cost > TENTH_MORE * least or quality < known + MIN_GAIN, (workload.name, model)
