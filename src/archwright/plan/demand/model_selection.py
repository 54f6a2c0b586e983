"""Models that may serve a workload: licence, context length, quality floors by named benchmark.

A model meets a floor if the low end of its score does, measured or estimated. A model without a score on the benchmark
is listed but not chosen, unless the needs accept unknown quality. A workload without a floor gets that of its kind of
work (quality_defaults.csv), except on a machine that is there anyway. Models that pass are sorted by size, smallest
first.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.quality_rules import (
    LANGUAGE,
    read_fill_in_middle,
    read_language_benchmarks,
    read_quality_defaults,
    read_quality_weights,
)
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.decision import ScoreEvidence
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs, Workload
from archwright.contract.number_format import format_exact, format_number
from archwright.contract.plan import ConstraintViolation, LimitProbability, assess_limit
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.plan.demand.forecast import Demand
from archwright.plan.demand.model_quality import Evidence, classify_work, find_rater, list_foreign_languages
from archwright.plan.violations import Limits, Misses, build_violation
from archwright.sizing.model.weight_groups import group_weights

QualityStanding = Literal["passes", "below", "unknown"]
UNKNOWN = "unknown"
# Axes that scores of other benchmarks do not predict, so they have no estimates.
UNPREDICTED_AXES = {"vectara_factual_consistency": "factual consistency"}
# Assumed: enough to see that one answer in ten fails.
TEST_PROMPTS = 50
LICENCE_ORDER = ("yes", "conditional", "no")


class ModelCandidates(NamedTuple):
    """Open models for one workload, smallest first; `misses`: the constraints that leave no model.

    `better`: models of a higher score that the choice leaves out because of their size. `unrated`: the ids of models
    without a score or estimate for the floor. `others`: document parsers that are priced for comparison.
    """

    models: tuple[ModelSpec, ...]
    misses: Misses = ()
    notes: tuple[str, ...] = ()
    better: tuple[ModelSpec, ...] = ()
    unrated: tuple[str, ...] = ()
    others: tuple[ModelSpec, ...] = ()


def get_model_id(model: ModelSpec | None) -> str:
    """Return the model's id; empty if the work needs no model."""
    return model.id if model is not None else ""


def set_default_floors(needs: Needs) -> tuple[Needs, tuple[str, ...]]:
    """Return the needs with the floor of its kind for each workload that states none, and a sentence for each."""
    if needs.placement.allow == ("this-machine",):
        return needs, ()
    workloads, told = list[Workload](), list[str]()
    for workload in needs.workloads:
        rows = [row for row in read_quality_defaults() if row.kind == classify_work(workload)]
        if rows and workload.model is None and not workload.quality:
            workload = replace(workload, quality={row.benchmark: row.floor for row in rows})
            floors = ", ".join(f"{row.benchmark}: {format_exact(row.floor)}" for row in rows)
            told.append(
                f"{workload.name}: quality {{{floors}}}, the default for {rows[0].kind}. {rows[0].reason}. To change "
                "it, set quality, also to a lower floor, or model"
            )
        workloads.append(workload)
    return replace(needs, workloads=tuple(workloads)), tuple(told)


def assess_quality(workload: Workload, evidence: Evidence) -> QualityStanding:
    """Compare the low end of each score with its floor."""
    known = [(evidence.get(benchmark), floor) for benchmark, floor in workload.quality.items()]
    if any(score is not None and score.low < floor for score, floor in known):
        return "below"
    if any(score is None for score, _ in known):
        return "passes" if workload.quality_unknown == "accept" else "unknown"
    return "passes"


def list_considered_models(workload: Workload, catalog: Catalog) -> tuple[ModelSpec, ...]:
    """Return the models of the catalog, and those of the home that may be chosen for `workload`.

    Design: a model that only the home knows has no score. If the workload has a floor, it is not even listed as left
    out, because the plan must not depend on models that it cannot choose.
    """
    models = tuple(catalog.models.values())
    if not catalog.stored:
        return models
    packaged = catalog.packaged_only.models
    considered: list[ModelSpec] = []
    for model in models:
        if model.id in packaged or assess_quality(workload, catalog.open_evidence(model.id)) == "passes":
            considered.append(model)
    return tuple(considered)


