"""Three choices of models: the cheapest, the best within a tenth more cost, the best within the budget.

The plan takes the cheapest models that meet the floors. Better models that cost at most EQUAL_COST as much, for example
on machines that are needed anyway, replace them. Quality is the mean over the benchmarks of the kind of work
(quality_weights.csv), summed over all workloads with a choice; of equal quality, measured models come before estimated
ones. Costs of the models of an option are estimated first (`list_prices`). Each choice is then planned and priced like
any option, so a choice never breaks a limit; its price corrects the estimates of the option's other models.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.decision import ModelChoice
from archwright.contract.needs import Placement
from archwright.contract.number_format import format_money, format_number, format_quantity
from archwright.contract.plan import Option
from archwright.plan.accounting.budget import BudgetConverter, OptionDraft
from archwright.plan.capacity.candidates import WorkloadTask
from archwright.plan.decision.selection import get_total_cost
from archwright.plan.demand.model_quality import EQUAL_QUALITY, Evidence, ModelQuality, find_rater, to_share
from archwright.plan.options.option_builder import BuiltOption

EQUAL_COST, TENTH_MORE = 1.01, 1.1
# Up to this multiple of the least cost, options with machines are asked first: others can serve the same models.
RIVAL_COST = 1.5
# A better choice is told first if its quality is higher by this much.
CLEARLY_BETTER = 0.05
# Sets of models that are planned for one choice at most, with machines and with hosted models, which cost little to
# plan; sets of models that one option may have.
MAX_PLANNED, MAX_HOSTED, MAX_SETS = 5, 12, 64
# An estimated extra cost may be too high by this factor.
ESTIMATE_SLACK = 1.5
SHOWN_AXES = 3
# A smaller gain of quality is none: it is within the differences of test methods.
MIN_GAIN = 0.02
HOSTED: Placement = "hosted-api"


class VariantSource(NamedTuple):
    """The tasks with several models, and the planner's means to price models and to plan an option with them.

    `list_prices`: USD over the horizon by model. `plan_option`: the option with the given models by workload.
    """

    tasks: tuple[WorkloadTask, ...]
    list_prices: Callable[[OptionDraft, WorkloadTask], Mapping[str, float]]
    plan_option: Callable[[OptionDraft, Mapping[str, str]], BuiltOption | None]


class ModelSet(NamedTuple):
    """Models by workload for one option; `rank`: sum of qualities, measured scores; `added`: estimated extra cost."""

    models: dict[str, str]
    rank: tuple[float, int]
    added: float

    @property
    def order(self) -> tuple[int, int]:
        """Return a sort key: the best first; of about equal models, those with more measured scores."""
        return -round(self.rank[0] / EQUAL_QUALITY), -self.rank[1]


class PlannedVariant(NamedTuple):
    built: BuiltOption
    option: Option


class ModelChooser:
    def __init__(self, source: VariantSource, converter: BudgetConverter, catalog: Catalog) -> None:
        self._source, self._converter, self._catalog = source, converter, catalog
        self._sets: dict[str, list[ModelSet]] = {}
        self._planned: dict[tuple[str, tuple[str, ...]], PlannedVariant | None] = {}

    def improve_option(self, one: PlannedVariant) -> PlannedVariant:
        """Return the option with the best models that cost about the same."""
        return self._find_best([one], one, get_total_cost(one.option) * EQUAL_COST) or one

    def list_choices(self, chosen: PlannedVariant, others: Iterable[PlannedVariant]) -> tuple[ModelChoice, ...]:
        """Return the three choices; none if no workload has a choice of models. `chosen` is the cheapest.

        A better choice keeps the rules of the plan: known limits, and a preferred placement if the plan has it.
        """
        if not any(task.workload.name in chosen.option.models for task in self._source.tasks):
            return ()
        least = get_total_cost(chosen.option)
        rivals = [chosen, *(one for one in others if one.option.feasible and one.option.name != chosen.option.name)]
        near = [one for one in rivals if _is_hosted(one.option) or get_total_cost(one.option) <= least * RIVAL_COST]
        tenth = self._find_best(near, chosen, least * TENTH_MORE) or chosen
        best = self._find_best(near, tenth, None) or tenth
        best = self._find_best([one for one in rivals if one not in near], best, None) or best
        found = {"cheapest": chosen, "best-within-tenth": tenth, "best-within-budget": best}
        return tuple(self._describe_choice(kind, found) for kind in found)

    def _find_best(
        self, options: list[PlannedVariant], than: PlannedVariant, limit: float | None
    ) -> PlannedVariant | None:
        """Plan the best models that cost at most `limit`, and keep the budget, and are better than those of `than`."""
        least = self._rate_option(than.option) + MIN_GAIN
        candidates = [
            (one_set, one)
            for one in options
            if (limit is None or get_total_cost(one.option) <= limit)
            and (_is_hosted(one.option) or self._open_ceiling >= least)
            and len(one.option.doubts) <= len(than.option.doubts)
            for one_set in self._list_sets(one)
            if one_set.rank[0] >= least and self._may_fit(one.option, one_set.added / ESTIMATE_SLACK, limit)
        ]
        candidates.sort(
            key=lambda pair: (*pair[0].order, get_total_cost(pair[1].option) + pair[0].added, pair[1].option.name)
        )
        # By option: real extra cost / estimated extra cost, and the estimated extra cost that no machines can serve.
        scales, failed, left = dict[str, float](), dict[str, float](), {True: MAX_HOSTED, False: MAX_PLANNED}
        for one_set, one in candidates:
            name, hosted = one.option.name, _is_hosted(one.option)
            fits = name not in scales or self._may_fit(one.option, one_set.added * scales[name], limit)
            if not fits or not left[hosted] or one_set.added >= failed.get(name, math.inf):
                continue
            planned, left[hosted] = self._plan(one, one_set), left[hosted] - 1
            kept = planned is not None and (limit is None or get_total_cost(planned.option) <= limit)
            if planned is not None and kept and len(planned.option.doubts) <= len(than.option.doubts):
                return planned
            if planned is None or kept or one_set.added <= 0:
                failed[name] = one_set.added
            else:
                scales[name] = (get_total_cost(planned.option) - get_total_cost(one.option)) / one_set.added
        return None

    @cached_property
    def _open_ceiling(self) -> float:
        """The quality of the best open models, at any cost."""
        every = ((task, (*task.models, *task.alternatives)) for task in self._source.tasks)
        return sum(max(self._rate("cloud", "", task, one.id).share for one in found if one) for task, found in every)

    def _may_fit(self, option: Option, added: float, limit: float | None) -> bool:
        """True if the option keeps `limit`, or without it the budget, at this extra cost over the horizon."""
        if limit is not None:
            return get_total_cost(option) + added <= limit
        budget = self._converter.budget
        buys = option.capex is not None and option.capex.value > 0
        spent, most = (option.capex, budget.capex) if buys else (option.cost_per_month, budget.per_month)
        more = added if buys else added / budget.horizon_months
        return spent is None or most is None or spent.value + more <= most

    def _plan(self, one: PlannedVariant, wanted: ModelSet) -> PlannedVariant | None:
        key = (one.option.name, tuple(wanted.models.values()))
        if key not in self._planned:
            built = self._source.plan_option(one.built.draft, wanted.models)
            option = self._converter.price_option(built.draft) if built is not None else None
            feasible = built is not None and option is not None and option.feasible
            self._planned[key] = PlannedVariant(built, option) if feasible and built and option else None
        return self._planned[key]

    def _list_sets(self, one: PlannedVariant) -> list[ModelSet]:
        """Return the sets of models of an option that no other set beats in cost and quality, cheapest first."""
        name, draft = one.option.name, one.built.draft
        if name not in self._sets:
            found = [ModelSet({}, (0.0, 0), 0.0)]
            for task in self._source.tasks:
                prices = self._source.list_prices(draft, task)
                own = prices.get(draft.models.get(task.workload.name, ""))
                if own is None:
                    found = []
                    break
                added = {model: (usd - own) * self._converter.exchange_rate for model, usd in prices.items()}
                found = select_best_sets(self._add_task(found, draft, task, added))
            self._sets[name] = found
        return self._sets[name]

    def _add_task(
        self, sets: list[ModelSet], draft: OptionDraft, task: WorkloadTask, added: Mapping[str, float]
    ) -> Iterable[ModelSet]:
        for model, more in added.items():
            quality = self._rate(draft.placement, draft.provider, task, model)
            share, measured = quality.share, quality.measured
            for one in sets:
                models = {**one.models, task.workload.name: model}
                yield ModelSet(models, (one.rank[0] + share, one.rank[1] + measured), one.added + more)

    def _rate(self, placement: Placement, provider: str, task: WorkloadTask, model: str) -> ModelQuality:
        rater = find_rater(self._catalog, task.workload)
        return rater.rate(model, provider if placement == HOSTED else "")

    def _rate_option(self, option: Option) -> float:
        names = ((task, option.models.get(task.workload.name, "")) for task in self._source.tasks)
        return sum(self._rate(option.placement, option.provider, task, name).share for task, name in names)

    # --- the choices in words

    def _describe_choice(self, kind: str, found: Mapping[str, PlannedVariant]) -> ModelChoice:
        option = found[kind].option
        total = option.total_cost
        assert total is not None
        quality = {
            task.workload.name: self._rate(option.placement, option.provider, task, name).share
            for task in self._source.tasks
            if (name := option.models.get(task.workload.name)) is not None
        }
        return ModelChoice(
            kind=kind,  # type: ignore[arg-type]
            option=option.name,
            models=dict(option.models),
            quality=quality,
            total_cost=total,
            gives_up=tuple(dict.fromkeys(self._list_sacrifices(option, found))),
        )

    def _list_sacrifices(self, option: Option, found: Mapping[str, PlannedVariant]) -> Iterable[str]:
        cheapest = found["cheapest"].option
        for other in (found[kind].option for kind in ("best-within-tenth", "best-within-budget")):
            if get_total_cost(other) != get_total_cost(option) or other.models != option.models:
                yield from self._list_lost_quality(option, other)
        more = get_total_cost(option) - get_total_cost(cheapest)
        if more > 0:
            share = format_quantity(more / get_total_cost(cheapest), "share")
            amount = format_money(more, self._converter.budget.currency)
            yield f"it costs {amount} ({share}) more over the horizon than this plan"
        peaks = [sum(bought.peak for bought in one.purchases) for one in (option, cheapest)]
        if peaks[0] > peaks[1]:
            yield f"it needs {peaks[0]} machines at the most, not {peaks[1]}"

    def _list_lost_quality(self, option: Option, other: Option) -> Iterable[str]:
        for task in self._source.tasks:
            name = task.workload.name
            ours, theirs = option.models.get(name), other.models.get(name)
            if ours is None or theirs is None or ours == theirs:
                continue
            mine, better = self.find_evidence(option, ours), self.find_evidence(other, theirs)
            weights = find_rater(self._catalog, task.workload).weights
            lost = [(to_share(better[on]) - to_share(mine[on]), on) for on in weights if on in mine and on in better]
            shown = [
                f"{format_number(less)} of {mine[on].axis.replace('-', ' ') or 'quality'} ({on})"
                for less, on in sorted(lost, reverse=True)[:SHOWN_AXES]
                if less >= MIN_GAIN
            ]
            if shown:
                yield f"{name}: {ours} has less than {theirs}: {', '.join(shown)}"

    def find_evidence(self, option: Option, model: str) -> Evidence:
        """Return the scores of a model of the option."""
        hosted = option.placement == HOSTED and option.provider
        return self._catalog.hosted_evidence(option.provider, model) if hosted else self._catalog.open_evidence(model)


def _is_hosted(option: Option) -> bool:
    return option.placement == HOSTED


def select_best_sets(sets: Iterable[ModelSet]) -> list[ModelSet]:
    """Return the sets that are better than every cheaper set, cheapest first, at most MAX_SETS."""
    kept = list[ModelSet]()
    for one in sorted(sets, key=lambda one: (one.added, -one.rank[0], -one.rank[1], *one.models.values())):
        if not kept or one.rank[0] >= kept[-1].rank[0] + EQUAL_QUALITY:
            kept.append(one)
    step = -(-len(kept) // MAX_SETS) if kept else 1
    return kept[::step]


def describe_better_choice(choices: tuple[ModelChoice, ...]) -> tuple[str, ...]:
    """Return a note on clearly better models for at most a tenth more cost."""
    if not choices:
        return ()
    cheapest, tenth = choices[0], choices[1]
    mean = [sum(one.quality.values()) / max(len(one.quality), 1) for one in (cheapest, tenth)]
    if mean[1] < mean[0] + CLEARLY_BETTER:
        return ()
    more = tenth.total_cost.value / cheapest.total_cost.value - 1
    models = ", ".join(dict.fromkeys(tenth.models[name] for name in tenth.quality))
    return (
        f"clearly better models for {format_quantity(more, 'share')} more: {models} at {tenth.option}, "
        f"quality {format_number(mean[1])} instead of {format_number(mean[0])}. To take them, set "
        f"{', '.join(tenth.list_changes(cheapest))}",
    )