def select_open_models(demand: Demand, catalog: Catalog) -> ModelCandidates:
    """Return the models that may serve `demand`, or the constraint that leaves no model."""
    workload = demand.workload
    if workload.model is not None:
        try:
            model = catalog.model(workload.model)
        except CatalogError:
            return ModelCandidates((), (build_violation(f"{demand.workload.name}.model", "not open", workload.model),))
        misses = (*_find_misses(demand, model), *find_floor_misses(workload, catalog.open_evidence(model.id)))
        return ModelCandidates((), misses) if misses else ModelCandidates((model,))
    models = list_considered_models(workload, catalog)
    longest = max((model.context_tokens for model in models), default=0)
    if demand.context_tokens > longest:
        where = f"{workload.name}.traffic.input_tokens"
        return ModelCandidates((), (build_violation(where, float(longest), float(demand.context_tokens)),))
    by_standing: dict[QualityStanding, list[ModelSpec]] = {"passes": [], "below": [], "unknown": []}
    for model in models:
        if not _find_misses(demand, model):
            by_standing[assess_quality(workload, catalog.open_evidence(model.id))].append(model)
    kept, unrated = by_standing["passes"], tuple(model.id for model in by_standing["unknown"])
    misses = () if kept else (_build_no_model_violation(demand, catalog, unknown=bool(unrated)),)
    kept.sort(key=lambda model: (model.parameters, model.active_parameters, model.id))
    return ModelCandidates(tuple(kept), misses, unrated=unrated)


def prune_models(
    models: tuple[ModelSpec, ...], demand: Demand, catalog: Catalog, *, smallest: bool = False
) -> tuple[ModelSpec, ...]:
    """Drop models that another one dominates: no smaller in any respect, and not better for this kind of work.

    `smallest`: drop also the better models, since a smaller one that meets the floors costs less.

    Needs of a model: all and active parameters, cache of the longest request, freedom of its licence. A checkpoint in
    few bits runs only on some accelerators, so it replaces only models in the same format.
    """
    rater = find_rater(catalog, demand.workload)
    if not rater.weights:
        return models

    def measure(model: ModelSpec) -> tuple[float, ...]:
        cache = group_weights(model).cache_value_count(demand.context_tokens)
        return (model.parameters, model.active_parameters, cache, LICENCE_ORDER.index(model.commercial_use))

    rated = {model.id: rater.rate(model.id) for model in models}

    # The better and then the smaller model comes first, so equal models drop all but the first.
    def order(model: ModelSpec) -> tuple[float, ...]:
        quality = tuple(-one for one in rated[model.id].rank)
        return (*measure(model), *quality) if smallest else (*quality, *measure(model))

    ranked = sorted(models, key=order)
    kept = list[tuple[ModelSpec, tuple[float, ...]]]()
    for model in ranked:
        size = measure(model)
        rivals = (other for one, other in kept if one.published_format in ("", model.published_format))
        if not any(all(a <= b for a, b in zip(other, size, strict=True)) for other in rivals):
            kept.append((model, size))
    left = {model.id for model, _ in kept}
    return tuple(model for model in models if model.id in left)


def assess_floors(workload: Workload, evidence: Evidence) -> Limits:
    """Return the floors that have a score. Models are chosen by its low end, so a floor is rarely missed."""
    found, certainty = list[LimitProbability](), workload.slo.certainty
    for name, floor in workload.quality.items():
        if (score := evidence.get(name)) is not None:
            band = Estimate(value=score.value, low=score.low, high=score.high, unit="")
            stated = (f"{workload.name}.quality.{name}", floor, certainty)
            found.append(assess_limit(stated, band, at_least=True, basis=score.summary))
    return tuple(found)


def find_floor_misses(workload: Workload, evidence: Evidence) -> Misses:
    """Return the floors that the scores do not meet; a missing score is a miss unless the needs accept it."""
    found = list[ConstraintViolation]()
    for benchmark, floor in workload.quality.items():
        score = evidence.get(benchmark)
        if (score is None and workload.quality_unknown == "refuse") or (score is not None and score.low < floor):
            value = UNKNOWN if score is None else score.low
            found.append(build_violation(f"{workload.name}.quality.{benchmark}", value, floor))
    return tuple(found)


def list_quality_notes(workload: Workload, name: str, evidence: Evidence) -> tuple[str, ...]:
    """Return notes on estimated scores on which a floor rests, and on floors without a score."""
    known = [(benchmark, floor, evidence.get(benchmark)) for benchmark, floor in workload.quality.items()]
    estimated = [
        f"{workload.name}: {name} meets the floor {format_exact(floor)} by an estimate: {score.summary}"
        for _, floor, score in known
        if score is not None and score.estimated and score.low >= floor
    ]
    unknown = [benchmark for benchmark, _, score in known if score is None]
    if unknown and workload.quality_unknown == "accept":
        estimated.append(
            f"{workload.name}: the quality of {name} on {', '.join(unknown)} is not known; quality_unknown accepts it"
        )
    return (*estimated, *describe_missing_axes(workload, name, evidence), *_describe_code_training(workload, name))


def describe_missing_axes(workload: Workload, name: str, evidence: Evidence) -> tuple[str, ...]:
    """Return a note on the languages, and the factual consistency of answers from documents, that nobody measured."""
    weighed = {row.benchmark for row in read_quality_weights() if row.kind == classify_work(workload)}
    missing = [
        language
        for language in list_foreign_languages(workload)
        if LANGUAGE in weighed and not evidence.keys() & set(read_language_benchmarks().get(language, ()))
    ]
    missing += [axis for on, axis in UNPREDICTED_AXES.items() if on in weighed and on not in evidence]
    if not missing:
        return ()
    return (
        f"{workload.name}: no evidence for {', '.join(missing)} of {name}: test {TEST_PROMPTS} prompts before signing",
    )


def _describe_code_training(workload: Workload, name: str) -> tuple[str, ...]:
    """Return a note for completions by a model that perhaps knows only the text before the cursor."""
    known = read_fill_in_middle()
    if workload.kind != "completion" or name in known:
        return ()
    told = f"{name} is not known to be trained to fill in the middle of code, as an editor needs"
    return (f"{workload.name}: {told}. Test it, or set workloads.{workload.name}.model: {' or '.join(known)}",)


def format_scores(evidence: Evidence, benchmarks: Iterable[str]) -> str:
    """Format the known scores on some benchmarks."""
    return "; ".join(evidence[name].summary for name in benchmarks if name in evidence)


def list_shown_evidence(workload: Workload, evidence: Evidence, catalog: Catalog) -> tuple[ScoreEvidence, ...]:
    """Return the scores that decide: those of the floors, then those of the kind of work."""
    names = (*workload.quality, *find_rater(catalog, workload).weights)
    return tuple(evidence[name] for name in dict.fromkeys(names) if name in evidence)


def permits_licence(workload: Workload, model: ModelSpec) -> bool:
    """True if the licence permits the workload; a conditional licence does, and its condition is printed."""
    return workload.licence != "commercial" or model.commercial_use != "no"


def _find_misses(demand: Demand, model: ModelSpec) -> Misses:
    workload, found = demand.workload, []
    if not permits_licence(workload, model):
        found.append(build_violation(f"{workload.name}.licence", model.licence, "commercial"))
    if model.context_tokens < demand.context_tokens:
        value, limit = model.context_tokens, demand.context_tokens
        found.append(build_violation(f"{workload.name}.traffic", value, limit))
    return tuple(found)


def _build_no_model_violation(demand: Demand, catalog: Catalog, *, unknown: bool) -> ConstraintViolation:
    floors = ", ".join(f"{name} >= {format_exact(floor)}" for name, floor in demand.workload.quality.items())
    able = [model.id for model in catalog.models.values() if not _find_misses(demand, model)]
    best = []
    for name in demand.workload.quality:
        known = [(score.low, one) for one in able if (score := catalog.open_evidence(one).get(name)) is not None]
        best += [f"the best low end of {name} is {format_number(low)} ({one})" for low, one in sorted(known)[-1:]]
    value = "; ".join(best) or (UNKNOWN if unknown else None)
    return build_violation(f"{demand.workload.name}.quality", value, floors or "any open model")


def format_licence_note(model: ModelSpec) -> tuple[str, ...]:
    """Return the condition of a conditional licence."""
    if model.commercial_use != "conditional":
        return ()
    return (f"{model.id}: licence {model.licence} sets conditions: {model.licence_conditions}",)


def list_model_notes(workload: Workload, model: ModelSpec | None, catalog: Catalog) -> tuple[str, ...]:
    if model is None:
        return ()
    quality = list_quality_notes(workload, model.id, catalog.open_evidence(model.id))
    return (*quality, *format_licence_note(model))
